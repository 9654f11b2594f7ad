"""Binary workbooks (.xls, .xlsb) through python-calamine, which reads the whole grid that a sheet's cells span.

It aborts the process when that grid does not fit (memory allocation of 549,755,813,888 bytes for two cells of an .xlsb), and
nothing can catch that: the extent of .xlsb is measured first. An .xls cannot span more than 65,536 x 256.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from forge.errors import ExtractError
from forge.plugins.extractors._rows import Row, filled, table_pieces
from forge.plugins.extractors.spreadsheet.cells import (
    filled_down,
    number_text,
    sheet_heading,
    sheet_place,
    sheet_title,
)
from forge.records import Piece

if TYPE_CHECKING:
    from python_calamine import CalamineSheet

MAX_EXTENT = 20_000_000
"""Cells of the rectangle that a sheet spans: 640 MB of calamine's 32-byte cells."""

ROW_RECORD = 0
CELL_RECORDS = range(1, 12)
MAX_RECORD_BYTES = 1 << 24


def binary_workbook(path: Path, limit: int) -> Iterator[Piece]:
    """The sheets in order. Raises ExtractError for damaged, encrypted and immense workbooks."""
    if zipfile.is_zipfile(path):
        _check_extents(path)
    with _faults_told():
        from python_calamine import SheetTypeEnum, SheetVisibleEnum, load_workbook

        book = load_workbook(path)
        for sheet in book.sheets_metadata:
            if sheet.typ != SheetTypeEnum.WorkSheet:
                kind = str(sheet.typ).rpartition(".")[2]
                yield Piece(text="", locator=f"sheet={sheet.name}", dropped=f"sheet that holds no table ({kind})")
                continue
            hidden = sheet.visible != SheetVisibleEnum.Visible
            yield from sheet_heading(sheet.name, hidden)
            grid = book.get_sheet_by_name(sheet.name)
            rows = filled_down(_rows(grid), _merged(grid))
            yield from table_pieces(rows, sheet_place(sheet.name), heading=sheet_title(sheet.name, hidden), limit=limit)


@contextmanager
def _faults_told() -> Iterator[None]:
    from python_calamine import CalamineError, PasswordError

    try:
        yield
    except PasswordError as error:
        raise ExtractError("encrypted workbook (it needs a password)", refused=True) from error
    except (CalamineError, OSError, ValueError) as error:
        raise ExtractError(f"damaged workbook ({error})") from error
    except BaseException as error:
        # A panic of its Rust code is a BaseException, so that nobody catches it by accident; it is only a broken file.
        if type(error).__name__ != "PanicException":
            raise
        raise ExtractError(f"damaged workbook (python-calamine: {error})") from error


def _rows(sheet: CalamineSheet) -> Iterator[Row]:
    top, left = sheet.start or (0, 0)
    for number, values in enumerate(sheet.to_python(skip_empty_area=True), top + 1):
        if cells := filled(map(_text, values)):
            yield number, [(left + column, value) for column, value in cells]


def _merged(sheet: CalamineSheet) -> dict[tuple[int, int], int]:
    ranges = sheet.merged_cell_ranges or []
    return {(top + 1, left): bottom + 1 for (top, left), (bottom, _) in ranges if bottom > top}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float | int):
        return number_text(f"{value:.15g}")
    if isinstance(value, datetime):
        return value.isoformat(" ").removesuffix(" 00:00:00")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        seconds = round(value.total_seconds())
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return str(value)


def _check_extents(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.startswith("xl/worksheets/") and name.endswith(".bin"):
                    with archive.open(name) as file:
                        _check_extent(file, name)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise ExtractError(f"damaged workbook ({error})") from error


def _check_extent(file: IO[bytes], name: str) -> None:
    """Raise ExtractError (refused) unless the rectangle of all cells is one that can be held ([MS-XLSB] 2.1.4)."""
    row, rows, columns = 0, [1 << 30, 0], [1 << 30, 0]
    for kind, data in _records(file):
        if kind == ROW_RECORD:
            row = int.from_bytes(data[:4], "little")
        elif kind in CELL_RECORDS:
            column = int.from_bytes(data[:4], "little")
            rows = [min(row, rows[0]), max(row, rows[1])]
            columns = [min(column, columns[0]), max(column, columns[1])]
    extent = (rows[1] - rows[0] + 1) * (columns[1] - columns[0] + 1)
    if columns[0] <= columns[1] and extent > MAX_EXTENT:
        raise ExtractError(
            f"{name} spans {extent:,} cells (at most {MAX_EXTENT:,})", refused=True, next="save it as .xlsx, which is read cell by cell"
        )


def _records(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Type and bytes of each record; both numbers are written in groups of seven bits."""
    while first := file.read(1):
        kind = first[0]
        if kind & 0x80:
            kind = kind & 0x7F | (file.read(1) or b"\0")[0] << 7
        size = shift = 0
        while shift < 28:
            byte = (file.read(1) or b"\0")[0]
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        if size > MAX_RECORD_BYTES:
            raise ValueError("a record of more than 16 MiB")
        yield kind, file.read(size)
