"""tar, plain or from a decompressor: one pass, regular files only."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self, cast

from forge.errors import ExtractError
from forge.plugins.extractors.archive.members import CHUNK, DEVICE, LINK, damage_told
from forge.protocols import Embedded
from forge.records import Piece

HEADER_BYTES = 512
MAX_HEADER_BYTES = 1 << 20
"""A pax or long-name header above this is an attack: tarfile would read it whole."""

HEADER_TYPES = {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
MAX_HEADERS = 20_000
"""Folders and all; tarfile keeps every header (prep stops at 10,000 files)."""


def is_tar_header(block: bytes) -> bool:
    """True for 512 bytes whose checksum says that they begin a tar archive, of any age."""
    if len(block) < HEADER_BYTES or block[148:154].strip(b" 01234567\0") or not block[0]:
        return False
    try:
        return bool(tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape").name)
    except (tarfile.TarError, ValueError):
        return False


def read_tar_file(path: Path) -> Iterator[Piece | Embedded]:
    """The members of an uncompressed tar."""
    with path.open("rb") as file:
        yield from read_tar(Forward(file))


def read_tar(file: Forward) -> Iterator[Piece | Embedded]:
    """The members in order. Raises ExtractError where the archive is damaged; members before it were whole."""
    # "r:" on an object that only goes forward, not tarfile's own stream mode: there, a header that claims 8 EiB makes
    # it count through them in blocks of 10 KiB after the end of the file (Python 3.11 to 3.13, read 2026-11-21).
    with damage_told("tar archive"), tarfile.open(fileobj=cast("IO[bytes]", file), mode="r:", tarinfo=_Header, encoding="utf-8") as archive:
        for count, member in enumerate(archive):
            if count >= MAX_HEADERS:
                raise ExtractError(f"unsafe archive: more than {MAX_HEADERS:,} entries", refused=True)
            if member.isdir():
                continue
            if note := _obstacle(member):
                yield Embedded(member.name, note=note)
            else:
                yield Embedded(member.name, chunks=_chunks(file, member))
        if file.tell() == archive.offset:
            yield Piece(text="", dropped="end mark of the archive (it may be cut off)")


class Forward:
    """A stream as tarfile wants it: read, tell, and seek to any later place."""

    def __init__(self, stream: IO[bytes], head: bytes = b"") -> None:
        self.stream, self.head, self.position = stream, head, 0

    def read(self, size: int) -> bytes:
        """At most `size` bytes; fewer only at the end."""
        taken, self.head = self.head[:size], self.head[size:]
        data = taken + self.stream.read(size - len(taken)) if len(taken) < size else taken
        self.position += len(data)
        return data

    def tell(self) -> int:
        """Bytes read so far."""
        return self.position

    def seek(self, position: int) -> int:
        """Read up to `position`, or to the end. Raises OSError when it lies behind."""
        if position < self.position:
            raise OSError("its headers point backwards")
        while self.position < position and self.read(min(CHUNK, position - self.position)):
            pass
        return self.position


class _Header(tarfile.TarInfo):
    """Tells damage where tarfile would take a broken header for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> Self:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.TarError as error:
            if type(error).__name__ in ("EOFHeaderError", "EmptyHeaderError"):
                raise
            raise ExtractError(f"damaged tar archive ({error})") from error
        if header.size < 0:
            raise ExtractError("damaged tar archive (a member of negative size)")
        if header.type in HEADER_TYPES and header.size > MAX_HEADER_BYTES:
            raise ExtractError(f"unsafe archive: a header of {header.size:,} bytes", refused=True)
        return header


def _obstacle(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return LINK
    if member.isdev():
        return DEVICE
    if member.issparse():
        return "unsafe: a sparse file, whose size says nothing about its data"
    return "" if member.isreg() else f"link, device or another kind of member (type {member.type!r})"


def _chunks(file: Forward, member: tarfile.TarInfo) -> Iterator[bytes]:
    with damage_told("member"):
        file.seek(member.offset_data)
        left = member.size
        while left:
            chunk = file.read(min(CHUNK, left))
            if not chunk:
                raise ExtractError("damaged member (the archive ends within it)")
            left -= len(chunk)
            yield chunk
