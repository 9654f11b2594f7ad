"""What each shape of example must keep to: comparisons have two sides, conversations alternate, corrections deny and never repeat.

A wrong premise is told by its numbers, names and words: those that the evidence does not have. They may stand in the
question, and in the answer only where it denies them ("It does not have 15 teeth; it has 14").
"""

from __future__ import annotations

import re

from forge.phases.synth.buckets import CORRECTING, TWO_PASSAGES
from forge.questions import subject, words
from forge.records import Pair

NAMES = ("one_sided_comparison", "broken_conversation", "premise_not_denied", "nothing_wrong_in_question", "wrong_detail_as_fact")
"""The filters of this file, in their order."""
NO, YES = re.compile(r"\W*no\b", re.IGNORECASE), re.compile(r"\W*yes\b", re.IGNORECASE)
DENIES = re.compile(
    r"\b(?:not?|never|none|neither|nor|nobody|nothing|cannot|without|incorrect|wrong|false|mistaken|untrue|rather than|instead of|unlike|contrary to|as opposed to)\b|n['’]t\b",
    re.IGNORECASE,
)
CLAUSE = re.compile(r"[.;:!?](?=\s|$)|,? \b(?:but|it is|they are|it has|instead,?)\b(?! of)|, (?=(?:it|they|the|he|she|this|that) )", re.IGNORECASE)
TURNS = ("user", "assistant")
TURN_CHARS = (2, 800)
EARLIER_MOST = 6


def broken_shape(pair: Pair, evidence: str, telling: re.Pattern[str]) -> str:
    """Why a pair is not what its bucket promises; "" when it is. evidence: all of it. telling: numbers and names."""
    if pair.bucket in TWO_PASSAGES and not any(quote.evidence.strip() and quote.passage != pair.passage for quote in pair.also):
        return "one_sided_comparison"
    if (pair.bucket == "multi_turn" or pair.earlier) and not _alternates(pair):
        return "broken_conversation"
    return _broken_correction(pair, evidence, telling) if pair.bucket in CORRECTING else ""


def _alternates(pair: Pair) -> bool:
    turns = pair.earlier
    fits = all(TURN_CHARS[0] <= len(turn.content.strip()) <= TURN_CHARS[1] for turn in turns)
    return 0 < len(turns) <= EARLIER_MOST and len(turns) % 2 == 0 and fits and all(turn.role == TURNS[place % 2] for place, turn in enumerate(turns))


def _broken_correction(pair: Pair, evidence: str, telling: re.Pattern[str]) -> str:
    known = set(telling.findall(evidence))
    strange = {word for word in telling.findall(pair.question) if word not in known}
    if pair.bucket == "negative_fact" and YES.match(pair.answer):
        return "wrong_detail_as_fact" if strange else ""
    if not (NO.match(pair.answer) if pair.bucket == "negative_fact" else DENIES.search(pair.answer)):
        return "premise_not_denied"
    if not strange and not (_stems(subject(pair.question)) - _stems(frozenset(words(evidence)))):
        return "nothing_wrong_in_question"
    return "wrong_detail_as_fact" if any(_stated(word, pair.answer) for word in telling.findall(pair.answer) if word not in known) else ""


def _stated(word: str, answer: str) -> bool:
    """True when a clause of the answer has the word and denies nothing before it. The "No" at the start denies the question."""
    body = NO.sub("", answer, count=1) if NO.match(answer) else answer
    for clause in CLAUSE.split(body):
        place = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", clause)
        if place and not DENIES.search(clause[: place.start()]):
            return True
    return False


def _stems(found: frozenset[str]) -> frozenset[str]:
    return frozenset(word[:5] for word in found)
