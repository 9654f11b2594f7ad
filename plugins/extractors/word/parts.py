"""What Word and OpenDocument share: the headings above a paragraph."""

from __future__ import annotations


class Outline:
    """The headings above the current paragraph."""

    def __init__(self) -> None:
        self.open: list[tuple[int, str]] = []

    def enter(self, level: int, title: str) -> None:
        """Open a heading, closing those at its level and below."""
        while self.open and self.open[-1][0] >= level:
            self.open.pop()
        self.open.append((level, " ".join(title.split()).replace(" > ", " › ")))

    @property
    def path(self) -> str:
        """The open headings as Piece.heading writes them."""
        return " > ".join(title for _, title in self.open)
