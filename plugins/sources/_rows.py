"""What databases share: queries in sources.yaml, rows as JSON that is always the same, one ordered file per query.

A query with an ORDER BY keeps the server's order (it has to be a full one to be repeatable). Any other is sorted here, by
`id` or by the whole row, in files and not in memory: a server may return unordered rows differently every time.
"""

from __future__ import annotations

import csv
import heapq
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from forge.errors import ForgeError
from forge.phase import Settings
from forge.plugins.sources._values import as_text, plain_value
from forge.protocols import Fetching, Preview, Sample

SORT_ROWS = 50_000
"""Rows that are sorted in memory at once; about 50 MB of ordinary rows."""

STOP_EVERY = 256
READS = {"select", "with", "values", "table", "show", "from", "describe"}
WRITES = re.compile(r"\b(insert|update|delete|merge|into|truncate|drop|alter)\b", re.I)
QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/|\$\$.*?\$\$", re.S)
PLACE = re.compile(r"\{(\w+)\}")

Row = Mapping[str, Any]
Rows = AbstractContextManager[Iterator[Row]]


class Shape(Settings):
    """How the rows of a query become records."""

    name: str = Field("rows", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,59}$", description="the file's name, without .jsonl")
    id: str = Field("", description="column that tells rows apart; without an ORDER BY rows are sorted by it")
    columns: tuple[str, ...] = Field((), description="columns to keep, in this order; empty = all")
    text: str = Field("", description='template of the text ("{title}\\n{body}"); empty = all columns as "name: value"')

    @property
    def ordered(self) -> bool:
        """True when the server returns the rows in an order."""
        raise NotImplementedError


class Query(Shape):
    """One SQL query that reads."""

    query: str = Field(min_length=1, description="a SELECT")

    @field_validator("query")
    @classmethod
    def _reads(cls, query: str) -> str:
        bare = bare_sql(query).strip().rstrip(";").strip()
        first = (bare.replace("(", " ").split() or [""])[0].lower()
        if first not in READS:
            raise ValueError(f"it begins with {first[:20]!r}; only queries that read are run")
        if ";" in bare or WRITES.search(bare):
            raise ValueError("it holds a second statement or a word that writes (INSERT, UPDATE, DELETE, MERGE, INTO, …)")
        return query.strip().rstrip(";").strip()

    @property
    def ordered(self) -> bool:
        return is_ordered(self.query)


class RowsSettings(Settings):
    """Keys of every database."""

    format: Literal["jsonl", "csv"] = Field("jsonl", description="how rows are written")
    max_rows: int = Field(1_000_000, ge=1, description="most rows of one query; more is an error, never a silent cut")
    timeout_seconds: float = Field(600.0, gt=0, description="longest time of one query")


class SqlSettings(RowsSettings):
    """Keys of every database that is asked in SQL: `query` for one, `queries` for several."""

    query: str = Field("", description="a SELECT, when there is only one")
    id: str = Field("", description="as in queries")
    columns: tuple[str, ...] = Field((), description="as in queries")
    text: str = Field("", description="as in queries")
    queries: tuple[Query, ...] = Field((), description="several queries, each a file of its own")

    @model_validator(mode="after")
    def _has_queries(self) -> SqlSettings:
        if bool(self.query) == bool(self.queries):
            raise ValueError("write either query: (one) or queries: [{name: …, query: …}]")
        names = [query.name for query in self.all_queries]
        if len(set(names)) < len(names):
            raise ValueError("two queries have the same name; it is the name of their file")
        return self

    @property
    def all_queries(self) -> tuple[Query, ...]:
        """The queries, whichever way they were written."""
        return self.queries or (Query(query=self.query, id=self.id, columns=self.columns, text=self.text),)


def bare_sql(query: str) -> str:
    """A query without its strings, quoted names and comments."""
    return QUOTED.sub(lambda found: " " if found[0].startswith(("--", "/*")) else " q ", query)


def is_ordered(query: str) -> bool:
    """True for a query with an ORDER BY of its own, outside of any parentheses (subqueries, window functions)."""
    bare, inner = bare_sql(query), re.compile(r"\([^()]*\)")
    while inner.search(bare):
        bare = inner.sub(" ", bare)
    return re.search(r"\border\s+by\b", bare, re.I) is not None


