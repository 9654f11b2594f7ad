"""Databases as sources, against real servers: rows come out complete, ordered and the same every time; nothing is written."""

from __future__ import annotations

import datetime
import json
import sqlite3
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest

from forge.errors import ForgeError, MissingAccess, UsageError
from forge.plugins.sources import _rows
from forge.plugins.sources._rows import is_ordered, sorted_lines
from forge.plugins.sources._values import plain_value
from tests.servers.databases import PASSWORD, documents, mariadb, postgresql
from tests.test_plugins.sources_world import World

TICKETS = [(3, "Pump leaks", "Replace the gasket — 100 % tight."), (1, "No power", "Check fuse F2."), (2, "Noise", None)]


@pytest.fixture(scope="module")
def postgres() -> Iterator[int]:
    """A PostgreSQL with a table of tickets and one of every interesting type."""
    import psycopg

    with postgresql() as port:
        with psycopg.connect(host="127.0.0.1", port=port, user="owner", password=PASSWORD, dbname="postgres") as connection:
            connection.execute("CREATE TABLE ticket(id int, title text, body text)")
            connection.execute("CREATE SEQUENCE counter")
            connection.cursor().executemany("INSERT INTO ticket VALUES(%s, %s, %s)", TICKETS)
            connection.execute(
                "CREATE TABLE kinds AS SELECT 12.50::numeric AS price, DATE '2026-02-03' AS day, TIMESTAMPTZ '2026-02-03 10:00+02' AS at, '\\xdeadbeef'::bytea AS raw,"
                " '{\"b\": 1, \"a\": [1, null]}'::jsonb AS doc, ARRAY['x','y'] AS tags, NULL::int AS gone, 'NaN'::float8 AS odd, INTERVAL '1 day 2 hours' AS span,"
                " '6ba7b810-9dad-11d1-80b4-00c04fd430c8'::uuid AS key, true AS yes"
            )
        yield port


