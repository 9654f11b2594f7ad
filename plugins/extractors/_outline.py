"""The headings above the current line, and blocks of lines with their numbers."""

from __future__ import annotations

from collections.abc import Iterator


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
