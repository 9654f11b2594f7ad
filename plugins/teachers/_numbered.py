"""Passages as numbered sentences: a model names its evidence by number, and the exact stretch is cut out here.

That is cheaper than evidence copied out (about 8 tokens instead of 40), and it cannot be misquoted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from forge.records import Passage, Quote
from forge.sentences import sentence_ends

SHORT_CHARS = 16
"""A shorter line (a list's item, a heading) goes with the next one."""
SPAN_SENTENCES = 8
"""Sentences that lie further apart are no stretch; the first of them counts."""
REFERENCE = re.compile(r"(\d+)\s*[.:]\s*(\d+)(?:\s*[-–]\s*(?:\d+\s*[.:]\s*)?(\d+))?")


class Stretch(NamedTuple):
    """Where a numbered sentence stands in its passage, in characters."""

    start: int
    end: int


def stretches(text: str) -> list[Stretch]:
    """The sentences and lines of a passage, in order; together they hold every word of it."""
    ends = {0, len(text)}
    start = 0
    for line in text.splitlines(keepends=True):
        ends |= {start + end for end in sentence_ends(line)}
        start += len(line)
        ends.add(start)
    found: list[Stretch] = []
    begin = 0
    for end in sorted(ends)[1:]:
        if len(text[begin:end].strip()) >= SHORT_CHARS or end == len(text):
            found += [_trimmed(text, begin, end)] if text[begin:end].strip() else []
            begin = end
    return found


def numbered(text: str) -> str:
    """The text with the number of each sentence before it, one a line."""
    return "\n".join(f"{number}|{' '.join(text[one.start : one.end].split())}" for number, one in enumerate(stretches(text), 1))


def quotes(reference: str, passages: Sequence[Passage]) -> tuple[Quote, ...]:
    """What "1.3-5 2.2" stands for: for each passage named, one exact stretch; nothing for numbers that do not exist."""
    wanted: dict[int, list[int]] = {}
    for match in REFERENCE.finditer(reference):
        passage, first = int(match[1]), int(match[2])
        wanted.setdefault(passage, []).extend([first, int(match[3] or first)])
    found = []
    for number, sentences in wanted.items():
        text = passages[number - 1].text if 1 <= number <= len(passages) else ""
        if evidence := _cut(text, sentences):
            found.append(Quote(passage=passages[number - 1].id, evidence=evidence))
    return tuple(found)


def reference(evidence: str, passage: int, text: str) -> str:
    """The numbers of the sentences that a stretch of a passage touches: "2.3-4"; empty when it is no stretch of it."""
    start = text.find(evidence)
    end = start + len(evidence)
    touched = [number for number, one in enumerate(stretches(text), 1) if one.start < end and start < one.end] if start >= 0 and evidence else []
    if not touched:
        return ""
    return f"{passage}.{touched[0]}" + (f"-{touched[-1]}" if len(touched) > 1 else "")


def _cut(text: str, sentences: Sequence[int]) -> str:
    cut = stretches(text)
    known = [number for number in sentences if 1 <= number <= len(cut)]
    if not known:
        return ""
    first, last = min(known), max(known)
    if last - first >= SPAN_SENTENCES:
        first = last = known[0]
    return text[cut[first - 1].start : cut[last - 1].end]


def _trimmed(text: str, start: int, end: int) -> Stretch:
    piece = text[start:end]
    return Stretch(start + len(piece) - len(piece.lstrip()), end - (len(piece) - len(piece.rstrip())))
