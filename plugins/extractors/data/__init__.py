"""Ready-made data: JSON Lines, JSON, COCO, PubTator, Parquet and Arrow. Questions with answers and chats stay records."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import ClassVar

from forge.phase import Requirement
from forge.plugins.extractors.data.columns import arrow_rows, parquet_rows
from forge.plugins.extractors.data.document import json_document
from forge.plugins.extractors.data.lines import json_lines
from forge.plugins.extractors.data.pubtator import pubtator
from forge.protocols import Reading
from forge.records import Piece

LINES = "application/x-ndjson"
DOCUMENT = "application/json"
PUBTATOR = "text/x-pubtator"
PARQUET = "application/vnd.apache.parquet"
ARROW = "application/vnd.apache.arrow.file"

READERS: dict[str, Callable[[Path, Reading], Iterator[Piece]]] = {
    LINES: json_lines,
    DOCUMENT: json_document,
    PUBTATOR: pubtator,
    PARQUET: parquet_rows,
    ARROW: arrow_rows,
}

ARROW_STREAM = b"\xff\xff\xff\xff"
PUBTATOR_START = re.compile(rb"\s*\d+\|t\|[^\n]*\n\d+\|a\|")
LINES_START = re.compile(rb"\s*+(\{[^\n]*\}|\[[^\n]*\])[ \t\r]*\n\s*+[{\[]")
"""Two complete values, a line each: JSON Lines, also when the file is called .json."""


class DataExtractor:
    """Rows of data sets, with "row=7" or "line=7". Parquet and Arrow need the [data] extra, the rest nothing.

    A Hugging Face data set folder is its files: dataset_info.json tells of the set, each shard is read by itself.
    """

    name: ClassVar[str] = "data"
    media_types: ClassVar[tuple[str, ...]] = tuple(READERS)
    extensions: ClassVar[Mapping[str, str]] = {
        ".jsonl": LINES, ".ndjson": LINES, ".json": DOCUMENT, ".pubtator": PUBTATOR, ".parquet": PARQUET, ".arrow": ARROW, ".feather": ARROW,
    }  # fmt: skip
    magic: ClassVar[Mapping[bytes, str]] = {b"PAR1": PARQUET, b"ARROW1\0\0": ARROW}
    requires: ClassVar[tuple[Requirement, ...]] = ()

    def accepts(self, head: bytes, name: str) -> str:
        """Claims PubTator under any name, JSON Lines that are called .json, and Arrow streams, which have no magic word."""
        if PUBTATOR_START.match(head):
            return PUBTATOR
        if head.startswith(ARROW_STREAM) and self.extensions.get(PurePosixPath(name).suffix.lower()) == ARROW:
            return ARROW
        return LINES if name.lower().endswith(".json") and LINES_START.match(head) else ""

    def extract(self, path: Path, ctx: Reading) -> Iterator[Piece]:
        """Yield records, texts and rows; metadata tells of the set. Raises ExtractError for damaged and endlessly nested data."""
        yield from READERS[ctx.media_type](path, ctx)


extractor = DataExtractor()
