"""A column's value as text, as MariaDB's client would show it. Moments of TIMESTAMP columns are in UTC."""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta

from forge.plugins.extractors._myisam import frm
from forge.plugins.extractors._myisam.frm import BLOBS, Column

BINARY = 63
CODECS: dict[str, tuple[int, ...]] = {
    "big5": (1, 84), "latin-2": (2, 9, 21, 27, 77), "cp850": (4, 80), "koi8-r": (7, 74), "cp1252": (5, 8, 15, 31, 47, 48, 49, 94),
    "ascii": (11, 65), "euc-jp": (12, 91, 97, 98), "shift-jis": (13, 88), "cp1251": (14, 23, 50, 51, 52), "iso8859-8": (16, 71),
    "tis-620": (18, 89), "euc-kr": (19, 85), "iso8859-13": (20, 41, 42, 79), "koi8-u": (22, 75), "gb2312": (24, 86), "iso8859-7": (25, 70),
    "cp1250": (26, 34, 44, 66, 99), "gbk": (28, 87), "cp1257": (29, 58, 59), "iso8859-9": (30, 78), "cp866": (36, 68), "mac-latin2": (38, 43),
    "mac-roman": (39, 53), "cp852": (40, 81), "utf-16-le": (56, 62), "cp1256": (57, 67), "cp932": (95, 96),
    "utf-16-be": (35, 90, *range(54, 56), *range(101, 125), *range(128, 152), 159, *range(640, 643), *range(672, 675)),
    "utf-32-be": (60, 61, *range(160, 184), *range(736, 739)),
}  # fmt: skip
CODEC_OF = {number: codec for codec, numbers in CODECS.items() for number in numbers}
"""Number of a collation (below 1024 as MariaDB 10.11 lists them) -> Python's codec; UTF-8 for those that are not here."""

INTEGERS = {frm.TINY: 1, frm.SHORT: 2, frm.INT24: 3, frm.LONG: 4, frm.LONGLONG: 8}
DIGIT_BYTES = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def text_of(column: Column, row: bytes, blobs: dict[int, bytes]) -> str | None:
    """The value as text; "" for NULL; None for binary data. Raises ValueError or IndexError when the row is too short."""
    if column.null and row[column.null[0]] >> column.null[1] & 1:
        return ""
    kind, at = column.type, column.offset
    if kind in BLOBS:
        return _decoded(column, blobs.get(at, b""))
    if kind == frm.VARCHAR:
        size = 1 if column.length < 256 else 2
        length = int.from_bytes(row[at : at + size], "little")
        return _decoded(column, row[at + size : at + size + length])
    if kind in (frm.STRING, frm.VAR_STRING):
        data = row[at : at + column.length]
        return _decoded(column, data) if column.charset == BINARY else (_decoded(column, data) or "").rstrip(" ")
    if kind in (frm.ENUM, frm.SET):
        return _labels(column, row)
    if kind == frm.BIT:
        return _bits(column, row)
    return _number(column, row[at:]) if kind in NUMBERS else _moment(column, row[at:])


def _decoded(column: Column, data: bytes) -> str | None:
    if column.charset == BINARY:
        return None if data.strip(b"\0") else ""
    number = column.charset - 1024 if column.charset >= 1024 else column.charset  # 1024 and up: the same, without padding
    return data.decode(CODEC_OF.get(number, "utf-8"), "replace")


def _labels(column: Column, row: bytes) -> str:
    count = len(column.labels)
    if column.type == frm.ENUM:
        size = 1 if count < 256 else 2
        index = int.from_bytes(row[column.offset : column.offset + size], "little")
        return column.labels[index - 1] if 0 < index <= count else ""
    size = (count + 7) // 8 if count <= 32 else 8
    bits = int.from_bytes(row[column.offset : column.offset + size], "little")
    return ",".join(label for at, label in enumerate(column.labels) if bits >> at & 1)


def _bits(column: Column, row: bytes) -> str:
    """A BIT's high bits lie among those of NULL, its whole bytes in the row."""
    size = column.length // 8
    first, odd = column.bits
    high = int.from_bytes(row[first >> 3 : (first >> 3) + 2], "little") >> (first & 7) & ((1 << odd) - 1)
    return str(high << (8 * size) | int.from_bytes(row[column.offset : column.offset + size], "big"))


def _number(column: Column, data: bytes) -> str:
    if column.type in INTEGERS:
        size = INTEGERS[column.type]
        value = int.from_bytes(_exactly(data, size), "little", signed=not column.is_unsigned)
        return str(value).zfill(column.length) if column.flags & frm.ZEROFILL else str(value)
    if column.type == frm.NEWDECIMAL:
        return _decimal(column, data)
    if column.type == frm.DECIMAL:
        return data[: column.length].decode("ascii", "replace").strip()
    if column.type == frm.YEAR:
        return str(1900 + data[0]) if data[0] else "0000"
    if column.type == frm.FLOAT:
        return _real(struct.unpack("<f", data[:4])[0], column.decimals, digits=6)
    return _real(struct.unpack("<d", data[:8])[0], column.decimals, digits=17)


