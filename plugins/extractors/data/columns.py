"""Parquet and Arrow through pyarrow, a batch at a time: rows by their column names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.errors import ExtractError
from forge.phase import Requirement
from forge.plugins.extractors._records import TEXTS, is_record, plain, record_pieces
from forge.plugins.extractors._rows import Row, filled, named_pieces, over_limit, row_limit
from forge.protocols import Reading
from forge.records import Piece
from forge.registry import require

if TYPE_CHECKING:
    import pyarrow as pa

NEEDS = (Requirement(module="pyarrow", extra="data"),)
BATCH_ROWS = 1000
BINARY = re.compile(r"\bbinary(_view)?\b|\blarge_binary\b|\bfixed_size_binary\b")
"""As pyarrow writes types: pictures and sounds lie in struct<bytes: binary, path: string>."""


def parquet_rows(path: Path, ctx: Reading) -> Iterator[Piece]:
    """The rows of a Parquet file ("row=7"). Columns with binary values are counted as losses and never read."""
    require(NEEDS, "Parquet")
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            schema, limit = file.schema_arrow, row_limit(ctx.options)
            yield from _described(schema, file.metadata.num_rows)
            batches = file.iter_batches(batch_size=BATCH_ROWS, columns=_readable(schema), use_threads=False)
            yield from _pieces(schema, batches, limit, file.metadata.num_rows)
    except (ArrowException, OSError, ValueError, OverflowError) as error:
        raise ExtractError(f"damaged Parquet file ({error})") from error


def arrow_rows(path: Path, ctx: Reading) -> Iterator[Piece]:
    """The rows of an Arrow file or stream (Hugging Face's shards are streams). Its offsets are checked before they are used."""
    require(NEEDS, "Arrow")
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            reader = _opened(source)
            schema = reader.schema
            yield from _described(schema, None)
            yield from _pieces(schema, _batches(reader), row_limit(ctx.options), None)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise ExtractError(f"damaged Arrow file ({error})") from error


def _opened(source: Any) -> Any:
    import pyarrow as pa

    try:
        return pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_stream(source)


def _batches(reader: Any) -> Iterator[pa.RecordBatch]:
    numbered = hasattr(reader, "num_record_batches")
    for batch in (reader.get_batch(number) for number in range(reader.num_record_batches)) if numbered else reader:
        batch.validate(full=True)
        columns = _readable(batch.schema)
        yield from (batch.select(columns).slice(start, BATCH_ROWS) for start in range(0, batch.num_rows, BATCH_ROWS))


def _described(schema: pa.Schema, rows: int | None) -> Iterator[Piece]:
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
    yield Piece(text=f"Columns: {columns}" + (f". Rows: {rows:,}" if rows is not None else ""), kind="metadata")
    for name in (name for name in schema.names if name not in _readable(schema)):
        yield Piece(text="", locator=f"column={name}", dropped="column of binary values")


def _readable(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if not BINARY.search(str(field.type))]


def _pieces(schema: pa.Schema, batches: Iterable[pa.RecordBatch], limit: int, total: int | None) -> Iterator[Piece]:
    """Questions, chats and texts as records, other columns as a table. Beyond the limit nothing is decoded, only counted."""
    names = _readable(schema)
    if not names:
        return
    taken = _Taken(limit, total)
    rows = enumerate(taken.rows(batches), 1)
    if is_record(names) or any(name.casefold() in TEXTS for name in names):
        yield from record_pieces(rows, lambda number: f"row={number}", limit=limit)
    else:
        cells: Iterator[Row] = ((number, found) for number, row in rows if (found := filled(map(plain, row.values()))))
        yield from named_pieces(dict(enumerate(names)), cells, _place, limit=limit)
    yield from over_limit(taken.over)


class _Taken:
    """Rows of batches up to the limit; `over` counts those beyond it. total: their number, where the file tells it."""

    def __init__(self, limit: int, total: int | None) -> None:
        self.limit, self.over = limit, max(0, (total or 0) - limit)
        self.told = total is not None

    def rows(self, batches: Iterable[pa.RecordBatch]) -> Iterator[dict[str, Any]]:
        left = self.limit
        for batch in batches:
            yield from batch.slice(0, left).to_pylist()
            if not self.told:
                self.over += max(0, batch.num_rows - left)
            left = max(0, left - batch.num_rows)
            if self.told and not left:
                return


def _place(first: int, last: int, left: int, right: int) -> str:
    return f"row={first}" if first == last else f"row={first}..{last}"
