"""A new run takes a phase's result over from an earlier one, when everything that it depends on is the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from forge.errors import ForgeError
from forge.phase import Context
from forge.run import Run
from tests.test_engine.toys import Read, ReadSettings, run_toys


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two words, and a `read` whose result other runs may take over."""
    monkeypatch.setenv("FORGE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(Read, "identity", identity, raising=False)
    monkeypatch.setattr(Read, "reusable", reusable, raising=False)
    monkeypatch.setattr(Read, "runs", 0)
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text("one two", encoding="utf-8")
    return folder


def identity(self: Read, settings: ReadSettings, ctx: Context) -> str:
    return "this code"


def reusable(self: Read, metrics: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return None if metrics["words"] == 3 else {**metrics, "taken": 1}


def read_in_a_new_run(corpus: Path, name: str, **values: Any) -> tuple[bytes, Any]:
    """The words that a new run has after its first phase, and that phase's metrics."""
    run = Run.create(corpus, dry_run=False, run_id=name)
    run_toys(run, until="read", **values)
    row = run.state.row("SELECT metrics FROM phase WHERE name='read'")
    words = run.store.get("words")
    assert row is not None
    assert words is not None
    return run.store.open(words).read_bytes(), row["metrics"]


def test_the_same_corpus_is_read_once_by_two_runs(corpus: Path) -> None:
    first, told = read_in_a_new_run(corpus, "one")
    second, taken = read_in_a_new_run(corpus, "two")
    assert first == second
    assert Read.runs == 1
    assert ("taken" in told, "taken" in taken) == (False, True)


def test_another_setting_corpus_or_code_is_read_again(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_in_a_new_run(corpus, "one")
    read_in_a_new_run(corpus, "two", read__upper=True)
    monkeypatch.setattr(Read, "identity", lambda self, settings, ctx: "other code")
    read_in_a_new_run(corpus, "three")
    (corpus / "a.txt").write_text("one", encoding="utf-8")
    assert read_in_a_new_run(corpus, "four")[0] == b'[\n  "one"\n]\n'
    assert Read.runs == 4


def test_a_result_that_is_gone_damaged_or_not_for_others_is_made_again(corpus: Path) -> None:
    first, _ = read_in_a_new_run(corpus, "one")
    run = Run.open("one")
    words = run.store.get("words")
    assert words is not None
    blob = run.store.blob(words.sha256)
    blob.chmod(0o644)
    blob.write_bytes(b"[]")
    assert read_in_a_new_run(corpus, "two")[0] == first
    Run.open("two").delete()
    assert read_in_a_new_run(corpus, "three")[0] == first
    (corpus / "a.txt").write_text("one two three", encoding="utf-8")
    for name in ("four", "five"):
        read_in_a_new_run(corpus, name)
    assert Read.runs == 5


def test_a_phase_that_is_asked_for_runs(corpus: Path) -> None:
    read_in_a_new_run(corpus, "one")
    run_toys(Run.open("one"), until="read", rerun_from="read")
    assert Read.runs == 2


def test_a_failing_phase_offers_nothing(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Read, settings: ReadSettings, ctx: Context) -> Mapping[str, float | str]:
        raise ForgeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(Read, "run", fail)
        with pytest.raises(ForgeError):
            read_in_a_new_run(corpus, "one")
    read_in_a_new_run(corpus, "two")
    assert Read.runs == 1
