"""Finds lines that many documents repeat: notices, navigation, footers. Headings, lists, tables and code are not touched.

Copies and versions of one document repeat all of its lines, and those are its content: a document counts as a witness
only if most of its text is its own.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from forge.records import Passage

MIN_DOCUMENTS = 5
MIN_SHARE = 0.1
"""A line is boilerplate in 5 documents and 10 % of them."""
MIN_WORDS = 5
OWN_TEXT_SHARE = 0.5

_DIGITS = re.compile(r"\d+")
_SKIPPED = re.compile(r"^\s*(?:#|\||```|~~~|[-*+•]\s|\d+[.)]\s| {4}|\t)|[{};]\s*$")


def find_boilerplate(passages: Iterable[Passage]) -> dict[str, int]:
    """Normalised lines that are boilerplate, with the number of documents that repeat them."""
    documents: defaultdict[str, set[str]] = defaultdict(set)
    chars: Counter[str] = Counter()
    for passage in passages:
        chars[passage.group] += len(passage.text)
        documents[passage.group].update(key for key, _ in _lines(passage.text) if key)
    counts = Counter(key for keys in documents.values() for key in keys)
    least = max(MIN_DOCUMENTS, MIN_SHARE * len(documents))
    repeated = {key for key, count in counts.items() if count >= least}
    witnesses: Counter[str] = Counter()
    for group, keys in documents.items():
        here = keys & repeated
        if sum(map(len, here)) < OWN_TEXT_SHARE * chars[group]:
            witnesses.update(here)
    return {key: counts[key] for key in repeated if witnesses[key] >= least}


def without_lines(text: str, boilerplate: dict[str, int]) -> tuple[str, list[str]]:
    """The text without its boilerplate lines, and those lines."""
    kept: list[str] = []
    gone: list[str] = []
    for key, line in _lines(text):
        (gone if key in boilerplate else kept).append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip("\n"), gone


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """Each line with its key: lower case, one space, digits as 0; "" for a line that is never boilerplate."""
    in_code = False
    for line in text.split("\n"):
        in_code ^= line.lstrip().startswith(("```", "~~~"))
        words = line.lower().split()
        usable = not in_code and len(words) >= MIN_WORDS and not _SKIPPED.search(line)
        yield _DIGITS.sub("0", " ".join(words)) if usable else "", line
