"""Spreadsheets: what every kind of cell shows, several sheets, comments, and workbooks that are made to explode."""

from __future__ import annotations

import io
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
import xlsxwriter
import xlwt

from forge.errors import ExtractError
from forge.phases.prep.route import Router
from forge.plugins.extractors.spreadsheet import ODS, XLS, XLSB, XLSX
from forge.plugins.extractors.spreadsheet.cells import column_of, format_kind, letters, number_text
from forge.protocols import Option, Reading
from forge.records import Piece
from forge.registry import Registry
from tests import corpus

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
LINKS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"


def read(tmp_path: Path, content: bytes, media_type: str = XLSX, **options: Option) -> list[Piece]:
    path = tmp_path / "book"
    path.write_bytes(content)
    return list(Registry().plugin("extractor", "spreadsheet").extract(path, Reading(media_type, options=options)))


def kept(pieces: list[Piece]) -> list[str]:
    return [piece.text for piece in pieces if not piece.dropped]


def written(fill: Callable[[Any], None]) -> bytes:
    """A workbook as xlsxwriter writes it."""
    buffer = io.BytesIO()
    with xlsxwriter.Workbook(buffer, {"in_memory": True}) as book:
        fill(book)
    return buffer.getvalue()


def raw(sheet: str, *, strings: str = "", prefix: str = "", **parts: str) -> bytes:
    """A workbook around the XML of its only sheet's data."""
    return corpus.packed(
        {
            "[Content_Types].xml": corpus.CONTENT_TYPES,
            "xl/workbook.xml": f'<workbook xmlns="{MAIN}" xmlns:r="{LINKS}"><sheets><sheet name="Data" sheetId="1" r:id="r1"/></sheets></workbook>',
            "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{PACKAGE}"><Relationship Id="r1" Type="{LINKS}/worksheet" Target="worksheets/sheet1.xml"/>'
            f'<Relationship Id="r2" Type="{LINKS}/sharedStrings" Target="sharedStrings.xml"/></Relationships>',
            "xl/sharedStrings.xml": f'<sst xmlns="{MAIN}">{strings}</sst>',
            "xl/worksheets/sheet1.xml": f'{prefix}<worksheet xmlns="{MAIN}"><sheetData>{sheet}</sheetData></worksheet>',
            **parts,
        }
    )


# --- what cells show -------------------------------------------------------------------------------------------


def test_rows_carry_their_headers_below_a_title_and_know_their_place(tmp_path: Path) -> None:
    def fill(book: Any) -> None:
        sheet = book.add_worksheet("Prices")
        sheet.write(0, 0, "Price list of the spring")
        for row, values in enumerate([("Part", "Price", "In stock"), ("bolt", 1.5, True), ("nut", 0.1 + 0.2, False)], 2):
            sheet.write_row(row, 1, values)

    pieces = read(tmp_path, written(fill))
    assert [(piece.kind, piece.text, piece.locator) for piece in pieces] == [
        ("heading", "Prices", "sheet=Prices"),
        ("prose", "Price list of the spring", "sheet=Prices!A1"),
        ("table", "Part | Price | In stock", "sheet=Prices!B3:D3"),
        ("table", "Part: bolt; Price: 1.5; In stock: TRUE", "sheet=Prices!B4:D4"),
        ("table", "Part: nut; Price: 0.3; In stock: FALSE", "sheet=Prices!B5:D5"),
    ]
    assert {piece.heading for piece in pieces} == {"Prices"}


def test_dates_times_and_shares_are_read_by_their_number_format(tmp_path: Path) -> None:
    def fill(book: Any) -> None:
        sheet = book.add_worksheet()
        for column, (value, form) in enumerate([
            (date(2024, 2, 29), "d mmm yyyy"), (datetime(2024, 2, 29, 13, 30), "yyyy-mm-dd hh:mm"), (0.5625, "h:mm AM/PM"),
            (1.5, "[h]:mm"), (0.125, "0.0%"), (45000, "0.00"), (45000, '"day" 0'), (45000.0, "General"), (1234.5, '[Red]#,##0.00 "dm"'),
        ]):  # fmt: skip
            sheet.write(0, column, value, book.add_format({"num_format": form}))

    assert kept(read(tmp_path, written(fill))) == [
        "2024-02-29 | 2024-02-29 13:30:00 | 13:30:00 | 36:00:00 | 12.5% | 45000 | 45000 | 45000 | 1234.5"
    ]


