"""The .MYD file: rows of one length, or packed ones in linked blocks. What a header claims is never allocated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from forge.errors import ExtractError
from forge.plugins.extractors._myisam import frm
from forge.plugins.extractors._myisam.frm import BLOBS, CHECKSUM, Form

INDEX_MAGIC = b"\xfe\xfe\x07\x01"
PACKED_MAGIC = (b"\xfe\xfe\x08\x01", b"\xfe\xfe\x08\x02", b"\xfe\xfe\x08\x03")
NORMAL, SKIP_END, SKIP_START, SKIP_ZERO, BLOB, VARCHAR = 0, 1, 2, 3, 4, 8
COMPRESSED = 4

Bytes = memoryview


@dataclass(frozen=True)
class Layout:
    """How rows are stored. fields: (how packed, bytes in the unpacked row). stride: bytes of a fixed row."""

    dynamic: bool
    stride: int
    flag_bytes: int
    fields: tuple[tuple[int, int], ...]


def layout_from_index(data: bytes) -> Layout:
    """The layout that a .MYI file states. Raises ExtractError when it is none, or tells of a packed table."""
    if not data.startswith(INDEX_MAGIC) or len(data) < 100:
        raise ExtractError("not a MyISAM index: no .MYI header")
    options, header, base = _big(data, 4, 2), _big(data, 6, 2), _big(data, 12, 2)
    if options & COMPRESSED:
        raise Packed
    stride, count, flag_bytes = _big(data, base + 48, 4), _big(data, base + 64, 4), _big(data, base + 76, 2)
    start = header - 7 * count
    if count > 8192 or start < 0 or header > len(data):
        raise ExtractError("damaged .MYI file: its columns lie outside")
    fields = tuple((_big(data, start + 7 * at, 2), _big(data, start + 7 * at + 2, 2)) for at in range(count))
    return Layout(bool(options & frm.PACKED_ROWS), stride, flag_bytes, fields)


class Packed(ExtractError):
    """A table packed with myisampack, which we do not unpack."""

    def __init__(self) -> None:
        super().__init__("a table packed with myisampack", next="unpack it with myisamchk --unpack")


def layout_from_form(form: Form) -> Layout:
    """The layout rebuilt from the .frm alone, by the rules of table2myisam (sql: ha_myisam.cc). EndNote ships no .MYI."""
    columns = sorted((one for one in form.columns if one.offset >= 0), key=lambda one: one.offset)
    fields = [(NORMAL, columns[0].offset)] if columns and columns[0].offset else []
    for at, one in enumerate(columns):
        end = columns[at + 1].offset if at + 1 < len(columns) else form.row_bytes
        width = end - one.offset
        if width:
            fields.append((_packing(one, width, form.is_dynamic), width))
    bits = sum(how not in (NORMAL, VARCHAR) for how, _ in fields)
    stride = max(form.row_bytes + bool(form.options & CHECKSUM), 7)  # room for a deleted row's mark and link
    return Layout(form.is_dynamic, stride, (bits + 7) // 8, tuple(fields))


def _packing(column: frm.Column, width: int, dynamic: bool) -> int:
    if column.type in BLOBS:
        return BLOB
    if column.type == frm.VARCHAR:
        return VARCHAR
    if not dynamic:
        return NORMAL
    if column.type in ZERO_PACKED:
        return SKIP_ZERO
    if width <= 3 or column.flags & frm.ZEROFILL:
        return NORMAL
    return SKIP_END if column.type in (frm.STRING, frm.VAR_STRING) else SKIP_START


ZERO_PACKED = {
    frm.TINY, frm.SHORT, frm.LONG, frm.FLOAT, frm.DOUBLE, frm.LONGLONG, frm.INT24, frm.DATE, frm.TIME, frm.DATETIME, frm.YEAR, frm.NEWDATE,
    frm.TIME2, frm.DATETIME2, frm.SET, frm.BIT,
}  # fmt: skip


def stored_rows(data: Bytes, layout: Layout) -> Iterator[tuple[bytes, dict[int, bytes]] | None]:
    """Each row unpacked, with its long values by offset; None for a damaged one. Deleted rows are left out."""
    if bytes(data[:4]) in PACKED_MAGIC:
        raise Packed
    if not layout.dynamic:
        if layout.stride < 1:
            raise ExtractError("damaged table: rows without length")
        for at in range(0, len(data) - layout.stride + 1, layout.stride):
            if data[at] != 0:  # the first byte of a deleted row is 0
                yield bytes(data[at : at + layout.stride]), {}
        return
    for packed in _dynamic(data):
        try:
            yield unpack(packed, layout) if packed is not None else None
        except (IndexError, ValueError):
            yield None


class Block(NamedTuple):
    """One block of a dynamic table. next: where the row goes on, or None. size 0: damaged."""

    kind: int
    row_bytes: int
    start: int
    end: int
    size: int
    next: int | None


SHAPES = {
    1: (2, 0, 0, 0), 2: (3, 0, 0, 0), 3: (2, 0, 1, 0), 4: (3, 0, 1, 0), 5: (2, 2, 0, 1), 6: (3, 3, 0, 1), 7: (0, 2, 0, 0), 8: (0, 3, 0, 0),
    9: (0, 2, 1, 0), 10: (0, 3, 1, 0), 11: (0, 2, 0, 1), 12: (0, 3, 0, 1), 13: (4, 3, 0, 1),
}  # fmt: skip
"""Kind of block -> bytes of the row's length, of the block's own length, of its unused tail's length, and 1 if linked."""

