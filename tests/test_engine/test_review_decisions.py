"""Decisions about pairs: what counts, what is stale, and that the run's state is their only truth."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from forge import registry
from forge.cli.app import run_command
from forge.review import decisions
from forge.review.decisions import Decided, Told, apply, fingerprint
from forge.run import Run
from tests.test_cli.toy_review import points_with_pairs
from tests.test_engine.review_world import ToySynth, pair

Forge = Callable[..., int]


@pytest.fixture
def forge(work: Path, monkeypatch: pytest.MonkeyPatch) -> Forge:
    monkeypatch.setattr(registry, "_points", points_with_pairs(registry._points))
    (work / "corpus").mkdir()
    (work / "corpus" / "a.txt").write_text("one", encoding="utf-8")

    def run(*words: str) -> int:
        return run_command([*words, "--quiet"])

    assert run("run", "corpus", "--budget", "5", "--id", "one") == 3
    return run


def rows(run: Run) -> set[str]:
    artifact = run.store.get("train")
    assert artifact is not None
    return {json.loads(line)["id"] for line in run.store.link(artifact).read_text(encoding="utf-8").splitlines()}


def test_an_edit_counts_only_for_the_pair_that_its_author_saw() -> None:
    seen = pair("pump", 1)
    edited = seen.model_copy(update={"answer": "Seventeen bar."})
    decided = {"pump-1": Decided(id="pump-1", action="edit", pair=edited, was=fingerprint(seen))}
    assert apply([seen], decided).pairs == [edited]
    anew = seen.model_copy(update={"answer": "The teacher says it in other words now."})
    found = apply([anew], decided)
    assert (found.pairs, found.stale, found.counts) == ([anew], ["pump-1"], {})
    assert "without effect" in found.summary


def test_a_rejection_counts_for_the_question_whatever_its_answer_and_one_without_a_pair_is_stale() -> None:
    anew = pair("pump", 1).model_copy(update={"answer": "In other words."})
    found = apply([anew, pair("pump", 2)], {name: Decided(id=name, action="reject") for name in ("pump-1", "gone-1")})
    assert ([one.id for one in found.pairs], found.rejected, found.stale) == (["pump-2"], ["pump-1"], ["gone-1"])


def test_the_newest_decision_counts_and_the_artifact_holds_nothing_but_the_effect(forge: Forge) -> None:
    run = Run.open("one")
    with run.lock():
        decisions.decide(run, [Told(id="pump-1", action="reject", why="first"), Told(id="pump-2", action="reject")])
        first = run.store.get("review")
        decisions.decide(run, [Told(id="pump-1", action="keep"), Told(id="pump-1", action="reject", why="again")])
        assert run.store.get("review") == first, "who, when and why are in the history only"
        decisions.decide(run, [Told(id=one, action="keep") for one in ("pump-1", "pump-2")])
        assert run.store.get("review") is None, "as in a run that was never reviewed"
    assert [(told.id, told.action) for told in decisions.history(run)][-1] == ("pump-2", "keep")


def test_a_decision_whose_process_was_killed_before_its_artifact_is_taken_up_by_the_next_run(forge: Forge) -> None:
    run = Run.open("one")
    run.state.execute("INSERT INTO decision(pair, action, who, at) VALUES('pump-1', 'reject', 'ann', 1.0)")
    assert run.store.get("review") is None
    assert forge("resume", "one") == 3
    assert "pump-1" not in rows(run)
    assert len(rows(run)) == 62


def test_a_damaged_review_is_made_again_from_the_state(forge: Forge) -> None:
    run = Run.open("one")
    with run.lock():
        decisions.decide(run, [Told(id="pump-1", action="reject")])
    assert forge("resume", "one") == 3
    artifact, synths = run.store.get("review"), ToySynth.runs
    assert artifact is not None
    blob = run.store.blob(artifact.sha256)
    blob.chmod(0o644)
    blob.write_bytes(b"torn")
    assert forge("resume", "one", "--from", "shape") == 3
    assert run.store.get("review") == artifact
    assert run.store.intact(artifact)
    assert "pump-1" not in rows(run)
    assert ToySynth.runs == synths