NUMBERS = {*INTEGERS, frm.NEWDECIMAL, frm.DECIMAL, frm.YEAR, frm.FLOAT, frm.DOUBLE}


def _real(value: float, decimals: int, digits: int) -> str:
    if decimals < 31:  # declared as DOUBLE(m, d); 31 and above: as many as there are
        return f"{value:.{decimals}f}"
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return (f"{value:.{digits}g}" if digits < 17 else repr(value)).replace("e+", "e")


def _decimal(column: Column, data: bytes) -> str:
    """Nine digits in four bytes each, a sign in the first bit; a negative number has all bits turned over."""
    scale = column.decimals
    whole = column.length - (1 if scale else 0) - (0 if column.is_unsigned else 1) - scale
    sizes = [whole % 9, *[9] * (whole // 9), *[9] * (scale // 9), scale % 9]
    raw = _exactly(data, sum(DIGIT_BYTES[size] for size in sizes))
    negative = not raw[0] & 0x80
    raw = bytes([raw[0] ^ 0x80, *raw[1:]])
    if negative:
        raw = bytes(byte ^ 0xFF for byte in raw)
    digits, at = "", 0
    for size in sizes:
        if size:
            digits += str(int.from_bytes(raw[at : at + DIGIT_BYTES[size]], "big")).zfill(size)
            at += DIGIT_BYTES[size]
    text = digits[:whole].lstrip("0") or "0"
    return ("-" if negative else "") + text + ("." + digits[whole:] if scale else "")


def _moment(column: Column, data: bytes) -> str:
    kind = column.type
    if kind in (frm.NEWDATE, frm.DATE):
        value = int.from_bytes(_exactly(data, 3), "little")
        return f"{value >> 9:04}-{value >> 5 & 15:02}-{value & 31:02}"
    if kind == frm.TIMESTAMP2:
        seconds = int.from_bytes(_exactly(data, 4), "big")
        return _since_epoch(seconds) + _fraction(data[4:], _places(column, 19))
    if kind == frm.TIMESTAMP:
        return _since_epoch(int.from_bytes(_exactly(data, 4), "little"))
    if kind == frm.DATETIME2:
        value = int.from_bytes(_exactly(data, 5), "big") - 0x8000000000
        month, day, clock = value >> 22, value >> 17 & 31, value & 0x1FFFF
        return f"{month // 13:04}-{month % 13:02}-{day:02} {_clock(clock)}{_fraction(data[5:], _places(column, 19))}"
    if kind == frm.DATETIME:
        text = f"{int.from_bytes(_exactly(data, 8), 'little'):014}"
        return f"{text[:4]}-{text[4:6]}-{text[6:8]} {text[8:10]}:{text[10:12]}:{text[12:14]}"
    if kind == frm.TIME2:
        return _time(data, _places(column, 10))
    if kind == frm.TIME:
        value = int.from_bytes(_exactly(data, 3), "little", signed=True)
        return f"{'-' if value < 0 else ''}{abs(value) // 10000:02}:{abs(value) // 100 % 100:02}:{abs(value) % 100:02}"
    return ""


def _places(column: Column, width: int) -> int:
    """Digits of the second's fraction: what the column's width has beyond the point."""
    return min(6, max(0, column.length - width - 1))


def _clock(value: int) -> str:
    return f"{value >> 12:02}:{value >> 6 & 63:02}:{value & 63:02}"


def _fraction(data: bytes, places: int) -> str:
    size = (places + 1) // 2
    value = int.from_bytes(_exactly(data, size), "big")
    return f".{value:0{2 * size}}"[: 1 + places] if places else ""


def _time(data: bytes, places: int) -> str:
    size = (places + 1) // 2
    value = int.from_bytes(_exactly(data, 3 + size), "big") - (0x800000 << (8 * size))
    clock, rest = abs(value) >> (8 * size), abs(value) & ((1 << (8 * size)) - 1)
    return ("-" if value < 0 else "") + _clock(clock) + (f".{rest:0{2 * size}}"[: 1 + places] if places else "")


def _since_epoch(seconds: int) -> str:
    moment = EPOCH + timedelta(seconds=seconds)
    return moment.strftime("%Y-%m-%d %H:%M:%S") if seconds else "0000-00-00 00:00:00"


def _exactly(data: bytes, size: int) -> bytes:
    if len(data) < size:
        raise ValueError("a value reaches past its row")
    return data[:size]