@pytest.mark.parametrize(("serial", "shown"), [("1", "1900-01-01"), ("59", "1900-02-28"), ("61", "1900-03-01"), ("-1", "-1"), ("1e9", "1000000000")])
def test_the_first_days_of_1900_and_numbers_that_are_no_dates(serial: str, shown: str) -> None:
    assert number_text(serial, "date") == shown
    assert number_text("0", "date", from_1904=True) == "1904-01-01"


def test_number_formats() -> None:
    assert format_kind(14, "") == "date"
    assert format_kind(0, "mm:ss") == "time"
    assert format_kind(0, '[$-409]mmmm" of "yyyy;@') == "date"
    assert format_kind(0, "0.00E+00") == format_kind(0, '"hours" 0') == format_kind(0, "General") == ""
    assert [letters(number) for number in (0, 25, 26, 701, 702, 16_383)] == ["A", "Z", "AA", "ZZ", "AAA", "XFD"]
    assert all(column_of(letters(number)) == number for number in range(0, 16_384, 37))


def test_formulas_give_their_stored_results_and_errors_their_text(tmp_path: Path) -> None:
    cells = '<row r="1"><c r="A1" t="str"><f>"a"&amp;"b"</f><v>ab</v></c><c r="B1"><f>1+1</f><v>2</v></c><c r="C1" t="e"><f>1/0</f><v>#DIV/0!</v></c><c r="D1"><f>NOW()</f></c></row>'
    pieces = read(tmp_path, raw(cells))
    assert kept(pieces)[-1] == "ab | 2 | #DIV/0!"
    assert [piece.dropped for piece in pieces if piece.dropped] == ["formula without a stored result"]


def test_rich_and_inline_texts_without_their_phonetic_guide(tmp_path: Path) -> None:
    strings = "<si><r><t>东</t></r><r><t>京</t></r><rPh sb='0' eb='1'><t>トウキョウ</t></rPh></si><si><t>plain\nline</t></si>"
    cells = '<row><c t="s"><v>0</v></c><c t="s"><v>1</v></c><c t="inlineStr"><is><t>in</t></is></c></row>'
    assert kept(read(tmp_path, raw(cells, strings=strings)))[-1] == "东京 | plain line | in"


def test_escaped_characters_and_parts_in_another_case(tmp_path: Path) -> None:
    content = raw('<row><c t="inlineStr"><is><t>a_x000D_b _x0041_ _xyz_</t></is></c></row>')
    assert kept(read(tmp_path, content))[-1] == "a b A _xyz_"
    moved = corpus.packed({name.replace("sharedS", "SharedS"): part for name, part in unpacked(raw('<row><c t="s"><v>0</v></c></row>', strings="<si><t>x</t></si>")).items()})
    assert kept(read(tmp_path, moved))[-1] == "x"


