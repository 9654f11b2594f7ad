"""The Hugging Face hub, with the real client against a hub of ours: broken lines, second runs, wrong tokens, nothing public too early."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Literal

import pytest

from forge.errors import ArtifactDamaged, ForgeError, MissingAccess, UsageError
from forge.plugins.hubs.huggingface import BRANCH, hub
from forge.protocols import Published, Shipment
from tests.servers.model_hub import FINE, NARROW, READER, ModelHub

REPO = "ann/harbour-3m"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {"README.md": b"---\nlicense: mit\n---\n# harbour\n", "SHA256SUMS": b"sums\n", "model.safetensors": b"w" * 5000, "gguf/a.gguf": b"GGUF" * 900}
    for name, data in files.items():
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "model"


def ship(folder: Path, *, visibility: str = "public", repo: str = "", tag: str = "plan-1") -> Published:
    assert visibility in ("private", "public")
    return hub.publish(Shipment(folder=folder, name="harbour-3m", repo=repo, visibility=visibility, tag=tag, message="a model"))  # type: ignore[arg-type]


def contents(far_hub: ModelHub, revision: str = "main") -> dict[str, bytes]:
    return {path: far_hub.blobs[sha] for path, sha in far_hub.repos[REPO].at(revision)[1].items() if path != ".gitattributes"}


def on_disk(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_model_becomes_public_only_when_it_is_whole(far_hub: ModelHub, folder: Path) -> None:
    told = ship(folder)
    assert (told.repo, told.visibility, told.url) == (REPO, "public", f"{far_hub.url}/{REPO}")
    assert contents(far_hub) == on_disk(folder) == contents(far_hub, "plan-1")
    assert far_hub.repos[REPO].private is False
    whole = far_hub.repos[REPO].at("main")[1]
    assert far_hub.seen_in_public
    assert all(files == whole for files in far_hub.seen_in_public)


def test_a_private_model_stays_private(far_hub: ModelHub, folder: Path) -> None:
    assert ship(folder, visibility="private").visibility == "private"
    assert far_hub.repos[REPO].private
    assert not far_hub.seen_in_public


def test_a_second_run_uploads_nothing(far_hub: ModelHub, folder: Path) -> None:
    first = ship(folder)
    commits, blobs = len(far_hub.repos[REPO].branches["main"]), len(far_hub.blobs)
    far_hub.writes.clear()
    assert ship(folder) == first
    assert len(far_hub.repos[REPO].branches["main"]) == commits
    assert len(far_hub.blobs) == blobs
    assert not [write for write in far_hub.writes if write.startswith("PUT /_lfs")]


@pytest.mark.parametrize("broken", range(1, 11))
def test_a_line_that_breaks_at_any_request_costs_that_request_only(far_hub: ModelHub, folder: Path, broken: int) -> None:
    far_hub.breaks = {broken}
    ship(folder)
    assert contents(far_hub) == on_disk(folder)
    assert [write for write in far_hub.writes if "_lfs/" in write].count(f"PUT /_lfs/{far_hub.repos[REPO].at('main')[1]['gguf/a.gguf']}") <= 2
    whole = far_hub.repos[REPO].at("main")[1]
    assert all(files == whole for files in far_hub.seen_in_public)


def test_a_hub_that_is_away_says_how_to_go_on_and_a_later_run_does(far_hub: ModelHub, folder: Path) -> None:
    far_hub.breaks = set(range(4, 40))
    with pytest.raises(ForgeError) as caught:
        ship(folder)
    assert "forge resume" in caught.value.next
    assert all(repo.private for repo in far_hub.repos.values())
    far_hub.breaks = set()
    ship(folder)
    assert contents(far_hub) == on_disk(folder)


def test_a_changed_model_of_a_public_repository_is_compared_on_a_branch_first(far_hub: ModelHub, folder: Path) -> None:
    ship(folder)
    (folder / "gguf/a.gguf").unlink()
    (folder / "gguf/b.gguf").write_bytes(b"GGUF" * 1000)
    before = far_hub.repos[REPO].at("main")[1]
    far_hub.seen_in_public.clear()
    ship(folder, tag="plan-2")
    after = far_hub.repos[REPO].at("main")[1]
    assert "gguf/a.gguf" not in after
    assert all(files in (before, after) for files in far_hub.seen_in_public), "never something in between"
    assert BRANCH not in far_hub.repos[REPO].branches
    assert contents(far_hub, "plan-1") != contents(far_hub, "plan-2")


def test_a_repository_that_differs_stops_before_anybody_sees_it(far_hub: ModelHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi

    original = far_hub.keep

    def spoil(data: bytes) -> str:
        sha = original(data)
        if data.startswith(b"GGUF"):
            far_hub.repos[REPO].branches["main"][0][1]["stray.gguf"] = sha
        return sha

    monkeypatch.setattr(far_hub, "keep", spoil)
    monkeypatch.setattr(HfApi, "list_repo_files", lambda *args, **kwargs: [])   # so the stray file is not seen when the commit is made
    with pytest.raises(ArtifactDamaged, match="does not hold what was sent"):
        ship(folder)
    assert far_hub.repos[REPO].private


def test_a_repository_of_somebody_else_is_never_filled(far_hub: ModelHub, folder: Path, tmp_path: Path) -> None:
    ship(folder)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    far_hub.repos[REPO].branches["main"][-1][1].pop("SHA256SUMS")
    with pytest.raises(UsageError, match="did not publish"):
        ship(other)


@pytest.mark.parametrize(("token", "words"), [(READER, "may only read"), ("hf_wrong", "needs a token"), (NARROW, "may not publish for ann")])
def test_a_token_that_may_not_write_is_refused_in_words(far_hub: ModelHub, folder: Path, token: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(MissingAccess, match=words) as caught:
        ship(folder)
    assert "HF_TOKEN" in caught.value.next
    assert not far_hub.repos


def test_the_owner_must_be_one_that_the_token_writes_for(far_hub: ModelHub, folder: Path) -> None:
    with pytest.raises(MissingAccess, match="may not publish for harbour"):
        hub.preflight("harbour/model", "model")
    assert hub.preflight("ann/other", "model") == "ann/other"
    assert hub.preflight("", "model") == "ann/model"


def test_a_fine_grained_token_that_names_the_owner_is_enough(far_hub: ModelHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", FINE)
    assert hub.preflight("", "") == "ann", "without a name the account alone is looked at"
    assert ship(folder).repo == REPO


def test_a_repository_that_is_taken_is_found_before_anything_is_sent(far_hub: ModelHub, folder: Path) -> None:
    ship(folder)
    assert hub.preflight("", "harbour-3m") == REPO, "our own may be published again"
    far_hub.repos[REPO].branches["main"][-1][1].pop("SHA256SUMS")
    far_hub.writes.clear()
    with pytest.raises(UsageError, match="did not publish"):
        hub.preflight("", "harbour-3m")
    assert far_hub.writes == []


@pytest.mark.parametrize(("kind", "place"), [("dataset", "datasets/"), ("space", "spaces/")])
@pytest.mark.parametrize("seed", range(5))
def test_data_sets_and_demos_survive_a_line_that_breaks_at_random_requests(
    far_hub: ModelHub, folder: Path, kind: Literal["dataset", "space"], place: str, seed: int
) -> None:
    far_hub.breaks = set(random.Random(seed).sample(range(1, 12), 3))
    told = hub.publish(Shipment(folder=folder, name="harbour-3m", repo="", visibility="public", tag="t", message="m", kind=kind))
    assert told.url == f"{far_hub.url}/{place}{REPO}"
    repo = far_hub.repos[place + REPO]
    assert {path: far_hub.blobs[sha] for path, sha in repo.at("main")[1].items() if path != ".gitattributes"} == on_disk(folder)
    assert not repo.private
    assert REPO not in far_hub.repos, "no model of that name was made"
    whole = repo.at("main")[1]
    assert all(files == whole for files in far_hub.seen_in_public)
