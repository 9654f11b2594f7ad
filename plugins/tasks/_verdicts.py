"""From counts to verdicts, for tasks that are scored by counting: intervals by group, floors, ceilings and the table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from forge.plugins.tasks._metrics import Ratio
from forge.protocols import Prediction
from forge.records import Verdict
from forge.stats import Vector, bootstrap_statistic, clopper_pearson, cluster_bootstrap

Outcome = Literal["pass", "fail", "undecided"]
Kind = Literal["quality", "info"]
ONE_SIDED_95 = 0.10
"""alpha of the two-sided exact interval whose ends are one-sided 95 % bounds: 149 outputs without a hit bound a rate by 0.02."""


def by_group(rows: Sequence[Prediction], value: Callable[[Prediction], Vector]) -> dict[str, list[Vector]]:
    """Values of the rows by the document that they come from; a row without one is its own."""
    found: dict[str, list[Vector]] = defaultdict(list)
    for row in rows:
        found[row.group or row.id].append(value(row))
    return dict(found)


def share(
    name: str, rows: Sequence[Prediction], hit: Callable[[Prediction], Ratio], told: str, *, seed: int, kind: Kind = "info"
) -> Verdict:
    """A share of countable things: the bootstrap over groups, never narrower than the exact one-sided bounds. n: what was counted."""
    counts = [hit(row) for row in rows]
    hits, n = round(sum(top for top, _ in counts)), round(sum(bottom for _, bottom in counts))
    if not n:
        return Verdict(name=name, estimate=None, n=0, outcome="undecided", evidence=f"{told}: nothing to count", kind=kind)
    clusters = {group: [(v[0], v[1]) for v in values] for group, values in by_group(rows, hit).items()}
    estimate, low, high = cluster_bootstrap(clusters, seed=seed)
    exact = clopper_pearson(hits, n, ONE_SIDED_95)
    return _verdict(name, estimate, (min(low, exact[0]), max(high, exact[1])), n, told, kind)


def ratio(
    name: str, rows: Sequence[Prediction], value: Callable[[Prediction], Ratio], told: str, *, seed: int, kind: Kind = "info"
) -> Verdict:
    """A ratio of sums (F1, a mean) with its bootstrap interval over groups. n: rows."""
    if not any(value(row)[1] for row in rows):
        return Verdict(name=name, estimate=None, n=0, outcome="undecided", evidence=f"{told}: nothing to count", kind=kind)
    clusters = {group: [(v[0], v[1]) for v in values] for group, values in by_group(rows, value).items()}
    estimate, low, high = cluster_bootstrap(clusters, seed=seed)
    return _verdict(name, estimate, (low, high), len(rows), told, kind)


def statistic(
    name: str, rows: Sequence[Prediction], counts: Callable[[Prediction], Vector], of: Callable[[Vector], float], told: str, *,
    seed: int, kind: Kind = "info", samples: int = 1000,
) -> Verdict:
    """A statistic of summed counts (macro-F1) with its bootstrap interval over groups. n: rows."""
    if not rows:
        return Verdict(name=name, estimate=None, n=0, outcome="undecided", evidence=f"{told}: no rows", kind=kind)
    estimate, low, high = bootstrap_statistic(by_group(rows, counts), of, seed=seed, samples=samples)
    return _verdict(name, estimate, (low, high), len(rows), told, kind)


def decide(verdict: Verdict, threshold: float | None, enough: float, *, at_least: bool) -> Verdict:
    """Pass when the whole interval is on the right side of the threshold, fail when it is on the wrong one, else undecided."""
    if threshold is None:
        return verdict.model_copy(update={"evidence": f"{verdict.evidence}; the plan has no threshold for it"})
    outcome: Outcome = "undecided"
    evidence = verdict.evidence
    if verdict.ci is None or verdict.n < enough:
        evidence += f"; {verdict.n} items say too little, {enough:g} are asked for"
    elif at_least:
        outcome = "pass" if verdict.ci[0] >= threshold else "fail" if verdict.ci[1] < threshold else "undecided"
    else:
        outcome = "pass" if verdict.ci[1] <= threshold else "fail" if verdict.ci[0] > threshold else "undecided"
    return verdict.model_copy(update={"threshold": threshold, "outcome": outcome, "evidence": evidence})


def table(verdicts: Sequence[Verdict]) -> str:
    """Everything measured, as a Markdown table; soft gates are marked, information has no outcome."""
    head = ["| measure | value | 95 % interval | n | threshold | outcome |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *map(_row, verdicts)])


def number(value: float | None) -> str:
    """Three digits, or a dash."""
    return "-" if value is None else f"{value:.3f}"


def _verdict(name: str, estimate: float, ci: tuple[float, float], n: int, told: str, kind: Kind) -> Verdict:
    low, high = (round(value, 4) for value in ci)
    return Verdict(name=name, estimate=round(estimate, 4), ci=(low, high), n=n, outcome="undecided", evidence=told, kind=kind)


def _row(verdict: Verdict) -> str:
    ci = "-" if verdict.ci is None else f"{verdict.ci[0]:.3f} to {verdict.ci[1]:.3f}"
    threshold = "-" if verdict.threshold is None else f"{verdict.threshold:g}"
    outcome = verdict.outcome if verdict.kind != "info" else "-" if verdict.threshold is None else f"{verdict.outcome} (soft)"
    return f"| {verdict.name} | {number(verdict.estimate)} | {ci} | {verdict.n} | {threshold} | {outcome} |"


def by_name(verdicts: Sequence[Verdict]) -> Mapping[str, Verdict]:
    """The verdicts by their names."""
    return {verdict.name: verdict for verdict in verdicts}