def write_rows(shape: Shape, rows: Iterable[Row], folder: Path, settings: RowsSettings, ctx: Fetching) -> int:
    """Write one query's rows to <name>.jsonl (or .csv); returns how many. Raises ForgeError beyond max_rows."""
    counted = _counted(rows, shape.name, settings.max_rows, ctx)
    records = (as_record(row, shape) for row in counted)
    lines = ((_sort_key(record, shape.id), json.dumps(record, ensure_ascii=False, allow_nan=False)) for record in records)
    with tempfile.TemporaryDirectory(prefix="forge-rows-", dir=folder.parent) as place:
        ordered: Iterable[str] = (line for _, line in lines) if shape.ordered else sorted_lines(lines, Path(place))
        if settings.format == "csv":
            return _write_csv(folder / f"{shape.name}.csv", map(json.loads, ordered))
        count = 0
        with (folder / f"{shape.name}.jsonl").open("x", encoding="utf-8", newline="\n") as file:
            for line in ordered:
                file.write(line + "\n")
                count += 1
        return count


def preview_rows(rows: Rows, shape: Shape, samples: int) -> list[Sample]:
    """The first rows of a query."""
    with rows as found:
        first = [as_record(row, shape) for row in islice(found, samples)]
    return [Sample(place=f"{shape.name}:row={number}", text=_told(record)) for number, record in enumerate(first, 1)]


def preview_queries(
    shapes: Sequence[Shape], rows: Callable[[Any], Rows], count: Callable[[Any], int | None], samples: int, note: str = ""
) -> Preview:
    """Samples of each query until there are enough, and the rows of all of them where the server counts."""
    shown: list[Sample] = []
    for shape in shapes:
        if len(shown) < samples:
            shown += preview_rows(rows(shape), shape, samples - len(shown))
    counts = [count(shape) for shape in shapes]
    known = [number for number in counts if number is not None]
    total = sum(known) if len(known) == len(counts) else None
    return Preview(files=len(shapes), rows=total, samples=tuple(shown), note=note or ("" if total is not None else "the server does not count the rows"))


def as_record(row: Row, shape: Shape) -> dict[str, Any]:
    """A row as the JSON object that is written. Raises ForgeError for a column that the query does not give."""
    plain = {name: plain_value(value) for name, value in row.items()}
    if shape.text:
        told = PLACE.sub(lambda found: as_text(_column(plain, found[1], shape)), shape.text)
        return {shape.id: _column(plain, shape.id, shape), "text": told} if shape.id else {"text": told}
    if not shape.columns:
        return plain
    names = [shape.id, *shape.columns] if shape.id and shape.id not in shape.columns else list(shape.columns)
    return {name: _column(plain, name, shape) for name in names}


def sorted_lines(lines: Iterable[tuple[str, str]], place: Path) -> Iterator[str]:
    """The lines in the order of (key, line), with SORT_ROWS of them in memory at a time."""
    source, parts = iter(lines), list[Path]()
    while batch := sorted(islice(source, SORT_ROWS)):
        if not parts and len(batch) < SORT_ROWS:
            yield from (line for _, line in batch)
            return
        part = place / f"{len(parts)}.jsonl"
        with part.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(pair, ensure_ascii=False) + "\n" for pair in batch)
        parts.append(part)
    with ExitStack() as stack:
        files = [stack.enter_context(part.open(encoding="utf-8", newline="\n")) for part in parts]
        for _, line in heapq.merge(*[map(_pair, file) for file in files]):
            yield line


def _pair(line: str) -> tuple[str, str]:
    key, text = json.loads(line)
    return key, text


def _counted(rows: Iterable[Row], name: str, most: int, ctx: Fetching) -> Iterator[Row]:
    for number, row in enumerate(rows, 1):
        if number % STOP_EVERY == 1:
            ctx.check_stop()
            ctx.progress(number - 1, None)
        if number > most:
            raise ForgeError(
                f'the query "{name}" gives more than {most:,} rows', why="max_rows is the cap, and leaving rows out silently is no option",
                next="raise max_rows, or choose rows with WHERE, or with ORDER BY and LIMIT",
            )
        yield row


def _column(record: Row, name: str, shape: Shape) -> Any:
    if name not in record:
        raise ForgeError(f'the query "{shape.name}" gives no column "{name}"', why=f"its columns are {', '.join(record)}", next="mend id, columns or text")
    return record[name]


def _sort_key(record: Row, column: str) -> str:
    """Numbers in their order before texts in theirs."""
    value = record.get(column) if column else None
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**30:
        return f"1{value + 10**30:031d}"
    return "" if value is None else f"2{as_text(value)}"


def _told(record: Row) -> str:
    return "; ".join(f"{name}: {as_text(value)}" for name, value in record.items() if value is not None)


def _write_csv(target: Path, records: Iterator[dict[str, Any]]) -> int:
    """Columns of the first record; every query gives the same ones for all rows."""
    count = 0
    with target.open("x", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        for record in records:
            if not count:
                writer.writerow(record)
            writer.writerow([as_text(value) for value in record.values()])
            count += 1
    return count
