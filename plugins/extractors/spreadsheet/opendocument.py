"""OpenDocument sheets (.ods) as a stream: the text that each cell shows, dates in ISO 8601, comments.

Repeated cells and rows are what makes this format explode (1,048,576 x 16,384 in one element): empty ones cost nothing
here, and filled ones are written out a bounded number of times.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from forge.errors import ExtractError
from forge.plugins.extractors._rows import Row, on_one_line, table_pieces
from forge.plugins.extractors.spreadsheet.cells import (
    MAX_COLUMNS,
    filled_down,
    letters,
    number_text,
    sheet_heading,
    sheet_place,
    sheet_title,
)
from forge.plugins.extractors.spreadsheet.stream import MAX_ROW_CHARACTERS, elements
from forge.records import Piece

if TYPE_CHECKING:
    from lxml.etree import _Element

MAX_MANIFEST_BYTES = 1 << 20
MAX_REPEATED_CELLS = 256
MAX_REPEATED_ROWS = 1000
"""A filled cell or row that repeats further is a fill colour or a bomb."""

OFFICE = "{urn:oasis:names:tc:opendocument:xmlns:office:1.0}"
TABLE = "{urn:oasis:names:tc:opendocument:xmlns:table:1.0}"
PARAGRAPH = "{urn:oasis:names:tc:opendocument:xmlns:text:1.0}p"
CELLS = {f"{TABLE}table-cell", f"{TABLE}covered-table-cell"}
REPEATED_COLUMNS = f"{TABLE}number-columns-repeated"
SPANNED_ROWS = f"{TABLE}number-rows-spanned"
VALUE_TYPE = f"{OFFICE}value-type"


class _Found(NamedTuple):
    """A row of a sheet, with the comments on its cells and the (row, column) -> last row of those that reach down."""

    sheet: str
    hidden: bool
    row: Row
    notes: list[tuple[str, str]]
    merged: dict[tuple[int, int], int]


def opendocument_sheets(path: Path, limit: int) -> Iterator[Piece]:
    """The sheets in order, comments after each. Raises ExtractError for a damaged or (refused) encrypted file."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ExtractError(f"damaged spreadsheet ({error})") from error
    with archive:
        _check_password(archive)
        for (name, hidden), found in groupby(_found(archive), key=lambda one: (one.sheet, one.hidden)):
            yield from _sheet(name, hidden, found, limit)


def _check_password(archive: zipfile.ZipFile) -> None:
    """Raise ExtractError (refused) for an encrypted file. Its list of parts may have a document type and is not parsed."""
    try:
        with archive.open("META-INF/manifest.xml") as file:
            manifest = file.read(MAX_MANIFEST_BYTES)
    except KeyError:
        return
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise ExtractError(f"damaged spreadsheet ({error})") from error
    if b"encryption-data" in manifest:
        raise ExtractError("encrypted spreadsheet (it needs a password)", refused=True)


def _sheet(name: str, hidden: bool, found: Iterator[_Found], limit: int) -> Iterator[Piece]:
    notes: list[tuple[str, str]] = []
    merged: dict[tuple[int, int], int] = {}

    def rows() -> Iterator[Row]:
        for one in found:
            notes.extend(one.notes)
            merged.update(one.merged)
            if one.row[1]:
                yield one.row

    title = sheet_title(name, hidden)
    yield from sheet_heading(name, hidden)
    yield from table_pieces(filled_down(rows(), merged), sheet_place(name), heading=title, limit=limit)
    for cell, note in notes:
        yield Piece(text=note, locator=f"sheet={name}!{cell}", heading=title, kind="notes")


def _found(archive: zipfile.ZipFile) -> Iterator[_Found]:
    unseen: set[str] = set()
    sheet = style = None
    number = 0
    for node in elements(archive, "content.xml", "style", "table-row"):
        if not node.tag.endswith("row"):
            if any(part.get(f"{TABLE}display") == "false" for part in node):
                unseen.update(value for key, value in node.attrib.items() if key.endswith("}name"))
            continue
        table = next(node.iterancestors(f"{TABLE}table"), None)
        if table is None:
            continue
        if table is not sheet:
            sheet, style, number = table, table.get(f"{TABLE}style-name", ""), 0
        times = _times(node, f"{TABLE}number-rows-repeated")
        cells, notes, merged = _cells(node, number + 1)
        name = sheet.get(f"{TABLE}name", "")
        for again in range(min(times, MAX_REPEATED_ROWS) if cells or notes else 0):
            yield _Found(name, style in unseen, (number + 1 + again, cells), notes if not again else [], merged if not again else {})
        number += times


def _cells(row: _Element, number: int) -> tuple[list[tuple[int, str]], list[tuple[str, str]], dict[tuple[int, int], int]]:
    cells: list[tuple[int, str]] = []
    notes: list[tuple[str, str]] = []
    merged: dict[tuple[int, int], int] = {}
    column = characters = 0
    for node in row:
        if node.tag not in CELLS:
            continue
        times = _times(node, REPEATED_COLUMNS)
        if len(node):
            if len(node) > 1 or node[0].tag != PARAGRAPH:
                notes += [(f"{letters(column)}{number}", text) for text in _comments(node)]
            value = on_one_line(_value(node))
            if (span := _times(node, SPANNED_ROWS)) > 1:
                merged[number, column] = number + span - 1
            for again in range(min(times, MAX_REPEATED_CELLS) if value else 0):
                cells.append((column + again, value))
                characters += len(value)
        column += times
        if column > MAX_COLUMNS or characters > MAX_ROW_CHARACTERS:
            raise ExtractError(f"a row that no spreadsheet program takes: row {number}", refused=True)
    return cells, notes, merged


def _times(node: _Element, what: str) -> int:
    told = node.get(what)
    return int(told) if told is not None and told.isdecimal() and len(told) < 9 else 1


def _value(node: _Element) -> str:
    """What the cell shows; a number with all its digits and a date in ISO 8601."""
    shown = "\n".join([_paragraph(part) for part in node if part.tag == PARAGRAPH])
    kind = node.get(VALUE_TYPE, "")
    if kind == "date":
        return str(node.get(f"{OFFICE}date-value", shown)).removesuffix("T00:00:00").replace("T", " ")
    if kind == "float" and shown and not shown.startswith(("#", "Err:")):
        return number_text(node.get(f"{OFFICE}value", shown))
    return shown


def _paragraph(node: _Element) -> str:
    return "".join(node.itertext()) if len(node) else node.text or ""


def _comments(node: _Element) -> Iterator[str]:
    for note in node.iterchildren(f"{OFFICE}annotation"):
        if text := "\n".join(_paragraph(part) for part in note.iterchildren(PARAGRAPH)):
            yield text
