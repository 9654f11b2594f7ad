"""The data set of a run: its card, its rows without the corpus, its checks with their bad fixtures, and the hub."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge.errors import GateFailed, MissingAccess, UsageError
from forge.phases.publish.data_check import DATA_RULES, StagedData, check_data
from forge.phases.publish.data_rows import quoting_rows, stretches
from forge.phases.publish.dataset import DataPublished, publish_data
from forge.phases.publish.hub_folder import verify
from forge.plugins.hubs.huggingface import hub
from forge.records import Chat, Example, Labelled, Message, Passage, Plan, Source, Split, write_jsonl
from tests.servers.model_hub import READER, ModelHub
from tests.test_phases.finished_run import ABSTENTION, NAME, finished_run, made_plan

PASSAGE = "The tide gauge at the north pier is read every morning at six by the harbour master, who writes it down."
REPO = f"datasets/ann/{NAME}-data"


def example(number: int, split: Split, question: str, answer: str) -> Example:
    prompt = (Message(role="system", content="Answer from the handbook."), Message(role="user", content=question))
    body = Chat(prompt=prompt, completion=(Message(role="assistant", content=answer),), answerable=answer != ABSTENTION)
    return Example(id=f"e{number}", split=split, group=f"guide/{number}.md", bucket="factual", body=body)


def run_with(folder: Path, plan: Plan | None = None, more: tuple[Example, ...] = ()) -> Callable[[str], Path]:
    """A finished run's artifacts with rows in every split; one training row quotes its passage."""
    paths = finished_run(folder / "art", plan=plan)
    write_jsonl(paths["passages"], [Passage(id="p1", source=Source(path="guide/tide.md", sha256="0" * 64), group="g", text=PASSAGE)])
    rows = {
        "train": [
            example(1, "train", "When is the gauge read?", "Each day at six."), example(2, "train", "Who reads it?", "The harbour master."),
            example(3, "train", "Say it in full.", PASSAGE), *more,
        ],
        "val": [example(4, "val", "Where is it?", "At the pier.")], "test_recall": [example(5, "test_recall", "At what hour?", "Six.")],
        "test_unseen": [], "test_abstain": [example(6, "test_abstain", "Who won the cup?", ABSTENTION)],
    }
    for name, examples in rows.items():
        paths[name] = folder / f"{name}.jsonl"
        write_jsonl(paths[name], examples)
    return paths.__getitem__


def publish(tmp_path: Path, find: Callable[[str], Path], remote: Any = None, **wish: Any) -> DataPublished:
    return publish_data(find, {"hub_dir": str(tmp_path / "hub"), **wish}, remote=remote)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_rows_that_quote_the_corpus_stay_here_and_are_counted(tmp_path: Path) -> None:
    found = publish(tmp_path, run_with(tmp_path))
    folder = tmp_path / "hub" / "datasets" / f"{NAME}-data"
    assert found.rows == {"test_abstain": 1, "test_recall": 1, "train": 2, "validation": 1}
    assert found.left_out == {"quotes the corpus": 1}
    everything = b"".join(snapshot(folder).values())
    assert b"harbour master, who writes" not in everything
    assert b"guide/" not in everything, "no name of a file of the corpus"
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "quotes the corpus: 1 rows" in card
    assert "license_name: no-licence-chosen" in card
    row = json.loads((folder / "data" / "test_abstain.jsonl").read_text(encoding="utf-8"))
    assert (row["answerable"], row["messages"][-1]["content"]) == (False, ABSTENTION)
    verify(folder)


def test_quotes_are_published_only_when_asked_for_and_the_card_says_so(tmp_path: Path) -> None:
    found = publish(tmp_path, run_with(tmp_path), quotes=True)
    assert (found.rows["train"], found.left_out) == (3, {})
    assert "**It quotes the documents it was made from.**" in (Path(found.folder) / "README.md").read_text(encoding="utf-8")


def test_a_row_with_personal_data_or_a_secret_is_left_out(tmp_path: Path) -> None:
    private = (example(7, "train", "Whom to ask?", "Write to ann.smith@harbour-office.org"), example(8, "train", "The key?", "AKIAABCDEFGHIJKLMNOP"))
    found = publish(tmp_path, run_with(tmp_path, more=private))
    assert found.left_out["personal data or secrets"] == 2
    assert b"harbour-office" not in b"".join(snapshot(tmp_path / "hub").values())


