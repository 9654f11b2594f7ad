"""What cells hold: places ("C7"), numbers, dates by their number format; and the headings of sheets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from functools import lru_cache

from forge.plugins.extractors._rows import Place, Row
from forge.records import Piece

MAX_COLUMNS = 16_384
"""Of any spreadsheet program: A to XFD."""

DEFAULT_NAME = re.compile(r"(Sheet|Tabelle|Feuil|Feuille|Hoja|Blad|Foglio|Arkusz|Planilha|Лист|シート|工作表)\s?\d+")
MAX_CODE_CHARACTERS = 255
LITERAL = re.compile(r'"[^"]*"|\\.|_.|\*.|\[(?!h+\]|m+\]|s+\])[^\]]*\]|AM/PM|A/P|General|Standard', re.IGNORECASE)
"""What a number format shows as it is or uses for colour and locale; [h] counts hours on and stays."""

BUILTIN = {9: "0%", 10: "0.00%", **dict.fromkeys((14, 15, 16, 17, *range(27, 32), 36, *range(50, 59)), "d"),
           **dict.fromkeys((18, 19, 20, 21, *range(32, 36), 45, 47), "h"), 22: "d h", 46: "[h]"}  # fmt: skip
"""Number formats without a code in the file (ECMA-376 part 1, 18.8.30)."""

LAST_DAY = 2_958_466
"""31 December 9999."""


def sheet_heading(name: str, hidden: bool) -> Iterator[Piece]:
    """A heading with the sheet's name, unless it is visible and called "Sheet1"."""
    if title := sheet_title(name, hidden):
        yield Piece(text=title, locator=f"sheet={name}", heading=title, kind="heading")


def sheet_title(name: str, hidden: bool) -> str:
    """What stands above the rows of a sheet: its name, or nothing for "Sheet1"."""
    name = name.replace(" > ", " › ")
    if hidden:
        return f"{name} (hidden sheet)"
    return "" if DEFAULT_NAME.fullmatch(name) else name


def sheet_place(name: str) -> Place:
    """Locators of a sheet's rows: "sheet=Prices!A2:F2"."""

    def place(first: int, last: int, left: int, right: int) -> str:
        start, end = f"{letters(left)}{first}", f"{letters(right)}{last}"
        return f"sheet={name}!{start}" + (f":{end}" if end != start else "")

    return place


def filled_down(rows: Iterable[Row], merged: Mapping[tuple[int, int], int]) -> Iterator[Row]:
    """The rows with merged cells repeated in each row that they cover. merged: (row, column) of the first -> last row."""
    carried: dict[int, tuple[int, str]] = {}
    for number, cells in rows:
        if merged:
            for column, value in cells:
                if last := merged.get((number, column)):
                    carried[column] = (last, value)
        if carried:
            taken = {column for column, _ in cells}
            below = [(column, value) for column, (last, value) in carried.items() if number <= last and column not in taken]
            cells = sorted([*cells, *below]) if below else cells
        yield number, cells


@lru_cache(maxsize=MAX_COLUMNS)
def letters(column: int) -> str:
    """A column counted from 0 as letters: 0 = A, 26 = AA."""
    text = ""
    column += 1
    while column:
        column, rest = divmod(column - 1, 26)
        text = chr(65 + rest) + text
    return text


@lru_cache(maxsize=MAX_COLUMNS)
def column_of(name: str) -> int:
    """Letters as a column counted from 0; -1 for what names none."""
    column = 0
    for letter in name:
        if not "A" <= letter <= "Z":
            return -1
        column = column * 26 + ord(letter) - 64
    return column - 1


def format_kind(identifier: int, code: str) -> str:
    """What a number format makes of a number: "date", "time", "date time", "elapsed", "percent" or ""."""
    code = LITERAL.sub("", (code or BUILTIN.get(identifier, ""))[:MAX_CODE_CHARACTERS]).split(";")[0].lower()
    if "[" in code:
        return "elapsed"
    time = bool(re.search("[hs]", code))
    date = bool(re.search("[ydge]" if time else "[ydgm]", code)) and not re.search("[0#]e", code)
    if date or time:
        return " ".join(["date"] * date + ["time"] * time)
    return "percent" if "%" in code else ""


def number_text(text: str, kind: str = "", *, from_1904: bool = False) -> str:
    """A stored number as a reader sees it: 15 digits as spreadsheets show, dates in ISO 8601."""
    if not kind and text.isdigit():
        return text
    try:
        value = float(text)
        if kind in ("", "percent"):
            return f"{value:.15g}" if not kind else f"{float(f'{value * 100:.13g}'):.15g}%"
        return _moment(value, kind, from_1904) if 0 <= value < LAST_DAY else f"{value:.15g}"
    except (ValueError, OverflowError):
        return text


def _moment(days: float, kind: str, from_1904: bool) -> str:
    seconds = round(days * 86_400)
    if kind == "elapsed":
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    # Excel's 1900 has a 29 February, as Lotus 1-2-3 had: the days before it are one off.
    start = datetime(1904, 1, 1) if from_1904 else datetime(1899, 12, 31 if days < 60 else 30)
    moment = start + timedelta(seconds=seconds)
    if kind == "time" and days < 1:
        return moment.strftime("%H:%M:%S")
    return moment.date().isoformat() if kind == "date" and not seconds % 86_400 else moment.isoformat(" ")
