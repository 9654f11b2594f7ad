"""EndNote libraries as readable references, in the three forms that EndNote has written.

An .enl is a ZIP of a MyISAM table (X7 to X9), or empty beside a .Data folder with that table, or an SQLite database
(EndNote 20 on, the abstracts in .Data/sdb/sdb.eni). An .enlx is a ZIP of library and folder. All five real libraries that
we looked at were one of these (2026-11-20).
"""

from __future__ import annotations

import html
import re
import shutil
import sqlite3
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import ClassVar
from urllib.parse import quote

from forge.errors import ExtractError
from forge.phase import Requirement
from forge.plugins.extractors._myisam import open_table
from forge.protocols import Embedded, Reading
from forge.records import Piece

MEDIA_TYPE = "application/x-endnote-library"
ZIP, SQLITE = (b"PK\x03\x04", b"PK\x05\x06"), b"SQLite format 3\0"
MAX_DATABASE_BYTES = 512 << 20
MAX_REFERENCES = 200_000
CHUNK_BYTES = 1 << 20

LISTS = ("author", "secondary_author", "tertiary_author", "subsidiary_author", "translated_author", "keywords", "url")
"""Columns with several values, separated by carriage returns."""

LABELS = {
    "author": "Authors", "secondary_author": "Editors", "secondary_title": "Journal", "electronic_resource_number": "DOI", "isbn": "ISBN/ISSN",
    "url": "URL", "place_published": "Place published", "number": "Issue",
}  # fmt: skip
FIRST = ("author", "year", "secondary_title", "volume", "number", "pages", "publisher", "place_published")
LAST = ("abstract", "keywords", "notes", "research_notes")
INTERNAL = {
    "id", "title", "trash_state", "text_styles", "reference_type", "added_to_library", "record_last_updated", "record_properties", "read_status",
    "rating", "file_attachments", "internal_pdf", "link_to_pdf", "figure", "fulltext_downloads", "group_number", "caption_styles", "path_style",
}  # fmt: skip
SQLITE_TABLES = ("refs", "enl_refs")

TAG = re.compile(r"</?[A-Za-z][\w:]{0,20}(?:\s[^<>]{0,300})?/?>")
BREAK = re.compile(r"<(?:br|p|/p|div|/div|/li)\b[^<>]{0,300}>", re.IGNORECASE)
IGNORED = re.compile(r"(^|/)(trash|tdb)(/|$)")
"""Folders of deleted and of temporary records."""

Record = dict[str, str]


class EndnoteExtractor:
    """One heading (the title) and one block of text a reference; those in the trash are dropped and counted."""

    name: ClassVar[str] = "endnote"
    media_types: ClassVar[tuple[str, ...]] = (MEDIA_TYPE,)
    extensions: ClassVar[Mapping[str, str]] = {".enl": MEDIA_TYPE, ".enlx": MEDIA_TYPE}
    magic: ClassVar[Mapping[bytes, str]] = {}
    requires: ClassVar[tuple[Requirement, ...]] = ()
    sidecars: ClassVar[Mapping[str, tuple[str, ...]]] = {".enl": (".data/rdb/", ".data/sdb/", ".data/tdb/", ".data/trash/")}

    def accepts(self, head: bytes, name: str) -> str:
        """Its extension, with the content that EndNote writes: none, a ZIP or SQLite."""
        extension = PurePosixPath(name).suffix.lower()
        known = extension == ".enl" and (not head.strip() or head.startswith((*ZIP, SQLITE)))
        return MEDIA_TYPE if known or (extension == ".enlx" and head.startswith(ZIP)) else ""

    def extract(self, path: Path, ctx: Reading) -> Iterator[Piece | Embedded]:
        """Yield the references ("reference=12"), then the files inside an .enlx. Raises ExtractError when there are none."""
        with path.open("rb") as file:
            head = file.read(16)
        if head.startswith(ZIP):
            yield from _zipped(path, ctx)
        else:
            files = {ending.removeprefix(".data/"): found for ending, found in ctx.sidecars.items()}
            if head.startswith(SQLITE):
                files["library.enl"] = path
            yield from _references(files, ctx)


extractor = EndnoteExtractor()


def _zipped(path: Path, ctx: Reading) -> Iterator[Piece | Embedded]:
    files: dict[str, Path] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = [entry for entry in archive.infolist() if not entry.is_dir()]
            for entry in members:
                if _is_database(entry.filename) and not IGNORED.search(entry.filename.lower()):
                    files[entry.filename.lower()] = _unpacked(archive, entry, ctx.scratch / f"part{len(files)}")
            yield from _references(files, ctx)
            for entry in members:
                if not _is_database(entry.filename):
                    with archive.open(entry) as stream:
                        yield Embedded(entry.filename, iter(lambda: stream.read(CHUNK_BYTES), b""))
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError, OSError) as error:
        raise ExtractError(f"damaged EndNote library ({error})") from error


