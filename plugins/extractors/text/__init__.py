"""Text without a container: plain text, Markdown, reStructuredText, AsciiDoc, Org, TeX, CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from forge.phase import Requirement
from forge.plugins.extractors._decode import decode
from forge.plugins.extractors._rows import row_limit
from forge.plugins.extractors.text.markdown import markdown
from forge.plugins.extractors.text.outlined import asciidoc, org
from forge.plugins.extractors.text.plain import plain
from forge.plugins.extractors.text.rows import comma_rows, read_rows, tab_rows
from forge.plugins.extractors.text.typeset import restructured, tex
from forge.protocols import Reading
from forge.records import Piece

READERS: dict[str, Callable[[str], Iterator[Piece]]] = {
    "text/plain": plain,
    "text/markdown": markdown,
    "text/x-rst": restructured,
    "text/x-tex": tex,
    "text/x-asciidoc": asciidoc,
    "text/x-org": org,
    "text/csv": comma_rows,
    "text/tab-separated-values": tab_rows,
}


class TextExtractor:
    """Decodes, then splits by the format's own structure. Needs no extra."""

    name: ClassVar[str] = "text"
    media_types: ClassVar[tuple[str, ...]] = tuple(READERS)
    extensions: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys((".txt", ".text", ".log"), "text/plain"),
        **dict.fromkeys((".md", ".markdown", ".mdown", ".mkd"), "text/markdown"),
        **dict.fromkeys((".rst", ".rest"), "text/x-rst"),
        **dict.fromkeys((".tex", ".latex"), "text/x-tex"),
        **dict.fromkeys((".adoc", ".asciidoc"), "text/x-asciidoc"),
        ".org": "text/x-org",
        **dict.fromkeys((".tsv", ".tab"), "text/tab-separated-values"),
        ".csv": "text/csv",
    }
    magic: ClassVar[Mapping[bytes, str]] = {}
    requires: ClassVar[tuple[Requirement, ...]] = ()

    def extract(self, path: Path, ctx: Reading) -> Iterator[Piece]:
        """Yield the file's blocks with line numbers ("line=10..14"; tables "row=3"). Raises ExtractError."""
        if ctx.media_type in {"text/csv", "text/tab-separated-values"}:
            tabs = ctx.media_type == "text/tab-separated-values"
            yield from read_rows(path, tabs=tabs, limit=row_limit(ctx.options))
            return
        text = decode(path.read_bytes())
        yield from READERS[ctx.media_type](text)


extractor = TextExtractor()
