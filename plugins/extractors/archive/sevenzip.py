"""7z: the streams of its folders decompressed a piece at a time.

py7zr itself hands over a whole archive, to disk or to callbacks, in blocks of up to 128 MB; here its decompressors are
asked for one MiB at a time, so that whoever reads can stop.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.errors import ExtractError
from forge.phase import Requirement
from forge.plugins.extractors.archive.members import (
    CHUNK,
    DEVICE,
    ENCRYPTED,
    LINK,
    check_directory,
    damage_told,
)
from forge.protocols import Embedded
from forge.registry import require

if TYPE_CHECKING:
    from py7zr import SevenZipFile
    from py7zr.compressor import SevenZipDecompressor
    from py7zr.py7zr import ArchiveFile

INPUT_BYTES = 8192
"""Read at once: Deflate and Zstandard ignore the wish for one MiB and inflate all they are given (8 kB: 256 MB at most)."""


def read_7z(path: Path) -> Iterator[Embedded]:
    """The members in order. One whose stream is damaged raises ExtractError; those packed behind it carry a note."""
    require((Requirement(module="py7zr", extra="archives"),), "a 7z archive")
    with _opened(path) as archive:
        files = list(archive.files)
        check_directory(len(files), sum(file.uncompressed or 0 for file in files))
        stream: _Stream | None = None
        for file in files:
            if file.is_directory:
                continue
            special = "" if file.is_file else LINK if file.is_symlink or file.is_junction else DEVICE
            if file.emptystream:
                yield Embedded(file.filename, note=special)
                continue
            if stream is None or stream.folder is not file.folder:
                stream = _Stream(archive, file.folder)
            member = stream.member(file)
            yield Embedded(file.filename, note=special) if special else member


class _Stream:
    """The decompressed bytes of one folder: its members, one behind the other."""

    def __init__(self, archive: SevenZipFile, folder: Any) -> None:
        streams = archive.header.main_streams
        before = 0
        for other in streams.unpackinfo.folders:
            if other is folder:
                break
            before += max(1, len(other.packed_indices))
        self.folder, self.file = folder, archive.fp
        self.start = archive.afterheader + streams.packinfo.packpos + streams.packinfo.packpositions[before]
        self.packed_bytes = streams.packinfo.packsizes[before]
        self.decoder: SevenZipDecompressor | None = None
        self.position = self.given_out = 0
        self.fault = ""

    def member(self, file: ArchiveFile) -> Embedded:
        """The next member; one that nobody read is passed over when a later one is."""
        if self.decoder is None and not self.fault:
            self.fault = self._start()
        if self.fault:
            return Embedded(file.filename, note=self.fault)
        offset, self.given_out = self.given_out, self.given_out + file.uncompressed
        return Embedded(file.filename, chunks=self._chunks(offset, file.uncompressed, file.crc32))

    def _start(self) -> str:
        """Make the folder's decompressor; returns why that cannot be, or ""."""
        from py7zr.compressor import SevenZipDecompressor, SupportedMethods
        from py7zr.exceptions import UnsupportedCompressionMethodError

        folder = self.folder
        if SupportedMethods.needs_password(folder.coders):
            return ENCRYPTED
        try:
            self.decoder = SevenZipDecompressor(folder.coders, self.packed_bytes, folder.unpacksizes, folder.crc, blocksize=INPUT_BYTES)
        except UnsupportedCompressionMethodError as error:
            return f"packed with a method that cannot be read here ({str(error.message).partition('.')[0]})"
        self.file.seek(self.start)
        return ""

    def _chunks(self, offset: int, size: int, crc: int | None) -> Iterator[bytes]:
        with _damage_told("member"):
            try:
                while self.position < offset:
                    self._next(offset - self.position)
                found = 0
                while self.position < offset + size:
                    chunk = self._next(offset + size - self.position)
                    found = zlib.crc32(chunk, found)
                    yield chunk
            except Exception:
                self.fault = "packed behind a damaged member of the same stream"
                raise
            if crc is not None and found != crc:
                raise ExtractError("damaged member (its checksum differs)")

    def _next(self, wanted: int) -> bytes:
        assert self.decoder is not None
        before = self.file.tell()
        chunk = self.decoder.decompress(self.file, min(wanted, CHUNK))
        if not chunk and self.file.tell() == before:
            raise EOFError("its stream ends early")
        self.position += len(chunk)
        return bytes(chunk)


@contextmanager
def _damage_told(what: str) -> Iterator[None]:
    from py7zr.exceptions import ArchiveError, PasswordRequired

    try:
        with damage_told(what):
            yield
    except (ArchiveError, PasswordRequired, TypeError, AttributeError, AssertionError) as error:
        # TypeError and the next two: py7zr checks little of what a damaged header makes it believe.
        raise ExtractError(f"damaged {what} ({str(error) or type(error).__name__})") from error


@contextmanager
def _opened(path: Path) -> Iterator[SevenZipFile]:
    from py7zr import SevenZipFile
    from py7zr.exceptions import PasswordRequired

    with path.open("rb") as file, _damage_told("7z archive"):
        try:
            archive = SevenZipFile(file)
        except PasswordRequired as error:
            raise ExtractError("encrypted 7z archive (its list of names needs a password)", refused=True) from error
        yield archive