def unpacked(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_merged_cells_fill_the_rows_they_cover(tmp_path: Path) -> None:
    def fill(book: Any) -> None:
        sheet = book.add_worksheet()
        sheet.write_row(0, 0, ("Region", "Shop", "Sales"))
        sheet.merge_range("A2:A3", "North")
        for row, (shop, sales) in enumerate([("Oslo", 3), ("Bergen", 4), ("Rome", 5)], 1):
            sheet.write_row(row, 1, (shop, sales))

    assert kept(read(tmp_path, written(fill)))[1:] == ["Region: North; Shop: Oslo; Sales: 3", "Region: North; Shop: Bergen; Sales: 4", "Shop: Rome; Sales: 5"]


def test_sheets_in_order_hidden_ones_said_with_comments_and_text_boxes(tmp_path: Path) -> None:
    def fill(book: Any) -> None:
        book.add_worksheet().write_row(0, 0, ("first", "sheet"))
        hidden = book.add_worksheet("Rates")
        hidden.hide()
        hidden.write(0, 0, "secret rate")
        hidden.write_comment("A1", "agreed with the bank")
        hidden.insert_textbox(3, 3, "a box of text")
        book.add_chartsheet("Picture").set_chart(_chart(book))

    pieces = read(tmp_path, written(fill))
    assert kept(pieces) == ["first | sheet", "Rates (hidden sheet)", "secret rate", "a box of text", "agreed with the bank"] or kept(pieces) == [
        "first | sheet", "Rates (hidden sheet)", "secret rate", "agreed with the bank", "a box of text"]  # fmt: skip
    assert next(piece.locator for piece in pieces if piece.text == "agreed with the bank") == "sheet=Rates!A1"
    assert [piece.dropped for piece in pieces if piece.dropped] == ["sheet that holds no table (chartsheet)"]


def _chart(book: Any) -> Any:
    chart = book.add_chart({"type": "line"})
    chart.add_series({"values": "=Sheet1!$A$1:$B$1"})
    return chart


def test_rows_over_the_limit_are_counted(tmp_path: Path) -> None:
    def fill(book: Any) -> None:
        sheet = book.add_worksheet()
        for row in range(50):
            sheet.write_row(row, 0, (f"word {row}", row))

    assert Counter(piece.dropped for piece in read(tmp_path, written(fill), max_rows=20)) == {"": 20, "row over the limit": 30}


# --- workbooks that are made to explode ------------------------------------------------------------------------


def test_two_cells_at_the_ends_of_a_sheet_cost_two_cells(tmp_path: Path) -> None:
    content = raw('<row r="1"><c r="A1"><v>1</v></c></row><row r="1048576"><c r="XFD1048576"><v>2</v></c></row>')
    start = time.process_time()
    pieces = read(tmp_path, content)
    assert time.process_time() - start < 0.5
    assert [(piece.text, piece.locator) for piece in pieces[1:]] == [("1", "sheet=Data!A1"), ("2", "sheet=Data!XFD1048576")]


def test_one_long_text_shown_by_every_cell_of_a_row_is_refused(tmp_path: Path) -> None:
    cells = "".join('<c t="s"><v>0</v></c>' for _ in range(16_384))
    with pytest.raises(ExtractError, match="row that no spreadsheet program takes") as caught:
        read(tmp_path, raw(f"<row>{cells}</row>", strings=f"<si><t>{'a' * 100_000}</t></si>"))
    assert caught.value.refused


def test_shared_strings_without_end_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExtractError, match="shared strings") as caught:
        read(tmp_path, raw("", strings=f"<si><t>{'a' * 1_000_000}</t></si>" * 65))
    assert caught.value.refused


@pytest.mark.parametrize("cells", ["<c/>" * 16_385, '<c r="XFE1"><v>1</v></c>', '<c r="A1"><v>1</v></c>' * 16_385, '<c r="é1"><v>1</v></c>'])
def test_rows_wider_than_any_program_takes_are_refused(tmp_path: Path, cells: str) -> None:
    with pytest.raises(ExtractError, match="row that no spreadsheet program takes"):
        read(tmp_path, raw(f"<row>{cells}</row>"))


@pytest.mark.parametrize(
    "content",
    [
        raw("", prefix='<!DOCTYPE x [<!ENTITY a "aaaa">]>'),
        raw('<row><c t="s"><v>7</v></c></row>'),
        raw("<row><c><v>1</v></row>"),
        corpus.packed({"xl/workbook.xml": "<workbook/>", "xl/x": ""})[:-40],
        corpus.packed({"a.txt": "no workbook"}),
        b"PK\x03\x04 and nothing else",
    ],
)
def test_damaged_workbooks_and_entities_are_said(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ExtractError):
        read(tmp_path, content)


