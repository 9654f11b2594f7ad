"""Masks secrets and personal numbers in a text with typed placeholders: `<EMAIL>`, `<API_KEY>`, `<PASSWORD>`, ...

A placeholder, not a made-up value: a small model trained on few documents would learn the made-up value. Each kind is one
row of PATTERNS: a word that must occur at all (cheap to look for), a regular expression whose group "secret" (or whole match)
is replaced, and a check that tells a real one from what only looks like one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from forge.phases.audit.secret_patterns import PATTERNS, Pattern

_LONG_NUMBER = re.compile(r"\d{4}[ -]?\d{4}|\d\.\d{1,3}\.\d|\d-\d\d-\d|:[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]")
"""What every card, account, social security and IP number contains: one cheap look instead of five."""


def mask(text: str, patterns: Sequence[Pattern] | None = None) -> tuple[str, Counter[str]]:
    """The text with every secret replaced, and how many of each kind there were.

    patterns: from patterns_for() of a text that contains this one; all by default.
    """
    found: Counter[str] = Counter()
    for pattern in patterns_for(text, PATTERNS if patterns is None else patterns):
        text = _replace(text, pattern, found)
    return text, found


def patterns_for(text: str, patterns: Sequence[Pattern] | None = None) -> list[Pattern]:
    """The patterns that can match in the text at all. Most texts need few of them."""
    lowered = text.lower()
    has_number = _LONG_NUMBER.search(text) is not None
    found = []
    for pattern in PATTERNS if patterns is None else patterns:
        for trigger in pattern.triggers:
            if trigger in lowered:
                found.append(pattern)
                break
        else:
            if has_number and not pattern.triggers:
                found.append(pattern)
    return found


def _replace(text: str, pattern: Pattern, found: Counter[str]) -> str:
    parts: list[str] = []
    end = 0
    for match in pattern.regex.finditer(text):
        group = "secret" if "secret" in pattern.regex.groupindex else 0
        start, stop = match.span(group)
        if start < end or not pattern.check(match):
            continue
        parts += [text[end:start], pattern.placeholder]
        end = stop
        found[pattern.kind] += 1
    return "".join([*parts, text[end:]]) if parts else text
