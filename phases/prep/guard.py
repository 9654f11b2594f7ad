"""Looks into a ZIP container's directory before any library opens it: bombs and encrypted members are refused.

Limits after extraction research: Apache Tika's output ratio, David Fifield's overlapping-entries bomb (USENIX WOOT
2019). Python's zipfile never inflates past the declared size, so declared sizes are a sound bound.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from forge.errors import ExtractError

MAX_ENTRIES = 10_000
MAX_ENTRY_BYTES = 256 << 20
MAX_TOTAL_BYTES = 1 << 30
MAX_RATIO = 200
RATIO_FREE_BYTES = 1 << 20
"""Entries below this may be as compressible as they like (a blank sheet is)."""

LOCAL_HEADER_BYTES = 30


def open_directory(path: Path) -> zipfile.ZipFile:
    """The container, with its directory checked. Raises ExtractError: damaged, or refused with the limit it breaks."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, OSError, ValueError) as error:
        raise ExtractError(f"damaged ZIP container ({error})") from error
    entries = archive.infolist()
    if reason := _bomb(entries, path.stat().st_size):
        archive.close()
        raise ExtractError(f"unsafe ZIP container: {reason}", refused=True)
    return archive


def _bomb(entries: list[zipfile.ZipInfo], size: int) -> str:
    if len(entries) > MAX_ENTRIES:
        return f"{len(entries):,} entries (at most {MAX_ENTRIES:,})"
    total = sum(entry.file_size for entry in entries)
    if total > MAX_TOTAL_BYTES:
        return f"unpacks to {total >> 20:,} MiB (at most {MAX_TOTAL_BYTES >> 20:,})"
    for entry in entries:
        if entry.file_size > MAX_ENTRY_BYTES:
            return f"{entry.filename!r} unpacks to {entry.file_size >> 20:,} MiB (at most {MAX_ENTRY_BYTES >> 20:,})"
        if entry.file_size > RATIO_FREE_BYTES and entry.file_size > MAX_RATIO * max(1, entry.compress_size):
            return f"{entry.filename!r} is packed {entry.file_size // max(1, entry.compress_size):,} : 1 (at most {MAX_RATIO})"
    return _overlap(entries, size)


def _overlap(entries: list[zipfile.ZipInfo], size: int) -> str:
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset < end:
            return f"{entry.filename!r} overlaps another entry"
        end = entry.header_offset + LOCAL_HEADER_BYTES + entry.compress_size
    return "its entries reach past its end" if end > size else ""
