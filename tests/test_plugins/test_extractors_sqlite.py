"""SQLite: every kind of table, and databases that want to run code, write, hang or explode."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge.errors import ExtractError
from forge.plugins.extractors import sqlite
from forge.protocols import Option, Reading
from forge.records import Piece
from forge.registry import Registry

TYPE = "application/vnd.sqlite3"


def made(tmp_path: Path, script: str) -> Path:
    path = tmp_path / "made #1?.db"
    database = sqlite3.connect(path)
    database.executescript(script)
    database.close()
    return path


def read(path: Path, **options: Option) -> list[Piece]:
    return list(Registry().plugin("extractor", "sqlite").extract(path, Reading(TYPE, options=options)))


def shown(pieces: list[Piece]) -> list[tuple[str, str]]:
    return [(piece.locator, piece.text) for piece in pieces if not piece.dropped and piece.kind != "metadata"]


def test_tables_row_by_row_with_their_declaration(tmp_path: Path) -> None:
    path = made(tmp_path, """
        CREATE TABLE "staff list" (name TEXT, age INT, pay REAL);
        INSERT INTO "staff list" VALUES ('Ada', 36, 0.1), ('Bob', NULL, 2.5), (NULL, NULL, NULL), ('Line
        end', 1, 2);
        CREATE TABLE codes (code TEXT PRIMARY KEY, word TEXT) WITHOUT ROWID;
        INSERT INTO codes VALUES ('b', 'two'), ('a', 'one');
        CREATE TABLE none (x); CREATE VIEW seen AS SELECT name FROM "staff list";
        CREATE TABLE auto (id INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO auto DEFAULT VALUES;
    """)  # fmt: skip
    before = path.read_bytes()
    pieces = read(path)
    assert shown(pieces) == [
        ("table=auto row=1", "id: 1"), ("table=codes row=1", "code: a; word: one"), ("table=codes row=2", "code: b; word: two"),
        ("table=staff list row=1", "name: Ada; age: 36; pay: 0.1"), ("table=staff list row=2", "name: Bob; pay: 2.5"),
        ("table=staff list row=4", "name: Line end; age: 1; pay: 2"),
    ]  # fmt: skip
    declared = [piece.text for piece in pieces if piece.kind == "metadata"]
    assert 'CREATE VIEW seen AS SELECT name FROM "staff list"' in declared
    assert 'CREATE TABLE "staff list" (name TEXT, age INT, pay REAL)' in declared
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_questions_with_answers_become_records(tmp_path: Path) -> None:
    path = made(tmp_path, "CREATE TABLE qa (id INT, question, answer); INSERT INTO qa VALUES (7, 'Who?', 'Ada')")
    records = [piece for piece in read(path) if piece.kind == "record"]
    assert [(piece.text, piece.locator) for piece in records] == [("Question: Who?\nAnswer: Ada", "table=qa row=1")]


def test_binary_values_are_counted_and_texts_in_blobs_read(tmp_path: Path) -> None:
    path = made(tmp_path, f"""
        CREATE TABLE t (name, data BLOB);
        INSERT INTO t VALUES ('a', x'00ff00'), ('b', CAST('words' AS BLOB)), ('c', zeroblob({sqlite.MAX_VALUE_BYTES + 1})), ('d', x'ff');
    """)  # fmt: skip
    pieces = read(path)
    assert [text for _, text in shown(pieces)] == ["name: a", "name: b; data: words", "name: c", "name: d"]
    assert Counter(piece.dropped for piece in pieces if piece.dropped) == {"binary value": 3}


def test_full_text_tables_give_their_texts_once(tmp_path: Path) -> None:
    path = made(tmp_path, """
        CREATE VIRTUAL TABLE notes USING fts5(title, body, tokenize='porter');
        INSERT INTO notes VALUES ('Lease', 'It ends in May.');
    """)  # fmt: skip
    pieces = read(path)
    assert [text for _, text in shown(pieces)] == ["title: Lease; body: It ends in May."]
    assert not any(piece.dropped for piece in pieces)


def test_virtual_tables_and_computed_columns_are_not_run(tmp_path: Path) -> None:
    path = made(tmp_path, """
        CREATE VIRTUAL TABLE boxes USING rtree(id, a, b); INSERT INTO boxes VALUES (1, 0.0, 1.0);
        CREATE TABLE t (a, b AS (hex(zeroblob(1000000))), c AS (a || '!') STORED); INSERT INTO t (a) VALUES ('x');
        CREATE VIEW bomb AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n;
    """)  # fmt: skip
    pieces = read(path)
    assert [text for _, text in shown(pieces)] == ["a: x; c: x!"]
    assert sorted(piece.dropped for piece in pieces if piece.dropped) == ["computed column that is not run", "virtual table that is not run"]


def test_what_a_write_ahead_log_holds_is_read_from_a_copy(tmp_path: Path) -> None:
    writer = sqlite3.connect(tmp_path / "open.db", isolation_level=None)
    writer.executescript("PRAGMA journal_mode=WAL; CREATE TABLE t (word); INSERT INTO t VALUES ('late')")
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in ("open.db", "open.db-wal"):
        shutil.copy(tmp_path / name, folder / name)
    writer.close()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    before = {one.name: one.read_bytes() for one in folder.iterdir()}
    reading = Reading(TYPE, scratch=scratch, sidecars={".db-wal": folder / "open.db-wal"})
    pieces = list(sqlite.extractor.extract(folder / "open.db", reading))
    assert [text for _, text in shown(pieces)] == ["word: late"]
    assert {one.name: one.read_bytes() for one in folder.iterdir()} == before


def test_rows_over_the_limit_are_counted(tmp_path: Path) -> None:
    path = made(tmp_path, "CREATE TABLE t (n); WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c LIMIT 50) INSERT INTO t SELECT i FROM c")
    assert Counter(piece.dropped for piece in read(path, max_rows=20) if piece.kind != "metadata") == {"": 20, "row over the limit": 30}


def test_endless_work_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(tmp_path, "CREATE TABLE t (n); WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c LIMIT 500) INSERT INTO t SELECT i FROM c")
    monkeypatch.setattr(sqlite, "STEPS", 100)
    monkeypatch.setattr(sqlite, "MAX_MILLION_STEPS", 3)
    with pytest.raises(ExtractError, match="endless") as caught:
        read(path)
    assert caught.value.refused


@pytest.mark.parametrize("statement", ["DELETE FROM t", "ATTACH 'x.db' AS x", "SELECT load_extension('x')", "SELECT hex(n) FROM t", "PRAGMA journal_mode=WAL", "SELECT * FROM seen, t WHERE abs(n)"])
def test_nothing_but_stored_columns_can_be_asked_for(tmp_path: Path, statement: str) -> None:
    path = made(tmp_path, "CREATE TABLE t (n); CREATE VIEW seen AS SELECT 1")
    with pytest.raises(sqlite3.DatabaseError, match=r"not authorized|prohibited"):
        sqlite._opened(path, Reading(TYPE)).execute(statement)


def test_damaged_databases_are_said(tmp_path: Path) -> None:
    path = made(tmp_path, "CREATE TABLE t (n); WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c LIMIT 5000) INSERT INTO t SELECT hex(zeroblob(20)) FROM c")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ExtractError, match="damaged database"):
        read(path)


@given(st.lists(st.tuples(st.integers(100, 12_000), st.integers(0, 255)), min_size=1, max_size=40))
def test_no_changed_bytes_break_the_reader(tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]) -> None:
    folder = tmp_path_factory.mktemp("s")
    path = made(folder, "CREATE TABLE t (n, question, answer); INSERT INTO t VALUES (1, 'Q', 'A'); CREATE VIRTUAL TABLE f USING fts5(x); INSERT INTO f VALUES ('a')")
    content = bytearray(path.read_bytes())
    for place, value in changes:
        content[place % len(content) if place % len(content) > 99 else 100] = value
    path.write_bytes(bytes(content))
    try:
        assert all(isinstance(piece, Piece) for piece in read(path))
    except ExtractError:
        return