FIRST = {1, 2, 3, 4, 5, 6, 13}


def _block(data: Bytes, at: int) -> Block:
    kind = data[at]
    if kind == 0:
        return Block(0, 0, at, at, max(20, _big(data, at + 1, 3)), None)
    if kind not in SHAPES:
        return Block(kind, 0, at, at, 0, None)
    of_row, of_block, of_unused, linked = SHAPES[kind]
    head = at + 1
    row = _big(data, head, of_row)
    own = _big(data, head + of_row, of_block) if of_block else row
    unused = _big(data, head + of_row + of_block, of_unused)
    link = _big(data, head + of_row + of_block + of_unused, 8) if linked else None
    start = head + of_row + of_block + of_unused + 8 * linked
    if start + own > len(data):
        return Block(kind, row, start, start, 0, None)
    return Block(kind, row, start, start + own, start - at + own + unused, link)


def _dynamic(data: Bytes) -> Iterator[bytes | None]:
    at, room = 0, len(data)
    while at + 4 <= len(data):
        block = _block(data, at)
        if block.kind in FIRST and block.size:
            row = _joined(data, block)
            if row is not None:
                room -= len(row)  # a block belongs to one row: all rows together are no longer than the file
                if room < 0:
                    raise ExtractError("damaged table: its rows share their blocks", refused=True)
            yield row
        elif block.kind and not block.size:
            at += 4  # damaged: blocks start at multiples of four, look for the next one
            continue
        at += (block.size + 3) & ~3


def _joined(data: Bytes, first: Block) -> bytes | None:
    """A row put together from its parts, or None when one is missing or the links run in a circle."""
    parts, total, seen = [bytes(data[first.start : first.end])], first.end - first.start, set[int]()
    link = first.next
    while total < first.row_bytes and link is not None:
        if link in seen or link + 4 > len(data):
            return None
        seen.add(link)
        part = _block(data, link)
        if not part.size or part.kind in FIRST or part.kind == 0:
            return None
        parts.append(bytes(data[part.start : part.end]))
        total += part.end - part.start
        link = part.next
    return b"".join(parts)[: first.row_bytes] if total >= first.row_bytes else None


def unpack(packed: bytes, layout: Layout) -> tuple[bytes, dict[int, bytes]]:
    """The row as the .frm describes it, and its long values by offset. Raises ValueError or IndexError when damaged."""
    at, bit, row, blobs = layout.flag_bytes, 0, bytearray(), dict[int, bytes]()
    for how, width in layout.fields:
        if how == VARCHAR:
            text, at = _take_varchar(packed, at, width)
            row += text
            continue
        flagged = False
        if how in (SKIP_END, SKIP_START, SKIP_ZERO, BLOB):
            flagged, bit = bool(packed[bit >> 3] >> (bit & 7) & 1), bit + 1
        if flagged and how in (SKIP_END, SKIP_START):
            short, size = packed[at], 1
            if width > 255 and short & 128:
                short, size = (short & 127) + (packed[at + 1] << 7), 2
            text = _slice(packed, at + size, min(short, width))
            row += text.ljust(width) if how == SKIP_END else text.rjust(width)
            at += size + short
        elif flagged:
            row += bytes(width)
        elif how == BLOB:
            of_length = width - 8
            length = int.from_bytes(_slice(packed, at, of_length), "little")
            blobs[len(row)] = _slice(packed, at + of_length, length)
            at += of_length + length
            row += bytes(width)
        else:
            row += _slice(packed, at, width)
            at += width
    return bytes(row), blobs


def _take_varchar(packed: bytes, at: int, width: int) -> tuple[bytes, int]:
    of_length = 1 if width - 1 < 256 else 2
    length, at = packed[at], at + 1
    if of_length == 2 and length == 255:
        length, at = _big(packed, at, 2), at + 2
    if length > width - of_length:
        raise ValueError("a value longer than its column")
    return (length.to_bytes(of_length, "little") + _slice(packed, at, length)).ljust(width, b"\0"), at + length


def _slice(data: bytes, at: int, size: int) -> bytes:
    if size < 0 or at + size > len(data):
        raise ValueError("a value reaches past its row")
    return data[at : at + size]


def _big(data: bytes | Bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "big")
