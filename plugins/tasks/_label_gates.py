"""The gates of labels: which verdict is a floor, which a ceiling, which is soft, and on how many answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from forge.plugins.tasks._verdicts import Outcome, decide
from forge.records import Verdict
from forge.stats import ALPHA, binomial_test, holm

FLOORS = {"compliance": "label_compliance", "accuracy_gain": "label_accuracy_gain"}
CEILINGS = {"invented_citations": "label_citations"}
SHORTEST, LONGEST = "label_rationale_words_min", "label_rationale_words_max"
P_VALUE = re.compile(r"McNemar p=([\d.e+-]+)")
RECALL = re.compile(r"(\d+)/(\d+)")


def decide_all(verdicts: Sequence[Verdict], thresholds: Mapping[str, float]) -> list[Verdict]:
    """The verdicts with their outcomes."""
    return [_decide(verdict, thresholds) for verdict in verdicts]


def _decide(verdict: Verdict, thresholds: Mapping[str, float]) -> Verdict:
    enough = thresholds.get("label_min_items", float("inf"))
    if verdict.name in FLOORS:
        return decide(verdict, thresholds.get(FLOORS[verdict.name]), enough, at_least=True)
    if verdict.name in CEILINGS:
        return decide(verdict, thresholds.get(CEILINGS[verdict.name]), enough, at_least=False)
    if verdict.name == "class_recall":
        return _class_recall(verdict, thresholds.get("label_class_recall"), enough)
    if verdict.name.startswith("gain_over_"):
        return _gain(verdict, enough)
    if verdict.name == "ece":
        return _plain(verdict, thresholds.get("label_ece"), enough, (float("-inf"), thresholds.get("label_ece", 0.0)))
    if verdict.name == "rationale_words" and verdict.n:
        longest = thresholds.get(LONGEST)
        return _plain(verdict, longest, enough, (thresholds.get(SHORTEST, 0.0), longest or 0.0))
    return verdict


def _gain(verdict: Verdict, enough: float) -> Verdict:
    """Better macro-F1, and more labels right than chance would split (McNemar, p < 0.05); worse with its whole interval fails."""
    match = P_VALUE.search(verdict.evidence)
    outcome: Outcome = "undecided"
    evidence = verdict.evidence
    if verdict.ci is None or verdict.estimate is None or match is None or verdict.n < enough:
        evidence += f"; {verdict.n} items say too little, {enough:g} are asked for"
    elif verdict.estimate > 0 and verdict.ci[0] > 0 and float(match[1]) < ALPHA:
        outcome = "pass"
    elif verdict.ci[1] < 0:
        outcome = "fail"
    return verdict.model_copy(update={"threshold": 0.0, "outcome": outcome, "evidence": evidence})


def _class_recall(verdict: Verdict, floor: float | None, enough: float) -> Verdict:
    """Every class at or above the floor, tested together: Holm over exact one-sided tests, in both directions."""
    if floor is None:
        return decide(verdict, None, enough, at_least=True)
    counts = {str(i): (int(hits), int(n)) for i, (hits, n) in enumerate(RECALL.findall(verdict.evidence))}
    outcome: Outcome = "undecided"
    evidence = verdict.evidence
    if not counts or verdict.n < enough:
        evidence += f"; {verdict.n} items say too little, {enough:g} are asked for"
    elif any(holm({name: _p(hits, n, floor, above=False) for name, (hits, n) in counts.items()}).values()):
        outcome = "fail"
    elif all(holm({name: _p(hits, n, floor, above=True) for name, (hits, n) in counts.items()}).values()):
        outcome = "pass"
    return verdict.model_copy(update={"threshold": floor, "outcome": outcome, "evidence": evidence})


def _p(hits: int, n: int, floor: float, *, above: bool) -> float:
    """One-sided exact p of a recall above (below) the floor."""
    return binomial_test(hits, n, floor) if above else binomial_test(n - hits, n, 1 - floor)


def _plain(verdict: Verdict, threshold: float | None, enough: float, allowed: tuple[float, float]) -> Verdict:
    """A number without an interval: inside the allowed range or not; undecided on too few answers."""
    if threshold is None or verdict.estimate is None:
        return verdict
    inside = allowed[0] <= verdict.estimate <= allowed[1]
    outcome: Outcome = "undecided" if verdict.n < enough else "pass" if inside else "fail"
    return verdict.model_copy(update={"threshold": threshold, "outcome": outcome})