def _is_database(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in {".frm", ".myd", ".myi", ".enl", ".eni", ".enldb"}


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, to: Path) -> Path:
    if entry.file_size > MAX_DATABASE_BYTES:
        raise ExtractError(f"{entry.filename!r} unpacks to more than {MAX_DATABASE_BYTES >> 20} MiB", refused=True)
    with archive.open(entry) as stream, to.open("wb") as file:
        shutil.copyfileobj(stream, file, CHUNK_BYTES)  # zipfile stops at the declared size
    return to


def _references(files: Mapping[str, Path], ctx: Reading) -> Iterator[Piece]:
    limit, seen, count = int(ctx.options.get("max_rows", MAX_REFERENCES)), set[str](), 0
    for record in _records(files):
        if record.get("id", "") in seen:
            continue  # in sdb.eni and in the .enl as well; the former is complete
        seen.add(record.get("id", ""))
        count += 1
        if count > limit:
            yield Piece(text="", dropped="row over the limit")
        else:
            yield from _reference(record)
    if not count:
        yield Piece(text="", dropped="library without references")


def _records(files: Mapping[str, Path]) -> Iterator[Record]:
    """The references of whichever database is there. Raises ExtractError when there is none."""
    wanted = {name: path for name, path in sorted(files.items()) if not IGNORED.search(name)}
    form = next((name for name in wanted if PurePosixPath(name).name == "refs.frm"), "")
    rows = wanted.get(form[:-4] + ".myd") if form else None
    databases = [wanted[name] for name in sorted(wanted, key=lambda name: (not name.endswith(".eni"), name)) if _starts_with(wanted[name], SQLITE)]
    if not databases and rows is None:
        raise ExtractError("an EndNote library without its references", next="put the library's .Data folder beside it")
    for database in databases:
        yield from _from_sqlite(database)
    if rows is not None:
        table = open_table(wanted[form], rows, wanted.get(form[:-4] + ".myi"))
        for _, cells in table.rows():
            yield {table.columns[at].name: text for at, text in cells}


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _from_sqlite(path: Path) -> Iterator[Record]:
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1", uri=True)) as database:
            database.execute("PRAGMA trusted_schema=OFF")
            database.text_factory = lambda data: data.decode("utf-8", "replace")
            tables = {name for name, sql in database.execute("SELECT name, sql FROM sqlite_master WHERE type='table'") if "VIRTUAL" not in str(sql).upper()}
            for table in (name for name in SQLITE_TABLES if name in tables):
                rows = database.execute(f'SELECT * FROM "{table}" ORDER BY rowid')
                names = [one[0] for one in rows.description]
                for row in rows:
                    yield {name: str(value) for name, value in zip(names, row, strict=True) if isinstance(value, (str, int, float))}
    except sqlite3.Error as error:
        raise ExtractError(f"damaged EndNote library ({error})") from error


def _reference(record: Record) -> Iterator[Piece]:
    number = record.get("id", "")
    title = _plain(record.get("title", "")).replace("\n", " ") or "Untitled reference"
    text, locator = _lines(record), f"reference={number}"
    if record.get("trash_state", "0") not in ("", "0"):
        yield Piece(text=f"{title}\n{text}", locator=locator, dropped="reference in the trash")
        return
    heading = title.replace(" > ", " › ")
    yield Piece(text=title, heading=heading, locator=locator, kind="heading")
    yield Piece(text=text, heading=heading, locator=locator)


def _lines(record: Record) -> str:
    middle = sorted(set(record) - INTERNAL - {*FIRST, *LAST})
    lines = []
    for name in (*FIRST, *middle, *LAST):
        raw = record.get(name, "")
        parts = [_plain(part) for part in raw.split("\r")] if name in LISTS else [_plain(raw)]
        value = "; ".join(part for part in parts if part)
        if value and not (value == "0" and name in middle):
            lines.append(f"{LABELS.get(name, name.replace('_', ' ').capitalize())}: {value}")
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Without the markup that EndNote keeps in titles and abstracts."""
    text = TAG.sub("", BREAK.sub("\n", text)) if "<" in text else text
    return html.unescape(text).replace("\r\n", "\n").replace("\r", "\n").strip()
