"""The cells of an Office sheet as they are parsed: neither the XML nor the grid is ever held."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.parsers import expat

from forge.errors import ExtractError
from forge.plugins.extractors._rows import Row, on_one_line
from forge.plugins.extractors.spreadsheet.cells import MAX_COLUMNS, column_of, filled_down, number_text

if TYPE_CHECKING:
    from lxml.etree import _Element

DIGITS = "0123456789"
MAX_ROW_CHARACTERS = 4_000_000
"""Cells may point at one long text again and again. Excel's own limit is 32,767 characters a cell."""

ESCAPE = re.compile("_x([0-9A-Fa-f]{4})_")
CHUNK_BYTES = 1 << 18
MAX_MERGED = 100_000
MERGED = re.compile(rb'mergeCell\s[^>]{0,200}?ref="([A-Z]{1,3})(\d{1,7}):[A-Z]{1,3}(\d{1,7})"')


@dataclass
class Workbook:
    """What all sheets share. unstored: formulas met so far whose result the file does not hold."""

    archive: zipfile.ZipFile
    strings: list[str]
    kinds: list[str]
    from_1904: bool
    unstored: int = 0


def elements(archive: zipfile.ZipFile, part: str, *names: str) -> Iterator[_Element]:
    """Elements with these local names as they end; those of the last name are then forgotten.

    Raises ExtractError when the part is damaged or declares entities.
    """
    from lxml import etree

    try:
        with archive.open(part) as head:
            start = head.read(4096)
        if b"<!DOCTYPE" in start or b"<!ENTITY" in start:
            raise ExtractError(f"part {part} declares a document type, which no Office program writes", refused=True)
        tags = [f"{{*}}{name}" for name in names]
        safe: dict[str, Any] = {"resolve_entities": False, "no_network": True, "load_dtd": False, "huge_tree": False}
        with archive.open(part) as file:
            for _, node in etree.iterparse(file, events=("end",), tag=tags, **safe):
                yield node
                if node.tag.endswith(names[-1]):
                    _forget_before(node)
    except etree.XMLSyntaxError as error:
        raise ExtractError(f"damaged XML: part {part}: {error}") from error
    except (KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise ExtractError(f"damaged workbook: part {part} cannot be read ({error})") from error


def _forget_before(node: _Element) -> None:
    node.clear()
    previous = node.getprevious()
    if previous is not None:
        node.getparent().remove(previous)


def rich_text(node: _Element) -> str:
    """The runs of a text, without the phonetic guide that Japanese workbooks keep beside it."""
    if len(node) == 1 and node[0].tag.endswith("}t"):
        return unescaped(node[0].text or "")
    return unescaped("".join(part.text or "" for part in node.iter("{*}t") if not part.getparent().tag.endswith("rPh")))


def unescaped(text: str) -> str:
    """Text as it was typed: Office writes characters that XML cannot hold as _x000D_ (ECMA-376 part 1, 22.9.2.19)."""
    return ESCAPE.sub(lambda match: chr(int(match[1], 16)), text) if "_x" in text else text


def sheet_rows(book: Workbook, part: str) -> Iterator[Row]:
    """The rows that hold something, with their cells. Merged cells that reach down fill each row they cover."""
    merged = _merged(book.archive, part)
    return filled_down(_parsed_rows(book, part), merged)


def _parsed_rows(book: Workbook, part: str) -> Iterator[Row]:
    parser = _SheetParser(book, part)
    try:
        with book.archive.open(part) as file:
            while chunk := file.read(CHUNK_BYTES):
                parser.feed(chunk)
                yield from parser.taken()
        parser.feed(b"", final=True)
        yield from parser.taken()
    except expat.ExpatError as error:
        raise ExtractError(f"damaged XML: part {part}: {error}") from error
    except (KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise ExtractError(f"damaged workbook: part {part} cannot be read ({error})") from error


class _SheetParser:
    """Collects the rows of a sheet. With lxml's iterparse 500,000 cells took 2.7 s in all, with expat's callbacks 1.9 s."""

    def __init__(self, book: Workbook, part: str) -> None:
        self.book, self.part = book, part
        self.rows: list[tuple[int, list[tuple[int, str]]]] = []
        self.cells: list[tuple[int, str]] = []
        self.number = self.count = self.characters = 0
        self.column = -1
        self.cell: dict[str, str] | None = None
        self.stored: list[str] = []
        self.formula = self.phonetic = False
        self.prefix = ""
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self.root
        self.parser.EndElementHandler = self.end
        self.parser.StartDoctypeDeclHandler = self.doctype

    def feed(self, data: bytes, *, final: bool = False) -> None:
        self.parser.Parse(data, final)

    def taken(self) -> list[tuple[int, list[tuple[int, str]]]]:
        rows, self.rows = self.rows, []
        return rows

    def doctype(self, *_: object) -> None:
        raise ExtractError(f"part {self.part} declares a document type, which no Office program writes", refused=True)

    def root(self, tag: str, attributes: dict[str, str]) -> None:
        self.prefix = tag[: tag.find(":") + 1]
        self.parser.StartElementHandler = self.prefixed if self.prefix else self.start

    def prefixed(self, tag: str, attributes: dict[str, str]) -> None:
        self.start(tag.removeprefix(self.prefix), attributes)

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "c":
            self.cell = attributes
            self.stored.clear()
            self.formula = False
        elif tag in ("v", "t"):
            if self.cell is not None and not self.phonetic:
                self.parser.CharacterDataHandler = self.stored.append
        elif tag == "f":
            self.formula = True
        elif tag == "row":
            told = attributes.get("r", "")
            self.number = int(told) if told.isdecimal() and len(told) < 9 else self.number + 1
            self.cells, self.column, self.count, self.characters = [], -1, 0, 0
        elif tag == "rPh":
            self.phonetic = True

    def end(self, tag: str) -> None:
        if self.prefix:
            tag = tag.removeprefix(self.prefix)
        if tag == "c" and self.cell is not None:
            self.add(self.cell)
            self.cell = None
        elif tag in ("v", "t"):
            self.parser.CharacterDataHandler = None
        elif tag == "row" and self.cells:
            self.rows.append((self.number, self.cells))
        elif tag == "rPh":
            self.phonetic = False

    def add(self, cell: dict[str, str]) -> None:
        place = cell.get("r")
        self.column = column_of(place.rstrip(DIGITS)) if place else self.column + 1
        self.count += 1
        if self.stored:
            value = _shown("".join(self.stored), cell, self.book)
            self.characters += len(value)
            if value:
                self.cells.append((self.column, value))
        else:
            self.book.unstored += self.formula
        if self.characters > MAX_ROW_CHARACTERS or self.count > MAX_COLUMNS or not 0 <= self.column < MAX_COLUMNS:
            raise ExtractError(f"a row that no spreadsheet program takes: row {self.number}", refused=True)


def _shown(stored: str, cell: Mapping[str, str], book: Workbook) -> str:
    """A cell as text, from what it holds: of a formula its result."""
    kind = cell.get("t", "n")
    if kind == "s":
        if stored.isdecimal() and int(stored) < len(book.strings):
            return book.strings[int(stored)]
        raise ExtractError(f"damaged workbook: cell {cell.get('r')} points at no text")
    if kind == "n":
        style = cell.get("s", "")
        known = style.isdecimal() and int(style) < len(book.kinds)
        return number_text(stored, book.kinds[int(style)] if known else "", from_1904=book.from_1904)
    if kind == "b":
        return "TRUE" if stored == "1" else "FALSE"
    return on_one_line(unescaped(stored))  # "str": a formula's text, "inlineStr", "e": "#DIV/0!", "d": a date in ISO 8601


def _merged(archive: zipfile.ZipFile, part: str) -> dict[tuple[int, int], int]:
    """(row, column) of the first cell -> last row, of merged cells that reach down. They stand behind the cells in the file."""
    found: dict[tuple[int, int], int] = {}
    tail = b""
    try:
        with archive.open(part) as file:
            while chunk := file.read(CHUNK_BYTES):
                window = tail + chunk
                for match in MERGED.finditer(window) if b"mergeCell" in window else ():
                    if match[2] != match[3] and len(found) < MAX_MERGED:
                        found[int(match[2]), column_of(match[1].decode())] = int(match[3])
                tail = window[-300:]
    except (KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise ExtractError(f"damaged workbook: part {part} cannot be read ({error})") from error
    return found
