"""Plain text: blocks between blank lines."""

from __future__ import annotations

import re
from collections.abc import Iterator

from forge.plugins.extractors._outline import blocks, lines_locator
from forge.records import Piece

WRAPPED_LENGTH = 45
"""A paragraph whose lines, but for the last, are all at least this long was wrapped by a program; verse is shorter."""

LAYOUT = re.compile(r"^\s*([-*+•]|\d{1,3}[.)])\s|\t|\S {3,}\S|^\s{4,}")
"""List items, tables and indented lines keep their line ends."""


def plain(text: str) -> Iterator[Piece]:
    """Paragraphs; those that were hard-wrapped get their lines back together."""
    for first, lines in blocks(text.split("\n")):
        yield Piece(text=unwrap(lines), locator=lines_locator(first, len(lines)))


def unwrap(lines: list[str]) -> str:
    """A paragraph's lines as one, if they look wrapped; else as they are."""
    wrapped = len(lines) > 1 and all(len(line.rstrip()) >= WRAPPED_LENGTH for line in lines[:-1])
    if not wrapped or any(LAYOUT.search(line) for line in lines):
        return "\n".join(lines)
    return " ".join(line.strip() for line in lines)
