"""The conformance suite of tasks: what every one of them promises to the phases."""

from __future__ import annotations

from typing import Any

import pytest

from forge.conformance import SURFACE
from forge.errors import UsageError
from forge.protocols import Prediction
from forge.records import Chat, Example, Message, Verdict
from forge.registry import Registry
from forge.rows import as_chat
from tests.test_plugins.tasks_world import (
    THRESHOLDS,
    extract_rows,
    extraction,
    label_rows,
    labelled,
    tell_the_truth,
)

SORRY = "I cannot answer that."
CHAT = Chat(
    prompt=(Message(role="system", content="Answer."), Message(role="user", content="When?")), completion=(Message(role="assistant", content="At 3 bar."),)
)


def _example(body: Any) -> Example:
    return Example(id="e", split="train", group="g", body=body)


def _chat_rows() -> list[Prediction]:
    prompt = CHAT.prompt
    return [
        Prediction(id=f"c{i:03}", split="test_recall", group=f"g{i // 2}", prompt=prompt, gold=f"At {i} bar.", answerable=True, answer_tokens=5,
                   nll_base=9.0, nll_tuned=4.0, tuned=f"At {i} bar.", generated=True, others={"nearest": "At 1 bar."})
        for i in range(60)
    ]  # fmt: skip


EXAMPLES = {"chat": _example(CHAT), "label": _example(labelled(1)), "extract": _example(extraction(1))}
ROWS = {"chat": _chat_rows(), "label": label_rows(tell_the_truth, n=60), "extract": extract_rows(tell_the_truth, n=60)}
TASKS = [Registry().plugin("task", name) for name in EXAMPLES]


@pytest.fixture(params=TASKS, ids=lambda task: task.name)
def task(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_it_has_the_surface_and_its_name(task: Any) -> None:
    assert [name for name in SURFACE["task"] if not hasattr(task, name)] == []
    assert Registry().plugin("task", task.name) is task


def test_the_prompt_ends_with_the_user_and_the_target_is_parsed_back(task: Any) -> None:
    example = EXAMPLES[task.name]
    assert task.prompt(example)[-1].role == "user"
    assert task.target(example)
    assert task.parse(f"  {task.target(example)}\n") == task.target(example)


def test_its_rows_become_chats(task: Any) -> None:
    body = as_chat(EXAMPLES[task.name], task).body
    assert isinstance(body, Chat)
    assert body.prompt == task.prompt(EXAMPLES[task.name])
    assert body.completion[-1].content == task.target(EXAMPLES[task.name])


def test_another_tasks_example_is_refused(task: Any) -> None:
    other = EXAMPLES["label" if task.name == "chat" else "chat"]
    with pytest.raises(UsageError, match="is no"):
        task.prompt(other)


def test_scores_do_not_depend_on_the_order_of_rows_and_are_repeatable(task: Any) -> None:
    rows = ROWS[task.name]
    first = task.score(rows, abstention=SORRY, seed=7)
    assert task.score(rows[::-1], abstention=SORRY, seed=7) == first
    assert {verdict.outcome for verdict in first} == {"undecided"}


def test_nothing_at_all_is_undecided_and_never_a_pass(task: Any) -> None:
    verdicts = task.gates(task.score([], abstention=SORRY, seed=7), THRESHOLDS)
    assert {verdict.outcome for verdict in verdicts} == {"undecided"}
    assert any(verdict.kind == "quality" for verdict in verdicts)


def test_without_thresholds_nothing_is_decided(task: Any) -> None:
    verdicts = task.gates(task.score(ROWS[task.name], abstention=SORRY, seed=7), {})
    assert {verdict.outcome for verdict in verdicts} == {"undecided"}


def test_the_card_begins_with_one_sentence_and_has_every_measure(task: Any) -> None:
    verdicts: list[Verdict] = task.gates(task.score(ROWS[task.name], abstention=SORRY, seed=7), THRESHOLDS)
    text = task.card_text(verdicts)
    assert text.split("\n")[0].endswith(".")
    assert text.split("\n")[1] == ""
    assert all(f"| {verdict.name} |" in text for verdict in verdicts)


def test_its_measures_say_something_about_every_answer(task: Any) -> None:
    measures = task.measures(SORRY)
    assert len({measure.name for measure in measures}) == len(measures)
    counts = [measures[0].of(row) for row in ROWS[task.name]]
    assert all(found is not None for found in counts)
    assert isinstance(measures[0].statistic(tuple(map(sum, zip(*counts, strict=True)))), float)


def test_its_baselines_answer_every_row(task: Any) -> None:
    example = EXAMPLES[task.name]
    train = [example.model_copy(update={"id": f"t{i}"}) for i in range(4)]
    found = task.baselines(train, [example, example], 7)
    assert "majority" in found
    assert {len(answers) for answers in found.values()} == {2}
    assert task.baselines([], [example], 7) == {}
