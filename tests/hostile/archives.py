"""Archives that unpack to more than there is, or to somewhere else."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from tests import corpus
from tests.corpus import archives
from tests.hostile import Case

TEXT = b"A boat is moored at the quay, and its crew waits for the tide to turn.\n" * 3
MIB = 1 << 20


def cases(escape: Path) -> Iterator[Case]:
    """ZIP, tar, 7z, rar and packed files."""
    yield from _zips(escape)
    yield from _tars(escape)
    yield from _packed()
    yield from _others()


def _zips(escape: Path) -> Iterator[Case]:
    zeros = deflated(300 * MIB)
    yield Case("zip/flat_bomb.zip", one_entry("zeros.txt", zeros, 300 * MIB), "refused", "unpacks to")
    yield Case("zip/ratio_bomb.zip", corpus.packed({"zeros.txt": bytes(60 * MIB)}), "refused", "is packed")
    yield Case("zip/ratio_bomb.docx", corpus.packed({"[Content_Types].xml": "", "word/document.xml": bytes(60 * MIB)}), "refused", "is packed")
    yield Case("zip/nested_bomb.zip", nested_bomb(b"boat " * (2 * MIB)), "ok", members={"3.zip!/1.zip!/4.zip": "refused: unsafe ZIP"})
    yield Case("zip/nested_wide.zip", nested_bomb(b"".join(hashlib.sha256(b"%d" % number).digest() * 180 for number in range(350))), "refused", "unpacks to")
    yield Case("zip/deep.zip", deep(60), "ok", members={"next.zip" + "!/next.zip" * 5: "refused: lies more than"})
    yield Case("zip/overlap.zip", overlapping(), "refused", "overlap")
    yield Case("zip/many.zip", corpus.packed({f"{number}.txt": "" for number in range(10_001)}), "refused", "entries")
    yield Case("zip/lying_size.zip", lying_size(), "ok", members={"lie.txt": "failed: "})
    yield Case("zip/encrypted.zip", encrypted_zip(), "ok", members={"secret.txt": "refused: encrypted"})
    yield Case("zip/truncated.zip", corpus.packed({"a.txt": TEXT})[:-30], "failed", "damaged ZIP")
    climbing = "../" * 30
    names = {f"{climbing}{escape.as_posix().lstrip('/')}/relative.txt": TEXT, f"{escape.as_posix()}/absolute.txt": TEXT, "C:\\windows.txt": TEXT, "..\\..\\up.txt": TEXT}
    yield Case("zip/traversal.zip", corpus.packed(names), "ok", keeps="boat is moored")
    link = zipfile.ZipInfo("link.txt")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    yield Case("zip/link.zip", buffer.getvalue(), "ok", members={"link.txt": "skipped: link"})
    yield Case("zip/twins.zip", twins(), "ok", keeps="boat is moored")


def _tars(escape: Path) -> Iterator[Case]:
    def extra(archive: tarfile.TarFile) -> None:
        archives.add(archive, "out", kind=tarfile.SYMTYPE, target=escape.as_posix())
        archives.add(archive, "out/through_link.txt", TEXT + b"through")
        archives.add(archive, "passwd", kind=tarfile.LNKTYPE, target="/etc/passwd")
        archives.add(archive, "null", kind=tarfile.CHRTYPE)
        archives.add(archive, "disk", kind=tarfile.BLKTYPE)
        archives.add(archive, "pipe", kind=tarfile.FIFOTYPE)

    up = "../" * 30 + escape.as_posix().lstrip("/") + "/up.txt"
    members = {"out": "skipped: link", "passwd": "skipped: link", "null": "skipped: device", "disk": "skipped: device", "pipe": "skipped: device"}
    hostile = archives.tar({up: TEXT, f"{escape.as_posix()}/root.txt": TEXT + b"root"}, extra=extra)
    yield Case("tar/traversal.tar", hostile, "ok", members=members, keeps="boat is moored")
    huge = tarfile.TarInfo("huge")
    huge.size = 1 << 62
    yield Case("tar/exabytes.tar", archives.tar({"a.txt": TEXT})[:1024] + huge.tobuf(tarfile.GNU_FORMAT) + TEXT, "failed", "damaged tar", members={"huge": "failed: "}, keeps="boat is moored")
    header = tarfile.TarInfo("header")
    header.type, header.size = tarfile.XHDTYPE, 900 * MIB
    yield Case("tar/header_bomb.tar", header.tobuf(tarfile.GNU_FORMAT) + bytes(4096), "refused", "header")
    name = tarfile.TarInfo("././@LongLink")
    name.type = tarfile.GNUTYPE_LONGNAME
    yield Case("tar/name_chain.tar", name.tobuf(tarfile.GNU_FORMAT) * 5000, "failed", "damaged tar")
    yield Case("tar/truncated.tar.gz", archives.tar({"a.txt": TEXT, "b.bin": bytes(range(256)) * 500}, mode="w:gz")[:400], "failed", "damaged tar", keeps="boat is moored")
    big = tarfile.TarInfo("zeros.txt")
    big.size = 200 * MIB
    yield Case("tar/bomb.tar.gz", gzip.compress(big.tobuf() + bytes(200 * MIB), 1, mtime=0), "refused", "unpacks to")


def _packed() -> Iterator[Case]:
    yield Case("packed/bomb.txt.gz", gzip_of(deflated(300 * MIB)), "ok", members={"bomb.txt": "refused: larger than"})
    yield Case("packed/flat_bomb.txt.gz", gzip_of(deflated(200 * MIB)), "refused", "unpacks to")
    yield Case("packed/bomb.txt.bz2", bz2.compress(bytes(100 * MIB)), "refused", "unpacks to")
    yield Case("packed/bomb.txt.xz", lzma.compress(bytes(100 * MIB), preset=0), "refused", "unpacks to")
    yield Case("packed/bomb.txt.zst", zstd(bytes(200 * MIB)), "refused", "unpacks to")
    inner = TEXT
    for _ in range(60):
        inner = gzip.compress(inner, mtime=0)
    yield Case("packed/deep.gz", inner, "ok", members={"deep" + "!/deep" * 5: "refused: lies more than"})
    yield Case("packed/truncated.txt.gz", gzip.compress(bytes(range(256)) * 400, mtime=0)[:300], "failed", "damaged gzip")
    yield Case("packed/false.gz", b"\x1f\x8b\x08\0 this is no gzip at all" * 20, "failed", "damaged gzip")


def _others() -> Iterator[Case]:
    def locked(path: Path, hide_names: bool = False) -> None:
        archives.seven_zip(path, {"a.txt": TEXT, "b.txt": TEXT * 2}, password="boat", hide_names=hide_names)

    def cut(path: Path) -> None:
        path.write_bytes(archives.seven_zip(path, {"a.txt": TEXT})[:-10])

    yield Case("7z/encrypted.7z", locked, "ok", members={"a.txt": "refused: encrypted", "b.txt": "refused: encrypted"})
    yield Case("7z/hidden_names.7z", lambda path: locked(path, hide_names=True), "refused", "encrypted")
    yield Case("7z/truncated.7z", cut, "failed", "damaged 7z")
    yield Case("7z/bomb.7z", lambda path: archives.seven_zip(path, {"zeros.txt": bytes(200 * MIB)}, method=deflate_filter()), "refused", "unpacks to")
    yield Case("rar/encrypted.rar", archives.rar({"a.txt": TEXT}, encrypted=True), "ok", members={"a.txt": "refused: encrypted"})
    yield Case("rar/truncated.rar", archives.rar({"a.txt": TEXT * 9})[:-100], "failed", "damaged RAR", members={"a.txt": "failed: damaged"})
    yield Case("rar/false.rar", archives.RAR5 + bytes(range(256)) * 4, "failed", "damaged RAR")


def deflate_filter() -> int:
    """py7zr's number of Deflate, whose decompressor heeds no limit."""
    import py7zr

    return int(py7zr.FILTER_DEFLATE)


