"""Office Open XML workbooks (.xlsx, .xlsm): the parts around the sheets, then each sheet as a stream."""

from __future__ import annotations

import posixpath
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from forge.errors import ExtractError
from forge.plugins.extractors._rows import on_one_line, table_pieces
from forge.plugins.extractors._xml import attribute, parse_part
from forge.plugins.extractors.spreadsheet.cells import format_kind, sheet_heading, sheet_place, sheet_title
from forge.plugins.extractors.spreadsheet.stream import Workbook, elements, rich_text, sheet_rows
from forge.records import Piece

if TYPE_CHECKING:
    from lxml.etree import _Element

MAX_STRINGS = 10_000_000
MAX_STRING_CHARACTERS = 64_000_000
"""As many as prep takes of one file at all."""

THREAD_NOTE = re.compile(r"^\[Threaded comment\]", re.IGNORECASE)


class _Link(NamedTuple):
    kind: str
    target: str


class _Sheet(NamedTuple):
    name: str
    part: str
    kind: str
    hidden: bool


def office_workbook(path: Path, limit: int) -> Iterator[Piece]:
    """The sheets of a workbook in order, each with its comments and the text of its drawings."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ExtractError(f"damaged workbook ({error})") from error
    with archive:
        for name, entry in list(archive.NameToInfo.items()):  # part names do not tell A from a (ECMA-376 part 2, 6.2.2)
            archive.NameToInfo.setdefault(name.replace("\\", "/").lower(), entry)
        start = next((link.target for link in _links(archive, "").values() if link.kind == "officeDocument"), "xl/workbook.xml")
        root = parse_part(archive, start)
        links = _links(archive, start)
        book = Workbook(archive, _strings(archive, links), _kinds(archive, links), _from_1904(root))
        for sheet in _sheets(root, links):
            yield from _sheet(book, sheet, limit)


def _sheet(book: Workbook, sheet: _Sheet, limit: int) -> Iterator[Piece]:
    if sheet.kind != "worksheet":
        yield Piece(text="", locator=f"sheet={sheet.name}", dropped=f"sheet that holds no table ({sheet.kind})")
        return
    yield from sheet_heading(sheet.name, sheet.hidden)
    title = sheet_title(sheet.name, sheet.hidden)
    yield from table_pieces(sheet_rows(book, sheet.part), sheet_place(sheet.name), heading=title, limit=limit)
    while book.unstored:
        book.unstored -= 1
        yield Piece(text="", dropped="formula without a stored result")
    for link in _links(book.archive, sheet.part).values():
        yield from _notes(book.archive, link, f"sheet={sheet.name}", title)


def _links(archive: zipfile.ZipFile, part: str) -> dict[str, _Link]:
    """The relationships of a part, by id; those to other files are left out."""
    folder, name = posixpath.split(part)
    listing = posixpath.join(folder, "_rels", f"{name}.rels")
    if listing not in archive.NameToInfo:
        return {}
    found = {}
    for node in parse_part(archive, listing):
        target = attribute(node, "Target")
        if attribute(node, "TargetMode") != "External" and target:
            kind = attribute(node, "Type").rpartition("/")[2]
            target = posixpath.normpath(posixpath.join("/", folder, target)).lstrip("/")
            found[attribute(node, "Id")] = _Link(kind, target if target in archive.NameToInfo else target.lower())
    return found


def _sheets(root: _Element, links: dict[str, _Link]) -> Iterator[_Sheet]:
    for node in root.iter("{*}sheet"):
        link = links.get(next((value for key, value in node.attrib.items() if key.endswith("}id")), ""))
        if link is None:
            raise ExtractError(f"damaged workbook: sheet {node.get('name')!r} has no part")
        yield _Sheet(node.get("name", ""), link.target, link.kind, node.get("state", "visible") != "visible")


def _from_1904(root: _Element) -> bool:
    return any(node.get("date1904") in ("1", "true") for node in root.iter("{*}workbookPr"))


def _strings(archive: zipfile.ZipFile, links: dict[str, _Link]) -> list[str]:
    """The texts that cells point at. Refused when they are more than a workbook can need."""
    strings: list[str] = []
    characters = 0
    for link in links.values():
        known = link.kind == "sharedStrings" and link.target in archive.NameToInfo
        for node in elements(archive, link.target, "si") if known else ():
            text = on_one_line(rich_text(node))
            strings.append(text)
            characters += len(text)
            if len(strings) > MAX_STRINGS or characters > MAX_STRING_CHARACTERS:
                raise ExtractError(f"shared strings of more than {MAX_STRING_CHARACTERS:,} characters", refused=True)
    return strings


def _kinds(archive: zipfile.ZipFile, links: dict[str, _Link]) -> list[str]:
    """For each cell style what it makes of numbers ("date", "percent", ...)."""
    part = next((link.target for link in links.values() if link.kind == "styles"), "")
    if part not in archive.NameToInfo:
        return []
    root = parse_part(archive, part)
    codes = {node.get("numFmtId", ""): node.get("formatCode", "") for node in root.iterfind("{*}numFmts/{*}numFmt")}
    used = [node.get("numFmtId", "0") for node in root.iterfind("{*}cellXfs/{*}xf")]
    return [format_kind(int(number) if number.isdigit() else 0, codes.get(number, "")) for number in used]


def _notes(archive: zipfile.ZipFile, link: _Link, place: str, title: str) -> Iterator[Piece]:
    """Comments with their cell, and text boxes."""
    if link.kind not in ("comments", "threadedComment", "drawing") or link.target not in archive.NameToInfo:
        return
    root = parse_part(archive, link.target)
    if link.kind == "drawing":
        texts = ["".join(node.text or "" for node in block.iter("{*}t")) for block in root.iter("{*}p")]
        yield from (Piece(text=text, locator=place, heading=title, kind="notes") for text in texts if text.strip())
        return
    for node in root.iter("{*}comment", "{*}threadedComment"):
        text = rich_text(node) or "".join(part.text or "" for part in node.iter("{*}text"))
        cell = f"{place}!{node.get('ref', '')}"
        dropped = "copy of a threaded comment" if THREAD_NOTE.match(text) else ""
        yield Piece(text=text, locator=cell, heading=title, kind="notes", dropped=dropped)
