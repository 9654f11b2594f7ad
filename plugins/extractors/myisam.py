"""MyISAM tables of MySQL and MariaDB (.MYD with its .frm, .MYI not needed): every row that is there, without a server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import ClassVar

from forge.errors import ExtractError
from forge.phase import Requirement
from forge.plugins.extractors._myisam import open_table
from forge.plugins.extractors._myisam.frm import MAX_FRM_BYTES, parse_form
from forge.plugins.extractors._myisam.rows import INDEX_MAGIC, layout_from_index
from forge.plugins.extractors._myisam.table import INDEX_HEADER_BYTES
from forge.plugins.extractors._rows import MAX_ROWS, named_pieces
from forge.protocols import Reading
from forge.records import Piece

ROWS, FORM, INDEX = "application/x-myisam-table", "application/x-mysql-form", "application/x-myisam-index"
TYPES = {".myd": ROWS, ".frm": FORM, ".myi": INDEX}


class MyisamExtractor:
    """One line of text a row, "column: value; column: value"; a .frm or .MYI that stands alone tells of its columns."""

    name: ClassVar[str] = "myisam"
    media_types: ClassVar[tuple[str, ...]] = (ROWS, FORM, INDEX)
    extensions: ClassVar[Mapping[str, str]] = TYPES
    magic: ClassVar[Mapping[bytes, str]] = {INDEX_MAGIC: INDEX}
    requires: ClassVar[tuple[Requirement, ...]] = ()
    sidecars: ClassVar[Mapping[str, tuple[str, ...]]] = {".myd": (".frm", ".myi")}

    def accepts(self, head: bytes, name: str) -> str:
        """By name where the content allows it: a .MYD has no signature, and short rows may look like text."""
        claimed = TYPES.get(PurePosixPath(name).suffix.lower(), "")
        if claimed == FORM and not head.startswith((b"\xfe\x01", b"TYPE=VIEW")):
            return ""
        return "" if claimed == INDEX and not head.startswith(INDEX_MAGIC) else claimed

    def extract(self, path: Path, ctx: Reading) -> Iterator[Piece]:
        """Yield rows ("row=7", counting those that are there). Raises ExtractError for damaged or packed tables."""
        if ctx.media_type == FORM:
            yield from _form(path)
        elif ctx.media_type == INDEX:
            with path.open("rb") as file:
                layout = layout_from_index(file.read(INDEX_HEADER_BYTES))
            yield Piece(text=f"MyISAM index of a table with {len(layout.fields)} stored fields; its .MYD is missing", kind="metadata")
        else:
            yield from _table(path, ctx)


extractor = MyisamExtractor()


def _table(path: Path, ctx: Reading) -> Iterator[Piece]:
    form, stem = ctx.sidecars.get(".frm"), PurePosixPath(ctx.name).stem
    if form is None:
        raise ExtractError("the rows of a MyISAM table without its .frm file", next=f"put {stem or 'TABLE'}.frm beside it")
    limit = int(ctx.options.get("max_rows", MAX_ROWS))
    table = open_table(form, path, ctx.sidecars.get(".myi"))
    columns = ", ".join(one.name for one in table.columns)
    yield Piece(text=f"MyISAM table {stem}: {columns}", locator="header", kind="metadata")
    yield from named_pieces(table.names, table.rows(), lambda first, last, left, right: _place(first, last), limit=limit)
    if table.index_fault:
        yield Piece(text="", dropped=f"index ({table.index_fault})")
    for count, reason in ((table.damaged, "damaged row"), (table.binary, "binary value")):
        for _ in range(min(count, limit)):
            yield Piece(text="", dropped=reason)


def _place(first: int, last: int) -> str:
    return f"row={first}" if first == last else f"row={first}..{last}"


def _form(path: Path) -> Iterator[Piece]:
    if path.stat().st_size > MAX_FRM_BYTES:
        raise ExtractError("not a table's definition: too large")
    data = path.read_bytes()
    if data.startswith(b"TYPE=VIEW"):
        yield Piece(text=data.decode("utf-8", "replace"), kind="metadata")
        return
    form = parse_form(data)
    yield Piece(text="Columns of a table whose rows are elsewhere: " + ", ".join(one.name for one in form.columns), kind="metadata")
