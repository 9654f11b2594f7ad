"""How even the answers of each bucket are: what kind they are, how they begin, how long they are; and a cap on what is far too common.

A set in which nearly every answer of a bucket is "No" teaches "No". The caps are wide: they are for a teacher that fell
into a habit, not for an honest corpus. They count facts, not pairs: the forms of a question share an answer by design.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from forge.questions import words
from forge.records import Pair

FACTS_TO_JUDGE = 30
"""Facts in a bucket from which shares mean something."""
YES_NO_SHARE = 0.7
"""Of the answers that begin with yes or no, the most that may say the same."""
OPENING_WORDS, OPENING_SHARE = 4, 0.25
"""Words of an answer that make its opening, and the share of a bucket's facts that may begin with the same ones."""
YES_NO = re.compile(r"(yes|no)\b[,.;:!]?", re.IGNORECASE)
ALWAYS_NO = {"false_premise"}
"""Questions that take something wrong for granted are no yes-or-no questions: "No" begins every good answer to them."""
NUMBER = re.compile(r"[\W_]*\d")
SHORT_WORDS, LONG_WORDS = 5, 60


def answer_type(answer: str) -> str:
    """yes, no, number, list, short (up to five words), long (over sixty) or sentence."""
    if match := YES_NO.match(answer.strip()):
        return match[1].casefold()
    if re.match(r"\s*(?:[-*•]|\d+[.)]) ", answer):
        return "list"
    count = len(words(answer))
    if count <= SHORT_WORDS:
        return "number" if NUMBER.match(answer) else "short"
    return "long" if count > LONG_WORDS else "sentence"


def opening(answer: str) -> str:
    """The first words of an answer in normal form; "" for answers that are hardly longer than that."""
    found = words(answer)
    return " ".join(found[:OPENING_WORDS]) if len(found) > OPENING_WORDS + 1 else ""


def unbalanced(pairs: Sequence[Pair]) -> dict[int, str]:
    """Positions of the pairs that are too many of their kind, with the reason; of each kind the first facts stay."""
    gone: dict[int, str] = {}
    for bucket, positions in _by_bucket(pairs).items():
        gone |= _too_many(pairs, positions, "overused_opening", opening, OPENING_SHARE)
        if bucket in ALWAYS_NO:
            continue
        told = [position for position in positions if answer_type(pairs[position].answer) in {"yes", "no"}]
        gone |= _too_many(pairs, told, "yes_no_imbalance", lambda answer: answer_type(answer), YES_NO_SHARE)
    return gone


def summary(pairs: Sequence[Pair]) -> dict[str, Any]:
    """For each bucket: pairs, facts, shares of the answer types, the commonest opening, words of answers (5, 50, 95 %)."""
    shown: dict[str, Any] = {}
    for bucket, positions in sorted(_by_bucket(pairs).items()):
        answers = _answers(pairs, positions)
        lengths = sorted(len(words(answer)) for answer in answers.values())
        types = Counter(answer_type(answer) for answer in answers.values())
        openings = Counter(begin for answer in answers.values() if (begin := opening(answer))).most_common(1)
        shown[bucket] = {
            "pairs": len(positions), "facts": len(answers), "answer_types": {kind: round(n / len(answers), 4) for kind, n in sorted(types.items())},
            "commonest_opening": openings[0][0] if openings else "", "commonest_opening_share": round(openings[0][1] / len(answers), 4) if openings else 0.0,
            "answer_words": [lengths[min(len(lengths) - 1, int(share * len(lengths)))] for share in (0.05, 0.5, 0.95)],
        }
    return shown


def _too_many(pairs: Sequence[Pair], positions: Sequence[int], reason: str, kind: Any, share: float) -> dict[int, str]:
    """What must go so that no kind is over its share of what stays: k of n + others, k <= share * (k + others)."""
    answers = _answers(pairs, positions)
    if len(answers) < FACTS_TO_JUDGE:
        return {}
    members: dict[str, list[str]] = defaultdict(list)
    for fact, answer in answers.items():
        if name := kind(answer):
            members[name].append(fact)
    dropped: set[str] = set()
    for facts in members.values():
        allowed = max(1, int(share / (1 - share) * (len(answers) - len(facts))), int(share * FACTS_TO_JUDGE))
        dropped |= set(facts[allowed:])
    return {position: reason for position in positions if pairs[position].fact in dropped}


def _by_bucket(pairs: Sequence[Pair]) -> Mapping[str, list[int]]:
    buckets: dict[str, list[int]] = defaultdict(list)
    for position, pair in enumerate(pairs):
        buckets[pair.bucket].append(position)
    return buckets


def _answers(pairs: Sequence[Pair], positions: Sequence[int]) -> dict[str, str]:
    """Fact -> its first answer."""
    answers: dict[str, str] = {}
    for position in positions:
        answers.setdefault(pairs[position].fact, pairs[position].answer)
    return answers