@pytest.fixture(scope="module")
def maria() -> Iterator[int]:
    """A MariaDB with the same tickets."""
    import pymysql

    with mariadb() as port:
        with pymysql.connect(host="127.0.0.1", port=port, user="owner", password=PASSWORD, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE DATABASE shop CHARACTER SET utf8mb4")
            cursor.execute("CREATE TABLE shop.ticket(id int, title text, body text)")
            cursor.executemany("INSERT INTO shop.ticket VALUES(%s, %s, %s)", TICKETS)
            cursor.execute("CREATE TABLE shop.kinds(price decimal(8,2), at timestamp, gap time, raw varbinary(20), doc json)")
            cursor.execute("SET time_zone='+00:00'")
            cursor.execute("INSERT INTO shop.kinds VALUES(12.5, '2026-02-03 10:00:00', '-26:03:04', x'deadbeef', '{\"a\": 1}')")
        yield port


@pytest.fixture(scope="module")
def mongo() -> Iterator[int]:
    """A document store with the wire protocol of MongoDB and a collection of notes."""
    import bson
    import pymongo

    with documents() as port:
        client: Any = pymongo.MongoClient(f"mongodb://127.0.0.1:{port}")
        notes = client["lab"]["notes"]
        notes.insert_many([
            {"_id": 2, "title": "Beta", "text": "second", "when": datetime.datetime(2026, 2, 3, 10, tzinfo=datetime.UTC), "price": bson.Decimal128("1.50")},
            {"_id": 1, "title": "Alpha", "text": "first", "tags": ["x", "y"], "key": bson.ObjectId("65a0000000000000000000ff")},
            {"_id": 3, "title": "Gamma", "text": "third", "nested": {"b": 1, "a": None}},
        ])
        client.close()
        yield port


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", PASSWORD)


def pg(port: int, **more: Any) -> dict[str, Any]:
    return {"name": "shop", "kind": "postgresql", "host": "127.0.0.1", "port": port, "user": "owner", "database": "postgres", "password_env": "SHOP_PASSWORD", **more}


def my(port: int, **more: Any) -> dict[str, Any]:
    return {"name": "shop", "kind": "mysql", "host": "127.0.0.1", "port": port, "user": "owner", "database": "shop", "password_env": "SHOP_PASSWORD", **more}


def mg(port: int, *queries: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "notes", "kind": "mongodb", "url": f"mongodb://127.0.0.1:{port}", "database": "lab", "queries": list(queries), **more}


# --- PostgreSQL ------------------------------------------------------------------------------------------------


def test_postgresql_rows_become_json_lines_in_the_order_of_the_query(tmp_path: Path, postgres: int) -> None:
    world = World(tmp_path, pg(postgres, query="SELECT * FROM ticket WHERE title LIKE '%o%' OR body LIKE '%:%' OR id = 3 ORDER BY id DESC;"))
    assert [entry.path for entry in world.bring()] == ["shop/rows.jsonl"]
    assert world.rows("shop/rows.jsonl") == [
        {"id": 3, "title": "Pump leaks", "body": "Replace the gasket — 100 % tight."},
        {"id": 2, "title": "Noise", "body": None},
        {"id": 1, "title": "No power", "body": "Check fuse F2."},
    ]


def test_rows_without_an_order_are_sorted_by_id(tmp_path: Path, postgres: int) -> None:
    world = World(tmp_path, pg(postgres, query="SELECT title, id FROM ticket", id="id"))
    world.bring()
    assert [row["id"] for row in world.rows("shop/rows.jsonl")] == [1, 2, 3]


def test_postgresql_types_are_the_same_every_time(tmp_path: Path, postgres: int) -> None:
    world = World(tmp_path, pg(postgres, query="SELECT * FROM kinds"))
    first = world.bring()
    assert world.rows("shop/rows.jsonl") == [{
        "price": "12.50", "day": "2026-02-03", "at": "2026-02-03T08:00:00+00:00", "raw": "deadbeef", "doc": {"a": [1, None], "b": 1},
        "tags": ["x", "y"], "gone": None, "odd": "nan", "span": "26:00:00", "key": "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "yes": True,
    }]
    assert world.bring(refetch=True) == first


def test_several_queries_see_one_snapshot_and_become_one_file_each(tmp_path: Path, postgres: int) -> None:
    queries = [
        {"name": "titles", "query": "SELECT id, title FROM ticket ORDER BY id", "columns": ["title"]},
        {"name": "bodies", "query": "SELECT id, title, body FROM ticket ORDER BY id", "id": "id", "text": "{title}: {body}"},
    ]
    world = World(tmp_path, pg(postgres, queries=queries))
    assert [entry.path for entry in world.bring()] == ["shop/bodies.jsonl", "shop/titles.jsonl"]
    assert world.rows("shop/titles.jsonl")[0] == {"title": "No power"}
    assert world.rows("shop/bodies.jsonl")[1] == {"id": 2, "text": "Noise: "}
    assert world.manifest("shop")["facts"] == {"rows": {"titles": 3, "bodies": 3}}


def test_a_query_that_writes_is_refused_by_the_server_too(tmp_path: Path, postgres: int) -> None:
    world = World(tmp_path, pg(postgres, query="SELECT nextval('counter') n"))
    with pytest.raises(ForgeError) as caught:
        world.bring()
    assert caught.value.fact == 'source "shop": the query "rows" fails'
    assert "read-only transaction" in caught.value.why


def test_a_slow_query_is_ended_by_the_server(tmp_path: Path, postgres: int) -> None:
    world = World(tmp_path, pg(postgres, query="SELECT pg_sleep(30)", timeout_seconds=0.2))
    began = time.monotonic()
    with pytest.raises(ForgeError) as caught:
        world.bring()
    assert "statement timeout" in caught.value.why
    assert time.monotonic() - began < 25


def test_too_many_rows_are_an_error_and_not_a_silent_cut(tmp_path: Path, postgres: int) -> None:
    world = World(tmp_path, pg(postgres, query="SELECT generate_series(1, 1000000) n", max_rows=100))
    with pytest.raises(ForgeError, match="more than 100 rows"):
        world.bring()


def test_a_preview_counts_and_shows_rows_without_reading_them_all(tmp_path: Path, postgres: int) -> None:
    world = World(tmp_path, pg(postgres, query="SELECT g AS id, md5(g::text) AS word FROM generate_series(1, 300000) g ORDER BY g"))
    found = world.preview()
    assert (found.files, found.rows, len(found.samples)) == (1, 300000, 3)
    assert found.samples[0].text == "id: 1; word: c4ca4238a0b923820dcc509a6f75849b"


def test_a_url_from_the_environment_with_escaped_characters_works(tmp_path: Path, postgres: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgres://owner:{quote(PASSWORD, safe='')}@127.0.0.1:{postgres}/postgres")
    world = World(tmp_path, {"name": "shop", "kind": "postgresql", "url_env": "DATABASE_URL", "query": "SELECT count(*) n FROM ticket"})
    world.bring()
    assert world.rows("shop/rows.jsonl") == [{"n": 3}]
    assert PASSWORD.encode() not in world.everything_written()
    assert quote(PASSWORD, safe="").encode() not in world.everything_written()


@pytest.mark.parametrize("url", ["postgresql://owner:{wrong}@127.0.0.1:{port}/postgres", "postgresql://owner:{wrong}@127.0.0.1:{port}/no_such", "postgresql+nodriver://owner:{wrong}@h/d", "not a url {wrong}", "mysql://owner:{wrong}@127.0.0.1/x"])
def test_no_error_shows_a_password(tmp_path: Path, postgres: int, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    wrong = "Hunter2-Hunter2"
    monkeypatch.setenv("DATABASE_URL", url.format(wrong=wrong, port=postgres))
    world = World(tmp_path, {"name": "shop", "kind": "postgresql", "url_env": "DATABASE_URL", "query": "SELECT 1 n"})
    with pytest.raises(ForgeError) as caught:
        world.bring()
    said = repr(caught.getrepr(chain=True)) + str(caught.value) + str(caught.value.__cause__)
    assert 'source "shop"' in str(caught.value)
    assert wrong not in str(caught.value) + str(caught.value.__cause__)
    assert said
    assert wrong.encode() not in world.everything_written()


def test_a_missing_variable_is_named(tmp_path: Path, postgres: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOP_PASSWORD")
    with pytest.raises(MissingAccess, match="SHOP_PASSWORD is not set") as caught:
        World(tmp_path, pg(postgres, query="SELECT 1")).bring()
    assert caught.value.next == "export SHOP_PASSWORD=… and repeat the command"


# --- MariaDB ---------------------------------------------------------------------------------------------------


def test_mariadb_rows_come_out_with_their_types(tmp_path: Path, maria: int) -> None:
    queries = [{"name": "tickets", "query": "SELECT * FROM ticket WHERE title LIKE '%o%'"}, {"name": "kinds", "query": "SELECT * FROM kinds"}]
    world = World(tmp_path, my(maria, queries=queries))
    first = world.bring()
    assert [row["title"] for row in world.rows("shop/tickets.jsonl")] == ["No power", "Noise"]
    assert world.rows("shop/kinds.jsonl") == [{"price": "12.50", "at": "2026-02-03T10:00:00", "gap": "-26:03:04", "raw": "deadbeef", "doc": '{"a": 1}'}]
    assert world.bring(refetch=True) == first


def test_mariadb_reads_in_a_read_only_transaction(tmp_path: Path, maria: int) -> None:
    import pymysql

    with pymysql.connect(host="127.0.0.1", port=maria, user="owner", password=PASSWORD, autocommit=True, database="shop") as connection, connection.cursor() as cursor:
        cursor.execute("CREATE OR REPLACE FUNCTION sneak() RETURNS int MODIFIES SQL DATA BEGIN DELETE FROM ticket; RETURN 1; END")
        cursor.execute("SELECT count(*) FROM ticket")
        before = cursor.fetchone()
        with pytest.raises(ForgeError) as caught:
            World(tmp_path, my(maria, query="SELECT sneak() AS n")).bring()
        assert "READ ONLY" in caught.value.why
        cursor.execute("SELECT count(*) FROM ticket")
        assert cursor.fetchone() == before


def test_a_slow_mariadb_query_is_ended(tmp_path: Path, maria: int) -> None:
    world = World(tmp_path, my(maria, query="SELECT SUM(a.seq * b.seq) n FROM seq_1_to_100000 a, seq_1_to_100000 b", timeout_seconds=0.3))
    with pytest.raises(ForgeError, match="fails") as caught:
        world.bring()
    assert "max_statement_time" in caught.value.why


def test_a_preview_of_a_large_mariadb_result_does_not_read_it_to_the_end(tmp_path: Path, maria: int) -> None:
    world = World(tmp_path, my(maria, query="SELECT seq AS id, REPEAT('x', 2000) AS pad FROM seq_1_to_400000"))
    began = time.process_time()
    found = world.preview()
    assert (found.rows, len(found.samples)) == (400000, 3)
    assert time.process_time() - began < 2   # all 800 MB take about 4 CPU seconds


# --- SQLite and DuckDB -----------------------------------------------------------------------------------------


def test_sqlite_is_opened_for_reading_only(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "shop.db") as made:
        made.execute("CREATE TABLE ticket(id, title, raw)")
        made.executemany("INSERT INTO ticket VALUES(?, ?, ?)", [(2, "b", b"\x00" * 40), (1, "a", None)])
    made.close()
    before = (tmp_path / "shop.db").read_bytes()
    world = World(tmp_path, {"name": "shop", "kind": "sqlite", "path": "shop.db", "query": "SELECT * FROM ticket WHERE title <> ':x'", "id": "id"})
    world.bring()
    assert world.rows("shop/rows.jsonl") == [
        {"id": 1, "title": "a", "raw": None}, {"id": 2, "title": "b", "raw": "(40 bytes, sha256 2c34ce1df23b838c)"},
    ]
    assert world.preview().rows == 2
    assert (tmp_path / "shop.db").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "shop.db", "sources.yaml"]


def test_a_sqlite_query_without_end_is_stopped(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "shop.db").execute("CREATE TABLE t(x)").connection.close()
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) c FROM n"
    with pytest.raises(ForgeError, match="fails") as caught:
        World(tmp_path, {"name": "shop", "kind": "sqlite", "path": "shop.db", "query": endless, "timeout_seconds": 0.2}).bring()
    assert caught.value.why == "interrupted"


def test_duckdb_reads_its_file_and_no_other(tmp_path: Path) -> None:
    import duckdb

    with duckdb.connect(str(tmp_path / "lab.duckdb")) as made:
        made.execute("CREATE TABLE reading AS SELECT i AS id, {'unit': 'V', 'value': i / 4.0} AS m, [i, NULL] AS l, TIMESTAMPTZ '2026-01-01 00:00:00+02' AS at FROM range(3, 0, -1) t(i)")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    entry = {"name": "lab", "kind": "duckdb", "path": "lab.duckdb", "query": "SELECT * FROM reading", "id": "id"}
    world = World(tmp_path, entry)
    world.bring()
    assert [row["id"] for row in world.rows("lab/rows.jsonl")] == [1, 2, 3]
    assert world.rows("lab/rows.jsonl")[0]["at"] == "2025-12-31T22:00:00+00:00"
    assert world.preview().rows == 3
    sneaky = {**entry, "query": f"SELECT * FROM '{tmp_path}/other.csv'", "id": ""}
    world.write(sneaky)
    with pytest.raises(ForgeError, match="fails"):
        world.bring()
    world.write({**sneaky, "external_access": True})
    world.bring()
    assert world.rows("lab/rows.jsonl") == [{"a": 1, "b": 2}]


# --- documents -------------------------------------------------------------------------------------------------


def test_documents_come_in_the_order_of_their_ids(tmp_path: Path, mongo: int) -> None:
    world = World(tmp_path, mg(mongo, {"name": "all", "collection": "notes"}))
    world.bring()
    assert world.rows("notes/all.jsonl") == [
        {"_id": 1, "title": "Alpha", "text": "first", "tags": ["x", "y"], "key": "65a0000000000000000000ff"},
        {"_id": 2, "title": "Beta", "text": "second", "when": "2026-02-03T10:00:00+00:00", "price": "1.50"},
        {"_id": 3, "title": "Gamma", "text": "third", "nested": {"a": None, "b": 1}},
    ]


def test_filters_projections_sorts_and_pipelines_choose_documents(tmp_path: Path, mongo: int) -> None:
    world = World(tmp_path, mg(
        mongo,
        {"name": "late", "collection": "notes", "filter": {"_id": {"$gte": 2}}, "projection": {"title": 1}, "sort": {"title": -1}},
        {"name": "key", "collection": "notes", "filter": {"key": {"$oid": "65a0000000000000000000ff"}}, "text": "{title}/{text}"},
        {"name": "sums", "collection": "notes", "pipeline": [{"$group": {"_id": "$title", "n": {"$sum": 1}}}], "id": "_id"},
    ))
    world.bring()
    assert world.rows("notes/late.jsonl") == [{"_id": 3, "title": "Gamma"}, {"_id": 2, "title": "Beta"}]
    assert world.rows("notes/key.jsonl") == [{"text": "Alpha/first"}]
    assert [row["_id"] for row in world.rows("notes/sums.jsonl")] == ["Alpha", "Beta", "Gamma"]


def test_a_preview_of_documents_counts_and_shows(tmp_path: Path, mongo: int) -> None:
    found = World(tmp_path, mg(mongo, {"name": "all", "collection": "notes"})).preview(2)
    assert (found.rows, [sample.place for sample in found.samples]) == (3, ["all:row=1", "all:row=2"])


def test_a_pipeline_that_writes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        World(tmp_path, mg(1, {"name": "a", "collection": "notes", "pipeline": [{"$out": "x"}]})).bring()
    assert "$out writes" in caught.value.why


def test_documents_behind_a_login(tmp_path: Path) -> None:
    import pymongo

    data = tmp_path / "data"
    with documents(data=data) as port:
        client: Any = pymongo.MongoClient(f"mongodb://127.0.0.1:{port}")
        client["lab"]["notes"].insert_one({"_id": 1, "title": "Kept"})
        client["admin"].command("createUser", "owner", pwd=PASSWORD, roles=[{"role": "root", "db": "admin"}])
        client.close()
    with documents(auth=True, data=data) as port:
        entry = mg(port, {"name": "all", "collection": "notes"}, user="owner", password_env="SHOP_PASSWORD")
        world = World(tmp_path, entry)
        world.bring()
        assert world.rows("notes/all.jsonl") == [{"_id": 1, "title": "Kept"}]
        assert PASSWORD.encode() not in world.everything_written()
        world.write({**entry, "user": "nobody"})
        with pytest.raises(ForgeError) as caught:
            world.bring()
        assert PASSWORD not in str(caught.value)


# --- what all of them share ------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", [
    "DELETE FROM t", "SELECT 1; DROP TABLE t", "WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x", "SELECT * INTO t2 FROM t",
    "SELECT 1 INTO OUTFILE '/tmp/x'", "/* SELECT */ UPDATE t SET a=1", "CALL p()", ";", "PRAGMA writable_schema=1", "COPY t TO '/tmp/x'",
])
def test_a_query_that_does_not_read_is_refused_before_anything_is_asked(tmp_path: Path, query: str) -> None:
    with pytest.raises(UsageError):
        World(tmp_path, {"name": "shop", "kind": "sqlite", "path": "x.db", "query": query}).bring()


