"""Whether two answers to one question say the same, by their numbers, names and words."""

from __future__ import annotations

import re

from forge.phases.synth.names import NAME
from forge.questions import FRAMING, words

SHARED_WORDS = 0.5
"""Share of the shorter answer's telling words that the longer one must have."""
NUMBER = re.compile(r"(?<![\w])\d+(?:[.,]\d+)*")
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
NEGATIONS = {"no", "not", "never", "none", "cannot", "neither", "nor", "without"}


def agree(answer: str, reply: str, question: str) -> bool:
    """True when the reply tells nothing else than the answer: a shorter or longer wording is no disagreement."""
    answer, reply, question = (THOUSANDS.sub("", text) for text in (answer, reply, question))
    asked = set(words(question))
    for found in (_numbers, _names):
        mine, theirs = found(answer) - found(question), found(reply) - found(question)
        if mine and theirs and not (mine & theirs):
            return False
    if _says_no(answer) != _says_no(reply) and {_first(answer), _first(reply)} & {"yes", "no"}:
        return False
    mine, theirs = _telling(answer) - asked, _telling(reply) - asked
    if not mine or not theirs:
        mine, theirs = _telling(answer), _telling(reply)
    shorter = min(len(mine), len(theirs))
    return shorter == 0 or len(mine & theirs) >= SHARED_WORDS * shorter


def _numbers(text: str) -> set[str]:
    return {number.rstrip(".,") for number in NUMBER.findall(text)}


def _names(text: str) -> set[str]:
    return {name.casefold() for name in NAME.findall(text)}


def _telling(text: str) -> set[str]:
    return {word[:-1] if len(word) > 3 and word.endswith("s") else word for word in words(text)} - FRAMING - NEGATIONS


def _first(text: str) -> str:
    return next(iter(words(text)), "")


def _says_no(text: str) -> bool:
    return _first(text) == "no" or bool(set(words(text)) & NEGATIONS)
