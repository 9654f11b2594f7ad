"""Single files behind gzip, bzip2, xz or Zstandard; a tar inside is read as the archive that it is."""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, cast

from forge.errors import ExtractError
from forge.phase import Requirement
from forge.plugins.extractors.archive.members import CHUNK, damage_told
from forge.plugins.extractors.archive.tar import HEADER_BYTES, Forward, is_tar_header, read_tar
from forge.protocols import Embedded
from forge.records import Piece
from forge.registry import require

GZIP, BZIP2, XZ, ZSTD = "application/gzip", "application/x-bzip2", "application/x-xz", "application/zstd"
SHORT = {".tgz": ".tar", ".tbz2": ".tar", ".txz": ".tar", ".svgz": ".svg"}
GZIP_EXTRA, GZIP_NAME = 0x4, 0x8


def read_packed(path: Path, media_type: str, name: str) -> Iterator[Piece | Embedded]:
    """The one member, or the members of the tar inside. Raises ExtractError when the bytes are damaged or cut off."""
    told = {BZIP2: "bzip2 file", XZ: "xz file", ZSTD: "Zstandard file"}.get(media_type, "gzip file")
    with _damage_told(told), closing(_opened(path, media_type)) as stream:
        head = stream.read(HEADER_BYTES)
        if is_tar_header(head):
            yield from read_tar(Forward(stream, head))
        else:
            yield Embedded(_inner_name(path, media_type, name), chunks=_chunks(head, stream, told))


def _opened(path: Path, media_type: str) -> IO[bytes]:
    if media_type == ZSTD:
        return _zstd(path)
    if media_type == XZ:
        return cast("IO[bytes]", lzma.open(path))
    if media_type == BZIP2:
        return cast("IO[bytes]", bz2.open(path))
    return cast("IO[bytes]", gzip.open(path))


def _zstd(path: Path) -> IO[bytes]:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        require((Requirement(module="backports", extra="archives"),), "a Zstandard file")
        from backports import zstd
    return cast("IO[bytes]", zstd.open(path))


def _chunks(head: bytes, stream: IO[bytes], told: str) -> Iterator[bytes]:
    with _damage_told(told):
        yield head
        while chunk := stream.read(CHUNK):
            yield chunk


@contextmanager
def _damage_told(what: str) -> Iterator[None]:
    try:
        with damage_told(what):
            yield
    except Exception as error:
        if type(error).__name__ != "ZstdError":  # derives from Exception alone, and lives where the library does
            raise
        raise ExtractError(f"damaged {what} ({error})") from error


def _inner_name(path: Path, media_type: str, name: str) -> str:
    """The name in the gzip header, else the file's own without its last ending (".svgz": an .svg)."""
    if media_type == GZIP and (stored := _gzip_name(path)):
        return stored
    own = PurePosixPath(name.rpartition("!/")[2])
    return own.stem + SHORT.get(own.suffix.lower(), "") or "contents"


def _gzip_name(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(4096)
    flags, start = head[3], 10
    if flags & GZIP_EXTRA:
        start += 2 + int.from_bytes(head[10:12], "little")
    stored, end, _ = head[start:].partition(b"\0")
    if not flags & GZIP_NAME or not end:
        return ""
    try:
        text = stored.decode("utf-8")
    except UnicodeDecodeError:
        text = stored.decode("latin-1")  # what RFC 1952 says
    return text.rpartition("/")[2] if text.isprintable() else ""
