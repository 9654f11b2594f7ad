"""Defects planted into good pairs, to measure what a grader finds. A judge that nobody has tested judges nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from forge.phases.plan_fit.checker import NUMBER, Vocabulary, find_defects, names, vocabulary
from forge.phases.plan_fit.verdicts import ONE_SIDED_95
from forge.records import Pair, Passage, digest
from forge.stats import clopper_pearson

EACH = 60
"""Defects of each kind: with 60 of 60 found, the exact lower bound of the recall is 0.95."""
ENOUGH_TO_JUDGE = 10


class Planted(NamedTuple):
    """A pair that was spoiled, and how."""

    kind: str
    pair: Pair


class Recall(NamedTuple):
    """Found and planted defects of each kind."""

    found: dict[str, int]
    planted: dict[str, int]

    @property
    def total(self) -> int:
        """All planted defects."""
        return sum(self.planted.values())

    @property
    def worst(self) -> float:
        """The lowest recall of a kind with at least ten; of all together when none has."""
        shares = [self.found[kind] / n for kind, n in self.planted.items() if n >= ENOUGH_TO_JUDGE]
        return min(shares) if shares else sum(self.found.values()) / max(self.total, 1)

    @property
    def bound(self) -> float:
        """What the recall of all kinds together surely is: the exact one-sided 95 % bound."""
        return clopper_pearson(sum(self.found.values()), self.total, ONE_SIDED_95)[0]

    def __str__(self) -> str:
        return ", ".join(f"{kind} {self.found[kind]} of {n}" for kind, n in self.planted.items() if n)


def plant(pairs: Sequence[Pair], passages: Mapping[str, Passage], seed: int, *, each: int = EACH) -> list[Planted]:
    """Up to `each` swapped numbers, swapped names and foreign claims, made from pairs drawn by the seed."""
    order = sorted((pair for pair in pairs if pair.passage), key=lambda pair: digest(str(seed), pair.id))
    planted: list[Planted] = []
    for kind, spoil in (("number", _swap_number), ("name", _swap_name), ("claim", _add_claim)):
        made = 0
        for index, pair in enumerate(order):
            if made == each:
                break
            passage = passages[pair.passage]
            answer = spoil(pair, vocabulary(pair, passage), passage, order[index + 1 :] + order[:index], passages)
            if answer:
                made += 1
                planted.append(Planted(kind, pair.model_copy(update={"answer": answer})))
    return planted


def measure_recall(
    good: Sequence[Pair], passages: Mapping[str, Passage], abstention: str, seed: int, *, proper: frozenset[str] = frozenset()
) -> Recall:
    """How many of the defects that are planted into good pairs the exact checks find."""
    recall = Recall(dict.fromkeys(("number", "name", "claim"), 0), dict.fromkeys(("number", "name", "claim"), 0))
    for kind, pair in plant(good, passages, seed):
        recall.planted[kind] += 1
        recall.found[kind] += bool(find_defects(pair, passages, abstention, proper))
    return recall


def _swap_number(
    pair: Pair, known: Vocabulary, passage: Passage, others: Sequence[Pair], passages: Mapping[str, Passage]
) -> str:
    match = NUMBER.search(pair.answer)
    if match is None:
        return ""
    value = 7
    while str(value) in known.numbers or str(value) in passage.text:
        value = value * 3 + 1
    return pair.answer[: match.start()] + str(value) + pair.answer[match.end() :]


def _swap_name(
    pair: Pair, known: Vocabulary, passage: Passage, others: Sequence[Pair], passages: Mapping[str, Passage]
) -> str:
    own = names(pair.answer)
    if not own:
        return ""
    foreign = (name for other in others[:200] for name in names(other.answer) if name not in known.names)
    name = next(foreign, "")
    return pair.answer.replace(own[0], name) if name else ""


def _add_claim(
    pair: Pair, known: Vocabulary, passage: Passage, others: Sequence[Pair], passages: Mapping[str, Passage]
) -> str:
    """A sentence that another document supports and this one does not."""
    claims = (
        other.evidence for other in others[:200]
        if passages[other.passage].source.path != passage.source.path and len(other.evidence.split()) >= 6
        and other.evidence not in passage.text
    )
    claim = next(claims, "")
    return f"{pair.answer.rstrip('.')}. {claim}" if claim else ""
