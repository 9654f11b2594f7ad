"""Which group, which question form and which abstention question goes to which side.

Every choice follows a hash of the seed and the thing itself, so adding a document moves few others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from forge.errors import ForgeError
from forge.questions import clusters
from forge.records import Pair, Split, digest

MIN_GROUPS = 3
GROUPS_FOR_ALL = 4
OVERSHOOT = 1.3
"""A group may pass the wanted size by this factor; a larger one is left to training."""
RECALL_WANTED, RECALL_SHARE, RECALL_FACTS_SHARE = 240, 0.1, 0.6
"""Held-out question forms: at least 240 where the facts allow it (of 134, one refusal may be a chance; 240 can show less than 5 %), else a tenth of the pairs; never more than 60 % of the facts."""
NAMES_WANTED = 140
"""Names that the expected answers of the held-out forms should hold, where the corpus has them, from at most half of the forms: with
120 written right of 120 the interval begins at 0.97, and one slip is not yet a failure."""
ABSTAIN_TEST_WANTED = 200
"""With 95 % declined, 140 questions give an interval from 0.899, 200 one from 0.91: enough to be sure of 0.90."""

Sides = dict[Split, list[Pair]]


def split_groups(pairs: Sequence[Pair], *, seed: int, val_share: float, unseen_share: float) -> dict[str, Split]:
    """group -> "train", "val" or "test_unseen" for every group with pairs. Raises ForgeError below three groups."""
    sizes: dict[str, int] = {}
    for pair in pairs:
        sizes[pair.group] = sizes.get(pair.group, 0) + 1
    if len(sizes) < MIN_GROUPS:
        raise ForgeError(
            f"the pairs come from {len(sizes)} group{'s' if len(sizes) != 1 else ''}; at least {MIN_GROUPS} are needed",
            why="a document is never on both sides of a split, so training, validation and the test need one each",
            next="add documents to the corpus; copies and drafts of one document count as one group",
        )
    total = sum(sizes.values())
    order = sorted(sizes, key=lambda group: (digest(str(seed), group), group))
    unseen = _take(order, sizes, unseen_share * total)
    rest = [group for group in order if group not in unseen]
    val = _take(rest, sizes, val_share * total)
    return {group: "test_unseen" if group in unseen else "val" if group in val else "train" for group in sorted(sizes)}


def _take(order: Sequence[str], sizes: Mapping[str, int], wanted: float) -> set[str]:
    """Groups in hash order until `wanted` pairs are together; the smallest one when all are too large."""
    taken: set[str] = set()
    have = 0
    for group in order:
        if have >= wanted:
            break
        if have + sizes[group] <= wanted * OVERSHOOT:
            taken.add(group)
            have += sizes[group]
    return taken or ({min(order, key=lambda group: (sizes[group], group))} if wanted > 0 else set())


def hold_out_forms(pairs: Sequence[Pair], *, seed: int) -> tuple[list[Pair], list[Pair]]:
    """(train, test_recall): for some facts with several forms one form is held out, the others stay.

    Facts with names come first, up to NAMES_WANTED: whether a model spells them right needs more of them than chance brings.
    """
    facts: dict[str, list[Pair]] = {}
    for pair in pairs:
        facts.setdefault(pair.fact, []).append(pair)
    able = sorted((fact for fact, forms in facts.items() if len(forms) > 1), key=lambda fact: digest(str(seed), "recall", fact))
    wanted = min(max(RECALL_WANTED, int(RECALL_SHARE * len(pairs))), int(RECALL_FACTS_SHARE * len(able)))
    chosen = [_choose_form(facts[fact], seed) for fact in able]
    named = _with_names(chosen, wanted // 2)
    held = {pair.id for pair in [*named, *(pair for pair in chosen if pair not in named)][:wanted]}
    return [pair for pair in pairs if pair.id not in held], [pair for pair in pairs if pair.id in held]


def _with_names(forms: Sequence[Pair], most: int) -> list[Pair]:
    """The first forms whose answers hold names, until NAMES_WANTED are together."""
    found: list[Pair] = []
    for pair in forms:
        if pair.names and len(found) < most and sum(len(one.names) for one in found) < NAMES_WANTED:
            found.append(pair)
    return found


def _choose_form(forms: Iterable[Pair], seed: int) -> Pair:
    return min(forms, key=lambda pair: digest(str(seed), "form", pair.id))


def split_abstentions(pairs: Sequence[Pair], *, seed: int, val_share: float) -> tuple[Sides, dict[str, str]]:
    """Abstention pairs by side, and the cluster of each pair id. Near-duplicate questions share a cluster and a side."""
    ordered = sorted(pairs, key=lambda pair: pair.id)
    roots = clusters([pair.asked for pair in ordered])
    cluster_of = {pair.id: f"abstain-{digest(ordered[root].asked)[:12]}" for pair, root in zip(ordered, roots, strict=True)}
    sides: Sides = {"train": [], "val": [], "test_abstain": []}
    for bucket in sorted({pair.bucket for pair in ordered}):
        members: dict[str, list[Pair]] = {}
        for pair in ordered:
            if pair.bucket == bucket:
                members.setdefault(cluster_of[pair.id], []).append(pair)
        count = sum(map(len, members.values()))
        wanted = min(ABSTAIN_TEST_WANTED, len(ordered) // 2) * count / len(ordered)
        for cluster, side in _place_clusters(members, wanted, val_share * (count - wanted), seed).items():
            sides[side] += members[cluster]
    return _whole_clusters(sides, cluster_of), cluster_of


def _place_clusters(members: Mapping[str, Sequence[Pair]], test: float, val: float, seed: int) -> dict[str, Split]:
    order = sorted(members, key=lambda cluster: digest(str(seed), "abstain", cluster))
    sizes = {cluster: len(found) for cluster, found in members.items()}
    tested = _take(order, sizes, test) if len(order) > 1 else set()
    rest = [cluster for cluster in order if cluster not in tested]
    valid = _take(rest, sizes, val) if len(rest) > 1 else set()
    return {cluster: "test_abstain" if cluster in tested else "val" if cluster in valid else "train" for cluster in order}


def _whole_clusters(sides: Sides, cluster_of: Mapping[str, str]) -> Sides:
    """A cluster that holds questions of two buckets goes to one side: training before validation before test."""
    home: dict[str, Split] = {}
    for side in ("train", "val", "test_abstain"):
        for pair in sides[side]:
            home.setdefault(cluster_of[pair.id], side)
    pairs = [pair for found in sides.values() for pair in found]
    return {side: [pair for pair in pairs if home[cluster_of[pair.id]] == side] for side in sides}
