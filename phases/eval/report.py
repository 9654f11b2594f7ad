"""eval.json: verdicts, counts, what the baselines reached, the subtopics, and whether retrieval would do."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from forge.phase import Table
from forge.protocols import Measure, Prediction, Task
from forge.records import Verdict
from forge.stats import compare_counts

LEAST_ROWS = 12
"""Fewer rows with both answers say nothing about retrieval."""
SEARCHES = {
    "bm25_base": "the base with the right text before it", "nearest": "looking up the answer to the most similar trained question",
}  # fmt: skip
"""What a search gives without any tuning, in words."""
SHOWN_SUBTOPICS = 40


def summarize(verdicts: Sequence[Verdict], predictions: Sequence[Any], card_text: str) -> dict[str, Any]:
    """The verdicts, what was counted, the overall quality, and the first line of the task's card text."""
    outcomes = {verdict.outcome for verdict in verdicts if verdict.kind == "quality"}
    quality = "fail" if "fail" in outcomes else "pass" if outcomes == {"pass"} else "undecided"
    splits = sorted({row.split for row in predictions})
    counts = {split: sum(row.split == split for row in predictions) for split in splits}
    counts |= {f"{split}_generated": sum(row.split == split and row.generated for row in predictions) for split in splits}
    return {
        "verdicts": [verdict.model_dump(mode="json") for verdict in verdicts], "counts": counts, "quality": quality,
        "headline": card_text.split("\n", 1)[0],
    }


def rivals(task: Task, predictions: Sequence[Prediction], abstention: str, seed: int) -> list[dict[str, Any]]:
    """For every baseline and compared model: the task's measure of its answers and of the tuned model's, on the rows that it answered."""
    measure = answer_measure(task, abstention)
    if measure is None:
        return []
    found = []
    for name in sorted({name for row in predictions for name in row.others}):
        pairs = paired(predictions, name, measure)
        if pairs:
            found.append({"name": name, "measure": measure.name, **_difference(pairs, measure, seed)})
    return found


def answer_measure(task: Task, abstention: str) -> Measure | None:
    """The first of the task's measures that looks at what was answered; likelihoods say nothing about other models."""
    measures: Callable[[str], Sequence[Measure]] | None = getattr(task, "measures", None)
    found = [] if measures is None else [one for one in measures(abstention) if "nats" not in one.name]
    return found[0] if found else None


def paired(
    predictions: Sequence[Prediction], name: str, measure: Measure
) -> dict[str, list[tuple[tuple[float, ...], tuple[float, ...]]]]:
    """group -> (the other's counts, the tuned model's counts) of each row that both answered."""
    clusters: dict[str, list[tuple[tuple[float, ...], tuple[float, ...]]]] = defaultdict(list)
    for row in predictions:
        if name in row.others and row.generated:
            theirs, ours = measure.of(_as(row, name)), measure.of(row)
            if theirs is not None and ours is not None:
                clusters[row.group or row.id].append((theirs, ours))
    return dict(clusters)


def retrieval_sentence(rows: Sequence[Mapping[str, Any]]) -> str:
    """Whether a search does as well as the tuned model: of the ways to search, the one that comes closest is told."""
    known = [row for row in rows if row["name"] in SEARCHES and row["rows"] >= LEAST_ROWS]
    if not known:
        return "Whether retrieval would do was not measured on enough rows."
    found = min(known, key=lambda row: (row["difference"], row["name"]))
    (low, high), how = found["ci"], SEARCHES[found["name"]]
    measure = str(found["measure"]).replace("_", " ")
    told = f"{measure} {found['theirs']:.3f} against {found['tuned']:.3f}, difference {low:+.3f} to {high:+.3f} on {found['rows']} rows"
    if low > 0:
        return f"Retrieval would not do: {how} is behind the tuned model ({told})."
    if high < 0:
        return f"Retrieval does better: {how} is ahead of the tuned model ({told})."
    return f"Retrieval may do: no difference is measured between {how} and the tuned model ({told})."


def subtopics(task: Task, predictions: Sequence[Prediction], abstention: str) -> list[dict[str, Any]]:
    """The task's measure of the tuned model for each subtopic with tested rows, by name."""
    measure = answer_measure(task, abstention)
    if measure is None:
        return []
    counts: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for row in predictions:
        if row.subtopic and row.generated and (found := measure.of(row)) is not None:
            counts[row.subtopic].append(found)
    rows = [
        {"subtopic": name, "measure": measure.name, "rows": len(found), "value": round(measure.statistic(_sum(found)), 4)} for name, found in sorted(counts.items())
    ]
    return rows[:SHOWN_SUBTOPICS]


def tables(eval_json: Path) -> Iterator[Table]:
    """For `forge show`: every baseline and compared model beside the tuned one, and the subtopics."""
    report = json.loads(eval_json.read_text(encoding="utf-8"))
    if others := report.get("rivals"):
        head = ("model or baseline", others[0]["measure"], "tuned", "difference", "95 %", "rows")
        yield Table(name="rivals", head=head, rows=tuple(
            (row["name"], row["theirs"], row["tuned"], row["difference"], f"{row['ci'][0]:+.3f} to {row['ci'][1]:+.3f}", row["rows"]) for row in others
        ))  # fmt: skip
    if found := report.get("subtopics"):
        rows = tuple((row["subtopic"], row["value"], row["rows"]) for row in found)
        yield Table(name="subtopics", head=("subtopic", found[0]["measure"], "rows"), rows=rows)


def _difference(pairs: Mapping[str, Sequence[tuple[tuple[float, ...], tuple[float, ...]]]], measure: Measure, seed: int) -> dict[str, Any]:
    flat = [pair for group in pairs.values() for pair in group]
    theirs, ours = (measure.statistic(_sum(side)) for side in zip(*flat, strict=True))
    found = compare_counts(pairs, measure.statistic, seed=seed, samples=1000)
    return {
        "rows": len(flat), "theirs": round(theirs, 4), "tuned": round(ours, 4), "difference": round(found.difference, 4),
        "ci": [round(found.ci[0], 4), round(found.ci[1], 4)],
    }


def _as(row: Prediction, name: str) -> Prediction:
    return row.model_copy(update={"tuned": row.others[name]})


def _sum(counts: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(map(sum, zip(*counts, strict=True)))
