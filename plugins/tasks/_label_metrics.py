"""Numbers over labels: macro-F1, class recall, calibration, drift. Counts are vectors that can be resampled by group."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from forge.plugins.tasks._label_format import read
from forge.protocols import Prediction
from forge.records import Labelled
from forge.stats import Vector

BINS = 15
"""Equal-mass bins of the expected calibration error."""


def body_of(row: Prediction) -> Labelled:
    """The labelled text behind a prediction."""
    assert isinstance(row.body, Labelled)
    return row.body


def labels_of(rows: Sequence[Prediction]) -> tuple[str, ...]:
    """All labels of the data set, in its order."""
    return tuple(dict.fromkeys(label for row in rows for label in (*body_of(row).labels, body_of(row).label)))


def said(row: Prediction) -> str:
    """The label that the tuned model gave in the right form, else ""."""
    return read(row.tuned, body_of(row)).label


def class_counts(labels: Sequence[str], label_of: Callable[[Prediction], str]) -> Callable[[Prediction], Vector]:
    """For each label (true positive, false positive, false negative) of one row, in a row."""

    def counts(row: Prediction) -> Vector:
        gold, given = body_of(row).label, label_of(row)
        return tuple(
            float(flag) for label in labels for flag in (gold == given == label, given == label != gold, gold == label != given)
        )

    return counts


def macro_f1(counts: Vector) -> float:
    """Mean F1 over the classes of class_counts(); a class that is neither there nor predicted counts 0 (the usual convention)."""
    scores = [f1(*counts[i : i + 3]) for i in range(0, len(counts), 3)]
    return sum(scores) / len(scores) if scores else 0.0


def f1(hits: float, false: float, missed: float) -> float:
    """2 tp / (2 tp + fp + fn), 0 when there is nothing."""
    bottom = 2 * hits + false + missed
    return 2 * hits / bottom if bottom else 0.0


def per_class(rows: Sequence[Prediction], labels: Sequence[str], label_of: Callable[[Prediction], str]) -> list[tuple[str, float, float, float, int]]:
    """(label, precision, recall, F1, n) for each label."""
    counts = [class_counts(labels, label_of)(row) for row in rows]
    sums = [sum(column) for column in zip(*counts, strict=True)] if counts else [0.0] * 3 * len(labels)
    found = []
    for number, label in enumerate(labels):
        hits, false, missed = sums[3 * number : 3 * number + 3]
        precision, recall = (hits / (hits + other) if hits + other else 0.0 for other in (false, missed))
        found.append((label, precision, recall, f1(hits, false, missed), int(hits + missed)))
    return found


def confusion(rows: Sequence[Prediction], labels: Sequence[str], label_of: Callable[[Prediction], str]) -> list[list[int]]:
    """Rows: the expected label; columns: the given one, and last what gave none."""
    counted = Counter((body_of(row).label, label_of(row)) for row in rows)
    return [[counted[gold, given] for given in (*labels, "")] for gold in labels]


def probabilities(scores: Mapping[str, float]) -> dict[str, float]:
    """Softmax over the labels' log-probabilities."""
    top = max(scores.values())
    weights = {label: math.exp(score - top) for label, score in scores.items()}
    total = sum(weights.values())
    return {label: weight / total for label, weight in weights.items()}


def calibration(rows: Sequence[Prediction]) -> tuple[float, float, float] | None:
    """(ECE over 15 bins of equal mass, Brier score, nats of the right label); None without label scores."""
    scored = [(probabilities(row.label_scores), body_of(row).label) for row in rows if row.label_scores]
    if not scored:
        return None
    sure = sorted((max(p.values()), max(p, key=lambda label: (p[label], label)) == gold) for p, gold in scored)
    size = max(1, math.ceil(len(sure) / BINS))
    parts = [sure[i : i + size] for i in range(0, len(sure), size)]
    ece = sum(abs(sum(p for p, _ in part) - sum(hit for _, hit in part)) for part in parts) / len(sure)
    brier = sum(sum((p[label] - (label == gold)) ** 2 for label in p) for p, gold in scored) / len(scored)
    nll = -sum(math.log(max(p.get(gold, 0.0), 1e-12)) for p, gold in scored) / len(scored)
    return ece, brier, nll


def drift(rows: Sequence[Prediction], labels: Sequence[str]) -> float:
    """The largest difference between a label's share of the predictions and of the expected answers."""
    n = len(rows)
    given, gold = Counter(map(said, rows)), Counter(body_of(row).label for row in rows)
    return max(abs(given[label] - gold[label]) / n for label in labels) if n else 0.0
