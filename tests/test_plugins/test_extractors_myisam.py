"""MyISAM tables, EndNote libraries and InnoDB files, against what the server that wrote them says is in them.

myisam_tables.zip comes from make_myisam_tables.py (MariaDB 10.11).
"""

from __future__ import annotations

import json
import random
import sqlite3
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest

from forge.errors import ExtractError
from forge.plugins.extractors import endnote, innodb, myisam
from forge.plugins.extractors._myisam import open_table
from forge.plugins.extractors._myisam.frm import parse_form
from forge.plugins.extractors._myisam.rows import layout_from_form, layout_from_index
from forge.protocols import Embedded, Reading
from forge.records import Piece

TABLES = Path(__file__).with_name("myisam_tables.zip")
PLAIN = ("chars", "fixed", "kinds", "moved", "refs", "summed", "summed_text", "tiny")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with zipfile.ZipFile(TABLES) as archive:
        for name in archive.namelist():
            (tmp_path / name).write_bytes(archive.read(name))
    return tmp_path


def expected(folder: Path, table: str) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = json.loads((folder / "expected.json").read_text(encoding="utf-8"))[table]
    return rows


def beside(path: Path) -> dict[str, Path]:
    """The sidecars that prep would hand over."""
    return {one.suffix.lower(): one for one in path.parent.glob(path.stem + ".*") if one != path}


def read_table(path: Path, **options: int) -> list[Piece]:
    return list(myisam.extractor.extract(path, Reading(myisam.ROWS, name=path.name, sidecars=beside(path), options=options)))


def read_library(path: Path, scratch: Path, sidecars: dict[str, Path] | None = None) -> list[Piece | Embedded]:
    scratch.mkdir(exist_ok=True)
    found: list[Piece | Embedded] = []
    for one in endnote.extractor.extract(path, Reading(endnote.MEDIA_TYPE, name=path.name, scratch=scratch, sidecars=sidecars or {})):
        if isinstance(one, Embedded):
            assert b"".join(one.chunks)
        found.append(one)
    return found


def pieces(found: list[Piece | Embedded]) -> list[Piece]:
    return [one for one in found if isinstance(one, Piece)]


# --- rows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", PLAIN)
@pytest.mark.parametrize("with_index", [True, False])
def test_every_cell_is_what_the_server_says(folder: Path, table: str, with_index: bool) -> None:
    index = folder / f"{table}.MYI" if with_index else None
    opened = open_table(folder / f"{table}.frm", folder / f"{table}.MYD", index)
    rows = [{opened.names[at]: text for at, text in cells} for _, cells in opened.rows()]
    assert opened.damaged == 0
    assert opened.binary == (3 if table == "kinds" else 1 if table == "refs" else 0)
    assert rows == expected(folder, table)


@pytest.mark.parametrize("table", PLAIN)
def test_the_layout_rebuilt_from_the_frm_is_that_of_the_index(folder: Path, table: str) -> None:
    rebuilt = layout_from_form(parse_form((folder / f"{table}.frm").read_bytes()))
    stated = layout_from_index((folder / f"{table}.MYI").read_bytes())
    assert (rebuilt.fields, rebuilt.flag_bytes, rebuilt.dynamic) == (stated.fields, stated.flag_bytes, stated.dynamic)
    assert rebuilt.dynamic or rebuilt.stride == stated.stride


def test_rows_are_text_with_their_columns_and_deleted_ones_stay_out(folder: Path) -> None:
    found = read_table(folder / "fixed.MYD")
    assert found[0].kind == "metadata"
    assert [(piece.text, piece.locator) for piece in found[1:]] == [
        ("id: 1; code: alpha; kind: a; price: 1.25; flag: 5", "row=1"), ("id: 2; code: beta; n: 7; kind: b; price: -99.99", "row=2"),
        ("id: 4; code: delta; n: -4; kind: b; flag: 1", "row=3"),
    ]  # fmt: skip