@pytest.mark.parametrize("query", [
    "SELECT 'DELETE; it' FROM t;", "select \"update\" from t -- ; drop", "(SELECT 1) UNION (SELECT 2)", "-- note\nWITH a AS (SELECT 1) SELECT * FROM a",
])
def test_words_in_strings_names_and_comments_do_not_count(query: str) -> None:
    assert _rows.Query(query=query).query


@pytest.mark.parametrize(("query", "ordered"), [
    ("SELECT * FROM t ORDER\n BY id", True), ("SELECT row_number() OVER (ORDER BY a) FROM t", False), ("SELECT 'order by' FROM t", False),
    ("SELECT * FROM (SELECT * FROM t ORDER BY a LIMIT 3) x", False), ("SELECT * FROM (SELECT f(a) FROM t) x order by 1", True), ("SELECT * FROM t -- ORDER BY a", False),
])
def test_only_an_order_of_the_whole_query_counts(query: str, ordered: bool) -> None:
    assert is_ordered(query) is ordered


@pytest.mark.parametrize(("value", "plain"), [
    (Decimal("1E+3"), "1000"), (Decimal("NaN"), "NaN"), (float("inf"), "inf"), (-0.5, -0.5), (True, True), (b"\x00\xff", "00ff"), (b"", ""),
    (datetime.time(1, 2), "01:02:00"), (datetime.timedelta(seconds=-1.5), "-00:00:01.500000"), ({2: "b", 1: "a"}, {"1": "a", "2": "b"}),
    (frozenset({"b", "a"}), ["a", "b"]), (UUID(int=1), "00000000-0000-0000-0000-000000000001"), (object(), "object"), ("a\x00b", "ab"),
    (memoryview(b"ab"), "6162"), ((1, None), [1, None]),
])
def test_any_value_has_one_form_in_json(value: Any, plain: Any) -> None:
    assert plain_value(value) == plain
    json.dumps(plain_value(value), allow_nan=False)


