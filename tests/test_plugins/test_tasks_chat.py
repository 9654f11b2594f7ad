"""The chat task's gates let a good model through and stop each kind of bad one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from forge.plugins.tasks._metrics import edit_distance, name_counts, token_f1
from forge.plugins.tasks.chat import task
from forge.protocols import Prediction
from forge.records import Chat, Example, Message, Verdict
from forge.registry import Registry

SORRY = "I cannot answer that from these documents."
THRESHOLDS = {"recall_nll_gain": 0.0, "abstention_recall": 0.9, "over_refusal": 0.05, "name_fidelity": 0.98, "min_test_items": 30}
NAMES = ("MeshSegNet", "DynEdgeConv", "PointNet", "TSGCNet")
Say = Callable[[Prediction], str]


def tell_the_truth(row: Prediction) -> str:
    return row.gold


def make(say: Say, *, rows: int = 240, abstain: int = 80, gain: float = 1.0) -> list[Prediction]:
    """Predictions of a model that answers `say(row)`, `gain` nats a token better than its base."""
    found = [_row(f"r{i:03}", "test_recall", f"It is {NAMES[i % 4]} number {i}.", (NAMES[i % 4],), gain, i) for i in range(rows)]
    found += [_row(f"u{i:03}", "test_unseen", f"It is {NAMES[i % 4]} item {i}.", (NAMES[i % 4],), gain, i) for i in range(40)]
    found += [_row(f"n{i:03}", "test_abstain", SORRY, (), gain, i) for i in range(abstain)]
    return [row.model_copy(update={"tuned": say(row), "generated": True}) for row in found]


def _row(id: str, split: str, gold: str, names: tuple[str, ...], gain: float, number: int) -> Prediction:
    noise = 0.3 * ((number * 7919) % 13 - 6) / 6
    return Prediction(
        id=id, split=split, group=f"g{number % 60}", prompt=(Message(role="user", content=f"What is number {number}?"),), gold=gold,
        answerable=split != "test_abstain", names=names, answer_tokens=10, nll_base=30.0, nll_tuned=30.0 - 10 * gain - (10 * noise if gain else 0),
    )


def judge(rows: list[Prediction]) -> dict[str, Verdict]:
    return {verdict.name: verdict for verdict in task.gates(task.score(rows, abstention=SORRY, seed=7), THRESHOLDS)}


def outcomes(rows: list[Prediction]) -> dict[str, str]:
    return {name: verdict.outcome for name, verdict in judge(rows).items() if verdict.kind == "quality"}


def test_a_good_model_passes_every_gate() -> None:
    assert set(outcomes(make(tell_the_truth)).values()) == {"pass"}


def test_a_model_that_always_refuses_fails_over_refusal() -> None:
    found = outcomes(make(lambda row: SORRY))
    assert found["over_refusal"] == "fail"
    assert found["abstention_recall"] == "pass"
    assert found["name_fidelity"] == "undecided"  # it never wrote a name


def test_a_model_that_never_refuses_fails_abstention_recall() -> None:
    assert outcomes(make(lambda row: "It is 42."))["abstention_recall"] == "fail"


def test_a_model_that_refuses_in_other_words_fails_abstention_recall() -> None:
    assert outcomes(make(lambda row: "Sorry, no idea." if row.gold == SORRY else row.gold))["abstention_recall"] == "fail"


def test_a_refusal_with_words_around_it_still_counts_against_an_answerable_question() -> None:
    assert outcomes(make(lambda row: f"Hm. {SORRY} Bye."))["over_refusal"] == "fail"


def test_a_model_equal_to_its_base_does_not_pass_and_the_headline_says_so() -> None:
    rows = make(tell_the_truth, gain=0.0)
    assert judge(rows)["recall_nll_gain"].outcome == "undecided"
    assert judge(rows)["recall_nll_gain"].ci == (0.0, 0.0)
    assert task.card_text(list(judge(rows).values())).startswith("No measurable gain over the base (+0.00 nats")


def test_a_model_worse_than_its_base_fails_and_the_headline_says_so() -> None:
    rows = make(tell_the_truth, gain=-0.5)
    assert judge(rows)["recall_nll_gain"].outcome == "fail"
    assert "worse than its base" in task.card_text(list(judge(rows).values())).split("\n")[0]


def test_too_few_items_are_undecided_however_good() -> None:
    assert set(outcomes(make(tell_the_truth, rows=20, abstain=20)).values()) == {"undecided"}


def test_a_share_is_not_passed_on_few_perfect_answers() -> None:
    """35 of 35 is a lower bound of 0.8999: the bootstrap alone would say 1.0."""
    found = judge(make(tell_the_truth, abstain=35))["abstention_recall"]
    assert found.estimate == 1.0
    assert found.ci is not None
    assert found.ci[0] == pytest.approx(0.9, abs=1e-3)
    assert found.outcome == "undecided"


def test_corrupted_names_fail_name_fidelity() -> None:
    assert outcomes(make(lambda row: row.gold.replace("MeshSegNet", "Mesh-SegNt")))["name_fidelity"] == "fail"


def test_a_test_without_names_is_not_gated_on_names() -> None:
    rows = [row.model_copy(update={"names": ()}) for row in make(tell_the_truth)]
    assert judge(rows)["name_fidelity"].kind == "info"


def test_a_missing_threshold_leaves_the_verdict_undecided() -> None:
    found = task.gates(task.score(make(tell_the_truth), abstention=SORRY, seed=7), {"min_test_items": 30})
    assert {verdict.outcome for verdict in found} == {"undecided"}


def test_rows_that_were_not_generated_are_not_counted_as_answers() -> None:
    rows = [row.model_copy(update={"generated": row.id < "r100", "tuned": ""}) for row in make(tell_the_truth)]
    assert judge(rows)["over_refusal"].n == sum(row.generated and row.split == "test_recall" for row in rows)


def test_scores_do_not_depend_on_the_order_of_rows() -> None:
    rows = make(tell_the_truth)
    assert task.score(rows, abstention=SORRY, seed=7) == task.score(rows[::-1], abstention=SORRY, seed=7)


def test_rows_without_a_group_are_drawn_one_by_one() -> None:
    """One common empty group would give an interval without any width."""
    rows = [row.model_copy(update={"group": ""}) for row in make(tell_the_truth)]
    ci = judge(rows)["recall_nll_gain"].ci
    assert ci is not None
    assert ci[0] < ci[1]


def test_the_headline_is_one_line_and_the_table_has_every_verdict() -> None:
    verdicts = list(judge(make(tell_the_truth)).values())
    lines = task.card_text(verdicts).splitlines()
    assert lines[0].startswith("The tuned model is 1.0")
    assert "declines 100% of 80 out-of-scope questions" in lines[0]
    assert len(lines) == 4 + len(verdicts)


def test_prompt_and_target_are_the_rows_own_words() -> None:
    prompt = (Message(role="system", content="S"), Message(role="user", content="Q?"))
    example = Example(id="e", split="val", group="g", body=Chat(prompt=prompt, completion=(Message(role="assistant", content="A."),)))
    assert task.prompt(example) == prompt
    assert task.target(example) == "A."
    assert task.parse("  A.\n") == "A."


def test_the_task_is_found_by_its_name() -> None:
    assert Registry().plugin("task", "chat") is task


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("MeshSegNet and PointNet", (2, 2)),
        ("meshsegnet", (0, 1)),
        ("Mesh-Seg-Net", (0, 1)),
        ("PointNets", (0, 1)),
        ("a pointed needle", (0, 0)),
        ("", (0, 0)),
    ],
)
def test_names_are_exact_or_corrupted(answer: str, expected: tuple[int, int]) -> None:
    assert name_counts(answer, frozenset(NAMES), frozenset(["a", "pointed", "needle"])) == expected


def test_a_short_name_has_few_corruptions_and_a_plain_word_none() -> None:
    names = frozenset(["JSON", "F16", "read", "bucket"])
    assert name_counts("JSON Jason json on F16 f16 F1", names, frozenset()) == (2, 4)  # "json" and "f16" are the same names in other case
    assert name_counts("read head backed reaches rat bucket", names, frozenset()) == (0, 0)


def test_a_name_is_looked_for_without_the_marks_around_it() -> None:
    assert name_counts("Use `--dry-run` or --dri-run.", frozenset(["--dry-run", "--"]), frozenset()) == (1, 2)


def test_a_name_of_two_words_is_one_name() -> None:
    names = frozenset(["Mark Tree"])
    assert name_counts("The Mark Tree stands.", names, frozenset(["The", "stands"])) == (1, 1)
    assert name_counts("The Mark Trea stands.", names, frozenset(["The", "stands"])) == (0, 1)


def test_overlap_is_squads() -> None:
    assert token_f1("The pump opens.", "pump opens") == 1.0
    assert token_f1("", "pump") == 0.0
    assert token_f1("pump runs", "pump opens") == pytest.approx(0.5)


def test_edit_distance() -> None:
    assert [edit_distance("kitten", "sitting"), edit_distance("", "ab"), edit_distance("a", "a")] == [3, 2, 0]
