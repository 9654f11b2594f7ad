"""Plain text: blocks between blank lines."""

from __future__ import annotations

from collections.abc import Iterator

from forge.plugins.extractors._outline import blocks, lines_locator, unwrap
from forge.records import Piece


def plain(text: str) -> Iterator[Piece]:
    """Paragraphs; those that were hard-wrapped get their lines back together."""
    for first, lines in blocks(text.split("\n")):
        yield Piece(text=unwrap(lines), locator=lines_locator(first, len(lines)))
