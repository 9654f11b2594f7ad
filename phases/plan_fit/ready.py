"""The axes of ready-made data: enough to test on, classes that are there, labels that the source does not give away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from forge.phases.plan_fit.data import Data
from forge.phases.plan_fit.verdicts import Outcome, changed, plural
from forge.records import Verdict

TEST = "test_unseen"
SURE = 0.01
"""p of the chi-square test below which label and source are not independent."""


def judge_ready(data: Data, task: Any, limits: Mapping[str, float]) -> list[Verdict]:
    """What the task's own audit() measures, decided, and the size of the test."""
    found = task.audit(data.rows("train"), data.rows(TEST))
    return [judge_test_size(data, limits), *(_decide(verdict, limits) for verdict in found)]


def judge_test_size(data: Data, limits: Mapping[str, float]) -> Verdict:
    """Fails below what could support any gate, undecided below what the gates ask for."""
    n, task = len(data.rows(TEST)), data.contract.task
    enough, least = limits[f"{task}_min_items"], limits[f"{task}_least_items"]
    groups = data.contract.groups.get(TEST, 0)
    evidence = f"{plural(n, 'test row')} from {plural(groups, 'document')}; gates ask for {enough:g}, below {least:g} none can be supported"
    outcome: Outcome = "pass" if n >= enough else "fail" if n < least else "undecided"
    return Verdict(name="test_size", estimate=float(n), n=n, threshold=enough, outcome=outcome, evidence=evidence)


def _decide(verdict: Verdict, limits: Mapping[str, float]) -> Verdict:
    if verdict.estimate is None:
        return verdict
    if verdict.name == "class_balance":
        return _at_most(verdict, limits["label_largest_class"])
    if verdict.name == "label_source":
        return _source(verdict, limits["label_source_gain"])
    if verdict.name == "negatives":
        few = verdict.estimate < limits["extract_negatives"]
        decided = verdict.model_copy(update={"threshold": limits["extract_negatives"], "outcome": "undecided" if few else "pass"})
        return changed(decided, "undecided", "a model that never saw a text without any finds something everywhere") if few else decided
    return verdict


def _at_most(verdict: Verdict, limit: float) -> Verdict:
    assert verdict.estimate is not None
    outcome: Outcome = "pass" if verdict.estimate <= limit else "fail"
    return verdict.model_copy(update={"threshold": limit, "outcome": outcome})


def _source(verdict: Verdict, limit: float) -> Verdict:
    """Fails when the source alone tells much more than the commonest label, and not by chance."""
    assert verdict.estimate is not None
    p = _p_value(verdict.evidence)
    bad = verdict.estimate > limit
    outcome: Outcome = "pass" if not bad else "fail" if p < SURE else "undecided"
    return verdict.model_copy(update={"threshold": limit, "outcome": outcome})


def _p_value(evidence: str) -> float:
    _, _, rest = evidence.partition("chi-square p=")
    words: Sequence[str] = rest.split()
    return float(words[0]) if words else 1.0
