"""Axis 3, accuracy: every pair re-checked against its passage, and every check itself tested with planted defects.

Who grades: the exact checks grade all pairs; where synth had a judge, it read all facts with the passage before; where a
stronger grader is named (plan_fit.grader), it grades a random sample drawn only now. A judge whose recall on planted
defects is not surely 0.9 decides nothing: the axis is then undecided, whatever else was found good.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from forge.phases.plan_fit.checker import find_defects, proper_names
from forge.phases.plan_fit.grader import Grades
from forge.phases.plan_fit.groups import by_bucket, surely_worse
from forge.phases.plan_fit.planted import Recall, measure_recall
from forge.phases.plan_fit.synth_checks import Judge
from forge.phases.plan_fit.verdicts import ONE_SIDED_95, changed, judge_share, plural, some, undecided
from forge.records import Pair, Passage, Verdict
from forge.stats import clopper_pearson

NAMES_FROM, TICK_PAIRS = 5_000, 500
Defects = Mapping[str, list[str]]


def all_defects(
    pairs: Sequence[Pair], passages: Mapping[str, Passage], abstention: str, tick: Callable[[int], None] = lambda done: None
) -> dict[str, list[str]]:
    """What the exact checks find, by pair. tick(pairs done) is called now and then."""
    proper, found = corpus_names(passages), dict[str, list[str]]()
    for number, pair in enumerate(pairs):
        if number % TICK_PAIRS == 0:
            tick(number)
        found[pair.id] = find_defects(pair, passages, abstention, proper)
    return found


def corpus_names(passages: Mapping[str, Passage]) -> frozenset[str]:
    """The proper names of the corpus, from at most NAMES_FROM passages."""
    return proper_names(passages[key].text for key in sorted(passages)[:NAMES_FROM])


def judge_accuracy(
    pairs: Sequence[Pair], passages: Mapping[str, Passage], abstention: str, thresholds: Mapping[str, float], seed: int, *,
    judge: Judge | None = None, grades: Grades | None = None, found: Defects | None = None,
) -> Verdict:
    """Share of pairs with a defect. Undecided when a grader is not proven, gave too few answers, or has too few pairs."""
    limit = thresholds["accuracy_defects"]
    if not pairs:
        return undecided("accuracy", "no pairs", threshold=limit)
    found = all_defects(pairs, passages, abstention) if found is None else found
    recall = measure_recall([pair for pair in pairs if not found[pair.id]], passages, abstention, seed, proper=corpus_names(passages))
    evidence = f"{_evidence(pairs, found)}; planted defects found: {str(recall) or 'none planted'}"
    evidence += f"; {judge}" if judge else ""
    verdict = judge_share("accuracy", sum(map(bool, found.values())), len(pairs), limit, at_least=False, evidence=evidence)
    if verdict.outcome == "fail":
        return verdict
    if worse := surely_worse(by_bucket(pairs), found, thresholds["accuracy_bucket_defects"]):
        return changed(verdict, "fail", f"too many in bucket {some(worse)}")
    if grades is not None:
        verdict = _with_sample(verdict, grades, thresholds)
    if verdict.outcome == "fail":
        return verdict
    faults = [
        _fault(recall, thresholds),
        judge.fault(thresholds["accuracy_planted_recall"], thresholds["grades_missing"], limit) if judge and grades is None else "",
    ]
    return changed(verdict, "undecided", "; ".join(filter(None, faults))) if any(faults) else verdict


def _with_sample(verdict: Verdict, grades: Grades, thresholds: Mapping[str, float]) -> Verdict:
    """The verdict of the stronger grader's sample: its bounds count, and what it did not answer is missing, not good."""
    limit = thresholds["accuracy_defects"]
    graded = judge_share("accuracy", grades.bad, grades.graded, limit, at_least=False, evidence=f"{verdict.evidence}; {grades}")
    low, high = clopper_pearson(grades.bad, grades.graded, ONE_SIDED_95 / grades.looks)
    outcome = "fail" if low > limit else "pass" if high <= limit and verdict.outcome == "pass" else "undecided"
    graded = graded.model_copy(update={"outcome": outcome, "ci": (round(low, 6), round(high, 6))})
    if outcome != "fail" and grades.missing > thresholds["grades_missing"] * (grades.graded + grades.missing):
        return changed(graded, "undecided", f"{plural(grades.missing, 'grade')} are missing, which may all be bad")
    if outcome != "fail" and (why := grades.fault(thresholds["accuracy_planted_recall"])):
        return changed(graded, "undecided", why)
    return graded


def _fault(recall: Recall, thresholds: Mapping[str, float]) -> str:
    """Why the exact checks prove nothing here; empty when they found what was planted, with the bound of it."""
    least = thresholds["accuracy_planted_recall"]
    if recall.total < thresholds["accuracy_min_planted"]:
        return f"only {plural(recall.total, 'defect')} could be planted as a test"
    if recall.worst < least:
        return f"the check finds only {recall.worst:.0%} of one kind of planted defect"
    if recall.bound < least:
        return f"of {recall.total} planted defects the check surely finds only {recall.bound:.0%}"
    return ""


def _evidence(pairs: Sequence[Pair], found: Defects) -> str:
    kinds = Counter(kind for defects in found.values() for kind in defects)
    if not kinds:
        return f"no defect in {plural(len(pairs), 'pair')}"
    counted = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
    return f"defects in {plural(len(pairs), 'pair')}: {counted} ({some(key for key, value in found.items() if value)})"
