"""What the file that ships is worth for tasks other than chat: the task's own measures of its answers, beside the adapter's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from forge.phase import Context
from forge.phases.quantize.judge import decide
from forge.phases.quantize.llama import Generation
from forge.phases.quantize.rows import Encoded
from forge.protocols import Measure, Prediction
from forge.records import Verdict, read_jsonl
from forge.stats import compare_counts

SPLITS: dict[str, tuple[str, ...]] = {"chat": ("test_recall", "test_abstain")}
"""Tests that the files are measured on; other tasks have one test, of documents that were never trained on."""
OTHERS = ("test_unseen",)

Counts = tuple[float, ...]


def tests_of(task: str) -> tuple[str, ...]:
    """The names of the tests of a task."""
    return SPLITS.get(task, OTHERS)


def judge_task(
    kind: str, asked: Sequence[Encoded], answers: Sequence[Generation], ctx: Context, task_name: str, thresholds: Mapping[str, float], *, seed: int
) -> list[Verdict]:
    """For each measure of the task how much the file loses on the adapter, on the same rows. The first one is gated (task_drop)."""
    task: Any = ctx.use("task", task_name)
    by_id = {row.id: row for row in read_jsonl(ctx.input("predictions"), Prediction)}
    pairs = [
        (by_id[row.row.id], by_id[row.row.id].model_copy(update={"tuned": task.parse(answer.text)}))
        for row, answer in zip(asked, answers, strict=True) if row.row.id in by_id and by_id[row.row.id].generated
    ]
    measures = [one for one in task.measures("") if "nats" not in one.name]
    verdicts = [_drop(kind, measure, pairs, seed) for measure in measures]
    fewest, limit = int(thresholds.get("min_test_items", 1)), thresholds.get("task_drop")
    lead = verdicts[0]
    outcome = decide(lead.ci, limit, at_least=False) if lead.ci is not None and lead.n >= fewest else "undecided"
    verdicts[0] = lead.model_copy(update={"kind": "quality", "threshold": limit, "outcome": outcome})
    return verdicts


def _drop(kind: str, measure: Measure, pairs: Sequence[tuple[Prediction, Prediction]], seed: int) -> Verdict:
    clusters: dict[str, list[tuple[Counts, Counts]]] = defaultdict(list)
    for adapter, file in pairs:
        before, after = measure.of(adapter), measure.of(file)
        if before is not None and after is not None:
            clusters[adapter.group or adapter.id].append((after, before))
    name = f"{measure.name}_drop_{kind.lower()}"
    told = f"{measure.name} of the adapter minus that of {kind}, on the same texts ({measure.about})"
    if not clusters:
        return Verdict(name=name, estimate=None, outcome="undecided", evidence=f"{told}: no items", kind="info")
    found = compare_counts(clusters, measure.statistic, seed=seed, samples=1000)
    score = measure.statistic(tuple(map(sum, zip(*(after for group in clusters.values() for after, _ in group), strict=True))))
    return Verdict(
        name=name, estimate=round(found.difference, 6), ci=(round(found.ci[0], 6), round(found.ci[1], 6)), n=found.n, outcome="undecided",
        evidence=f"{told}; {kind} reaches {score:.3f}", kind="info",
    )
