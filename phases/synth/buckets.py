"""Kinds of examples, how many of each are wanted, and how many were made: by content, not by document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from forge.errors import nearest
from forge.records import Pair, Passage, digest

SHARES = {
    "factual": 0.34, "mechanism": 0.10, "application": 0.09, "comparison": 0.06, "method_discrimination": 0.05, "negative_fact": 0.05,
    "false_premise": 0.03, "summary": 0.05, "multi_turn": 0.03, "abstain_near": 0.12, "abstain_document": 0.04, "abstain_far": 0.04,
}
"""The default of synth.buckets. Abstention together 0.2: see synth.abstention_share."""
ABSTAINING = ("abstain_near", "abstain_document", "abstain_far")
CORRECTING = ("negative_fact", "false_premise")
TWO_PASSAGES = ("comparison",)
IN_TWOS = ("negative_fact",)
"""Asked for in twos, one with a wrong detail and one with the right one: a set in which every answer is "No" teaches "No"."""
PARTS = {
    "definition": "factual", "number": "factual", "rule": "factual", "list": "factual", "item": "factual", "table": "factual", "acronym": "factual",
    "statement": "factual", "question": "factual", "gap": "factual", "reason": "mechanism", "condition": "application", "procedure": "application",
}
"""Finer names that teachers may use, and the bucket that each belongs to. A name that nobody knows is factual."""
CHARS_PER_TOKEN = 4
ROOM = 1.5
"""Times of its target share that a bucket may have when a teacher takes what the text offers."""


def bucket_of(name: str) -> str:
    """The bucket that a pair's own name for its kind belongs to."""
    return name if name in SHARES else PARTS.get(name, "factual")


def complete(given: Mapping[str, float]) -> dict[str, float]:
    """The given shares over the defaults. Raises ValueError for a bucket that does not exist, a share below 0, or nothing wanted."""
    if unknown := [name for name in given if name not in SHARES]:
        raise ValueError(f'there is no bucket "{unknown[0]}": {nearest(unknown[0], SHARES) or ", ".join(SHARES)}')
    whole = {name: float(given.get(name, share)) for name, share in SHARES.items()}
    if any(not 0 <= share <= 1 for share in whole.values()):
        raise ValueError("a bucket's share is between 0 and 1")
    if not any(share for name, share in whole.items() if name not in ABSTAINING):
        raise ValueError("at least one bucket of answers needs a share")
    return whole


def abstaining_share(shares: Mapping[str, float]) -> float:
    """What the abstaining buckets have of the whole."""
    return sum(shares[name] for name in ABSTAINING) / sum(shares.values())


def wanted_shares(shares: Mapping[str, float], able: Sequence[str]) -> tuple[dict[str, float], list[str]]:
    """The shares of the buckets that a teacher can make, each side adding up to 1, and the names of those that it cannot.

    What cannot be made goes to the others of its side, in proportion: answers to answers, abstention to abstention.
    """
    missing = [name for name, share in shares.items() if share and able and name not in able]
    kept = {name: share for name, share in shares.items() if share and name not in missing}
    sides = [{name: share for name, share in kept.items() if (name in ABSTAINING) == abstaining} for abstaining in (False, True)]
    return {name: share / sum(side.values()) for side in sides for name, share in side.items()}, missing


class Quotas:
    """Hands out whole numbers of pairs to one request after another so that the sums follow the shares exactly."""

    def __init__(self, shares: Mapping[str, float]) -> None:
        self.shares = shares
        self.owed = dict.fromkeys(shares, 0.0)

    def give(self, answers: float, abstentions: float, *, without: Iterable[str] = ()) -> dict[str, int]:
        """So many answers and questions to abstain from, by bucket. `without` are owed and come with a later request."""
        given: dict[str, int] = {}
        for name, share in self.shares.items():
            self.owed[name] += share * (abstentions if name in ABSTAINING else answers)
            size = 2 if name in IN_TWOS else 1
            given[name] = 0 if name in without else size * int(self.owed[name] / size + 0.5)
            self.owed[name] -= given[name]
        return {name: count for name, count in given.items() if count > 0}


def overfull(pairs: Sequence[Pair], shares: Mapping[str, float]) -> set[str]:
    """Ids of pairs that are too many of their bucket: more than ROOM times its share of what stays. Whole facts, in hash order.

    The only kind of pair that a passage has stays. On the handbook headings gave 27 % of all rows and 46 % of all tokens that
    were trained on, and a model without them learnt the rest better (2026-11-21).
    """
    gone: set[str] = set()
    counts = Counter(bucket_of(pair.bucket) for pair in pairs)
    for bucket, count in sorted(counts.items()):
        share = min(1.0, ROOM * shares.get(bucket, 0.0))
        surplus = count - share / (1 - share) * (len(pairs) - count) if 0 < share < 1 else 0.0
        for fact in _dispensable(pairs, bucket):
            if len(fact) > surplus:
                break
            surplus -= len(fact)
            gone |= {pair.id for pair in fact}
    return gone


def _dispensable(pairs: Sequence[Pair], bucket: str) -> list[list[Pair]]:
    """The facts of a bucket in passages that have pairs of another one, in hash order."""
    others = {pair.passage for pair in pairs if bucket_of(pair.bucket) != bucket}
    facts: dict[str, list[Pair]] = {}
    for pair in pairs:
        if bucket_of(pair.bucket) == bucket and pair.passage in others:
            facts.setdefault(pair.fact, []).append(pair)
    return [facts[fact] for fact in sorted(facts, key=lambda fact: digest("overfull", fact))]


def tokens_of(passage: Passage) -> float:
    """About how many tokens a passage has: what the tokenizer counted, or a quarter of its characters."""
    return passage.tokens or len(passage.text) / CHARS_PER_TOKEN


def report(pairs: Sequence[Pair], shares: Mapping[str, float], missing: Sequence[str], tokens: float) -> dict[str, Any]:
    """Wanted and made of each bucket, and pairs for each fact and 1,000 tokens. Wanted follows from how many were made in all."""
    made = Counter(bucket_of(pair.bucket) for pair in pairs)
    totals = {side: sum(count for name, count in made.items() if (name in ABSTAINING) == side) for side in (False, True)}
    answers = [pair for pair in pairs if pair.passage]
    facts = len({pair.fact for pair in answers})
    return {
        "made": {name: {"wanted": round(shares.get(name, 0.0) * totals[name in ABSTAINING]), "made": made[name]} for name in SHARES},
        "not_made": list(missing), "pairs_per_fact": round(len(answers) / facts, 2) if facts else 0.0,
        "pairs_per_1000_tokens": round(1000 * len(answers) / tokens, 2) if tokens else 0.0,
    }


def told(found: Mapping[str, Any], teacher: str) -> str:
    """The report in one line: made of wanted, and what this teacher cannot make."""
    counts = ", ".join(f"{name} {entry['made']:,} of {entry['wanted']:,}" for name, entry in found["made"].items() if entry["made"] or entry["wanted"])
    missing = f"; {teacher} cannot make {', '.join(found['not_made'])}: their share went to the others" if found["not_made"] else ""
    return f"buckets (made of wanted): {counts}{missing}"
