"""Facts of tables: what stands in a row under a column. Reads "column: value; column: value" lines and pipe tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from forge.plugins.teachers._facts import Fact
from forge.plugins.teachers._rows import FIELD, is_pipes, is_record

COLUMNS_PER_ROW = 3
CELL_CHARS = 160


def table_facts(text: str, heading: str, *, has_header: bool) -> Iterator[Fact]:
    """One fact for each of the first columns of each row. has_header: a pipe table whose first row names the columns."""
    lines = text.split("\n")
    rows = [(line, FIELD.findall(line)) for line in lines if is_record(line)]
    if not rows and has_header:
        rows = _pipe_rows(lines)
    for line, fields in rows:
        yield from _row_facts(line, fields, heading)


def _pipe_rows(lines: Sequence[str]) -> list[tuple[str, list[tuple[str, str]]]]:
    cells = [(line, [cell.strip() for cell in line.strip().strip("|").split("|")]) for line in lines if is_pipes(line)]
    cells = [(line, row) for line, row in cells if not all(set(cell) <= set("-: ") for cell in row)]
    if len(cells) < 3 or not all(re.fullmatch(r"[A-Za-z][\w /()?-]{1,39}", cell) for cell in cells[0][1]):
        return []
    names = cells[0][1]
    return [(line, list(zip(names, row, strict=True))) for line, row in cells[1:] if len(row) == len(names)]


def _row_facts(line: str, fields: Sequence[tuple[str, str]], heading: str) -> Iterator[Fact]:
    (key_name, key), *others = fields
    filled = [(column, value) for column, value in others if value.strip() and len(value) <= CELL_CHARS]
    if not key.strip() or len(key) > 60:
        return
    row = f'{key_name.replace("_", " ")} "{key.strip("`")}"'
    place = f' in "{heading}"' if heading else ""
    for column, value in filled[:COLUMNS_PER_ROW]:
        named = column.replace("_", " ")
        forms = (
            f'What stands under "{named}" for {row}?',
            f'Which entry does {row} have under "{named}"{place}?',
            f'Look up {row}: what is given as "{named}"?',
        )
        yield Fact("table", f"table:{heading}:{key}:{column}".casefold(), forms, value.strip(), line.strip(), 3)