def test_rows_beyond_the_limit_are_counted(folder: Path) -> None:
    found = read_table(folder / "moved.MYD", max_rows=5)
    assert sum(piece.locator.startswith("row=") for piece in found) == 5
    assert sum(piece.dropped == "row over the limit" for piece in found) == len(expected(folder, "moved")) - 5


def test_a_reader_may_stop_in_the_middle(folder: Path) -> None:
    path = folder / "moved.MYD"
    rows = iter(myisam.extractor.extract(path, Reading(myisam.ROWS, sidecars=beside(path))))
    assert [next(rows).locator, next(rows).locator] == ["header", "row=1"]
    rows.close()  # type: ignore[attr-defined]


def test_a_packed_table_says_how_to_unpack_it(folder: Path) -> None:
    for sidecars in (beside(folder / "packed.MYD"), {".frm": folder / "packed.frm"}):
        with pytest.raises(ExtractError, match="myisampack"):
            list(myisam.extractor.extract(folder / "packed.MYD", Reading(myisam.ROWS, sidecars=sidecars)))


def test_rows_without_their_frm_say_what_is_missing(folder: Path) -> None:
    with pytest.raises(ExtractError, match=r"without its \.frm"):
        list(myisam.extractor.extract(folder / "fixed.MYD", Reading(myisam.ROWS, name="db/fixed.MYD")))


def test_a_damaged_index_is_not_needed(folder: Path) -> None:
    (folder / "moved.MYI").write_bytes(b"\xfe\xfe\x07\x01\0\x01" + b"\xff" * 200)
    found = read_table(folder / "moved.MYD")
    assert sum(piece.locator.startswith("row=") for piece in found) == len(expected(folder, "moved"))
    assert "index (" in found[-1].dropped


def test_a_definition_and_an_index_alone_tell_of_their_columns(folder: Path) -> None:
    (form,) = myisam.extractor.extract(folder / "inno.frm", Reading(myisam.FORM))
    assert form.kind == "metadata"
    assert form.text.endswith("id, question, answer")
    (index,) = myisam.extractor.extract(folder / "tiny.MYI", Reading(myisam.INDEX))
    assert index.kind == "metadata"


def test_tables_are_recognised_by_name_where_the_content_allows() -> None:
    accepts = myisam.extractor.accepts
    assert accepts(b"\xfd\x01", "db/T.MYD") == myisam.ROWS
    assert accepts(b"\xfe\x01\x0a", "t.frm") == myisam.FORM
    assert accepts(b"an order form", "t.frm") == ""
    assert accepts(b"text", "t.txt") == ""


# --- hostile tables --------------------------------------------------------------------------------------------


def test_blocks_that_link_in_a_circle_end(folder: Path) -> None:
    data = bytearray(40)
    data[0:16] = b"\x0d" + struct.pack(">IBHQ", 1 << 31, 0, 4, 20)  # a row of 2 GiB whose part points at itself
    data[20:32] = b"\x0b" + struct.pack(">HQ", 4, 20) + b"\0"
    (folder / "moved.MYD").write_bytes(data)
    tracemalloc.start()
    found = read_table(folder / "moved.MYD")
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
    assert {piece.dropped for piece in found[1:]} == {"damaged row"}


def test_rows_that_share_their_blocks_are_refused(folder: Path) -> None:
    """Every first block points at the same last one: each row would be as large as the file."""
    count, tail = 2_000, 60_000
    start = 20 * count
    heads = (b"\x05" + struct.pack(">HHQ", tail + 4, 4, start) + b"abcd" + b"\0\0\0" for _ in range(count))
    (folder / "moved.MYD").write_bytes(b"".join(heads) + b"\x07" + struct.pack(">H", tail) + b"x" * (tail + 5))
    with pytest.raises(ExtractError, match="share"):
        read_table(folder / "moved.MYD")