def test_a_part_whose_packed_bytes_are_damaged_is_said(tmp_path: Path) -> None:
    content = bytearray(raw('<row><c t="inlineStr"><is><t>words</t></is></c></row>'))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        starts = [entry.header_offset + 30 + len(entry.filename) for entry in archive.infolist()]
    for start in starts[1:]:
        broken = content.copy()
        broken[start : start + 8] = b"\xff" * 8
        with pytest.raises(ExtractError, match="damaged"):
            read(tmp_path, bytes(broken))


# --- the other formats -----------------------------------------------------------------------------------------


def ods(rows: str, *, style: str = "", manifest: str = "") -> bytes:
    spaces = " ".join(f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"' for name in ("office", "table", "text", "style"))
    body = f'<office:spreadsheet><table:table table:name="Sheet1" table:style-name="ta1">{rows}</table:table></office:spreadsheet>'
    return corpus.packed(
        {
            "mimetype": ODS,
            "content.xml": f"<office:document-content {spaces}><office:automatic-styles>{style}</office:automatic-styles><office:body>{body}</office:body></office:document-content>",
            **({"META-INF/manifest.xml": manifest} if manifest else {}),
        }
    )


def cell(text: str, inside: str = "", **attributes: str) -> str:
    told = " ".join(f'office:{name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    return f"<table:table-cell {told}>{inside}<text:p>{text}</text:p></table:table-cell>"


def test_opendocument_sheets_show_their_cells(tmp_path: Path) -> None:
    note = "<office:annotation><text:p>checked</text:p></office:annotation>"
    day = cell("15 Jan", value_type="date", date_value="2021-01-15")
    values = day + cell("0.33", value_type="float", value="0.333333") + cell("#DIV/0!", note, value_type="float", value="0")
    rows = (
        f"<table:table-row>{cell('Day')}{cell('Rain')}{cell('Note')}</table:table-row>"
        '<table:table-row table:number-rows-repeated="3"><table:table-cell/></table:table-row>'
        f"<table:table-row>{values}</table:table-row>"
    )
    pieces = read(tmp_path, ods(rows), ODS)
    assert [(piece.text, piece.locator) for piece in pieces] == [
        ("Day | Rain | Note", "sheet=Sheet1!A1:C1"), ("2021-01-15 | 0.333333 | #DIV/0!", "sheet=Sheet1!A5:C5"), ("checked", "sheet=Sheet1!C5"),
    ]  # fmt: skip


def test_merged_cells_of_the_other_formats_fill_the_rows_they_cover(tmp_path: Path) -> None:
    told = ["Region: North; Shop: Oslo; Sales: 3", "Region: North; Shop: Bergen; Sales: 4", "Shop: Rome; Sales: 5"]
    merged = cell("North").replace("<table:table-cell", '<table:table-cell table:number-rows-spanned="2"')
    lines = [cell("Region") + cell("Shop") + cell("Sales"), merged + cell("Oslo") + cell("3"), "<table:covered-table-cell/>" + cell("Bergen") + cell("4")]
    lines.append("<table:table-cell/>" + cell("Rome") + cell("5"))
    assert kept(read(tmp_path, ods("".join(f"<table:table-row>{line}</table:table-row>" for line in lines)), ODS))[1:] == told
    book = xlwt.Workbook()
    sheet = book.add_sheet("Sheet1")
    sheet.write_merge(1, 2, 0, 0, "North")
    for row, values in enumerate([("Shop", "Sales"), ("Oslo", 3), ("Bergen", 4), ("Rome", 5)]):
        for column, value in enumerate(values, 1):
            sheet.write(row, column, value)
    sheet.write(0, 0, "Region")
    buffer = io.BytesIO()
    book.save(buffer)
    assert kept(read(tmp_path, buffer.getvalue(), XLS))[1:] == told


def test_opendocument_repetitions_cost_nothing_when_empty_and_are_bounded_when_not(tmp_path: Path) -> None:
    far = '<table:table-row table:number-rows-repeated="1048574"><table:table-cell table:number-columns-repeated="16384"/></table:table-row>'
    pieces = read(tmp_path, ods(f"<table:table-row>{cell('a')}</table:table-row>{far}<table:table-row>{cell('z')}</table:table-row>"), ODS)
    assert [(piece.text, piece.locator) for piece in pieces] == [("a", "sheet=Sheet1!A1"), ("z", "sheet=Sheet1!A1048576")]
    bomb = cell("x" * 50).replace("<table:table-cell", '<table:table-cell table:number-columns-repeated="16384"')
    pieces = read(tmp_path, ods(f'<table:table-row table:number-rows-repeated="1048576">{bomb}</table:table-row>'), ODS)
    assert sum(len(piece.text) for piece in pieces) < 20_000_000


def test_hidden_and_encrypted_opendocument_sheets(tmp_path: Path) -> None:
    style = '<style:style style:name="ta1" style:family="table"><style:table-properties table:display="false"/></style:style>'
    assert kept(read(tmp_path, ods(f"<table:table-row>{cell('a')}</table:table-row>", style=style), ODS))[0] == "Sheet1 (hidden sheet)"
    manifest = '<m:manifest xmlns:m="urn:m"><m:file-entry><m:encryption-data/></m:file-entry></m:manifest>'
    with pytest.raises(ExtractError, match="encrypted") as caught:
        read(tmp_path, ods("", manifest=manifest), ODS)
    assert caught.value.refused


def test_old_workbooks_are_read(tmp_path: Path) -> None:
    book = xlwt.Workbook()
    sheet = book.add_sheet("Staff")
    style = xlwt.easyxf(num_format_str="YYYY-MM-DD")
    for row, values in enumerate([("Name", "Age"), ("Ada", 36), ("Bob", 41.5)], 2):
        for column, value in enumerate(values, 1):
            sheet.write(row, column, value)
    sheet.write(3, 3, datetime(2020, 5, 17), style)
    buffer = io.BytesIO()
    book.save(buffer)
    pieces = read(tmp_path, buffer.getvalue(), XLS)
    assert [(piece.text, piece.locator) for piece in pieces] == [
        ("Staff", "sheet=Staff"), ("Name | Age", "sheet=Staff!B3:C3"), ("Name: Ada; Age: 36; 2020-05-17", "sheet=Staff!B4:D4"),
        ("Name: Bob; Age: 41.5", "sheet=Staff!B5:C5"),
    ]  # fmt: skip
    with pytest.raises(ExtractError, match="damaged workbook"):
        read(tmp_path, buffer.getvalue()[:600], XLS)


def test_a_binary_workbook_that_spans_too_much_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    def record(kind: int, data: bytes) -> bytes:
        return bytes([kind, len(data)]) + data

    def numbered(*numbers: int) -> bytes:
        return b"".join(number.to_bytes(4, "little") for number in numbers)

    sheet = b"".join(
        record(0, numbered(row, 0)) + record(2, numbered(column, 0, 0)) for row, column in ((0, 0), (1_048_575, 16_383))
    )  # fmt: skip
    with pytest.raises(ExtractError, match="spans 17,179,869,184 cells") as caught:
        read(tmp_path, corpus.packed({"xl/worksheets/sheet1.bin": sheet, "xl/workbook.bin": b""}), XLSB)
    assert caught.value.refused
    with pytest.raises(ExtractError, match="damaged workbook"):
        read(tmp_path, corpus.packed({"xl/worksheets/sheet1.bin": b"\x85\x80\x80\x80\x08", "xl/workbook.bin": b""}), XLSB)


@pytest.mark.parametrize(
    ("name", "content", "extractor"),
    [
        ("x.pdf", written(lambda book: book.add_worksheet().write(0, 0, "a")), "spreadsheet"),
        ("x.xls", b"name\tcity\nAda\tLyon\nBob\tRome\n", "text"),
        ("x.xls", b"<html><table><tr><td>a</td></tr></table></html>", "html"),
    ],
)
def test_prep_reads_tables_for_what_they_are(tmp_path: Path, name: str, content: bytes, extractor: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    registry = Registry()
    route = Router({each: registry.plugin("extractor", each, ready=False) for each in registry.names("extractor")}).route(path, name)
    assert route.extractor == extractor
    assert name == "x.pdf" or route.media_type in {"text/tab-separated-values", "text/html"}
