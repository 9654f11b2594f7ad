"""Reads a passage as blocks (prose, list, heading) and prose as sentences that can stand alone as an answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from forge.plugins.teachers._rows import is_record
from forge.plugins.teachers._words import ANAPHORA
from forge.questions import LEANING
from forge.records import Passage

CAPTION = re.compile(r"(?:File ?name|File): |(?:Listing|Figure|Table|Example) \d")
MOST_WORDS = 60
HEADING_JOIN = " > "
ITEM = re.compile(r"^\s*(?:[-*•‣◦–]|\d{1,2}[.)]|[a-z][.)])\s+(?=\S)")
FENCE = re.compile(r"^\s*(?:```|~~~)")
SENTENCE_END = re.compile(r"""(?<=[.!?])["'”’)]*\s+(?=["'“‘(`]?[A-Z0-9`$])""")
ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|etc|vs|cf|al|approx|Fig|Figs|No|Nos|Eq|Dr|Mr|Mrs|Prof|St|Sec|Ch|p|pp|ca|resp|incl)|(?<![\w-])[A-Z])\.$")
NUMBERED = re.compile(r"^\(?(?:\d+|[ivx]+)(?:\.\d+)*[.)]\s+")

MARKUP = re.compile(r"\*\*|__|(?<!\w)[_*][^\s_*][^_*\n]*[_*](?!\w)|\]\(|\]\[|</?[a-zA-Z!]|\{\{|\}\}|\||\\f[BIRP]|https?://|^\s*\.[A-Z]{1,2}\b|~~|<!--|&[a-z]+;|\\[a-z]+\{|�")
POINTING = {"this", "these", "those", "such", "its", "their"}
FIRST_PERSON = re.compile(r"\b(?:we|us|our|ours|let's|I|my|we'll|we've|we're|I'm|we’ll|we’ve|we’re|let’s|you’ll see|you'll see|you’ve|you've)\b")


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of a passage: its exact text, what it is, and the headings that it stands under."""

    text: str
    kind: str
    path: tuple[str, ...]


def blocks(passage: Passage) -> list[Block]:
    """The paragraphs, lists and tables of a passage with their headings; code and the headings themselves are left out."""
    path = tuple(part.strip() for part in passage.meta.get("heading", "").split(HEADING_JOIN) if part.strip())
    if passage.meta.get("kind") == "code":
        return []
    found, here = [], path
    paragraphs = list(_paragraphs(passage.text))
    for number, text in enumerate(paragraphs):
        kind = _kind(text, last=number + 1 == len(paragraphs))
        if kind == "heading":
            title = text.lstrip("# ").strip()
            here = path if path and path[-1] == title else (*path[:1], title) if len(path) < 2 else (*path[:-1], title)
        elif kind != "code":
            found.append(Block(text.strip(), kind, here))
    return found


@lru_cache(maxsize=64)
def sentences(text: str) -> tuple[str, ...]:
    """The sentences of a paragraph, each an exact stretch of it."""
    found: list[str] = []
    start = 0
    for end in SENTENCE_END.finditer(text):
        piece = text[start : end.start()] + end.group().rstrip()
        if ABBREVIATION.search(piece) or NUMBERED.fullmatch(piece.strip() + " "):
            continue
        found.append(piece.strip())
        start = end.end()
    found.append(text[start:].strip())
    return tuple(sentence for sentence in found if sentence)


def flat(text: str) -> str:
    """The text on one line."""
    return " ".join(text.split())


@lru_cache(maxsize=1024)
def is_clean(sentence: str) -> bool:
    """True for a whole, grammatical-looking sentence without markup, page references or an open bracket."""
    return (
        4 <= sentence.count(" ") + 1 <= MOST_WORDS
        and sentence[-1] in ".!”\"')"
        and sentence.rstrip("”\"')")[-1:] in {".", "!"}
        and not sentence.endswith("...")
        and (sentence[0].isupper() or sentence[0] in "`\"“$" or sentence[0].isdigit())
        and not MARKUP.search(sentence)
        and _balanced(sentence)
        and not LEANING.search(sentence)
    )


def stands_alone(sentence: str) -> bool:
    """True when a clean sentence neither begins with a word that points back nor speaks as the author."""
    head = [word.casefold().strip(",.:;()\"“”`") for word in sentence.split()[:4]]
    if not head or head[0] in ANAPHORA or head[0].replace("’", "'") in ANAPHORA:
        return False
    if any("-".join(head[:size]) in ANAPHORA for size in (2, 3, 4)):
        return False
    if POINTING & set(head):
        return False
    return not FIRST_PERSON.search(sentence) and "?" not in sentence


def points_back(phrase: str) -> bool:
    """True when any word of the phrase stands for something outside of it."""
    inner = {word.casefold().strip(",.:;()\"“”`’'") for word in phrase.split()}
    return bool(inner & {"this", "these", "those", "it", "its", "they", "them", "their", "he", "she", "his", "her", "such", "so", "here",
                         "there", "then", "former", "latter", "we", "our", "us", "i", "my", "your", "one", "ones", "both", "same",
                         "other", "others", "another", "neither", "either"})


def _paragraphs(text: str) -> Iterator[str]:
    """Runs of lines of one nature: a list and the line that introduces it are two; code between fences is left out."""
    lines: list[str] = []
    in_fence, in_list = False, False
    for line in [*text.split("\n"), ""]:
        if FENCE.match(line):
            in_fence = not in_fence
        is_item = bool(ITEM.match(line))
        ends = not line.strip() or FENCE.match(line) or in_fence or (is_item and not in_list) or line.startswith("#")
        if ends and lines:
            yield "\n".join(lines)
            lines = []
        if ends:
            in_list = False
        in_list = in_list or is_item
        if line.strip() and not in_fence and not FENCE.match(line):
            lines.append(line)
        if line.startswith("#") and lines:
            yield lines.pop()


def _kind(text: str, *, last: bool) -> str:
    lines = text.split("\n")
    if text.startswith("#"):
        return "heading"
    if ITEM.match(lines[0]):
        return "list"
    if all(line.startswith(("    ", "\t")) for line in lines):
        return "code"
    if sum(is_record(line) or line.count("|") > 1 for line in lines) * 2 > len(lines):
        return "table"
    words = text.split()
    if CAPTION.match(text):
        return "code"
    if len(lines) == 1 and not last and len(words) <= 12 and text[0].isupper() and text[-1] not in ".:;,!" and not MARKUP.search(text):
        return "heading"
    return "prose"


def _balanced(text: str) -> bool:
    return (
        text.count("(") == text.count(")")
        and text.count("`") % 2 == 0
        and text.count('"') % 2 == 0
        and text.count("“") == text.count("”")
        and text.count("[") == text.count("]")
    )
