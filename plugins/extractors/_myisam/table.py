"""A table put together from its files."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from forge.errors import ExtractError
from forge.plugins.extractors._myisam.frm import MAX_FRM_BYTES, Column, Form, parse_form
from forge.plugins.extractors._myisam.rows import (
    Layout,
    Packed,
    layout_from_form,
    layout_from_index,
    stored_rows,
)
from forge.plugins.extractors._myisam.values import text_of

INDEX_HEADER_BYTES = 1 << 16

Cells = list[tuple[int, str]]


class Table:
    """An open table: its columns, and its rows as filled cells."""

    def __init__(self, columns: tuple[Column, ...], layout: Layout, data: mmap.mmap | None) -> None:
        self.columns, self.layout, self.data = columns, layout, data
        self.damaged = 0
        self.index_fault = ""
        self.binary = 0

    @property
    def names(self) -> dict[int, str]:
        """Column number -> name."""
        return {at: one.name for at, one in enumerate(self.columns)}

    def rows(self) -> Iterator[tuple[int, Cells]]:
        """(number from 1, filled cells) of every row that is there; damaged rows and binary values are counted."""
        if self.data is None:
            return
        with memoryview(self.data) as view:
            for number, stored in enumerate(stored_rows(view, self.layout), 1):
                cells = self._cells(*stored) if stored is not None else None
                if cells is None:
                    self.damaged += 1
                elif cells:
                    yield number, cells

    def _cells(self, row: bytes, blobs: dict[int, bytes]) -> Cells | None:
        cells = []
        for at, column in enumerate(self.columns):
            try:
                text = text_of(column, row, blobs)
            except (ValueError, IndexError, OverflowError):
                return None
            if text is None:
                self.binary += 1
            elif text:
                cells.append((at, text))
        return cells


def open_table(form: Path, data: Path, index: Path | None = None) -> Table:
    """The table of a .frm and a .MYD file; the .MYI is asked for the layout where there is one, and not needed.

    Raises ExtractError when the files are damaged, packed with myisampack or no MyISAM table.
    """
    if form.stat().st_size > MAX_FRM_BYTES:
        raise ExtractError(f"not a table's definition: a .frm of more than {MAX_FRM_BYTES >> 20} MiB")
    parsed = parse_form(form.read_bytes())
    layout, fault = _layout(parsed, index)
    mapped = None
    if data.stat().st_size:
        with data.open("rb") as file:  # not closed by hand: whoever stops in the middle of the rows still holds a view of it
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    table = Table(parsed.columns, layout, mapped)
    table.index_fault = fault
    return table


def _layout(form: Form, index: Path | None) -> tuple[Layout, str]:
    """The layout and what is wrong with the .MYI: then, as without one, the .frm decides."""
    if index is None:
        return layout_from_form(form), ""
    with index.open("rb") as file:
        head = file.read(INDEX_HEADER_BYTES)
    try:
        return layout_from_index(head), ""
    except Packed:
        raise
    except ExtractError as error:
        return layout_from_form(form), error.fact
