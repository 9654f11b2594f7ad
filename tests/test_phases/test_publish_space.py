"""The demo of a published model: what is written, what the free tier cannot hold, what may not go to a hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from forge.errors import GateFailed, UsageError
from forge.phases.publish import PublishSettings, phase
from forge.phases.publish.hub_folder import verify
from forge.phases.publish.space import DemoMade, fits_free_tier, make_demo
from forge.phases.publish.staged import split_card
from forge.plugins.hubs.huggingface import hub
from forge.records import write_json
from forge.testing import run_phase
from tests.servers.model_hub import ModelHub
from tests.test_phases.finished_run import NAME, SYSTEM, finished_run


@pytest.fixture
def published(tmp_path: Path) -> tuple[Path, Path]:
    """A published folder and its publication.json."""
    inputs = finished_run(tmp_path / "art")
    run = run_phase(
        phase, tmp_path / "run", settings=PublishSettings(try_snippets=False, hub_dir=str(tmp_path / "hub")), inputs={name: inputs[name] for name in phase.reads if name in inputs},
    )
    return tmp_path / "hub" / NAME, run.out / "publication.json"


def demo(tmp_path: Path, published: tuple[Path, Path], remote: Any = None, **wish: Any) -> DemoMade:
    return make_demo(*published, {"hub_dir": str(tmp_path / "hub"), **wish}, remote=remote)


def was_published_to_a_hub(publication: Path, visibility: str) -> None:
    facts = json.loads(publication.read_text(encoding="utf-8"))
    write_json(publication, facts | {"remote": {"hub": "huggingface", "repo": f"ann/{NAME}", "url": "https://hub/ann/x", "visibility": visibility}})


def test_the_demo_is_the_measured_file_with_its_prompt_and_lengths(tmp_path: Path, published: tuple[Path, Path]) -> None:
    made = demo(tmp_path, published)
    folder = Path(made.folder)
    verify(folder)
    assert {path.name for path in folder.iterdir()} == {"README.md", "SHA256SUMS", "app.py", "model.gguf", "requirements.txt"}
    assert (folder / "model.gguf").read_bytes() == (published[0] / "gguf" / f"{NAME}-Q4_K_M.gguf").read_bytes()
    meta = yaml.safe_load(split_card((folder / "README.md").read_text(encoding="utf-8"))[0])
    assert (meta["sdk"], meta["app_file"]) == ("gradio", "app.py")
    names: dict[str, Any] = {"__file__": str(folder / "app.py"), "__name__": "app"}
    exec(compile((folder / "app.py").read_text(encoding="utf-8"), "app.py", "exec"), names)
    assert (names["SYSTEM"], names["ANSWER_TOKENS"]) == (SYSTEM, 128)


def test_making_it_again_changes_nothing(tmp_path: Path, published: tuple[Path, Path]) -> None:
    first = demo(tmp_path, published)
    before = {path.name: path.stat().st_mtime_ns for path in Path(first.folder).iterdir()}
    assert demo(tmp_path, published) == first
    assert {path.name: path.stat().st_mtime_ns for path in Path(first.folder).iterdir()} == before


@pytest.mark.parametrize(("size", "fits"), [(2_300_000, True), (4_700_000_000, True), (9_900_000_000, True), (11_000_000_000, False), (15_000_000_000, False)])
def test_a_file_that_the_free_tier_cannot_hold_is_refused(size: int, fits: bool) -> None:
    if fits:
        assert fits_free_tier(size, "x.gguf") >= 1.0
        return
    with pytest.raises(UsageError, match="too large for a free Space"):
        fits_free_tier(size, "x.gguf")


def test_a_demo_whose_files_hold_a_secret_is_refused(tmp_path: Path, published: tuple[Path, Path]) -> None:
    modelfile = published[0] / "Modelfile"
    modelfile.write_text(modelfile.read_text(encoding="utf-8").replace("Field Handbook", "AKIAABCDEFGHIJKLMNOP"), encoding="utf-8")
    with pytest.raises(GateFailed, match="failed its checks"):
        demo(tmp_path, published)
    assert not (tmp_path / "hub" / "spaces" / f"{NAME}-demo").exists()


def test_it_goes_to_a_hub_only_after_its_model_and_is_never_more_visible(tmp_path: Path, published: tuple[Path, Path], far_hub: ModelHub) -> None:
    with pytest.raises(GateFailed, match="has not been published to a hub"):
        demo(tmp_path, published, hub)
    was_published_to_a_hub(published[1], "private")
    with pytest.raises(GateFailed, match="more visible than its model"):
        demo(tmp_path, published, hub, visibility="public")
    assert not far_hub.repos
    made = demo(tmp_path, published, hub)
    assert made.url == f"{far_hub.url}/spaces/ann/{NAME}-demo"
    assert far_hub.repos[f"spaces/ann/{NAME}-demo"].private
    assert f"models:\n- ann/{NAME}" in (Path(made.folder) / "README.md").read_text(encoding="utf-8")
