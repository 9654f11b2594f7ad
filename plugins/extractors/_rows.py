"""Rows of any table as text: finds the row with the column names, then writes "name: value; name: value" for each row below.

A row is its number (from 1) with its filled cells as (column from 0, text): a sheet whose only cells are A1 and XFD1048576
then costs two cells, and not the sixteen billion between them.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby, islice, repeat
from operator import itemgetter
from typing import Literal

from forge.records import Piece

Cells = Sequence[tuple[int, str]]
Row = tuple[int, Cells]
Place = Callable[[int, int, int, int], str]
"""The locator of a stretch of rows: first and last row, leftmost and rightmost column."""

MAX_ROWS = 200_000
"""Rows of one table that are kept unless the option max_rows says otherwise."""

MAX_CHARACTERS = 32_000_000
"""Characters of one table, which also end it: half of what prep takes of a file before it refuses the whole."""

OVER_LIMIT = Piece(text="", dropped="row over the limit")
UNCOUNTED = Piece(text="", dropped="table that goes on for more than a million rows over the limit")
MAX_COUNTED = 1_000_000
"""Rows over the limit that are counted, a few seconds; reading all of ten gigabytes to count them would cost the file."""

ROWS_ALONE = 1000
GROUP_CHARACTERS = 400
"""Beyond so many rows those of about a third of a passage go together."""

LOOK_AHEAD = 30
"""Rows looked at to find the header: titles, dates and notes above it are seldom more than ten."""

MAX_NAME_CHARACTERS = 80
FEW_NAMES = 5
"""From so many columns on some names may come again, as under groups of columns."""

MAX_VALUE_CHARACTERS = 40
NUMBER = re.compile(r"[-+($€£¥ ]*\d[\d., '\u00a0\u202f]*(e[-+]?\d+)?[)%$€£¥ ]*", re.IGNORECASE)
DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([T ].*)?")
YEAR = re.compile(r"(19|20)\d\d")


def table_pieces(rows: Iterable[Row], place: Place, *, heading: str = "", limit: int = MAX_ROWS) -> Iterator[Piece]:
    """The pieces of a table whose header must be found: titles above it as prose, the names, then its rows.

    Below an empty row a second table may begin; it needs a header that its own columns confirm. Rows beyond `limit` are
    counted as losses.
    """
    names: dict[int, str] = {}
    writer = _Writer(place, heading, limit)
    for block in _blocks(rows):
        start = list(islice(block, LOOK_AHEAD))
        header = _header(start, known=names)
        if header is not None:
            yield from (writer.plain(row, "prose") for row in start[:header])
            yield writer.plain(start[header], "table")
            names = _grouped_names(start[header][1], start[header - 1][1] if header else ())
            start = start[header + 1 :]
        elif len(start) < (LOOK_AHEAD if not names else 2) and all(len(cells) == 1 for _, cells in start):
            yield from (writer.plain(row, "prose") for row in start)  # titles above, notes below a table
            continue
        yield from writer.rows(names, chain(start, block))
        if writer.full:
            return


def named_pieces(
    names: Mapping[int, str], rows: Iterable[Row], place: Place, *, heading: str = "", limit: int = MAX_ROWS
) -> Iterator[Piece]:
    """Rows whose columns have these names; plain cells where there are none. Rows beyond `limit` are losses."""
    return _Writer(place, heading, limit).rows(names, rows)


class _Writer:
    """Rows to pieces: one each, and in long tables several together, which halves the time of reading them."""

    def __init__(self, place: Place, heading: str, limit: int) -> None:
        self.place, self.heading, self.limit = place, heading, limit
        self.kept = self.characters = 0
        self.full = False

    def plain(self, row: Row, kind: Literal["prose", "table"]) -> Piece:
        number, cells = row
        where = self.place(number, number, cells[0][0], cells[-1][0])
        return Piece(text=" | ".join([value for _, value in cells]), locator=where, heading=self.heading, kind=kind)

    def rows(self, names: Mapping[int, str], rows: Iterable[Row]) -> Iterator[Piece]:
        labels = {column: f"{name}: " for column, name in names.items() if name}
        joint = "; " if labels else " | "
        group = _Group()
        for number, cells in rows:
            self.kept += 1
            if self.kept > self.limit:
                yield from self._grouped(group)
                self.full = self.kept > self.limit + MAX_COUNTED
                yield UNCOUNTED if self.full else OVER_LIMIT
                if self.full:
                    return
                continue
            group.add(number, cells, joint.join([labels.get(column, "") + value for column, value in cells]))
            self.characters += len(group.lines[-1])
            if self.characters > MAX_CHARACTERS:
                self.limit = self.kept
            if self.kept <= ROWS_ALONE or group.size > GROUP_CHARACTERS:
                yield from self._grouped(group)
        yield from self._grouped(group)

    def _grouped(self, group: _Group) -> Iterator[Piece]:
        if group.lines:
            where = self.place(group.first, group.last, group.left, group.right)
            yield Piece(text="\n".join(group.lines), locator=where, heading=self.heading, kind="table")
            group.clear()


class _Group:
    """Rows that share a piece, and the rectangle that they cover."""

    __slots__ = ("first", "last", "left", "lines", "right", "size")

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.first = self.last = self.left = self.right = self.size = 0

    def add(self, number: int, cells: Cells, line: str) -> None:
        left, right = cells[0][0], cells[-1][0]
        if not self.lines:
            self.first, self.left, self.right = number, left, right
        self.last, self.left, self.right = number, min(left, self.left), max(right, self.right)
        self.lines.append(line)
        self.size += len(line)

    def clear(self) -> None:
        self.lines.clear()
        self.size = 0


def over_limit(count: int) -> Iterator[Piece]:
    """So many rows as losses, when their number is known."""
    yield from repeat(OVER_LIMIT, min(count, MAX_COUNTED))
    if count > MAX_COUNTED:
        yield UNCOUNTED


def filled(values: Iterable[str]) -> Cells:
    """The cells of a row that hold something, each on one line."""
    return [(column, text if "\n" not in text else on_one_line(text)) for column, value in enumerate(values) if (text := value.strip())]


def on_one_line(value: str) -> str:
    """A cell's text without line ends: a row is one line."""
    return " ".join(value.split()) if "\n" in value or "\r" in value else value.strip()


