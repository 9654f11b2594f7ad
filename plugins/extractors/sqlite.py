"""SQLite databases: the schema, then each table row by row. Opened read-only, as it lies there; nothing in it is run.

A database can carry code: views, triggers and generated columns call functions, virtual tables load modules. Only SELECT on
stored tables is authorised; the sum of steps is bounded; no extension can be loaded.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from urllib.parse import quote

from forge.errors import ExtractError
from forge.phase import Requirement
from forge.plugins.extractors._records import is_record, record_pieces
from forge.plugins.extractors._rows import Place, Row, filled, named_pieces, row_limit
from forge.protocols import Reading
from forge.records import Piece

STEPS = 1_000_000
MAX_MILLION_STEPS = 20_000
"""SQLite asks every million steps of its machine whether to go on: some minutes in all."""

MAX_VALUE_BYTES = 16 << 20
BINARY = Piece(text="", dropped="binary value")

EXTENSIONS = (".sqlite", ".sqlite3", ".db", ".db3")
MODULE = re.compile(r"\s*CREATE\s+VIRTUAL\s+TABLE\s.*?\sUSING\s+(\w+)\s*(?:\((.*)\))?", re.IGNORECASE | re.DOTALL)
SHADOWS = ["data", "idx", "content", "docsize", "config", "segments", "segdir", "stat", "node", "parent", "rowid"]
"""Tables in which the full-text and R-tree modules keep what they need: the name of the virtual table and one of these."""


class SqliteExtractor:
    """Tables by name, "column: value; column: value" a row; questions with answers become records.

    Views and virtual tables are not run: of a full-text table the stored texts are read. Binary values are counted.
    """

    name: ClassVar[str] = "sqlite"
    media_types: ClassVar[tuple[str, ...]] = ("application/vnd.sqlite3",)
    extensions: ClassVar[Mapping[str, str]] = dict.fromkeys(EXTENSIONS, "application/vnd.sqlite3")
    magic: ClassVar[Mapping[bytes, str]] = {}
    requires: ClassVar[tuple[Requirement, ...]] = ()
    sidecars: ClassVar[Mapping[str, tuple[str, ...]]] = {
        extension: (f"{extension}-wal", f"{extension}-shm", f"{extension}-journal") for extension in EXTENSIONS
    }

    def extract(self, path: Path, ctx: Reading) -> Iterator[Piece]:
        """Yield each table's declaration and rows ("table=staff row=7"). Raises ExtractError for a damaged database."""
        try:
            with closing(_opened(path, ctx)) as database:
                yield from _tables(database, row_limit(ctx.options))
        except sqlite3.OperationalError as error:
            if str(error) == "interrupted":
                raise ExtractError("a database that takes endless steps to read", refused=True) from error
            raise ExtractError(f"damaged database ({error})") from error
        except (sqlite3.Error, sqlite3.Warning, OverflowError, ValueError) as error:
            raise ExtractError(f"damaged database ({error})") from error


extractor = SqliteExtractor()


class _Table(NamedTuple):
    """A table to read: where its rows lie, what its columns are called, and which of them are stored."""

    name: str
    stored_in: str
    columns: dict[str, str]
    declared: str
    computed: int = 0


def _opened(path: Path, ctx: Reading) -> sqlite3.Connection:
    """The database, read-only. What another program left in its write-ahead log is applied to a copy in the scratch folder."""
    log = next((log for ending, log in ctx.sidecars.items() if ending.endswith("-wal") and log.stat().st_size), None)
    if log is not None:
        copy = ctx.scratch / "copy.db"
        shutil.copyfile(path, copy)
        shutil.copyfile(log, ctx.scratch / "copy.db-wal")
    where = f"{quote(str(copy))}?mode=rw" if log is not None else f"{quote(str(path))}?mode=ro&immutable=1"
    database = sqlite3.connect(f"file:{where}", uri=True, isolation_level=None)
    database.text_factory = lambda value: value.decode("utf-8", "replace")
    for pragma in ("trusted_schema=OFF", "cell_size_check=ON"):
        database.execute(f"PRAGMA {pragma}")
    database.set_authorizer(_may)
    left = iter(range(MAX_MILLION_STEPS))
    database.set_progress_handler(lambda: next(left, None) is None, STEPS)
    return database


