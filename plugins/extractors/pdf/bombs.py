"""Streams that inflate without end. pdfium takes what it gets: 2 kB, deflated twice, cost 2.1 GB and seven seconds."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator

from forge.errors import ExtractError

MAX_STREAM_BYTES = 256 << 20
"""A stream that is no picture; the drawing of a city map has about 20 MB."""

DEFLATE_RATIO = 1032
HEAD_BYTES = 2000
STREAM = re.compile(rb"stream\r?\n")
FLATE = re.compile(rb"/(?:FlateDecode|Fl)\b")


def refuse_bombs(data: bytes) -> None:
    """Raise ExtractError, refused, when a stream would inflate to more than MAX_STREAM_BYTES. Pictures are not looked
    at: the pixels of a page are bounded when it is drawn. What a single deflation cannot bring there is not inflated."""
    for match in STREAM.finditer(data):
        start, end = match.end(), data.find(b"endstream", match.end())
        if end < 0:
            return
        head = data[max(0, match.start() - HEAD_BYTES) : match.start()]
        head = head[head.rfind(b" obj") + 1 :]
        layers = len(FLATE.findall(head))
        if not layers or b"/Image" in head or (layers == 1 and (end - start) * DEFLATE_RATIO <= MAX_STREAM_BYTES):
            continue
        if _is_bomb(data[start:end], layers):
            raise ExtractError(f"unsafe PDF: a stream unpacks to more than {MAX_STREAM_BYTES >> 20} MiB", refused=True)


def _is_bomb(packed: bytes, layers: int) -> bool:
    chunks: Iterable[bytes] = (packed,)
    for _ in range(layers):
        chunks = _inflate(chunks)
    size = 0
    try:
        for chunk in chunks:
            size += len(chunk)
            if size > MAX_STREAM_BYTES:
                return True
    except zlib.error:
        return False  # pdfium keeps what came before, which was little
    return False


def _inflate(chunks: Iterable[bytes]) -> Iterator[bytes]:
    machine = zlib.decompressobj()
    for chunk in chunks:
        while chunk:
            yield machine.decompress(chunk, 1 << 20)
            chunk = machine.unconsumed_tail