def test_sorting_needs_no_more_memory_than_one_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rows, "SORT_ROWS", 10)
    lines = [(str(number * 7919 % 101), f'{{"n": "{number}\\n"}}') for number in range(101)]
    assert list(sorted_lines(iter(lines), tmp_path)) == [line for _, line in sorted(lines)]
    assert len(list(tmp_path.iterdir())) == 11


def test_a_long_query_tells_how_far_it_is(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "shop.db").execute("CREATE TABLE t(x)").connection.close()
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600) SELECT i FROM n"
    world = World(tmp_path, {"name": "shop", "kind": "sqlite", "path": "shop.db", "query": numbers})
    world.bring()
    assert world.steps == [("shop", 0, None), ("shop", 256, None), ("shop", 512, None)]


def test_csv_keeps_quotes_and_line_ends(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "shop.db") as made:
        made.execute("CREATE TABLE t(a, b)")
        made.execute("INSERT INTO t VALUES('x\ny', '\"q\"')")
    made.close()
    world = World(tmp_path, {"name": "shop", "kind": "sqlite", "path": "shop.db", "query": "SELECT a, b, a FROM t", "format": "csv"})
    assert [entry.path for entry in world.bring()] == ["shop/rows.csv"]
    assert world.texts() == {"shop/rows.csv": 'a,b,a_2\n"x\ny","""q""","x\ny"\n'}


