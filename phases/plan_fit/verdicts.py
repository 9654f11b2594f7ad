"""From counts to verdicts: exact one-sided 95 % bounds, and one rule for pass, fail and undecided."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from forge.records import Verdict
from forge.stats import clopper_pearson

Outcome = Literal["pass", "fail", "undecided"]
ONE_SIDED_95 = 0.10
"""alpha of the two-sided interval whose ends are one-sided 95 % bounds."""


def judge_share(name: str, hits: int, n: int, threshold: float, *, at_least: bool, evidence: str) -> Verdict:
    """A share with its exact bounds: decided only when the whole interval is on one side of the threshold."""
    low, high = clopper_pearson(hits, n, ONE_SIDED_95)
    if at_least:
        outcome: Outcome = "pass" if low >= threshold else "fail" if high < threshold else "undecided"
    else:
        outcome = "pass" if high <= threshold else "fail" if low > threshold else "undecided"
    estimate = round(hits / n, 6) if n else None
    return Verdict(
        name=name, estimate=estimate, ci=(round(low, 6), round(high, 6)), n=n, threshold=threshold, outcome=outcome,
        evidence=evidence,
    )


def changed(verdict: Verdict, outcome: Outcome, evidence: str) -> Verdict:
    """The same measurement with an outcome that a further rule decided, and why."""
    return verdict.model_copy(update={"outcome": outcome, "evidence": f"{verdict.evidence}; {evidence}"})


def undecided(name: str, evidence: str, *, n: int = 0, threshold: float | None = None) -> Verdict:
    """What could not be measured, and why."""
    return Verdict(name=name, estimate=None, n=n, threshold=threshold, outcome="undecided", evidence=evidence)


def some(ids: Iterable[str], limit: int = 3) -> str:
    """A few of the offenders, sorted, for the evidence line."""
    known = sorted(set(ids))
    return ", ".join(known[:limit]) + (f" and {len(known) - limit} more" if len(known) > limit else "")


def plural(count: int, word: str) -> str:
    """`1 pair`, `2,455 pairs`."""
    return f"{count:,} {word}" + ("" if count == 1 else "s")


def worst(verdicts: Sequence[Verdict]) -> Outcome:
    """fail before undecided before pass; undecided when there is nothing to judge."""
    outcomes = {verdict.outcome for verdict in verdicts}
    return "fail" if "fail" in outcomes else "pass" if outcomes == {"pass"} else "undecided"
