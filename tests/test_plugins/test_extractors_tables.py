"""CSV and TSV: separators, quotes, encodings, titles above the header, long files, and no byte that breaks the reader."""

from __future__ import annotations

import csv
import io
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge.errors import ExtractError
from forge.plugins.extractors._rows import ROWS_ALONE
from forge.protocols import Option, Reading
from forge.records import Piece
from forge.registry import Registry

CSV, TSV = "text/csv", "text/tab-separated-values"


def read(tmp_path: Path, content: str | bytes, media_type: str = CSV, **options: Option) -> list[Piece]:
    path = tmp_path / "table"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(Registry().plugin("extractor", "text").extract(path, Reading(media_type, options=options)))


def kept(pieces: list[Piece]) -> list[str]:
    return [piece.text for piece in pieces if not piece.dropped]


ROWS = ["name | city", "name: Ada; city: Lyon", "name: Bob; city: Rome"]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_found(tmp_path: Path, separator: str) -> None:
    text = "name,city\nAda,Lyon\nBob,Rome\n".replace(",", separator)
    assert kept(read(tmp_path, text)) == ROWS
    assert kept(read(tmp_path, text, TSV)) == ROWS


def test_a_decimal_comma_does_not_separate(tmp_path: Path) -> None:
    assert kept(read(tmp_path, "part;price\nbolt;1,50\nnut;0,25\n"))[1] == "part: bolt; price: 1,50"


def test_a_separator_line_for_excel_is_obeyed_and_told(tmp_path: Path) -> None:
    pieces = read(tmp_path, "sep=|\nname|city\nAda, B.|Lyon\n")
    assert pieces[0].dropped == "separator line"
    assert (pieces[2].text, pieces[2].locator) == ("name: Ada, B.; city: Lyon", "row=3")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252"])
def test_every_usual_encoding_is_read(tmp_path: Path, encoding: str) -> None:
    text = "name,city\n" + "Zoë,Málaga\n" * 20
    assert kept(read(tmp_path, text.encode(encoding)))[-1] == "name: Zoë; city: Málaga"


def test_shift_jis_is_read_and_an_accent_far_down_decides_too(tmp_path: Path) -> None:
    japanese = "名前,年齢,住所\n佐藤太郎,30,大阪府大阪市北区\n三木英子,25,東京都港区芝公園\n髙橋淳,35,名古屋市中村区名駅\n"
    assert kept(read(tmp_path, japanese.encode("cp932")))[1] == "名前: 佐藤太郎; 年齢: 30; 住所: 大阪府大阪市北区"
    late = ("name,city\n" + "Ada,Lyon\n" * 20_000 + "Zoë,Málaga\n").encode("cp1252")
    assert kept(read(tmp_path, late))[-1].endswith("name: Zoë; city: Málaga")


def test_line_ends_in_quotes_stay_in_their_row(tmp_path: Path) -> None:
    pieces = read(tmp_path, 'name,note\r\nAda,"first\r\nsecond, third"\r\nBob,"he said ""no"""\r\n')
    assert kept(pieces)[1:] == ["name: Ada; note: first second, third", 'name: Bob; note: he said "no"']
    assert [piece.locator for piece in pieces] == ["row=1", "row=2", "row=3"]


def test_escaped_quotes_and_quotes_after_a_blank_are_understood(tmp_path: Path) -> None:
    assert kept(read(tmp_path, 'name, note\nAda, "a, b"\nBob, "c, d"\n'))[1] == "name: Ada; note: a, b"
    assert kept(read(tmp_path, 'name,note\nAda,"say \\"hi\\", then go"\nBob,x\n'))[1] == 'name: Ada; note: say "hi", then go'


def test_a_quote_that_is_never_closed_costs_no_row(tmp_path: Path) -> None:
    rows = [f"{number},inch {number}" for number in range(20_000)]
    rows[50] = '50,"inch 50'
    text = "\n".join(kept(read(tmp_path, "id,size\n" + "\n".join(rows) + "\n")))
    assert all(f"id: {number}; size: " in text for number in (0, 49, 50, 51, 19_999))


def test_titles_and_comments_above_the_header_are_prose(tmp_path: Path) -> None:
    text = "# exported by the till\nSales of the northern region\n\nShop,2023,2024\nBergen,5,7\nOslo,8,9\n"
    pieces = read(tmp_path, text)
    assert [(piece.kind, piece.text) for piece in pieces] == [
        ("prose", "# exported by the till"), ("prose", "Sales of the northern region"), ("table", "Shop | 2023 | 2024"),
        ("table", "Shop: Bergen; 2023: 5; 2024: 7"), ("table", "Shop: Oslo; 2023: 8; 2024: 9"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("1,2\n3,4\n", "1 | 2"),                                        # numbers are no names
        ("Name:,Ada\nCity:,Lyon\n", "Name: | Ada"),                     # a form
        ("yes,no\nno,no\nyes,yes\n", "yes | no"),                       # the same words come again below
        ("2024-01-05,Oslo\n2024-01-06,Bergen\n", "2024-01-05 | Oslo"),  # dates
    ],
)
def test_a_first_row_that_is_no_header_is_data(tmp_path: Path, text: str, first: str) -> None:
    assert kept(read(tmp_path, text))[0] == first
    assert all(": " not in row.replace("Name: |", "").replace("City: |", "") for row in kept(read(tmp_path, text)))