def row_limit(options: Mapping[str, bool | int | float | str]) -> int:
    """The option max_rows as a number of rows."""
    return max(0, int(options.get("max_rows", MAX_ROWS)))


def _blocks(rows: Iterable[Row]) -> Iterator[Iterator[Row]]:
    """Stretches of rows without an empty row in between. `rows` holds no empty ones: their numbers tell."""
    numbered = groupby(enumerate(rows), key=lambda pair: pair[1][0] - pair[0])
    return ((row for _, row in group) for _, group in numbered)


def _grouped_names(cells: Cells, above: Cells) -> dict[int, str]:
    """The names by column; where one comes again, with the group that stands above it ("2024 Price")."""
    again = {name for name, count in Counter(value for _, value in cells).items() if count > 1}
    names = {}
    for column, name in cells:
        at = bisect(above, column, key=itemgetter(0)) if name in again and len(above) > 1 else 0
        names[column] = f"{above[at - 1][1]} {name}" if at else name
    return names


def _header(rows: Sequence[Row], *, known: Mapping[int, str]) -> int | None:
    """Which of the rows names the columns: the first that is as wide as most rows are, if it reads like names.

    known: the names that are in force. A later block replaces them only by names over columns of numbers or dates, for
    any row of words looks like names.
    """
    widths = Counter(len(cells) for _, cells in rows)
    usual = max(widths, key=lambda width: (widths[width], width), default=0)
    for index, (_, cells) in enumerate(rows[:-1]):
        without_corner = len(cells) == usual - 1 > 1 and cells[0][0] > 0  # an index column has no name
        if len(cells) >= usual or without_corner:
            below = [row[1] for row in rows[index + 1 :]]
            fits = _are_names(cells, below) and (not known or _confirmed(cells, below))
            return index if fits else None
    return None


def _are_names(cells: Cells, below: Sequence[Cells]) -> bool:
    """Short words, most of them distinct (years may be among them) that do not come again in their columns."""
    names = [value for _, value in cells]
    distinct = len({name.casefold() for name in names})
    if distinct < 2 or distinct < (len(names) if len(names) < FEW_NAMES else len(names) / 2):
        return False
    if any(len(name) > MAX_NAME_CHARACTERS or name.endswith(":") for name in names):
        return False
    values = [name for name in names if _is_value(name)]
    if len(values) == len(names) or not all(YEAR.fullmatch(value) for value in values):
        return False
    return set(cells).isdisjoint(chain.from_iterable(below))


def _confirmed(cells: Cells, below: Sequence[Cells]) -> bool:
    """True when a name stands over a column that holds numbers or dates only."""
    columns: dict[int, list[str]] = {}
    for column, value in chain.from_iterable(below):
        columns.setdefault(column, []).append(value)
    return any(not _is_value(name) and all(map(_is_value, columns.get(column, ["x"]))) for column, name in cells)


def _is_value(text: str) -> bool:
    """A number, an amount, a share or a date: what a column's name is not."""
    return len(text) <= MAX_VALUE_CHARACTERS and bool(NUMBER.fullmatch(text) or DATE.fullmatch(text))
