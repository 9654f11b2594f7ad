"""CSV and TSV: one line of text a row, "header: value; header: value"."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from forge.errors import ExtractError
from forge.records import Piece

DELIMITERS = ",;\t|"
SNIFF_LINES = 50
MAX_FIELD_CHARACTERS = 1 << 24


def comma_rows(text: str) -> Iterator[Piece]:
    """Rows of a file separated by commas, semicolons, tabs or bars, whichever divides its first lines most evenly."""
    return _rows(text, _delimiter(text))


def tab_rows(text: str) -> Iterator[Piece]:
    """Rows of a file separated by tabs."""
    return _rows(text, "\t")


def _rows(text: str, delimiter: str) -> Iterator[Piece]:
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    try:
        rows = [(number, row) for number, row in enumerate(csv.reader(text.split("\n"), delimiter=delimiter), 1) if any(row)]
    except csv.Error as error:
        raise ExtractError(f"not a readable table: {error}") from error
    if not rows:
        return
    names = [name.strip() for name in rows[0][1]]
    header = len(rows) > 1 and _is_header(names, rows[1][1])
    if header:
        yield Piece(text=" | ".join(names), locator=f"row={rows[0][0]}", kind="table")
    for number, row in rows[1 if header else 0 :]:
        yield Piece(text=_named(names, row) if header else " | ".join(row), locator=f"row={number}", kind="table")


def _delimiter(text: str) -> str:
    """The separator that splits the first lines into the same number (> 1) of fields most often."""
    lines = [line for line in text.split("\n")[:SNIFF_LINES] if line.strip()]

    def evenness(delimiter: str) -> tuple[int, int]:
        widths = [len(row) for row in csv.reader(lines, delimiter=delimiter)]
        common = max(set(widths), key=lambda width: (widths.count(width), width), default=1)
        return (widths.count(common), common) if common > 1 else (0, 0)

    try:
        return max(DELIMITERS, key=evenness)
    except csv.Error as error:
        raise ExtractError(f"not a readable table: {error}") from error


def _is_header(names: list[str], second: list[str]) -> bool:
    """Distinct, filled, no numbers, and as wide as the first row of data."""
    filled = [name for name in names if name]
    return len(filled) == len(names) == len(set(names)) == len(second) > 1 and not any(map(_is_number, names))


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


def _named(names: list[str], row: list[str]) -> str:
    """Empty fields are left out; fields beyond the header follow without a name."""
    named = [f"{name}: {value.strip()}" for name, value in zip(names, row, strict=False) if value.strip()]
    return "; ".join(named + [value.strip() for value in row[len(names) :] if value.strip()])
