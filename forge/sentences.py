"""Where sentences end: abbreviations, initials and decimal numbers end none."""

from __future__ import annotations

import re
from itertools import pairwise

ABBREVIATIONS = frozenset(
    ["e.g", "i.e", "vs", "cf", "etc", "al", "approx", "resp", "incl", "ca", "dr", "mr", "mrs", "ms", "prof", "st", "fig", "figs", "no", "nos", "eq", "ref", "refs", "sec", "dept", "inc", "ltd", "co", "corp", "jr", "sr", "ph.d", "m.d", "u.s", "u.k"]
)
END = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s|$)")
LAST_WORD = re.compile(r"[^\s(\[\"'“]+$")


def sentence_ends(text: str) -> list[int]:
    """Where each sentence of a text ends, as the position after its closing marks. A text without closing marks has none."""
    return [match.end() for match in END.finditer(text) if _ends_sentence(text, match)]


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, the last one also when nothing closes it."""
    flat = " ".join(text.split())
    places = [0, *sentence_ends(flat)]
    if places[-1] < len(flat):
        places.append(len(flat))
    return [sentence for a, b in pairwise(places) if (sentence := flat[a:b].strip())]


def is_one_sentence(text: str) -> bool:
    """True when a text is one sentence: closed, and nothing after it."""
    flat = text.strip()
    return sentence_ends(flat) == [len(flat)] and bool(flat)


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    if match.end() == len(text.rstrip()):
        return True
    if not match[0].startswith(".") or "?" in match[0] or "!" in match[0]:
        return True
    before = LAST_WORD.search(text[: match.start()])
    word = before[0].casefold() if before else ""
    if word in ABBREVIATIONS or (len(word) == 1 and word.isalpha()):
        return False
    after = text[match.end() :].lstrip()[:1]
    return not after.islower()
