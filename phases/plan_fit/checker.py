"""The deterministic check of one pair against its passage. Free, so every pair is checked, not a sample of fifty.

It finds what can be found by comparing words: evidence that the passage does not contain, numbers in the answer that the
evidence does not have, names that the passage does not have, and sentences of the answer with few of the passage's words. It cannot tell a
true sentence from a false one made of the passage's own words ("is not", swapped roles).
planted.py measures what it finds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from forge.records import Pair, Passage

SUPPORTED_SHARE = 0.6
"""Content words of a sentence that the passage must have. Copied answers have 1.0; a foreign sentence of the same
corpus about 0.2-0.5 (handbook and Rust book, 2026-11-20)."""
MIN_CONTENT_WORDS = 3

NUMBER = re.compile(r"\d+(?:[.,:/]\d+)*")
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
NAME = re.compile(r"[^\W_]+(?:[-_.+#/][^\W_]+)*[+#]*")
PARTS = re.compile(r"[-_.+#/]")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_STOP_WORDS = """
a about after all also an and any are as at be because been but by can could did do does for from had has have how if
in into is it its just may might more most must no not of off on once only or other our out over should since so some such
than that the their them then there these they this those through to too under until up very was we were what when where
which while who why will with within without would yes you your
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())


class Vocabulary(NamedTuple):
    """What an answer may use: the words of its passage and question, as written, as stems, and the numbers."""

    names: frozenset[str]
    stems: frozenset[str]
    numbers: frozenset[str]


def find_defects(pair: Pair, passages: Mapping[str, Passage], abstention: str, proper: frozenset[str] = frozenset()) -> list[str]:
    """What is wrong with a pair, by kind, in a fixed order; empty when nothing was found. proper: see proper_names."""
    if not pair.passage or pair.answer.strip() == abstention.strip():
        return [] if pair.answer.strip() == abstention.strip() else ["abstention"]
    passage = passages.get(pair.passage)
    if passage is None:
        return ["passage"]
    known = vocabulary(pair, passage)
    quoted = [(pair.evidence, passage), *((quote.evidence, passages.get(quote.passage)) for quote in pair.also)]
    return [
        *(["evidence"] if any(not text or place is None or text not in place.text for text, place in quoted) else []),
        *(["number"] if set(NUMBER.findall(pair.answer)) - known.numbers else []),
        *(["name"] if set(names(pair.answer, proper)) - known.names else []),
        *(["unsupported"] if any(not _supported(part, known.stems) for part in sentences(pair.answer)) else []),
    ]


def vocabulary(pair: Pair, passage: Passage) -> Vocabulary:
    """What an answer may use: words of the passage, of its headings and file name, of what else is quoted, and of the
    conversation; numbers of the evidence (a swap with another number of the passage is a defect), the headings and the
    conversation.
    """
    meta = (value for key, value in passage.meta.items() if key != "subtopic")
    heading = " ".join([passage.source.path, passage.source.locator, *meta, pair.question, *(turn.content for turn in pair.earlier)])
    quoted = " ".join([pair.evidence, *(quote.evidence for quote in pair.also)])
    of_passage, of_others = _words_of(passage.text), _words_of(f"{quoted} {heading}")
    return Vocabulary(of_passage[0] | of_others[0], of_passage[1] | of_others[1], frozenset(NUMBER.findall(f"{quoted} {heading}")))


@lru_cache(maxsize=4096)
def _words_of(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """The words of a text as written, with the parts of compounds, and their stems."""
    words = WORD.findall(text)
    written = {*NAME.findall(text), *words}
    parts = {part for word in written if not word.isalnum() for part in PARTS.split(word)}
    return frozenset(written | parts), frozenset(map(stem, words))


def names(text: str, proper: frozenset[str] = frozenset()) -> list[str]:
    """Words written like names: a capital inside a sentence, two capitals, letters with digits, or one of `proper`. In order."""
    found = []
    for part in sentences(text):
        for index, word in enumerate(NAME.findall(part)):
            capitals = sum(letter.isupper() for letter in word)
            mixed = any(map(str.isdigit, word)) and any(map(str.isalpha, word))
            if capitals >= 2 or mixed or (capitals == 1 and index > 0 and len(word) > 1 and word[0].isupper()) or word in proper:
                found.append(word)
    return found


def proper_names(texts: Iterable[str]) -> frozenset[str]:
    """Words that the texts have with a capital inside a sentence and never without: names also where a sentence begins."""
    written: set[str] = set()
    capital: set[str] = set()
    for text in texts:
        written.update(NAME.findall(text))
        capital.update(names(text))
    return frozenset(word for word in capital if word[0].isupper() and word[1:].islower() and word.lower() not in written)


def sentences(text: str) -> list[str]:
    """The sentences of a text, cut at end marks before white space and at line ends."""
    return [part for part in SENTENCE_END.split(text) if part.strip()]


@lru_cache(maxsize=100_000)
def stem(word: str) -> str:
    """A word without case and ending, crudely: its first six letters ("training", "trained" -> "traini", "traine")."""
    lowered = word.lower().partition("'")[0].partition("’")[0]
    for ending in ("ings", "ing", "edly", "ed", "ies", "es", "s", "ly", "e", "y"):
        if lowered.endswith(ending) and len(lowered) - len(ending) >= 3:
            return lowered.removesuffix(ending)[:7]
    return lowered[:7]


def _supported(sentence: str, stems: frozenset[str]) -> bool:
    words = [stem(word) for word in WORD.findall(sentence) if word.lower() not in STOP_WORDS]
    if len(words) < MIN_CONTENT_WORDS:
        return True
    return sum(word in stems for word in words) >= SUPPORTED_SHARE * len(words)
