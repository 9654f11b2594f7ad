"""Archives (.zip, .tar with any compression, .7z, .rar) and single packed files (.gz, .bz2, .xz, .zst).

Members are handed to prep as streams and go through the walk like any file; nothing is unpacked to disk here. Limits on
members, bytes and depth are prep's: it stops reading. What is left out of an archive is reported: encrypted members,
links and devices by a note, version-control folders as a loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from forge.errors import ExtractError
from forge.phase import Requirement
from forge.plugins.extractors.archive.members import listing, passed_over
from forge.plugins.extractors.archive.packed import BZIP2, GZIP, XZ, ZSTD, read_packed
from forge.plugins.extractors.archive.rar import read_rar
from forge.plugins.extractors.archive.sevenzip import read_7z
from forge.plugins.extractors.archive.tar import is_tar_header, read_tar_file
from forge.plugins.extractors.archive.zips import read_zip
from forge.protocols import Embedded, Reading
from forge.records import Piece

ZIP, TAR = "application/zip", "application/x-tar"
SEVEN_ZIP, RAR = "application/x-7z-compressed", "application/vnd.rar"


class ArchiveExtractor:
    """Every member as an Embedded, in the archive's order; then their names as a piece of kind "metadata"."""

    name: ClassVar[str] = "archive"
    media_types: ClassVar[tuple[str, ...]] = (ZIP, TAR, GZIP, BZIP2, XZ, ZSTD, SEVEN_ZIP, RAR)
    extensions: ClassVar[Mapping[str, str]] = {
        ".zip": ZIP, ".jar": ZIP, ".whl": ZIP, ".apk": ZIP, ".tar": TAR, ".tgz": GZIP, ".gz": GZIP, ".tbz2": BZIP2, ".bz2": BZIP2,
        ".txz": XZ, ".xz": XZ, ".zst": ZSTD, ".7z": SEVEN_ZIP, ".rar": RAR,
    }  # fmt: skip
    magic: ClassVar[Mapping[bytes, str]] = {}
    requires: ClassVar[tuple[Requirement, ...]] = ()  # zip and tar need nothing; 7z, rar and zst ask when they are met

    def accepts(self, head: bytes, name: str) -> str:
        """The tar type for an archive of 1979's format, which has no magic but a checksum in its header."""
        return TAR if is_tar_header(head[:512]) else ""

    def extract(self, path: Path, ctx: Reading) -> Iterator[Piece | Embedded]:
        """Yield the members. Raises ExtractError after the last whole one when the archive is damaged or cut off."""
        names: list[str] = []
        fault: ExtractError | None = None
        try:
            for item in _read(path, ctx):
                if isinstance(item, Embedded):
                    names.append(item.name)
                    if reason := passed_over(item.name):
                        item = Piece(text="", dropped=reason)
                yield item
        except ExtractError as error:
            fault = error
        yield from listing(names)
        if fault:
            raise fault


extractor = ArchiveExtractor()


def _read(path: Path, ctx: Reading) -> Iterator[Piece | Embedded]:
    if ctx.media_type == ZIP:
        return read_zip(path)
    if ctx.media_type == TAR:
        return read_tar_file(path)
    if ctx.media_type == SEVEN_ZIP:
        return read_7z(path)
    if ctx.media_type == RAR:
        return read_rar(path, ctx.scratch)
    return read_packed(path, ctx.media_type, ctx.name or path.name)