def test_publishing_again_changes_nothing(tmp_path: Path) -> None:
    find = run_with(tmp_path)
    first = publish(tmp_path, find)
    before = snapshot(tmp_path / "hub")
    assert publish(tmp_path, find) == first
    assert snapshot(tmp_path / "hub") == before


def test_texts_of_other_tasks_are_the_corpus_and_need_to_be_asked_for(tmp_path: Path) -> None:
    labelled = Example(id="l1", split="train", group="g", body=Labelled(text=PASSAGE, label="tide"))
    find = run_with(tmp_path, plan=made_plan(task="label", abstention=""), more=(labelled,))
    with pytest.raises(UsageError, match="is a text of the corpus"):
        publish(tmp_path, find)
    publish(tmp_path, find, quotes=True)


def test_a_run_of_quotes_only_says_what_would_publish_them(tmp_path: Path) -> None:
    find = run_with(tmp_path)
    for name in ("val", "test_recall", "test_abstain"):
        find(name).write_text("", encoding="utf-8")
    write_jsonl(find("train"), [example(3, "train", "Say it in full.", PASSAGE)])
    with pytest.raises(UsageError, match="no row may be published") as caught:
        publish(tmp_path, find)
    assert "1 rows: quotes the corpus" in caught.value.why
    assert "--quotes" in caught.value.next


@pytest.mark.parametrize(("text", "quotes"), [
    ("the TIDE gauge at the north pier is", True), ("the tide gauge at the north pier", False), ("Read every morning, at six - by the harbour!", True),
    ("each morning the master reads the gauge of the tide at the pier", False),
])
def test_eight_words_in_a_row_are_a_quotation(text: str, quotes: bool) -> None:
    from forge.phases.publish.data_rows import Row

    rows = [Row(id="r", split="train", texts=(text,), line="")]
    passages = [Passage(id="p", source=Source(path="x", sha256="0" * 64), group="g", text=PASSAGE)]
    assert (quoting_rows(rows, passages, lambda: None) == {"r"}) is quotes
    assert all(len(stretch.split()) == 8 for stretch in stretches(PASSAGE))


