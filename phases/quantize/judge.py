"""From numbers to verdicts. One rule everywhere: the whole interval must be on the right side of the threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from forge.records import Verdict
from forge.stats import cluster_bootstrap, wilson

Outcome = Literal["pass", "fail", "undecided"]
DIGITS = 6


def decide(ci: tuple[float, float], threshold: float | None, *, at_least: bool) -> Outcome:
    """pass or fail when the interval is clear of the threshold; undecided when it straddles or there is none."""
    if threshold is None:
        return "undecided"
    low, high = ci if at_least else (-ci[1], -ci[0])
    limit = threshold if at_least else -threshold
    return "pass" if low >= limit else "fail" if high < limit else "undecided"


def judge_share(
    name: str, hits: Mapping[str, Sequence[bool]], threshold: float | None, *, at_least: bool, seed: int,
    min_items: int, evidence: str,
) -> Verdict:
    """A share of items with its 95 % interval: the wider of Wilson's and the bootstrap over groups.

    hits: group -> one answer per item. The bootstrap alone would call 12 of 12 certain.
    """
    flat = [hit for group in hits.values() for hit in group]
    if not flat:
        return Verdict(name=name, estimate=None, threshold=threshold, outcome="undecided", evidence=f"{evidence}: no items")
    _, low, high = cluster_bootstrap({group: [(float(hit), 1.0) for hit in items] for group, items in hits.items()}, seed=seed)
    exact = wilson(sum(flat), len(flat))
    ci = (round(min(low, exact[0]), DIGITS), round(max(high, exact[1]), DIGITS))
    outcome = decide(ci, threshold, at_least=at_least) if len(flat) >= min_items else "undecided"
    return Verdict(
        name=name, estimate=round(sum(flat) / len(flat), DIGITS), ci=ci, n=len(flat), threshold=threshold, outcome=outcome,
        evidence=evidence,
    )


def judge_mean(
    name: str, values: Mapping[str, Sequence[tuple[float, float]]], threshold: float | None, *, at_least: bool, seed: int,
    min_items: int, evidence: str,
) -> Verdict:
    """sum(numerators) / sum(denominators) with its bootstrap interval over groups; too few items are undecided."""
    n = sum(len(items) for items in values.values())
    if not n:
        return Verdict(name=name, estimate=None, threshold=threshold, outcome="undecided", evidence=f"{evidence}: no items")
    estimate, low, high = (round(value, DIGITS) for value in cluster_bootstrap(values, seed=seed))
    return Verdict(
        name=name, estimate=estimate, ci=(low, high), n=n, threshold=threshold,
        outcome=decide((low, high), threshold, at_least=at_least) if n >= min_items else "undecided", evidence=evidence,
    )


def worst(verdicts: Sequence[Verdict]) -> Outcome:
    """fail before undecided before pass; undecided when there is nothing to judge."""
    outcomes = {verdict.outcome for verdict in verdicts}
    return "fail" if "fail" in outcomes else "pass" if outcomes == {"pass"} else "undecided"
