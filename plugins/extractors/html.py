"""Web pages (.html, .xhtml): the main text of a page by its headings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from forge.phase import Requirement
from forge.plugins.extractors._decode import decode
from forge.plugins.extractors._html import page
from forge.protocols import Reading
from forge.records import Piece

HTML = "text/html"


class HtmlExtractor:
    """Headings, paragraphs, lists, tables and code of the article; navigation and other furniture dropped and counted."""

    name: ClassVar[str] = "html"
    media_types: ClassVar[tuple[str, ...]] = (HTML, "application/xhtml+xml")
    extensions: ClassVar[Mapping[str, str]] = dict.fromkeys((".html", ".htm", ".xhtml", ".xht", ".shtml"), HTML)
    magic: ClassVar[Mapping[bytes, str]] = {}
    requires: ClassVar[tuple[Requirement, ...]] = (Requirement(module="lxml", extra="docs"),)

    def extract(self, path: Path, ctx: Reading) -> Iterator[Piece]:
        """Yield the page's blocks ("heading=Install"). Raises ExtractError (refused) when nested too deeply to be read."""
        yield from page(decode(path.read_bytes(), html=True))


extractor = HtmlExtractor()