@pytest.mark.local
def test_the_card_loads_with_datasets_as_it_says(tmp_path: Path) -> None:
    folder = publish(tmp_path, run_with(tmp_path)).folder
    (code,) = re.findall(r"^```python\n(.*?)^```$", (Path(folder) / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    ran = subprocess.run(
        [sys.executable, "-c", f"{code}\nprint(rows['train'].num_rows, rows['train'][0]['messages'][1]['role'])"], cwd=folder, capture_output=True, text=True,
        check=False, env={"PATH": "/usr/bin", "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"},
    )
    assert ran.stdout.strip() == "2 user", ran.stderr[-800:]


# --- the checks ------------------------------------------------------------------------------------------------


def staged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StagedData:
    """A data set as it lies before the swap."""
    kept: list[StagedData] = []
    monkeypatch.setattr("forge.phases.publish.dataset._check", kept.append)
    found = publish(tmp_path, run_with(tmp_path))
    folder = Path(found.folder)
    (folder / "SHA256SUMS").unlink()
    return kept[0].model_copy(update={"folder": folder})


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return damage


def add_row(folder: Path, answer: str) -> None:
    row = {"id": "x", "document": "y", "kind": "k", "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}], "answerable": True}
    with (folder / "data" / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


BAD: list[tuple[str, Callable[[Path], None]]] = [
    ("metadata_is_true", edit("README.md", "---\n", "")),
    ("metadata_is_true", edit("README.md", "license: other", "license: apache-2.0")),
    ("metadata_is_true", edit("README.md", "n<1K", "1M<n<10M")),
    ("metadata_is_true", edit("README.md", "path: data/train.jsonl", "path: data/all.jsonl")),
    ("metadata_is_true", edit("README.md", "- synthetic\n", "")),
    ("rows_are_counted", lambda folder: (folder / "data" / "train.jsonl").unlink()),
    ("rows_are_counted", lambda folder: add_row(folder, "One more.")),
    ("rows_are_counted", edit("data/train.jsonl", '{"answerable"', '"answerable"')),
    ("rows_are_counted", lambda folder: (folder / "data" / "notes.txt").touch()),
    ("card_says_what_was_counted", edit("README.md", "| train | `data/train.jsonl` | 2 |", "| train | `data/train.jsonl` | 2,000 |")),
    ("card_says_what_was_counted", edit("README.md", "quotes the corpus: 1 rows", "quotes the corpus: 0 rows")),
    ("corpus_text_stays_here", lambda folder: add_row(folder, PASSAGE)),
    ("nothing_private", lambda folder: add_row(folder, "Ask ann.smith@harbour-office.org")),
    ("nothing_private", edit("README.md", "# ", "AKIAABCDEFGHIJKLMNOP ")),
    ("nothing_private", edit("README.md", "# ", "/home/ann/secret-project ")),
    ("no_placeholders", edit("README.md", "## Intended use", "TODO\n\n## Intended use")),
]


@pytest.mark.parametrize(("rule", "damage"), BAD, ids=[f"{rule}-{i}" for i, (rule, _) in enumerate(BAD)])
def test_each_rule_refuses_its_bad_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str, damage: Callable[[Path], None]) -> None:
    publication = staged(tmp_path, monkeypatch)
    assert check_data(publication) == [], "the good twin passes"
    damage(publication.folder)
    checks = {check.__name__: check for check in DATA_RULES}
    assert checks[rule](publication), f"{rule} let it pass"


def test_every_rule_has_a_bad_fixture() -> None:
    assert {rule.__name__ for rule in DATA_RULES} == {rule for rule, _ in BAD}


def test_a_failed_check_leaves_nothing_in_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.phases.publish.data_rows.is_private", lambda text: False)
    find = run_with(tmp_path, more=(example(7, "train", "Whom to ask?", "Write to ann.smith@harbour-office.org"),))
    with pytest.raises(GateFailed, match="failed 1 check") as caught:
        publish(tmp_path, find)
    assert "data/train.jsonl:3: email" in caught.value.why
    assert not (tmp_path / "hub" / "datasets" / f"{NAME}-data").exists()


# --- the hub ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_data_set_reaches_the_hub_whole_whatever_breaks_and_the_second_time_nothing_is_sent(tmp_path: Path, far_hub: ModelHub, seed: int) -> None:
    find = run_with(tmp_path)
    far_hub.breaks = set(random.Random(seed).sample(range(1, 8), 2))
    found = publish(tmp_path, find, hub, license="cc-by-4.0", visibility="public")
    assert found.url == f"{far_hub.url}/{REPO}"
    there = far_hub.repos[REPO]
    assert {path: far_hub.blobs[sha] for path, sha in there.at("main")[1].items() if path != ".gitattributes"} == snapshot(Path(found.folder))
    assert not there.private
    commits = len(there.branches["main"])
    assert publish(tmp_path, find, hub, license="cc-by-4.0", visibility="public") == found
    assert len(there.branches["main"]) == commits


def test_without_a_licence_or_with_a_read_only_token_nothing_leaves(tmp_path: Path, far_hub: ModelHub, monkeypatch: pytest.MonkeyPatch) -> None:
    find = run_with(tmp_path)
    with pytest.raises(GateFailed, match="no licence") as caught:
        publish(tmp_path, find, hub)
    assert "--license" in caught.value.next
    monkeypatch.setenv("HF_TOKEN", READER)
    with pytest.raises(MissingAccess, match="may only read"):
        publish(tmp_path, find, hub, license="mit")
    assert not far_hub.repos


@pytest.mark.parametrize(("changes", "wish", "words"), [
    ({"dry_run": True}, {}, "rows of a rehearsal"), ({"teacher": "anthropic"}, {}, "decide about terms"),
    ({}, {"quotes": True}, "quote documents that state no licence"),
])
def test_what_a_person_has_to_decide_stops_it(tmp_path: Path, far_hub: ModelHub, changes: dict[str, Any], wish: dict[str, Any], words: str) -> None:
    find = run_with(tmp_path, plan=made_plan(**changes))
    with pytest.raises(GateFailed, match=words):
        publish(tmp_path, find, hub, license="mit", **wish)
    assert not far_hub.repos
    if "dry_run" not in changes:
        told = publish(tmp_path, find, hub, license="mit", terms="Our counsel agreed on 2026-11-20.", **wish)
        assert "Our counsel agreed" in (Path(told.folder) / "README.md").read_text(encoding="utf-8") or wish

