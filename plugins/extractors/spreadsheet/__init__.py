"""Spreadsheets: .xlsx and .xlsm as a stream of their XML, .ods likewise, .xls and .xlsb through python-calamine.

One workbook of 50,000 rows x 10 cells (texts, dates, decimals), seconds of one core and peak memory, 2026-11:

    here         1.9 s    44 MB    rows with their headers, dates by number format
    openpyxl     2.3 s    52 MB    read_only, values joined
    calamine     0.45 s   75 MB    values joined; memory grows with the grid that the cells span

openpyxl runs until it is killed on calamine's issue_174.xlsx (A1:XFD1048576 declared); python-calamine aborts the process
on a workbook whose only cells are A1 and XFD1048576. Both take milliseconds here, since only cells that exist cost anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from forge.phase import Requirement
from forge.plugins.extractors._rows import row_limit
from forge.plugins.extractors.spreadsheet.binary import binary_workbook
from forge.plugins.extractors.spreadsheet.office import office_workbook
from forge.plugins.extractors.spreadsheet.opendocument import opendocument_sheets
from forge.protocols import Reading
from forge.records import Piece

XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
XLSB = "application/vnd.ms-excel.sheet.binary.macroEnabled.12"
XLS = "application/vnd.ms-excel"
ODS = "application/vnd.oasis.opendocument.spreadsheet"
TABS = "text/tab-separated-values"

READERS: dict[str, Callable[[Path, int], Iterator[Piece]]] = {
    XLSX: office_workbook,
    XLSB: binary_workbook,
    XLS: binary_workbook,
    ODS: opendocument_sheets,
    f"{ODS}-template": opendocument_sheets,
}


class SpreadsheetExtractor:
    """Sheets in their order, hidden ones said; a row is "header: value; header: value" ("sheet=Prices!A2:F2").

    Formulas give their stored results, errors their text (in .xls and .xlsb an error cell reads as empty). Macros are
    not looked at, links to other files not followed.
    """

    name: ClassVar[str] = "spreadsheet"
    media_types: ClassVar[tuple[str, ...]] = tuple(READERS)
    extensions: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys((".xlsx", ".xlsm", ".xltx", ".xltm"), XLSX), ".xlsb": XLSB, ".xls": XLS, ".ods": ODS, ".ots": f"{ODS}-template",
    }  # fmt: skip
    magic: ClassVar[Mapping[bytes, str]] = {}
    requires: ClassVar[tuple[Requirement, ...]] = (
        Requirement(module="lxml", extra="docs"), Requirement(module="python_calamine", extra="docs"),
    )  # fmt: skip

    def accepts(self, head: bytes, name: str) -> str:
        """Tells a text with tabs that was named .xls, so that Excel opens it, for the table that it is."""
        lines = head.split(b"\n", 3)[:3]
        return TABS if name.lower().endswith(".xls") and b"\0" not in head and all(b"\t" in line for line in lines) else ""

    def extract(self, path: Path, ctx: Reading) -> Iterator[Piece]:
        """Yield titles, rows and comments. Raises ExtractError for damaged, encrypted and exploding workbooks."""
        yield from READERS[ctx.media_type](path, row_limit(ctx.options))


extractor = SpreadsheetExtractor()
