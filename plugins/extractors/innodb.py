"""InnoDB tablespaces (.ibd): the texts of the rows that are there, carved from the pages of the table's own index.

Rows are found by the links between them, so deleted ones and copies in other indexes do not come out; inside a row
the texts are what is printable, since without the server's dictionary nobody knows where a column ends.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from forge.errors import ExtractError
from forge.phase import Requirement
from forge.plugins.extractors._myisam.frm import MAX_FRM_BYTES, parse_form
from forge.protocols import Reading
from forge.records import Piece

MEDIA_TYPE = "application/x-innodb"
FSP_HEADER, INDEX, SDI, BLOB_PAGES = 8, 17855, 17853, {10, 22, 23, 24}
INFIMUM, SUPREMUM, FIRST_ROW = 99, 112, 120
MIN_CHARACTERS = 8
MAX_SDI_BYTES = 8 << 20
PRINTABLE = re.compile(
    rb"(?:[\t\n\r -~]|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}|\xf0[\x90-\xbf][\x80-\xbf]{2}"
    rb"|[\xf1-\xf3][\x80-\xbf]{3}){%d,}" % MIN_CHARACTERS
)


class InnodbExtractor:
    """One piece a row; names of columns from a .frm beside it or from MySQL 8's own description."""

    name: ClassVar[str] = "innodb"
    media_types: ClassVar[tuple[str, ...]] = (MEDIA_TYPE,)
    extensions: ClassVar[Mapping[str, str]] = {".ibd": MEDIA_TYPE}
    magic: ClassVar[Mapping[bytes, str]] = {}
    requires: ClassVar[tuple[Requirement, ...]] = ()
    sidecars: ClassVar[Mapping[str, tuple[str, ...]]] = {".ibd": (".frm",)}

    def extract(self, path: Path, ctx: Reading) -> Iterator[Piece]:
        """Yield the rows' texts ("page=4 row=2"). Raises ExtractError when it is no tablespace that can be read."""
        with path.open("rb") as file:
            size = _page_bytes(file.read(64))
            clustered = _first_index(file, size)
            yield from _names(ctx.sidecars.get(".frm"))
            for number, page in _pages(file, size):
                yield from _page(page, number, clustered)
        yield Piece(text="", dropped="values that are no text of 8 characters (InnoDB rows are carved, not decoded)")


extractor = InnodbExtractor()


def _page_bytes(head: bytes) -> int:
    """The size of a page, from the flags in the first one. MariaDB's full_crc32 format has its own."""
    if len(head) < 64 or _number(head, 24, 2) != FSP_HEADER:
        raise ExtractError("not an InnoDB tablespace: its first page is no header (or is encrypted)")
    flags = _number(head, 54, 4)
    shift = flags & 15 if flags & 16 else flags >> 6 & 15
    if not flags & 16 and flags >> 1 & 15:
        raise ExtractError("a compressed InnoDB tablespace", next="export the table as CSV or SQL")
    size = 512 << shift if shift else 16384
    if not 4096 <= size <= 65536:
        raise ExtractError(f"damaged InnoDB tablespace: pages of {size} bytes")
    return size


def _pages(file: BinaryIO, size: int) -> Iterator[tuple[int, bytes]]:
    file.seek(0)
    number = 0
    while len(page := file.read(size)) == size:
        yield number, page
        number += 1


def _first_index(file: BinaryIO, size: int) -> int:
    """The id of the table's own index: the first that was made."""
    found = [_number(page, 66, 8) for _, page in _pages(file, size) if _number(page, 24, 2) == INDEX]
    return min(found, default=0)


def _page(page: bytes, number: int, clustered: int) -> Iterator[Piece]:
    kind = _number(page, 24, 2)
    if kind == SDI:
        yield from _description(page, number)
    elif kind in BLOB_PAGES:
        yield from _carve(page[38:], f"page={number}")
    elif kind == INDEX and _number(page, 64, 2) == 0 and _number(page, 66, 8) == clustered:
        for place, row in _rows(page):
            yield from _carve(row, f"page={number} row={place}")


def _rows(page: bytes) -> Iterator[tuple[int, bytes]]:
    """The rows that the page's list links, each up to the next one's start. The whole page when the list is broken."""
    starts: list[int] = []
    at = INFIMUM
    if _number(page, 42, 2) >> 15:  # the compact format, of every version since 5.0
        while (at := (at + _number(page, at - 2, 2)) & 0xFFFF) != SUPREMUM:
            if not FIRST_ROW <= at < len(page) - 8 or len(starts) > len(page) // 8:
                starts = []
                break
            starts.append(at)
    if not starts:
        yield from [(1, page[FIRST_ROW:])] if _number(page, 54, 2) else []
        return
    heap_end = min(max(_number(page, 40, 2), FIRST_ROW), len(page) - 8)
    order = sorted(set(starts))
    ends = dict(zip(order, [*order[1:], heap_end], strict=True))
    for place, start in enumerate(starts, 1):
        yield place, page[start : max(start, ends[start])]


def _carve(data: bytes, locator: str) -> Iterator[Piece]:
    for match in PRINTABLE.finditer(data):
        text = match[0].decode("utf-8", "replace").strip()
        if len(text) >= MIN_CHARACTERS:
            yield Piece(text=text, locator=locator)


def _names(form: Path | None) -> Iterator[Piece]:
    if form is not None and form.stat().st_size <= MAX_FRM_BYTES:
        names = ", ".join(one.name for one in parse_form(form.read_bytes()).columns)
        yield Piece(text=f"InnoDB table with the columns {names}", locator="header", kind="metadata")


def _description(page: bytes, number: int) -> Iterator[Piece]:
    """MySQL 8's serialized dictionary: zlib streams of JSON. Names of the table and its columns."""
    for match in re.finditer(rb"x[\x01\x5e\x9c\xda]", page):
        try:
            text = zlib.decompressobj().decompress(page[match.start() :], MAX_SDI_BYTES)
            described: Any = json.loads(text)
        except (zlib.error, ValueError, RecursionError):
            continue  # these two bytes are no start of a stream
        table = described.get("dd_object") if isinstance(described, dict) else None
        if isinstance(table, dict):
            columns = [str(one.get("name")) for one in table.get("columns", []) if isinstance(one, dict)]
            yield Piece(text=f"InnoDB table {table.get('name')}: {', '.join(columns)}", locator=f"page={number}", kind="metadata")


def _number(data: bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "big")
