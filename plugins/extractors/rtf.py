"""Rich Text Format (.rtf): paragraphs by their headings, tables, then headers and notes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from forge.phase import Requirement
from forge.plugins.extractors._outline import Outline
from forge.plugins.extractors._rtf import rtf_blocks
from forge.protocols import Reading
from forge.records import Piece

RTF = "application/rtf"


class RtfExtractor:
    """The text that a reader sees; hidden and deleted text is dropped and counted."""

    name: ClassVar[str] = "rtf"
    media_types: ClassVar[tuple[str, ...]] = (RTF,)
    extensions: ClassVar[Mapping[str, str]] = {".rtf": RTF}
    magic: ClassVar[Mapping[bytes, str]] = {b"{\\rtf": RTF}
    requires: ClassVar[tuple[Requirement, ...]] = ()

    def extract(self, path: Path, ctx: Reading) -> Iterator[Piece]:
        """Yield blocks ("paragraph=12"). Raises ExtractError when the file is not RTF."""
        outline = Outline()
        for number, block in enumerate(rtf_blocks(path.read_bytes()), 1):
            if block.kind == "heading":
                outline.enter(block.level, block.text)
            heading = "" if block.kind in {"notes", "header"} else outline.path
            yield Piece(text=block.text, locator=f"paragraph={number}", heading=heading, kind=block.kind, dropped=block.dropped)


extractor = RtfExtractor()