def test_a_template_with_an_unknown_column_names_the_known_ones(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "shop.db").execute("CREATE TABLE t(x)").connection.close()
    with pytest.raises(ForgeError, match='gives no column "titel"') as caught:
        World(tmp_path, {"name": "shop", "kind": "sqlite", "path": "shop.db", "query": "SELECT 1 AS title", "text": "{titel}"}).bring()
    assert caught.value.why == "its columns are title"


@pytest.mark.parametrize("right", [True, False])
def test_a_whole_run_leaves_no_password_anywhere(
    tmp_path: Path, postgres: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], right: bool
) -> None:
    from forge.cli.app import run_command
    from forge.run import home

    password = PASSWORD if right else "Hunter2!Hunter2!"
    monkeypatch.setenv("DATABASE_URL", f"postgresql://owner:{quote(password, safe='')}@127.0.0.1:{postgres}/postgres")
    entry = {"name": "shop", "kind": "postgresql", "url_env": "DATABASE_URL", "query": "SELECT * FROM ticket"}
    file = World(tmp_path, entry).file
    assert run_command(["run", str(file), "--until", "prep", "--id", "one"]) == (0 if right else 1)
    assert run_command(["run", str(file), "--preview", "--json"]) == (0 if right else 1)
    said = capsys.readouterr()
    written = b"".join(path.read_bytes() for path in home().rglob("*") if path.is_file())
    assert len(written) > 1000
    for secret in (password, quote(password, safe="")):
        assert secret not in said.out + said.err
        assert secret.encode() not in written
    assert ("password authentication failed" in said.err) is not right
