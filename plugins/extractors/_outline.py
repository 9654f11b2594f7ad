"""The headings above the current line; blocks of lines with their numbers; wrapped lines put together."""

from __future__ import annotations

import re
from collections.abc import Iterator

WRAPPED_LENGTH = 45
"""A paragraph whose lines, but for the last, are all at least this long was wrapped by a program; verse is shorter."""

LAYOUT = re.compile(r"^\s*([-*+•]|\d{1,3}[.)])\s|\t|\S {3,}\S|^\s{4,}")
"""List items, tables and indented lines keep their line ends."""


class Outline:
    """The open headings, outermost first."""

    def __init__(self) -> None:
        self._open: list[tuple[int, str]] = []

    def enter(self, level: int, title: str) -> str:
        """Open a heading, closing those at its level and below; returns the new path."""
        while self._open and self._open[-1][0] >= level:
            self._open.pop()
        self._open.append((level, " ".join(title.split()).replace(" > ", " › ")))
        return self.path

    @property
    def path(self) -> str:
        """The open headings as Piece.heading writes them."""
        return " > ".join(title for _, title in self._open)


def blocks(lines: list[str], first: int = 1) -> Iterator[tuple[int, list[str]]]:
    """(number of the first line, lines) of each run of lines that are not blank."""
    block: list[str] = []
    for number, line in enumerate(lines, first):
        if line.strip():
            block.append(line)
        elif block:
            yield number - len(block), block
            block = []
    if block:
        yield first + len(lines) - len(block), block


def lines_locator(first: int, count: int) -> str:
    """ "line=10..14" for 5 lines from line 10."""
    return f"line={first}..{first + count - 1}" if count > 1 else f"line={first}"


def unwrap(lines: list[str]) -> str:
    """A paragraph's lines as one, if they look wrapped; else as they are."""
    wrapped = len(lines) > 1 and all(len(line.rstrip()) >= WRAPPED_LENGTH for line in lines[:-1])
    if not wrapped or any(LAYOUT.search(line) for line in lines):
        return "\n".join(lines)
    return " ".join(line.strip() for line in lines)