def deflated(size: int) -> bytes:
    """`size` zero bytes, deflated."""
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    block = bytes(MIB)
    return b"".join(packer.compress(block) for _ in range(size // MIB)) + packer.flush()


def gzip_of(stream: bytes) -> bytes:
    """A gzip file around a deflated stream; its checksum is wrong, which nobody lives to see."""
    return b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + stream + bytes(8)


def zstd(content: bytes) -> bytes:
    """Zstandard."""
    from backports import zstd as library

    return library.compress(content)


def one_entry(name: str, stream: bytes, size: int, crc: int = 0) -> bytes:
    """A ZIP of one deflated stream that says to be `size` long."""
    raw = name.encode()
    fields = struct.pack("<HHHHHLLLHH", 20, 0, 8, 0, 33, crc, len(stream), size, len(raw), 0)
    local = b"PK\x03\x04" + fields + raw + stream
    central = b"PK\x01\x02" + b"\x14\0" + fields + bytes(14) + raw
    return local + central + b"PK\x05\x06" + struct.pack("<HHHHLLH", 0, 0, 1, 1, len(central), len(local), 0)


def nested_bomb(content: bytes) -> bytes:
    """Ten to the third times the content: each level is harmless by itself."""
    inner = corpus.packed({"text.txt": content})
    for _ in range(3):
        inner = corpus.packed({f"{number}.zip": inner for number in range(10)})
    return inner


def deep(levels: int) -> bytes:
    """A ZIP in a ZIP in a ZIP ..."""
    inner = corpus.packed({"bottom.txt": TEXT})
    for _ in range(levels):
        inner = corpus.packed({"next.zip": inner})
    return inner


def overlapping() -> bytes:
    """Entries that share their bytes, after David Fifield's bomb (USENIX WOOT 2019)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(50):
            archive.writestr(zipfile.ZipInfo(f"{number}.txt"), TEXT)
        for entry in archive.filelist:
            entry.header_offset = 0
    return buffer.getvalue()


def lying_size() -> bytes:
    """An entry that says ten bytes and holds ten megabytes."""
    return one_entry("lie.txt", deflated(10 * MIB), 10)


def encrypted_zip() -> bytes:
    """A ZIP whose entry says that it is encrypted."""
    made = bytearray(corpus.packed({"secret.txt": TEXT}))
    for offset in (6, made.rindex(b"PK\x01\x02") + 8):
        made[offset] |= 1
    return bytes(made)


def twins() -> bytes:
    """One name twice, once as a folder too."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, content in (("a", TEXT), ("a", TEXT * 2), ("a/b.txt", TEXT * 3), ("A", TEXT * 4)):
            entry = zipfile.ZipInfo(name)
            archive.writestr(entry, content)
    return buffer.getvalue()
