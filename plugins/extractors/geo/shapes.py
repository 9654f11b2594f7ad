"""Shapefiles and dBase tables: the attributes are the text, the shapes are counted and never read."""

from __future__ import annotations

import codecs
import logging
import re
import struct
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from forge.errors import ExtractError
from forge.plugins.extractors._rows import MAX_ROWS, named_pieces
from forge.protocols import Reading
from forge.records import Piece

SHAPE_TYPES = {
    0: "nothing", 1: "points", 3: "lines", 5: "polygons", 8: "multipoints", 11: "points with height", 13: "lines with height",
    15: "polygons with height", 18: "multipoints with height", 21: "measured points", 23: "measured lines", 25: "measured polygons",
    28: "measured multipoints", 31: "surfaces",
}  # fmt: skip
LANGUAGE_DRIVERS = {
    0x01: "cp437", 0x02: "cp850", 0x03: "cp1252", 0x13: "cp932", 0x57: "cp1252", 0x58: "cp1252", 0x59: "cp1252", 0x64: "cp852", 0x65: "cp866",
    0x66: "cp865", 0x6A: "cp737", 0x6B: "cp857", 0x78: "cp950", 0x79: "cp949", 0x7A: "cp936", 0x7B: "cp932", 0xC8: "cp1250", 0xC9: "cp1251",
    0xCA: "cp1254", 0xCB: "cp1253", 0xCC: "cp1257",
}  # fmt: skip
"""Byte 29 of a .dbf -> the code page (dBase's table of language drivers)."""

SAMPLE_BYTES = 1 << 20
MAX_FIELDS = 2_000
WKT_NAME = re.compile(r'(?:PROJCS|PROJCRS|GEOGCS|GEOGCRS|GEODCRS|LOCAL_CS|COMPD_CS|COMPOUNDCRS)\s*\[\s*"([^"]{1,200})"')


def read_shapes(path: Path, ctx: Reading) -> Iterator[Piece]:
    """The header's facts, then the attribute table. Raises ExtractError when either is damaged."""
    with path.open("rb") as file:
        head = file.read(100)
    if len(head) < 100 or head[:4] != b"\0\0\x27\x0a":
        raise ExtractError("not a shapefile: no header")
    kind, left, low, right, high = (struct.unpack("<i", head[32:36])[0], *struct.unpack("<4d", head[36:68]))
    lines = [f"Shapefile of {SHAPE_TYPES.get(kind, f'kind {kind}')}", f"Bounding box: {left:.6g} {low:.6g} to {right:.6g} {high:.6g}"]
    if index := ctx.sidecars.get(".shx"):
        lines.append(f"Shapes: {max(0, index.stat().st_size - 100) // 8:,}")
    yield Piece(text="\n".join([*lines, *_system(ctx.sidecars.get(".prj"))]), locator="header", kind="metadata")
    if table := ctx.sidecars.get(".dbf"):
        yield from _rows(table, _encoding(table, ctx.sidecars.get(".cpg")), ctx)
    else:
        yield Piece(text="", dropped="attributes: the .dbf file is missing")


def read_dbase(path: Path, ctx: Reading) -> Iterator[Piece]:
    """The rows of a dBase table that stands alone."""
    yield from _rows(path, _encoding(path, None), ctx)


def _system(projection: Path | None) -> list[str]:
    """The name of the coordinate reference system, from the .prj file's WKT."""
    if projection is None:
        return []
    with projection.open("rb") as file:
        match = WKT_NAME.search(file.read(64 << 10).decode("utf-8", "replace"))
    return [f"Coordinate system: {match[1].replace('_', ' ')}"] if match else []


def _encoding(table: Path, declared: Path | None) -> str:
    """What the .cpg says, else the table's own byte, else UTF-8 where the bytes are that, else windows-1252."""
    if declared is not None:
        with declared.open("rb") as file:
            name = file.read(100).decode("ascii", "replace").strip().lower()
        for candidate in (name, f"cp{name.removeprefix('ansi').strip()}", name.replace(" ", "-")):
            try:
                return codecs.lookup(candidate).name
            except (LookupError, ValueError):
                continue
    with table.open("rb") as file:
        data = file.read(SAMPLE_BYTES)
    try:
        data[32:].decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(data) - 36:  # not merely cut at the sample's end
            return LANGUAGE_DRIVERS.get(data[29], "cp1252")
    return "utf-8"


def _rows(table: Path, encoding: str, ctx: Reading) -> Iterator[Piece]:
    import shapefile

    logging.getLogger("shapefile").addHandler(logging.NullHandler())
    there = _check_table(table)
    limit = int(ctx.options.get("max_rows", MAX_ROWS))
    try:
        with table.open("rb") as file, shapefile.Reader(dbf=file, encoding=encoding, encodingErrors="replace") as reader:
            names = {at: field[0] for at, field in enumerate(reader.fields[1:])}
            numbered = ((number, _cells(reader, number - 1)) for number in range(1, min(there, len(reader)) + 1))
            rows = ((number, cells) for number, cells in numbered if cells)
            yield from named_pieces(names, rows, lambda first, last, left, right: _place(first, last), limit=limit)
            if there < len(reader):
                yield Piece(text="", dropped=f"rows that the table's header counts and the file does not hold ({len(reader) - there:,})")
    except (shapefile.ShapefileException, struct.error, ValueError, IndexError, OverflowError, KeyError, TypeError) as error:
        raise ExtractError(f"damaged dBase table ({type(error).__name__}: {error})") from error


def _check_table(table: Path) -> int:
    """How many rows the file has room for. Raises ExtractError when its header cannot be one."""
    size = table.stat().st_size
    with table.open("rb") as file:
        head = file.read(32)
    if len(head) < 32:
        raise ExtractError("not a dBase table: no header")
    start, row = struct.unpack("<HH", head[8:12])
    if not 33 <= start <= size or row < 1 or (start - 33) // 32 > MAX_FIELDS:
        raise ExtractError("not a dBase table: its header does not fit the file")
    return int((size - start) // row)


def _cells(reader: Any, number: int) -> list[tuple[int, str]]:
    record = reader.record(number)
    texts = enumerate(_text(value) for value in record) if record is not None else ()  # None: a deleted row
    return [(at, text) for at, text in texts if text]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.15g}"
    return value.isoformat() if isinstance(value, date) else "" if value is None else str(value).replace("\0", "").strip()


def _place(first: int, last: int) -> str:
    return f"row={first}" if first == last else f"row={first}..{last}"
