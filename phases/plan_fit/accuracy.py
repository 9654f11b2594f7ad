"""Axis 3, accuracy: every pair re-checked against its passage, and the check itself tested with planted defects."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from forge.phases.plan_fit.checker import find_defects
from forge.phases.plan_fit.planted import measure_recall
from forge.phases.plan_fit.verdicts import ONE_SIDED_95, changed, judge_share, plural, some, undecided
from forge.records import Pair, Passage, Verdict
from forge.stats import clopper_pearson


def judge_accuracy(
    pairs: Sequence[Pair], passages: Mapping[str, Passage], abstention: str, thresholds: Mapping[str, float], seed: int
) -> Verdict:
    """Share of pairs with a defect. Undecided when the check misses planted defects, or has too few to be tested on."""
    limit = thresholds["accuracy_defects"]
    if not pairs:
        return undecided("accuracy", "no pairs", threshold=limit)
    found = {pair.id: find_defects(pair, passages.get(pair.passage), abstention) for pair in pairs}
    bad = [pair for pair in pairs if found[pair.id]]
    recall = measure_recall([pair for pair in pairs if not found[pair.id]], passages, abstention, seed)
    evidence = f"{_evidence(pairs, found)}; planted defects found: {str(recall) or 'none planted'}"
    verdict = judge_share("accuracy", len(bad), len(pairs), limit, at_least=False, evidence=evidence)
    if verdict.outcome == "fail":
        return verdict
    if worse := _bad_buckets(pairs, found, thresholds["accuracy_bucket_defects"]):
        return changed(verdict, "fail", f"too many in bucket {some(worse)}")
    if recall.total < thresholds["accuracy_min_planted"]:
        return changed(verdict, "undecided", f"only {plural(recall.total, 'defect')} could be planted as a test")
    if recall.worst < thresholds["accuracy_planted_recall"]:
        return changed(verdict, "undecided", f"the check finds only {recall.worst:.0%} of one kind of planted defect")
    return verdict


def _evidence(pairs: Sequence[Pair], found: Mapping[str, list[str]]) -> str:
    kinds = Counter(kind for defects in found.values() for kind in defects)
    if not kinds:
        return f"no defect in {plural(len(pairs), 'pair')}"
    counted = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
    return f"defects in {plural(len(pairs), 'pair')}: {counted} ({some(key for key, value in found.items() if value)})"


def _bad_buckets(pairs: Sequence[Pair], found: Mapping[str, list[str]], limit: float) -> list[str]:
    """Buckets whose defect share is surely over the limit: exact lower bounds, Holm's step-down over the buckets."""
    buckets: dict[str, list[bool]] = defaultdict(list)
    for pair in pairs:
        buckets[pair.bucket].append(bool(found[pair.id]))
    ordered = sorted(buckets, key=lambda name: (-sum(buckets[name]) / len(buckets[name]), name))
    worse = []
    for index, name in enumerate(ordered):
        hits, n = sum(buckets[name]), len(buckets[name])
        if clopper_pearson(hits, n, ONE_SIDED_95 / (len(ordered) - index))[0] <= limit:
            break
        worse.append(name)
    return worse
