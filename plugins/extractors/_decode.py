"""Bytes to text: byte order mark, UTF-8, the NUL patterns of UTF-16 and UTF-32, then the likeliest old code page."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import TextIO

from forge.errors import ExtractError

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
DECLARED = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)
SAMPLE_BYTES = 1 << 16
MIN_NUL_SHARE = 0.1
"""UTF-16 has a NUL beside every Latin letter, space and line end; even Chinese text has some."""

ASIAN = re.compile(r"^(big5|cp9(32|36|49|50)|euc_|gb|hz|iso2022|johab|shift_jis)")
"""Guesses that are trusted: multi-byte text that decodes without a fault is hardly ever something else."""

CYRILLIC_GREEK = re.compile(r"^(cp125[1356]|cp866|koi8|iso8859_[5678]|mac_(cyrillic|greek)|cp1255|cp1256)")


def decode(data: bytes, *, html: bool = False) -> str:
    """The text, with \\n as line end. Raises ExtractError for bytes that no encoding explains.

    html: a declared charset counts, and without one windows-1252 is the default (WHATWG), where a guess on a few
    accents failed (0 of 3 known phrases).
    """
    return _decode(data, html).replace("\r\n", "\n").replace("\r", "\n")


def open_text(path: Path) -> TextIO:
    """A text file to be read as a stream, with \\n as line end, for files too large to decode at once. Raises as decode()."""
    encoding = _marked(path) or _first_fault(path) or "utf-8"
    return path.open(encoding=encoding, errors="replace")


def _decode(data: bytes, html: bool) -> str:
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    try:
        if b"\0" not in data:
            return data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    if wide := _wide(data):
        return data.decode(wide, "replace")
    encoding = _declared(data) or "cp1252" if html else _guess(data)
    return data.decode(encoding, "replace")


def _marked(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(4)
    return next((encoding for mark, encoding in MARKS if head.startswith(mark)), "")


def _first_fault(path: Path) -> str:
    """The encoding that the stretch tells of in which the file stops to be UTF-8; "" when it never does."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        while chunk := file.read(SAMPLE_BYTES):
            lines = chunk + file.readline(SAMPLE_BYTES)
            try:
                if b"\0" not in lines:
                    decoder.decode(lines)
                    continue
            except UnicodeDecodeError:
                pass
            return _wide(lines) or _guess(lines)
    return ""


def _wide(data: bytes) -> str:
    """The UTF-16 or UTF-32 that the positions of NUL bytes tell of, or ""."""
    nuls = [data[lane::4].count(0) / max(1, len(data) // 4) for lane in range(4)]
    if max(nuls) == 0:
        return ""
    if min(nuls[2:]) > 0.9:
        return "utf-32-le"
    if min(nuls[:2]) > 0.9:
        return "utf-32-be"
    low, high = nuls[0] + nuls[2], nuls[1] + nuls[3]
    if high > max(MIN_NUL_SHARE, 3 * low):
        return "utf-16-le"
    if low > max(MIN_NUL_SHARE, 3 * high):
        return "utf-16-be"
    raise ExtractError("binary data: NUL bytes that no text encoding explains")


def _declared(data: bytes) -> str:
    match = DECLARED.search(data[:4096])
    if not match:
        return ""
    try:
        name = codecs.lookup(match[1].decode("ascii")).name
    except LookupError:
        return ""
    return "cp1252" if name in {"iso8859-1", "ascii", "utf-8"} or name.startswith("utf-16") else name


def _guess(data: bytes) -> str:
    """charset-normalizer's guess where it is a script of its own; else windows-1252, the commonest Western code page."""
    from charset_normalizer import from_bytes

    start = _whole_lines(data)
    best = from_bytes(start).best()
    encoding = best.encoding if best else ""
    if ASIAN.match(encoding) or (CYRILLIC_GREEK.match(encoding) and _share_high(start) > 0.2):
        return encoding
    return "cp1252"


def _whole_lines(data: bytes) -> bytes:
    """A sample that ends at a line end, so that no multi-byte character is cut."""
    if len(data) <= SAMPLE_BYTES:
        return data
    end = data.rfind(b"\n", 0, SAMPLE_BYTES)
    return data[: end if end > 0 else SAMPLE_BYTES]


def _share_high(data: bytes) -> float:
    return sum(byte > 127 for byte in data) / max(1, len(data))