def _may(action: int, first: str | None, second: str | None, *_: object) -> int:
    """Reading stored columns and asking for their names is allowed, and length(); no other function, nothing that writes."""
    harmless = action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ)
    length = action == sqlite3.SQLITE_FUNCTION and second == "length"
    names = action == sqlite3.SQLITE_PRAGMA and first == "table_xinfo"
    return sqlite3.SQLITE_OK if harmless or length or names else sqlite3.SQLITE_DENY


def _tables(database: sqlite3.Connection, limit: int) -> Iterator[Piece]:
    listed = database.execute("SELECT type, name, sql FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY name").fetchall()
    declared = {str(name): str(sql or "") for kind, name, sql in listed if kind == "table"}
    modules = {name: match for name, sql in declared.items() if (match := MODULE.match(sql))}
    shadows = {f"{name}_{ending}" for name in modules for ending in SHADOWS}
    for kind, name, sql in listed:
        if kind == "view":
            yield Piece(text=str(sql), locator=f"table={name}", kind="metadata")
        elif name in modules:
            yield from _virtual(database, name, modules[name], declared, limit)
        elif name not in shadows and not name.startswith("sqlite_"):
            yield from _table(database, _described(database, name, declared[name]), limit)


def _virtual(database: sqlite3.Connection, name: str, module: re.Match[str], declared: Mapping[str, str], limit: int) -> Iterator[Piece]:
    """The texts that a full-text table keeps in its content table, whose columns are c0, c1 and so on."""
    content = f"{name}_content"
    if not module[1].lower().startswith("fts") or content not in declared:
        yield Piece(text=declared[name], locator=f"table={name}", kind="metadata")
        yield Piece(text="", locator=f"table={name}", dropped="virtual table that is not run")
        return
    names = [part.strip().split()[0].strip("\"'[]`") for part in (module[2] or "").split(",") if part.strip() and "=" not in part]
    table = _described(database, content, declared[name])
    texts = [column for column in table.columns if re.match(r"c\d", column)]
    called = dict(zip(texts, [*names, *texts[len(names) :]], strict=False))
    yield from _table(database, table._replace(name=name, columns=called), limit)


def _described(database: sqlite3.Connection, name: str, declared: str) -> _Table:
    """A table's stored columns. Those that are computed when asked for (hidden = 2) would run code of the file."""
    listed = database.execute(f"PRAGMA table_xinfo({_quoted(name)})").fetchall()
    columns = {str(column[1]): str(column[1]) for column in listed if column[6] in (0, 3)}
    return _Table(name, name, columns, declared, computed=sum(column[6] == 2 for column in listed))


def _table(database: sqlite3.Connection, table: _Table, limit: int) -> Iterator[Piece]:
    yield Piece(text=table.declared, locator=f"table={table.name}", heading=table.name, kind="metadata")
    for _ in range(table.computed):
        yield Piece(text="", locator=f"table={table.name}", dropped="computed column that is not run")
    if not table.columns:
        return
    values = ", ".join(f"CASE WHEN length({_quoted(name)}) > {MAX_VALUE_BYTES} THEN x'00' ELSE {_quoted(name)} END" for name in table.columns)
    rows = database.execute(f"SELECT {values} FROM {_quoted(table.stored_in)}")
    lost = _Lost()
    names = list(table.columns.values())
    if is_record(names):
        records = ((number, dict(zip(names, map(lost.text, row), strict=True))) for number, row in enumerate(rows, 1))
        yield from record_pieces(records, lambda number: f"table={table.name} row={number}", heading=table.name, limit=limit)
    else:
        cells: Iterator[Row] = ((number, found) for number, row in enumerate(rows, 1) if (found := filled(map(lost.text, row))))
        yield from named_pieces(dict(enumerate(names)), cells, _place(table.name), heading=table.name, limit=limit)
    for _ in range(lost.count):
        yield BINARY


class _Lost:
    """Turns values into text and counts those that are binary."""

    def __init__(self) -> None:
        self.count = 0

    def text(self, value: Any) -> str:
        if isinstance(value, str):
            return value
        if value is None:
            return ""
        if isinstance(value, float):
            return f"{value:.15g}"
        if isinstance(value, int):
            return str(value)
        try:
            text = bytes(value).decode("utf-8")
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            self.count += 1
            return ""
        return text


def _place(name: str) -> Place:
    def place(first: int, last: int, left: int, right: int) -> str:
        return f"table={name} row={first}" + (f"..{last}" if last != first else "")

    return place


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
