"""ZIP: members by the directory, with names in whatever code page the packer used."""

from __future__ import annotations

import re
import stat
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from forge.plugins.extractors.archive.members import CHUNK, ENCRYPTED, LINK, damage_told
from forge.protocols import Embedded

ENCRYPTED_FLAG, UTF8_FLAG = 0x1, 0x800
UNICODE_PATH = 0x7075
MADE_ON_UNIX = 3
READABLE = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA} | ({93} if sys.version_info >= (3, 14) else set())
METHODS = {9: "Deflate64", 93: "Zstandard", 95: "xz", 97: "WavPack", 98: "PPMd", 99: "AES encryption"}

JAPANESE = re.compile("[\u3041-\u30ff\u3400-\u9fff]")
KANA_OR_WORD = re.compile("[\u3041-\u30ff]|[\u3400-\u9fff]{2}")


def read_zip(path: Path) -> Iterator[Embedded]:
    """The members in the directory's order. A damaged one raises ExtractError while its chunks are read, and only then.

    Bombs and overlaps were refused by prep's guard before; zipfile never inflates past the declared size.
    """
    with damage_told("ZIP archive"), zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        for entry, name in zip(entries, names_of(entries), strict=True):
            if note := _obstacle(entry):
                yield Embedded(name, note=note)
            else:
                yield Embedded(name, chunks=_chunks(archive, entry))


def names_of(entries: Sequence[zipfile.ZipInfo]) -> list[str]:
    """The entries' names. Python takes cp437 where the UTF-8 flag is not set; packers wrote UTF-8 or cp932 all the same.

    The choice falls once for the whole archive. An Info-ZIP Unicode Path field is believed where its checksum fits.
    """
    raw = [b"" if entry.flag_bits & UTF8_FLAG else entry.filename.encode("cp437", "replace") for entry in entries]
    encoding = _encoding(b"\n".join(name for name in raw if not name.isascii()))
    return [_unicode_path(entry, name) or name.decode(encoding, "replace") or entry.filename for entry, name in zip(entries, raw, strict=True)]


def _encoding(raw: bytes) -> str:
    for encoding in ("utf-8", "cp932"):
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding == "utf-8" or _is_japanese(text):
            return encoding
    return "cp437"


def _is_japanese(text: str) -> bool:
    """Any bytes above 0x80 decode as cp932 half of the time: ask for kana, or two ideographs in a row, and little else."""
    foreign = [character for character in text if ord(character) > 127]
    return bool(KANA_OR_WORD.search(text)) and len(JAPANESE.findall(text)) > 0.8 * len(foreign)


def _unicode_path(entry: zipfile.ZipInfo, raw: bytes) -> str:
    extra = entry.extra
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == UNICODE_PATH and len(field) > 5 and struct.unpack_from("<L", field, 1)[0] == zlib.crc32(raw):
            return field[5:].decode("utf-8", "replace")
    return ""


def _obstacle(entry: zipfile.ZipInfo) -> str:
    if entry.flag_bits & ENCRYPTED_FLAG:
        return ENCRYPTED
    if entry.create_system == MADE_ON_UNIX and stat.S_ISLNK(entry.external_attr >> 16):
        return LINK
    if entry.compress_type not in READABLE:
        method = METHODS.get(entry.compress_type, str(entry.compress_type))
        return f"packed with a method that cannot be read here ({method}): unpack it with 7-Zip"
    return ""


def _chunks(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    with damage_told("member"), archive.open(entry) as file:
        while chunk := file.read(CHUNK):
            yield chunk
