"""The axes of ready-made data each refuse the data that they are for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from forge.config import load_data
from forge.phases.plan_fit.ready import judge_ready, judge_test_size
from forge.records import DataContract, Example, Extraction, Labelled, Span, Verdict
from forge.registry import Registry

LIMITS = {name: float(value) for name, value in load_data("gates").items()}


@dataclass
class Rows:
    """What judge_ready() asks of plan_fit's data."""

    task: str
    train: list[Example]
    test: list[Example]
    contract: DataContract = field(init=False)

    def __post_init__(self) -> None:
        self.contract = DataContract(
            base="scratch", system_prompt="", abstention="", chat_template_sha256="", counts={}, groups={"test_unseen": len(self.test)}, tokens={}, longest=1,
            longest_prompt=1, max_length=64, too_long=0, pretrain_tokens=0, vocab_size=1, leakage={}, buckets={}, task=self.task,
        )

    def rows(self, split: str) -> tuple[Example, ...]:
        return tuple(self.train if split == "train" else self.test)


def examples(labels: list[tuple[str, str]]) -> list[Example]:
    return [
        Example(id=f"e{i}", split="train", group=f"g{i}", body=Labelled(text=f"t{i}", label=label, source=source)) for i, (label, source) in enumerate(labels)
    ]


def judge(task: str, train: list[Example], test: list[Example]) -> dict[str, Verdict]:
    data: Any = Rows(task, train, test)
    return {verdict.name: verdict for verdict in judge_ready(data, Registry().plugin("task", task), LIMITS)}


def even(n: int) -> list[tuple[str, str]]:
    return [(("Yes", "No")[i % 2], ("a", "b")[i // 2 % 2]) for i in range(n)]


def test_even_labels_of_mixed_sources_pass() -> None:
    found = judge("label", examples(even(400)), examples(even(160)))
    assert {name: verdict.outcome for name, verdict in found.items()} == {"test_size": "pass", "class_balance": "pass", "label_source": "pass"}


def test_one_label_nearly_everywhere_fails() -> None:
    rows = [("Yes", "a")] * 95 + [("No", "a")] * 5
    assert judge("label", examples(rows), examples(even(160)))["class_balance"].outcome == "fail"


def test_a_label_that_its_source_gives_away_fails() -> None:
    rows = [("Uncertain", "labelled")] * 110 + [("Yes", "artificial")] * 110 + [("No", "artificial")] * 110
    found = judge("label", examples(rows), examples(even(160)))["label_source"]
    assert found.outcome == "fail"
    assert "chi-square p=" in found.evidence


@pytest.mark.parametrize(("n", "outcome"), [(160, "pass"), (120, "undecided"), (60, "fail")])
def test_a_small_test_supports_no_gate(n: int, outcome: str) -> None:
    data: Any = Rows("label", examples(even(100)), examples(even(n)))
    assert judge_test_size(data, LIMITS).outcome == outcome


def test_extractions_without_silence_are_undecided() -> None:
    span = Span(type="Drug", text="t", start=0, end=1)
    rows = [Example(id=f"e{i}", split="train", group="g", body=Extraction(text=f"t{i}", entities=(span,))) for i in range(120)]
    assert judge("extract", rows, rows)["negatives"].outcome == "undecided"
    quiet = [row.model_copy(update={"body": Extraction(text=row.id)}) for row in rows[:20]]
    assert judge("extract", [*rows, *quiet], rows)["negatives"].outcome == "pass"