@pytest.mark.parametrize("table", ["moved", "fixed", "kinds", "refs"])
def test_flipped_bytes_in_any_of_the_files_are_an_extract_error_or_damaged_rows(folder: Path, table: str) -> None:
    rng = random.Random(table)
    whole = {suffix: (folder / f"{table}{suffix}").read_bytes() for suffix in (".frm", ".MYD", ".MYI")}
    for number in range(90):
        suffix = (".frm", ".MYD", ".MYI")[number % 3]
        for one, data in whole.items():
            (folder / f"{table}{one}").write_bytes(data)
        flipped = bytearray(whole[suffix])
        for _ in range(1 + number % 9):
            flipped[rng.randrange(len(flipped))] = rng.choice((0, 255, rng.randrange(256)))
        (folder / f"{table}{suffix}").write_bytes(flipped[: rng.randrange(1, len(flipped))] if number % 4 == 0 else flipped)
        try:
            read_table(folder / f"{table}.MYD")
        except ExtractError:
            continue


# --- EndNote ---------------------------------------------------------------------------------------------------

FIRST = (
    "Authors: Müller, Ada; Lovelace, Grace\nYear: 2012\nJournal: Journal of Coasts\nVolume: 7\nIssue: 2\nPages: 3-14\nDOI: 10.1/xyz\n"
    "ISBN/ISSN: 1234-5678\nURL: https://example.org/tides\nAbstract: We measured the water & the wind.\nBoth rose.\nKeywords: tides; harbour\nNotes: Read twice."
)


def is_the_library(found: list[Piece]) -> bool:
    kept = [piece for piece in found if not piece.dropped]
    assert [piece.text for piece in kept if piece.kind == "heading"] == ["Tides of the northern harbour", "Lamps and their keepers"]
    assert kept[1].text == FIRST
    assert kept[1].heading == "Tides of the northern harbour"
    assert kept[1].locator == "reference=1"
    assert "Notes: Ch. 3 covers H2 lamps." in kept[3].text
    assert [piece.dropped for piece in found if "thrown away" in piece.text] == ["reference in the trash"]
    return True


def sqlite_library(folder: Path, path: Path, table: str, *, abstracts: bool = True) -> Path:
    rows = expected(folder, "refs")
    names = sorted({name for row in rows for name in row} - (set() if abstracts else {"abstract"}))
    with sqlite3.connect(path) as database:
        database.execute(f"CREATE TABLE {table}({', '.join(names)})")
        database.executemany(f"INSERT INTO {table} VALUES({','.join('?' * len(names))})", [[row.get(name, "") for name in names] for row in rows])
    database.close()
    return path


def test_a_library_that_is_a_zip_of_a_table_is_read(folder: Path) -> None:
    with zipfile.ZipFile(folder / "My.enl", "w") as archive:
        archive.write(folder / "refs.frm", "refs.frm")
        archive.write(folder / "refs.MYD", "refs.MYD")
    assert endnote.extractor.accepts((folder / "My.enl").read_bytes(), "lib/My.enl")
    assert is_the_library(pieces(read_library(folder / "My.enl", folder / "scratch")))


def test_an_empty_library_is_read_from_the_folder_beside_it(folder: Path) -> None:
    (folder / "My.enl").write_bytes(b"")
    sidecars = {f".data/rdb/refs.{kind.lower()}": folder / f"refs.{kind}" for kind in ("frm", "MYD", "MYI")}
    sidecars |= {f".data/tdb/refs.{kind.lower()}": folder / f"tiny.{kind}" for kind in ("frm", "MYD")}
    assert endnote.extractor.accepts(b"", "My.enl")
    assert is_the_library(pieces(read_library(folder / "My.enl", folder / "scratch", sidecars)))


def test_a_library_in_sqlite_takes_abstracts_from_the_database_beside_it(folder: Path) -> None:
    library = sqlite_library(folder, folder / "My.enl", "enl_refs", abstracts=False)
    full = sqlite_library(folder, folder / "sdb.eni", "refs")
    assert endnote.extractor.accepts(library.read_bytes(), "My.enl")
    assert is_the_library(pieces(read_library(library, folder / "scratch", {".data/sdb/sdb.eni": full})))
    alone = pieces(read_library(library, folder / "scratch"))
    assert alone[1].text == FIRST.replace("Abstract: We measured the water & the wind.\nBoth rose.\n", "")


