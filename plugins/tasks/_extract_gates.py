"""The gates of extraction: which verdict is a floor, which a ceiling, which is soft, and on how many texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from forge.plugins.tasks._verdicts import decide
from forge.records import Verdict

FLOORS = {
    "parsed": "extract_parsed", "entity_f1": "extract_entity_f1", "relation_f1": "extract_relation_f1",
    "gain_over_gazetteer": "extract_gazetteer_gain",
}  # fmt: skip
CEILINGS = {"invented_mentions": "extract_invented"}
SOFT_FLOORS = {"unseen_recall": "extract_unseen_recall"}
SOFT_CEILINGS = {"false_alarms": "extract_false_alarms"}
GOALS = {"entity_f1": "extract_entity_f1_goal", "relation_f1": "extract_relation_f1_goal"}
"""Soft floors above the hard ones, as verdicts of their own."""

COUNTED_APART = {"invented_mentions", "false_alarms"}
"""Their n counts mentions or texts without entities, not texts."""


def decide_all(verdicts: Sequence[Verdict], thresholds: Mapping[str, float]) -> list[Verdict]:
    """The verdicts with their outcomes, and one more for each goal."""
    decided = [_decide(verdict, thresholds) for verdict in verdicts]
    return decided + [_goal(verdict, thresholds) for verdict in verdicts if verdict.name in GOALS and verdict.estimate is not None]


def _decide(verdict: Verdict, thresholds: Mapping[str, float]) -> Verdict:
    enough = 1.0 if verdict.name in COUNTED_APART else thresholds.get("extract_min_items", float("inf"))
    floors, ceilings = {**FLOORS, **SOFT_FLOORS}, {**CEILINGS, **SOFT_CEILINGS}
    if verdict.name == "relation_f1" and verdict.kind == "info":
        return verdict
    if verdict.name in floors:
        return decide(verdict, thresholds.get(floors[verdict.name]), enough, at_least=True)
    if verdict.name in ceilings:
        return decide(verdict, thresholds.get(ceilings[verdict.name]), enough, at_least=False)
    return verdict


def _goal(verdict: Verdict, thresholds: Mapping[str, float]) -> Verdict:
    named = verdict.model_copy(update={"name": f"{verdict.name}_goal", "kind": "info"})
    return decide(named, thresholds.get(GOALS[verdict.name]), thresholds.get("extract_min_items", float("inf")), at_least=True)
