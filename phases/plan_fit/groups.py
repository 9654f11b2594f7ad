"""Defects by bucket and by subtopic: is any part surely bad, although the whole is good?

Exact one-sided tests of each group, Holm's step-down over all of them (Holm 1979): one unlucky small group of many does
not fail a plan, a ruined one does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from forge.phases.plan_fit.verdicts import plural, some, undecided
from forge.records import Pair, Passage, Verdict
from forge.stats import binomial_test, clopper_pearson, holm

Groups = Mapping[str, Sequence[Pair]]
MIN_FOLDERS = 2


def by_bucket(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Pairs by the kind of question."""
    return _grouped(pairs, lambda pair: pair.bucket)


def by_subtopic(pairs: Sequence[Pair], passages: Mapping[str, Passage]) -> dict[str, list[Pair]]:
    """Pairs by what they are about: audit's subtopic; without any, the top folder; without folders, the document."""
    about = [pair for pair in pairs if pair.passage]
    if any(pair.subtopic for pair in about):
        return _grouped(about, lambda pair: pair.subtopic or "other")
    documents = {pair.passage: (found.source.path if (found := passages.get(pair.passage)) else "unknown") for pair in about}
    folders = {path.split("/")[0] for path in documents.values() if "/" in path}
    if len(folders) >= MIN_FOLDERS:
        return _grouped(about, lambda pair: documents[pair.passage].split("/")[0])
    return _grouped(about, lambda pair: documents[pair.passage])


def surely_worse(groups: Groups, found: Mapping[str, list[str]], limit: float) -> list[str]:
    """Groups whose share of defects is surely over the limit."""
    p_values = {name: binomial_test(_bad(members, found), len(members), limit) for name, members in groups.items()}
    return [name for name, rejected in holm(p_values).items() if rejected]


def judge_subtopics(
    pairs: Sequence[Pair], passages: Mapping[str, Passage], found: Mapping[str, list[str]], thresholds: Mapping[str, float]
) -> Verdict:
    """The worst subtopic's share of defects. Fails when any is surely over the limit, undecided when one only seems to be."""
    limit, groups = thresholds["accuracy_bucket_defects"], by_subtopic(pairs, passages)
    if not groups:
        return undecided("subtopics", "no pairs about passages", threshold=limit)
    shares = {name: _bad(members, found) / len(members) for name, members in groups.items()}
    worst = min(shares, key=lambda name: (-shares[name], name))
    size = len(groups[worst])
    low, high = clopper_pearson(_bad(groups[worst], found), size, 0.10)
    worse = surely_worse(groups, found, limit)
    seeming = [name for name, share in shares.items() if share > limit]
    evidence = f"{plural(len(groups), 'subtopic')} of {min(map(len, groups.values())):,}-{max(map(len, groups.values())):,} pairs; worst: {worst}"
    if worse:
        evidence += f"; surely over the limit: {some(worse)}"
    elif seeming:
        evidence += f"; over the limit, but with too few pairs to be sure: {some(seeming)}"
    return Verdict(
        name="subtopics", estimate=round(shares[worst], 6), ci=(round(low, 6), round(high, 6)), n=size, threshold=limit,
        outcome="fail" if worse else "undecided" if seeming else "pass", evidence=evidence,
    )


def _bad(members: Sequence[Pair], found: Mapping[str, list[str]]) -> int:
    return sum(bool(found.get(pair.id)) for pair in members)


def _grouped(pairs: Sequence[Pair], key: object) -> dict[str, list[Pair]]:
    assert callable(key)
    groups: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[key(pair)].append(pair)
    return dict(groups)
