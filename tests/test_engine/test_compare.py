"""Two models on the same rows: found when there, "no difference" when not, and silence about too few rows."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from forge.compare import Side, as_base, common_rows, compare_runs, compare_sides
from forge.errors import UsageError
from forge.protocols import Measure, Prediction
from forge.records import Message, write_jsonl
from forge.run import Run

ABSTENTION = "The handbook does not say."
REPETITIONS = 40   # each draws 2,000 bootstrap samples; of 4,000 pairs of equal models the exact test alone calls 4.3 % different


def row(number: int, *, right: bool, nll: float = 10.0, split: str = "test_recall", question: str = "", gold: str = "blue paint") -> Prediction:
    return Prediction(
        id=f"{split}-{number:03}", split=split, group=f"doc{number // 3}", gold=gold, answerable=split != "test_abstain", answer_tokens=3,
        prompt=(Message(role="system", content="You answer."), Message(role="user", content=question or f"Question {number}?")),
        nll_base=30.0, nll_tuned=nll, tuned=gold if right else "something else", generated=True,
    )


def side(name: str, rows: list[Prediction]) -> Side:
    return Side(name=name, task="chat", abstention=ABSTENTION, rows={one.id: one for one in rows})


def sampled(share: float, seed: int, rows: int = 300) -> list[Prediction]:
    """A model that is right with a probability, by chance of the seed."""
    chance = random.Random(seed)
    return [row(i, right=chance.random() < share) for i in range(rows)]


RIGHT = Measure("exact", "right answers", lambda one: (float(one.tuned == one.gold), 1.0), hits=True)


def test_the_same_model_twice_is_no_difference() -> None:
    """Two seeds of sampling from one model (n = 300). At 5 % false alarms, more than 6 in 40 come once in 300 tries."""
    said = [compare_sides(side("a", sampled(0.7, 2 * i)), side("b", sampled(0.7, 2 * i + 1)), [RIGHT]).better for i in range(REPETITIONS)]
    assert said.count("no difference") >= REPETITIONS - 6, said.count("no difference")


def test_ten_points_are_found_in_at_least_80_percent() -> None:
    """The second model mends a tenth of all rows and breaks a few (n = 300)."""
    found = 0
    for i in range(REPETITIONS):
        chance, before = random.Random(i), sampled(0.7, 10_000 + i)
        wrong = [one for one in before if one.tuned != one.gold]
        mended = {one.id for one in chance.sample(wrong, min(len(wrong), 36))} | {one.id for one in chance.sample(before, 6)}
        after = [one.model_copy(update={"tuned": "other" if one.tuned == one.gold else one.gold}) if one.id in mended else one for one in before]
        found += compare_sides(side("a", before), side("b", after), [RIGHT]).better == "second"
    assert found >= 0.8 * REPETITIONS, found


def test_the_chat_task_compares_by_likelihood_first_and_by_abstention() -> None:
    before = [row(i, right=i % 2 == 0, nll=10.0) for i in range(60)]
    before += [row(i, right=i % 2 == 0, split="test_abstain", gold=ABSTENTION) for i in range(60)]
    after = [one.model_copy(update={"nll_tuned": 6.0 + i % 3, "tuned": one.gold}) for i, one in enumerate(before)]
    found = compare_sides(side("a", before), side("b", after))
    assert found.better == "second"
    by_name = {one.name: one for one in found.differences}
    assert found.differences[0].name == "recall_nats_per_character"
    assert by_name["abstention_recall"].better == "second"
    assert (by_name["abstention_recall"].first, by_name["abstention_recall"].second) == (0.5, 1.0)
    assert by_name["over_refusal"].better == "no difference"
    assert by_name["unseen_nats_per_character"].better == "too few rows"
    assert found.sentence.startswith("b is better than a (recall_nats_per_character -")
    assert compare_sides(side("b", after), side("a", before)).better == "first"


def test_only_rows_that_ask_the_same_for_the_same_answer_are_paired() -> None:
    first = {one.id: one for one in (row(i, right=True) for i in range(6))}
    second = dict(first)
    second["test_recall-001"] = row(1, right=True, question="Another question?")
    second["test_recall-002"] = row(2, right=True, gold="red paint")
    changed = first["test_recall-003"]
    second["test_recall-003"] = changed.model_copy(update={"prompt": (Message(role="system", content="Be brief."), changed.prompt[1])})
    del second["test_recall-004"]
    assert [a.id for a, _ in common_rows(first, second)] == ["test_recall-000", "test_recall-003", "test_recall-005"]


def test_few_rows_decide_nothing() -> None:
    found = compare_sides(side("a", [row(i, right=False, nll=90) for i in range(20)]), side("b", [row(i, right=True, nll=1) for i in range(20)]))
    assert found.better == "too few rows"
    assert "20 test rows in common, 30 are needed" in found.sentence


def test_the_base_of_a_run_stands_beside_it() -> None:
    tuned = [row(i, right=True, nll=8.0 + i % 4) for i in range(40)]
    found = compare_sides(side("one:base", [as_base(one) for one in tuned]), side("one", tuned))
    assert found.better == "second"
    assert found.differences[1].better == "too few rows"   # the base's answers were not generated


def test_a_run_that_was_not_evaluated_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGE_HOME", str(tmp_path / "home"))
    Run.create(tmp_path, dry_run=False, run_id="one").close()
    with pytest.raises(UsageError, match="was not evaluated"):
        compare_runs("one", "one:base")
    with pytest.raises(UsageError, match="no model of a run"):
        compare_runs("one:q4", "one")


def test_predictions_come_back_as_they_were_written(tmp_path: Path) -> None:
    from forge.records import read_jsonl

    write_jsonl(tmp_path / "p.jsonl", [row(1, right=True)])
    assert list(read_jsonl(tmp_path / "p.jsonl", Prediction)) == [row(1, right=True)]