def test_a_packed_library_hands_over_its_documents(folder: Path) -> None:
    with zipfile.ZipFile(folder / "My.enlx", "w") as archive:
        archive.writestr("My.enl", b"")
        for kind in ("frm", "MYD", "MYI"):
            archive.write(folder / f"refs.{kind}", f"My.Data/rdb/refs.{kind}")
            archive.write(folder / f"tiny.{kind}", f"My.Data/Trash/rdb/refs.{kind}")
        archive.writestr("My.Data/PDF/0001/tides.pdf", b"%PDF-1.4 ...")
    found = read_library(folder / "My.enlx", folder / "scratch")
    assert is_the_library(pieces(found))
    assert [one.name for one in found if isinstance(one, Embedded)] == ["My.Data/PDF/0001/tides.pdf"]


def test_a_library_without_its_folder_or_with_garbage_is_an_error(folder: Path) -> None:
    with zipfile.ZipFile(folder / "other.enl", "w") as archive:
        archive.writestr("readme.txt", b"nothing here")
    bad = [b"", b"SQLite format 3\0" + b"\xff" * 200, b"PK\x03\x04" + b"x" * 50, (folder / "other.enl").read_bytes(), b"SQLite format 3\0"]
    for data in bad:
        (folder / "bad.enl").write_bytes(data)
        with pytest.raises(ExtractError):
            read_library(folder / "bad.enl", folder / "scratch")


# --- InnoDB ----------------------------------------------------------------------------------------------------


def test_an_innodb_file_gives_the_rows_that_are_there(folder: Path) -> None:
    found = list(innodb.extractor.extract(folder / "inno.ibd", Reading(innodb.MEDIA_TYPE, sidecars={".frm": folder / "inno.frm"})))
    text = "\n".join(piece.text for piece in found)
    assert found[0].kind == "metadata"
    assert "id, question, answer" in found[0].text
    for row in expected(folder, "inno")[:2]:
        assert row["question"] + row["answer"] in text
    assert text.count("How long is the long one?") == 1  # the index on it holds a copy
    assert text.count("It goes on and on.") == 500
    assert "It is gone" not in text
    assert "supremum" not in text
    assert found[-1].dropped


def test_the_dictionary_in_a_mysql_8_file_names_the_columns(folder: Path) -> None:
    page = bytearray((folder / "inno.ibd").read_bytes()[:16384])
    described = {"dd_object_type": "Table", "dd_object": {"name": "harbour", "columns": [{"name": "depth"}, {"name": "tide"}]}}
    other = bytearray(16384)
    other[24:26] = struct.pack(">H", innodb.SDI)
    packed = zlib.compress(json.dumps(described).encode())
    other[200 : 200 + len(packed)] = packed
    (folder / "new.ibd").write_bytes(page + other)
    found = list(innodb.extractor.extract(folder / "new.ibd", Reading(innodb.MEDIA_TYPE)))
    assert found[0].text == "InnoDB table harbour: depth, tide"


def test_a_damaged_innodb_file_is_an_error_or_less_text(folder: Path) -> None:
    whole = (folder / "inno.ibd").read_bytes()
    rng = random.Random(3)
    for bad in (b"", b"\0" * 100, rng.randbytes(5000)):
        (folder / "bad.ibd").write_bytes(bad)
        with pytest.raises(ExtractError):
            list(innodb.extractor.extract(folder / "bad.ibd", Reading(innodb.MEDIA_TYPE)))
    for _ in range(20):
        data = bytearray(whole)
        for _ in range(200):
            data[rng.randrange(64, len(data))] = rng.randrange(256)
        (folder / "bad.ibd").write_bytes(data)
        text = "".join(piece.text for piece in innodb.extractor.extract(folder / "bad.ibd", Reading(innodb.MEDIA_TYPE)))
        assert len(text) <= len(whole)
