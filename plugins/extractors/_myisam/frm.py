"""The .frm file: a table's columns, where each lies in a row, and what the row's options are."""

from __future__ import annotations

from dataclasses import dataclass

from forge.errors import ExtractError

MAGIC = b"\xfe\x01"
FORM_BYTES = 288
COLUMN_BYTES = 17
MAX_FRM_BYTES = 8 << 20
PACKED_ROWS = 1
CHECKSUM = 32

NULLABLE, NOT_SIGNED_MASK, BIT_AS_CHAR, ZEROFILL = 0x8000, 1, 0x1000, 4
DECIMAL, TINY, SHORT, LONG, FLOAT, DOUBLE, TIMESTAMP, LONGLONG, INT24, DATE, TIME, DATETIME, YEAR, NEWDATE, VARCHAR, BIT = (
    0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
)  # fmt: skip
TIMESTAMP2, DATETIME2, TIME2, NEWDECIMAL, ENUM, SET, TINYBLOB, MEDIUMBLOB, LONGBLOB, BLOB, VAR_STRING, STRING, GEOMETRY = (
    17, 18, 19, 246, 247, 248, 249, 250, 251, 252, 253, 254, 255,
)  # fmt: skip
BLOBS = {TINYBLOB: 1, BLOB: 2, MEDIUMBLOB: 3, LONGBLOB: 4, GEOMETRY: 4}
"""Types whose value lies outside the row's fixed part -> bytes of their length."""


@dataclass(frozen=True)
class Column:
    """One column. offset: where it starts in the unpacked row. null: byte and bit that say it is NULL. bits: those of a BIT's rest."""

    name: str
    type: int
    length: int
    offset: int
    flags: int
    charset: int
    labels: tuple[str, ...] = ()
    null: tuple[int, int] | None = None
    bits: tuple[int, int] = (0, 0)

    @property
    def decimals(self) -> int:
        """Digits behind the point that were declared."""
        return (self.flags >> 8) & 63

    @property
    def is_unsigned(self) -> bool:
        """True for a number without a sign."""
        return not self.flags & NOT_SIGNED_MASK


@dataclass(frozen=True)
class Form:
    """A table's definition. row_bytes: length of an unpacked row."""

    columns: tuple[Column, ...]
    row_bytes: int
    options: int

    @property
    def is_dynamic(self) -> bool:
        """True when rows differ in length."""
        return bool(self.options & PACKED_ROWS)


def number(data: bytes, offset: int, size: int) -> int:
    """A little-endian number. Raises ExtractError when it lies outside."""
    if offset < 0 or offset + size > len(data):
        raise ExtractError("damaged .frm file: it ends too early")
    return int.from_bytes(data[offset : offset + size], "little")


def parse_form(data: bytes) -> Form:
    """The definition in a .frm file. Raises ExtractError for a view (it has no rows) and for anything else."""
    if data.startswith(b"TYPE=VIEW"):
        raise ExtractError("a view's definition: it has no rows of its own")
    if not data.startswith(MAGIC):
        raise ExtractError("not a table's definition: no .frm header")
    start = number(data, 64 + number(data, 4, 2), 4)
    count, screens, names_bytes, labels_bytes = (number(data, start + at, 2) for at in (258, 260, 268, 274))
    definitions = start + FORM_BYTES + screens
    names = definitions + COLUMN_BYTES * count
    number(data, names + names_bytes + labels_bytes, 0)  # all of it is there
    options = number(data, 30, 2)
    titles = _label_lists(data[names : names + names_bytes])
    if len(titles) != 1 or len(titles[0]) != count:
        raise ExtractError(f"damaged .frm file: {count} columns, but other names")
    labels = _label_lists(data[names + names_bytes : names + names_bytes + labels_bytes])
    raw = [data[definitions + COLUMN_BYTES * at :][:COLUMN_BYTES] for at in range(count)]
    columns = _columns(raw, titles[0], labels, first_bit=0 if options & PACKED_ROWS else 1)
    return Form(tuple(columns), number(data, 16, 2), options)


def _label_lists(data: bytes) -> list[tuple[str, ...]]:
    """Lists of labels; each begins with the byte that also ends every label, and ends with NUL."""
    found: list[tuple[str, ...]] = []
    while data:
        mark, labels, at = data[:1], [], 1
        while mark != b"\0" and (end := data.find(mark, at)) >= 0:
            labels.append(data[at:end].decode("utf-8", "replace"))
            at = end + 1
            if data[at : at + 1] == b"\0":
                break
        found.append(tuple(labels))
        data = data[at + 1 :] if mark != b"\0" else data[1:]
    return found


def _columns(raw: list[bytes], names: tuple[str, ...], labels: list[tuple[str, ...]], first_bit: int) -> list[Column]:
    """The columns with the bits of the row's head that each owns: whether it is NULL, and the odd bits of a BIT."""
    columns, bit = [], first_bit  # a fixed row's first bit says that it was deleted
    for name, one in zip(names, raw, strict=True):
        length, offset, flags = number(one, 3, 2), number(one, 5, 3) - 1, number(one, 8, 2)
        kind, interval = one[13], one[12]
        null, odd = None, (0, 0)
        if flags & NULLABLE:
            null, bit = (bit >> 3, bit & 7), bit + 1
        if kind == BIT and not flags & BIT_AS_CHAR:
            odd, bit = (bit, length & 7), bit + (length & 7)
        own = labels[interval - 1] if kind in (ENUM, SET) and 0 < interval <= len(labels) else ()
        columns.append(Column(name, kind, length, offset, flags, one[14] | one[11] << 8, own, null, odd))
    return columns
