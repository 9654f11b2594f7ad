"""Defects planted into accepted pairs, to find out whether a judge would see one: swapped numbers, swapped names, foreign claims."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from forge.phases.synth.filters import flat
from forge.phases.synth.names import NAME
from forge.records import Pair, Passage, digest

EACH = 20
"""Defects of each kind, 60 in all: with 60 found, the exact lower bound of the recall is 0.94."""
OTHERS_LOOKED_AT = 200
NUMBER = re.compile(r"(?<![\w.,])\d+(?:[.,]\d+)*(?![\w])")
PROPER = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}\b")
"""A capital in the middle of a sentence: a name in most languages without German nouns."""


class Planted(NamedTuple):
    """A pair with a defect of a kind, and the pair that it was made from."""

    kind: str
    pair: Pair
    origin: Pair


def plant(pairs: Sequence[Pair], passages: dict[str, Passage], seed: int) -> list[Planted]:
    """Up to EACH defects of each kind, at most one for each fact, in an order drawn from the seed."""
    one_each = {pair.fact: pair for pair in sorted(pairs, key=lambda pair: (pair.form, pair.id), reverse=True) if pair.passage}
    order = sorted(one_each.values(), key=lambda pair: digest(str(seed), pair.id))
    used: set[str] = set()
    planted: list[Planted] = []
    for kind, spoil in (("number", _swap_number), ("name", _swap_name), ("claim", _add_claim)):
        made = 0
        for position, pair in enumerate(order):
            if made == EACH:
                break
            others = order[position + 1 : position + 1 + OTHERS_LOOKED_AT] + order[: max(0, OTHERS_LOOKED_AT - len(order) + position)]
            answer = "" if pair.fact in used else spoil(pair, passages[pair.passage].text, others)
            if answer:
                used.add(pair.fact)
                made += 1
                planted.append(Planted(kind, pair.model_copy(update={"id": f"{pair.id}-{kind}", "answer": answer}), pair))
    return planted


def _swap_number(pair: Pair, text: str, others: Sequence[Pair]) -> str:
    match = NUMBER.search(pair.answer)
    if match is None:
        return ""
    value = 7
    while str(value) in text:
        value = value * 3 + 1
    return pair.answer[: match.start()] + str(value) + pair.answer[match.end() :]


def _swap_name(pair: Pair, text: str, others: Sequence[Pair]) -> str:
    own = next(_names(pair.answer), "")
    foreign = next((name for other in others for name in _names(other.answer) if name not in text), "") if own else ""
    return re.sub(rf"\b{re.escape(own)}\b", lambda match: foreign, pair.answer) if foreign else ""


def _names(answer: str) -> Iterator[str]:
    yield from NAME.findall(answer)
    yield from PROPER.findall(answer)


def _add_claim(pair: Pair, text: str, others: Sequence[Pair]) -> str:
    """A sentence that another document supports and this one does not."""
    claims = (flat(other.evidence) for other in others if other.group != pair.group and 6 <= len(other.evidence.split()) <= 60)
    claim = next((claim for claim in claims if claim not in flat(text)), "")
    return f"{pair.answer.rstrip('.')}. {claim}" if claim else ""
