"""Finds secrets and personal data in a text and masks them with typed placeholders: `[email]`, `[key]`, `[password]`, ...

A placeholder, not a made-up value: a model trained on few documents would learn the made-up value. And no number in it:
numbered placeholders would tie the places together at which one person is spoken of. What is looked for is data
(configs/private.yaml). Nothing here reads files, keeps anything, or tells what it found but by kind and place.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from forge.private.checks import is_random
from forge.private.rules import SHAPES, Rule, load_rules

BLANK = "\x1a"
"""Stands for every character of what was found while the rest is looked through: no rule matches it."""

_BREAK = re.compile(r"\s")
Look = Callable[[str], list[tuple[int, int]]]


class Hit(NamedTuple):
    """One secret or personal item: where it stands (characters, end exclusive), its kind, and what to write instead."""

    start: int
    end: int
    kind: str
    placeholder: str
    is_secret: bool


def mask(text: str) -> tuple[str, Counter[str]]:
    """The text with everything private replaced, and how many of each kind there were. Masking twice changes nothing."""
    hits = find(text)
    return (apply(text, hits), Counter(hit.kind for hit in hits)) if hits else (text, Counter())


def apply(text: str, hits: Sequence[Hit]) -> str:
    """The text with the placeholder of each hit in its place. `hits`: sorted, as find() gives them."""
    parts, end = [], 0
    for hit in hits:
        parts += [text[end : hit.start], hit.placeholder]
        end = hit.end
    return "".join([*parts, text[end:]])


def find(text: str, *, also_made_up: bool = False) -> list[Hit]:
    """Everything private in a text, sorted, without overlaps: an earlier rule's find is blank for the later ones.

    also_made_up: tokens of the right form count even if nobody's generator made them ("ghp_xxxx…"): for what is published.
    """
    work, lowered = text, _lower(text)
    shapes: dict[str, list[tuple[int, int]]] = {}
    found: list[Hit] = []
    for rule in load_rules():
        fresh = _search(rule, work, lowered, shapes, also_made_up)
        if fresh:
            found += fresh
            work = _blank(work, fresh)
            lowered = _blank(lowered, fresh)
    return sorted(found)


def counts(texts: Iterable[str]) -> Counter[str]:
    """How many placeholders of each name ("email", "key") stand in texts that were masked before."""
    total: Counter[str] = Counter()
    for text in texts:
        if "[" in text:
            total.update(name for name in _PLACEHOLDER.findall(text) if name in placeholders())
    return total


@cache
def placeholders() -> frozenset[str]:
    """The names that stand in placeholders."""
    return frozenset({"person", *(rule.placeholder.strip("[]") for rule in load_rules())})   # persons: found by models only (prep.pii)


@cache
def stamp() -> str:
    """What masked text depends on: this code and its data. Caches of masked text are parted by it."""
    place = files("forge")
    parts = [place / "private" / name for name in ("__init__.py", "checks.py", "rules.py")] + [place / "configs" / "private.yaml"]
    return "\n".join(part.read_text(encoding="utf-8") for part in parts)


_PLACEHOLDER = re.compile(r"\[([a-z-]{2,20})\]")


def _lower(text: str) -> str:
    """The text in small letters, place for place: `İ` alone would become two characters."""
    lowered = text.lower()
    return lowered if len(lowered) == len(text) else text.replace("\u0130", "I").lower()


def _blank(text: str, hits: Sequence[Hit]) -> str:
    parts, end = [], 0
    for hit in hits:
        parts += [text[end : hit.start], BLANK * (hit.end - hit.start)]
        end = hit.end
    return "".join([*parts, text[end:]])


def _search(rule: Rule, text: str, lowered: str, shapes: dict[str, list[tuple[int, int]]], also_made_up: bool) -> list[Hit]:
    places = _near(rule, text, shapes) if rule.near else _anchored(rule, lowered)
    if not places:
        return []
    check = (lambda match: True) if also_made_up and rule.check is is_random else rule.check
    fresh: list[Hit] = []
    end = -1
    for start, stop in _windows(places, rule, text):
        for match in rule.regex.finditer(text, start, stop):
            first, last = match.span("secret") if rule.has_group and match["secret"] is not None else match.span()
            if first >= end and last > first and check(match):
                fresh.append(Hit(first, last, rule.kind, rule.placeholder, rule.is_secret))
                end = last
    return fresh


def _anchored(rule: Rule, lowered: str) -> list[tuple[int, int]]:
    places: list[tuple[int, int]] = []
    for anchor in rule.anchors:
        size = len(anchor)
        place = lowered.find(anchor)
        while place >= 0:
            if rule.then is None or rule.then.match(lowered, place + size):
                places.append((place, place + size))
            place = lowered.find(anchor, place + size)
    if len(rule.anchors) > 1:
        places.sort()
    return places


def _near(rule: Rule, text: str, shapes: dict[str, list[tuple[int, int]]]) -> list[tuple[int, int]]:
    if rule.near not in shapes:
        shapes[rule.near] = [match.span() for match in SHAPES[rule.near].finditer(text)]
    places = shapes[rule.near]
    return [place for place in places if place[1] - place[0] >= rule.digits] if rule.digits else places


def _windows(places: list[tuple[int, int]], rule: Rule, text: str) -> list[tuple[int, int]]:
    """Stretches around the places, joined where they touch; each ends at a space, so that no token is cut."""
    before, behind = (4, 8) if rule.digits else (rule.before, rule.behind)
    windows: list[tuple[int, int]] = []
    for first, last in places:
        stop = last + behind
        if windows and first - before <= windows[-1][1]:
            if stop > windows[-1][1]:
                windows[-1] = (windows[-1][0], _word_end(text, stop))
            continue
        windows.append((max(0, first - before), _word_end(text, stop)))
    return windows


def _word_end(text: str, place: int) -> int:
    if place >= len(text):
        return len(text)
    end = _BREAK.search(text, place)
    return end.start() if end else len(text)