def test_ragged_rows_lose_nothing(tmp_path: Path) -> None:
    pieces = read(tmp_path, "a,b,c\nx\n1,2,3,4,5\n,,z\n\n7,8,9\n")
    assert kept(pieces) == ["a | b | c", "a: x", "a: 1; b: 2; c: 3; 4; 5", "c: z", "a: 7; b: 8; c: 9"]


def test_a_second_table_below_an_empty_row_has_its_own_names(tmp_path: Path) -> None:
    text = "city,rain\nOslo,763\nBergen,2250\n\nlake,depth\nMjøsa,453\nFemund,153\n\nSource: the office\n"
    assert kept(read(tmp_path, text))[3:] == ["lake | depth", "lake: Mjøsa; depth: 453", "lake: Femund; depth: 153", "Source: the office"]


def test_names_that_come_again_are_told_apart_by_the_group_above_them(tmp_path: Path) -> None:
    text = ",,2023,,2024,\nShop,Town,Sales,Staff,Sales,Staff\nNord,Oslo,5,2,7,3\nSør,Mandal,8,4,9,4\n"
    assert kept(read(tmp_path, text))[2] == "Shop: Nord; Town: Oslo; 2023 Sales: 5; 2023 Staff: 2; 2024 Sales: 7; 2024 Staff: 3"


def test_rows_over_the_limit_are_counted_not_kept(tmp_path: Path) -> None:
    text = "id,name\n" + "".join(f"{number},n{number}\n" for number in range(100))
    pieces = read(tmp_path, text, max_rows=30)
    assert Counter(piece.dropped for piece in pieces) == {"": 31, "row over the limit": 70}


def test_a_table_without_end_is_cut_and_not_counted_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.plugins.extractors._rows.MAX_COUNTED", 10)
    blocks = "id,name\n" + "".join(f"{number},n{number}\n" for number in range(60)) + "\n" + "a,b\n" * 5
    pieces = read(tmp_path, blocks, max_rows=30)
    assert Counter(piece.dropped for piece in pieces) == {
        "": 31, "row over the limit": 10, "table that goes on for more than a million rows over the limit": 1,
    }  # fmt: skip


def test_a_table_of_too_many_characters_is_cut_rather_than_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.plugins.extractors._rows.MAX_CHARACTERS", 500)
    pieces = read(tmp_path, "id,name\n" + "".join(f"{number},name {number}\n" for number in range(100)))
    assert 500 < sum(len(piece.text) for piece in pieces) < 540
    assert sum(piece.dropped == "row over the limit" for piece in pieces) == 101 - len(kept(pieces))


def test_rows_of_long_tables_share_pieces_and_keep_their_places(tmp_path: Path) -> None:
    text = "id,name\n" + "".join(f"{number},n{number}\n" for number in range(3 * ROWS_ALONE))
    pieces = read(tmp_path, text)
    assert pieces[5].locator == "row=6"
    assert len(pieces) < ROWS_ALONE * 1.2
    ends = [piece.locator.removeprefix("row=").partition("..") for piece in pieces]
    lines = [line for piece in pieces for line in piece.text.split("\n")]
    assert len(lines) == int(ends[-1][2]) == 3 * ROWS_ALONE + 1
    assert all(int(last or first) + 1 == int(after[0]) for (first, _, last), after in pairwise(ends))


def test_a_field_of_a_hundred_megabytes_is_refused_before_it_is_held(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    with path.open("wb") as file:
        file.write(b"a,b\n1,")
        for _ in range(100):
            file.write(b"x" * (1 << 20))
    with pytest.raises(ExtractError, match="line of more than") as caught:
        list(Registry().plugin("extractor", "text").extract(path, Reading(CSV)))
    assert caught.value.refused


def test_binary_data_called_csv_is_said(tmp_path: Path) -> None:
    with pytest.raises(ExtractError):
        read(tmp_path, bytes(range(256)) * 40)


@given(st.lists(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\0")), min_size=1, max_size=5), max_size=12))
def test_every_visible_character_of_a_written_table_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]) -> None:
    file = io.StringIO()
    csv.writer(file).writerows(rows)
    pieces = read(tmp_path_factory.mktemp("t"), "first,second\n" + file.getvalue())
    given_chars = Counter("".join(value for row in rows for value in row))
    read_chars = Counter("".join(piece.text for piece in pieces))
    assert not [char for char in (given_chars - read_chars) if not char.isspace() and char not in '",;\t|\\']


@given(st.one_of(st.binary(max_size=400), st.text('ab",;\t|\n\r\\# 1.=:', max_size=200).map(str.encode)))
def test_no_bytes_break_the_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    try:
        pieces = read(tmp_path_factory.mktemp("t"), content)
    except ExtractError:
        return
    assert all(piece.text.strip() or piece.dropped for piece in pieces)
