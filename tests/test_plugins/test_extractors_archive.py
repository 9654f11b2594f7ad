"""Archives: what is in them is handed over as streams; what is not is reported; damage costs what lies behind it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import struct
import tarfile
import warnings
import zipfile
import zlib
from pathlib import Path

import pytest

from forge.errors import ExtractError, MissingAccess
from forge.plugins.extractors.archive import RAR, SEVEN_ZIP, TAR, ZIP, extractor, rar, sevenzip
from forge.plugins.extractors.archive.members import ENCRYPTED, LINK
from forge.plugins.extractors.archive.packed import BZIP2, GZIP, XZ, ZSTD
from forge.protocols import Embedded, Reading
from forge.records import Piece
from tests.corpus import archives, packed

BOAT, CREW = b"The boat leaves at nine.\n" * 3, b"The crew is five.\n" * 4
MEMBERS = {"a.txt": BOAT, "b/c.txt": CREW}


class Opened:
    """What came out of an archive: bytes by name, notes by name, losses, the piece of names, the error at the end."""

    def __init__(self, tmp_path: Path, content: bytes, media_type: str, name: str = "x") -> None:
        path = tmp_path / "file"
        path.write_bytes(content)
        scratch = tmp_path / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        self.members: dict[str, bytes] = {}
        self.notes: dict[str, str] = {}
        self.damaged: dict[str, str] = {}
        self.pieces: list[Piece] = []
        self.error: ExtractError | None = None
        try:
            for item in extractor.extract(path, Reading(media_type, name=name, scratch=scratch)):
                self._take(item)
        except ExtractError as error:
            self.error = error

    def _take(self, item: Piece | Embedded) -> None:
        if isinstance(item, Piece):
            self.pieces.append(item)
        elif item.note:
            self.notes[item.name] = item.note
            assert list(item.chunks) == []
        else:
            try:
                self.members[item.name] = b"".join(item.chunks)
            except ExtractError as error:
                self.damaged[item.name] = str(error)

    @property
    def losses(self) -> list[str]:
        return [piece.dropped for piece in self.pieces if piece.dropped]


def seven_zip(tmp_path: Path, **options: object) -> bytes:
    return archives.seven_zip(tmp_path / "made.7z", MEMBERS, **options)  # type: ignore[arg-type]


# --- every kind ------------------------------------------------------------------------------------------------


def test_every_kind_of_archive_hands_over_its_members(tmp_path: Path) -> None:
    made = {
        ZIP: packed(dict(MEMBERS)),
        TAR: archives.tar(MEMBERS),
        GZIP: archives.tar(MEMBERS, mode="w:gz"),
        BZIP2: archives.tar(MEMBERS, mode="w:bz2"),
        XZ: archives.tar(MEMBERS, mode="w:xz"),
        ZSTD: zstd(archives.tar(MEMBERS)),
        SEVEN_ZIP: seven_zip(tmp_path),
        RAR: archives.rar(MEMBERS),
    }
    for media_type, content in made.items():
        opened = Opened(tmp_path, content, media_type)
        assert opened.error is None, media_type
        assert opened.members == MEMBERS, media_type
        assert [(piece.text, piece.kind) for piece in opened.pieces] == [("a.txt\nb/c.txt", "metadata")], media_type


def zstd(content: bytes) -> bytes:
    from backports import zstd as library

    return library.compress(content)


@pytest.mark.parametrize(
    ("media_type", "content", "name", "inside"),
    [
        (GZIP, gzip.compress(BOAT), "report.csv.gz", "report.csv"),
        (GZIP, b"\x1f\x8b\x08\x08" + bytes(6) + b"trip.md\0" + gzip.compress(BOAT)[10:], "x.gz", "trip.md"),
        (GZIP, b"\x1f\x8b\x08\x0c" + bytes(6) + b"\x02\0##../../t.md\0" + gzip.compress(BOAT)[10:], "x.gz", "t.md"),
        (GZIP, b"\x1f\x8b\x08\x08" + bytes(6) + b"caf\xe9.txt\0" + gzip.compress(BOAT)[10:], "x.gz", "café.txt"),
        (GZIP, gzip.compress(BOAT), "a.zip!/drawing.svgz", "drawing.svg"),
        (BZIP2, bz2.compress(BOAT), "log.txt.bz2", "log.txt"),
        (XZ, lzma.compress(BOAT), "log.xz", "log"),
        (ZSTD, zstd(BOAT), "rows.jsonl.zst", "rows.jsonl"),
    ],
)
def test_a_packed_file_is_named_by_its_header_or_its_own_name(
    tmp_path: Path, media_type: str, content: bytes, name: str, inside: str
) -> None:
    assert Opened(tmp_path, content, media_type, name).members == {inside: BOAT}


def test_gzip_members_one_behind_the_other_are_one_file(tmp_path: Path) -> None:
    assert Opened(tmp_path, gzip.compress(BOAT) + gzip.compress(CREW), GZIP).members == {"x": BOAT + CREW}


def test_a_tar_of_1979_without_a_magic_is_known_by_its_checksum() -> None:
    old = bytearray(archives.tar({"a.txt": BOAT}, kind=tarfile.USTAR_FORMAT))
    old[257:265] = bytes(8)
    old[148:156] = b"%06o\0 " % (sum(old[:148]) + sum(old[156:512]) + 8 * 32)
    assert extractor.accepts(bytes(old), "backup") == TAR
    assert extractor.accepts(bytes(512), "zeros") == extractor.accepts(b"some text " * 100, "x.txt") == extractor.accepts(b"", "") == ""


@pytest.mark.usefixtures("unpacker")
def test_a_member_that_nobody_reads_does_not_shift_the_next(tmp_path: Path) -> None:
    made = {
        ZIP: packed(dict(MEMBERS)), TAR: archives.tar(MEMBERS), GZIP: archives.tar(MEMBERS, mode="w:gz"), SEVEN_ZIP: seven_zip(tmp_path),
        RAR: archives.rar(MEMBERS, packed=True, solid=True),
    }  # fmt: skip
    for media_type, content in made.items():
        (tmp_path / "file").write_bytes(content)
        found = {}
        for item in extractor.extract(tmp_path / "file", Reading(media_type, scratch=tmp_path)):
            if isinstance(item, Embedded) and item.name == "b/c.txt":
                found[item.name] = b"".join(item.chunks)
        assert found == {"b/c.txt": CREW}, media_type


def test_a_bomb_costs_no_more_than_what_was_read_of_it(tmp_path: Path) -> None:
    import py7zr

    zeros = bytes(200 << 20)
    made = {
        GZIP: gzip.compress(zeros), XZ: lzma.compress(zeros, preset=0), BZIP2: bz2.compress(zeros[: 50 << 20]), ZSTD: zstd(zeros),
        SEVEN_ZIP: archives.seven_zip(tmp_path / "a.7z", {"zeros": zeros}, method=py7zr.FILTER_DEFLATE),
    }  # fmt: skip
    del zeros
    for media_type, content in made.items():
        (tmp_path / "file").write_bytes(content)
        reading = extractor.extract(tmp_path / "file", Reading(media_type))
        item = next(reading)
        assert isinstance(item, Embedded)
        chunks = iter(item.chunks)
        sizes = [len(next(chunks)) for _ in range(3)]
        assert max(sizes) <= 1 << 20, media_type
        chunks.close()  # type: ignore[attr-defined]
        reading.close()  # type: ignore[attr-defined]


def open_files() -> list[str]:
    return sorted(os.fspath(one) for one in Path("/proc/self/fd").iterdir())


@pytest.mark.usefixtures("unpacker")
def test_nothing_stays_open_when_the_reader_stops(tmp_path: Path) -> None:
    made = {ZIP: packed(dict(MEMBERS)), GZIP: archives.tar(MEMBERS, mode="w:gz"), SEVEN_ZIP: seven_zip(tmp_path), RAR: archives.rar(MEMBERS, packed=True, solid=True)}
    for media_type, content in made.items():
        (tmp_path / "file").write_bytes(content)
        before = open_files()
        reading = extractor.extract(tmp_path / "file", Reading(media_type, scratch=tmp_path))
        item = next(reading)
        with warnings.catch_warnings():
            warnings.simplefilter("error", ResourceWarning)
            assert isinstance(item, Embedded)
            next(iter(item.chunks))
            reading.close()  # type: ignore[attr-defined]
        del item
        assert open_files() == before, media_type


# --- what is left out ------------------------------------------------------------------------------------------


def test_folders_that_no_corpus_reads_are_left_out_and_counted(tmp_path: Path) -> None:
    names = ("a.txt", "repo/.git/config", "repo/readme.md", "w/node_modules/x.js")
    opened = Opened(tmp_path, packed(dict.fromkeys(names, "text")), ZIP)
    assert list(opened.members) == ["a.txt", "repo/readme.md"]
    assert opened.losses == ["file in a folder that is never read (.git)", "file in a folder that is never read (node_modules)"]


def test_links_devices_and_sparse_files_in_a_tar_are_named_and_not_followed(tmp_path: Path) -> None:
    def extra(archive: tarfile.TarFile) -> None:
        archives.add(archive, "up", kind=tarfile.SYMTYPE, target="../../etc/passwd")
        archives.add(archive, "hard", kind=tarfile.LNKTYPE, target="/etc/passwd")
        archives.add(archive, "null", kind=tarfile.CHRTYPE)
        archives.add(archive, "pipe", kind=tarfile.FIFOTYPE)
        archives.add(archive, "odd", kind=b"Z")
        archives.add(archive, "folder", kind=tarfile.DIRTYPE)
        archives.add(archive, "last.txt", CREW)

    opened = Opened(tmp_path, archives.tar({"../../first.txt": BOAT}, extra=extra), TAR)
    assert opened.members == {"../../first.txt": BOAT, "last.txt": CREW}
    assert opened.notes["up"] == opened.notes["hard"] == LINK
    assert "device" in opened.notes["null"]
    assert "device" in opened.notes["pipe"]
    assert set(opened.notes) == {"up", "hard", "null", "pipe", "odd"}


def test_a_sparse_member_is_not_expanded(tmp_path: Path) -> None:
    header = bytearray(tarfile.TarInfo("hole").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"S"
    header[483:495] = b"77777777777\0"  # 8 GiB when expanded
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:512]) + 8 * 32)
    opened = Opened(tmp_path, bytes(header) + archives.tar({"a.txt": BOAT}), TAR)
    assert opened.notes == {"hole": "unsafe: a sparse file, whose size says nothing about its data"}
    assert opened.members == {"a.txt": BOAT}


def test_a_symbolic_link_in_a_zip_or_7z_is_named_and_not_followed(tmp_path: Path) -> None:
    import py7zr

    entry = zipfile.ZipInfo("link")
    entry.create_system, entry.external_attr = 3, 0o120777 << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    assert Opened(tmp_path, buffer.getvalue(), ZIP).notes == {"link": LINK}
    (tmp_path / "link").symlink_to("/etc/passwd")
    with py7zr.SevenZipFile(tmp_path / "l.7z", "w") as seven:
        seven.write(tmp_path / "link", "link")
        seven.writestr(BOAT, "a.txt")
    opened = Opened(tmp_path, (tmp_path / "l.7z").read_bytes(), SEVEN_ZIP)
    assert (opened.notes, opened.members) == ({"link": LINK}, {"a.txt": BOAT})


def test_encrypted_members_are_noted_and_hidden_names_refuse_the_archive(tmp_path: Path) -> None:
    locked = bytearray(packed({"a.txt": BOAT}))
    for offset in (6, locked.rindex(b"PK\x01\x02") + 8):
        locked[offset] |= 1
    assert Opened(tmp_path, bytes(locked), ZIP).notes == {"a.txt": ENCRYPTED}
    assert Opened(tmp_path, seven_zip(tmp_path, password="x"), SEVEN_ZIP).notes == dict.fromkeys(MEMBERS, ENCRYPTED)
    assert Opened(tmp_path, archives.rar(MEMBERS, encrypted=True), RAR).notes == dict.fromkeys(MEMBERS, ENCRYPTED)
    hidden = Opened(tmp_path, seven_zip(tmp_path, password="x", hide_names=True), SEVEN_ZIP).error
    assert hidden
    assert hidden.refused


def test_a_packing_method_that_python_lacks_is_named(tmp_path: Path) -> None:
    odd = bytearray(packed({"a.txt": BOAT}))
    for offset in (8, odd.rindex(b"PK\x01\x02") + 10):
        odd[offset : offset + 2] = struct.pack("<H", 98)
    assert "PPMd" in Opened(tmp_path, bytes(odd), ZIP).notes["a.txt"]


def test_a_7z_that_promises_too_much_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sevenzip, "check_directory", lambda count, size: limits.append((count, size)))
    limits: list[tuple[int, int]] = []
    Opened(tmp_path, seven_zip(tmp_path), SEVEN_ZIP)
    assert limits == [(2, len(BOAT) + len(CREW))]
    from forge.plugins.extractors.archive.members import check_directory

    for count, size in ((10_001, 0), (1, (1 << 30) + 1)):
        with pytest.raises(ExtractError) as raised:
            check_directory(count, size)
        assert raised.value.refused


# --- names -----------------------------------------------------------------------------------------------------


def test_names_in_a_zip_are_read_in_the_code_page_they_were_written_in(tmp_path: Path) -> None:
    for name, encoding in (("日本語の資料.txt", "cp932"), ("Übergröße.txt", "cp437"), ("Übergröße.txt", "utf-8"), ("España.txt", "cp437"), ("資料/見積.txt", "cp932")):
        assert list(Opened(tmp_path, zip_named(name.encode(encoding)), ZIP).members) == [name]


def zip_named(raw: bytes, extra: bytes = b"") -> bytes:
    """A ZIP whose one name is these bytes, without the UTF-8 flag."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        entry = zipfile.ZipInfo("N" * len(raw))
        entry.extra = extra
        archive.writestr(entry, BOAT)
    return buffer.getvalue().replace(b"N" * len(raw), raw)


def test_a_unicode_path_field_is_believed_when_its_checksum_fits(tmp_path: Path) -> None:
    raw, name = b"fa?e.txt", "faße.txt"
    field = b"\x01" + struct.pack("<L", zlib.crc32(raw)) + name.encode()
    extra = struct.pack("<HH", 0x7075, len(field)) + field
    assert list(Opened(tmp_path, zip_named(raw, extra), ZIP).members) == [name]
    stale = extra.replace(struct.pack("<L", zlib.crc32(raw)), bytes(4))
    assert list(Opened(tmp_path, zip_named(raw, stale), ZIP).members) == ["fa?e.txt"]


def test_a_long_list_of_names_is_cut(tmp_path: Path) -> None:
    opened = Opened(tmp_path, archives.tar({f"{number:04d}.txt": b"" for number in range(2003)}), TAR)
    assert [piece.dropped for piece in opened.pieces].count("name of a member over the limit") == 3
    assert opened.pieces[1].locator == "member=101..200"


# --- damage ----------------------------------------------------------------------------------------------------


def test_a_damaged_member_of_a_zip_costs_that_member_only(tmp_path: Path) -> None:
    content = bytearray(packed({"a.txt": BOAT, "b.txt": CREW}))
    content[content.index(b"a.txt") + 8] ^= 0xFF
    opened = Opened(tmp_path, bytes(content), ZIP)
    assert (list(opened.damaged), opened.members, opened.error) == (["a.txt"], {"b.txt": CREW}, None)


def test_what_comes_before_the_damage_in_a_tar_stays(tmp_path: Path) -> None:
    whole = archives.tar(MEMBERS)
    cut = Opened(tmp_path, whole[:1580], TAR)
    assert cut.members == {"a.txt": BOAT}
    assert "ends within" in cut.damaged["b/c.txt"]
    garbled = bytearray(archives.tar({**MEMBERS, "d.txt": BOAT}))
    garbled[1024:1034] = b"\xff" * 10
    opened = Opened(tmp_path, bytes(garbled), TAR)
    assert opened.members == {"a.txt": BOAT}
    assert opened.error
    assert "damaged tar" in str(opened.error)
    assert Opened(tmp_path, whole[:2048], TAR).losses == ["end mark of the archive (it may be cut off)"]


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_packed_tar_that_is_cut_off_is_reported(tmp_path: Path, mode: str) -> None:
    members = {f"{number}.bin": os.urandom(5000) for number in range(20)}
    whole = archives.tar(members, mode=mode)
    opened = Opened(tmp_path, whole[: len(whole) // 2], {"w:gz": GZIP, "w:bz2": BZIP2, "w:xz": XZ}[mode])
    assert opened.error or opened.damaged
    assert opened.members.items() <= members.items()
    assert len(opened.members) < 20


def test_a_tar_header_that_claims_exabytes_or_megabytes_of_itself_is_an_answer(tmp_path: Path) -> None:
    huge = tarfile.TarInfo("huge")
    huge.size = 1 << 62
    opened = Opened(tmp_path, archives.tar({"a.txt": BOAT})[:1024] + huge.tobuf(tarfile.GNU_FORMAT) + BOAT, TAR)
    assert opened.members == {"a.txt": BOAT}
    assert list(opened.damaged) == ["huge"]
    pax = tarfile.TarInfo("pax")
    pax.type, pax.size = tarfile.XHDTYPE, 900 << 20
    refused = Opened(tmp_path, pax.tobuf(tarfile.GNU_FORMAT) + bytes(4096), TAR).error
    assert refused
    assert refused.refused
    chain = tarfile.TarInfo("././@LongLink")
    chain.type, chain.size = tarfile.GNUTYPE_LONGNAME, 0
    assert Opened(tmp_path, chain.tobuf(tarfile.GNU_FORMAT) * 5000, TAR).error


def test_a_7z_with_a_damaged_stream_gives_what_is_whole_and_says_what_is_not(tmp_path: Path) -> None:
    members = {f"{number}.bin": os.urandom(3000) for number in range(5)}
    content = bytearray(archives.seven_zip(tmp_path / "a.7z", members))
    content[32 + 7000] ^= 0xFF
    opened = Opened(tmp_path, bytes(content), SEVEN_ZIP)
    assert opened.members["0.bin"] == members["0.bin"]
    assert opened.damaged
    assert set(opened.members) | set(opened.damaged) | set(opened.notes) == set(members)
    cut = Opened(tmp_path, bytes(content[:-20]), SEVEN_ZIP).error
    assert cut
    assert "damaged 7z" in str(cut)


def test_every_method_of_7z_gives_the_same_bytes(tmp_path: Path) -> None:
    import py7zr

    text = {"long.txt": b"".join(b"line %d of a long text\n" % number for number in range(60_000)), "short.txt": BOAT}
    for method in (py7zr.FILTER_DEFLATE, py7zr.FILTER_BZIP2, py7zr.FILTER_ZSTD, py7zr.FILTER_COPY, py7zr.FILTER_BROTLI, py7zr.FILTER_LZMA2):
        assert Opened(tmp_path, archives.seven_zip(tmp_path / "m.7z", text, method=method), SEVEN_ZIP).members == text


def test_garbage_behind_every_magic_is_an_extract_error(tmp_path: Path) -> None:
    magics = {ZIP: b"PK\x03\x04", TAR: b"", GZIP: b"\x1f\x8b\x08\0", BZIP2: b"BZh9", XZ: b"\xfd7zXZ\0", ZSTD: b"\x28\xb5\x2f\xfd", SEVEN_ZIP: b"7z\xbc\xaf'\x1c\0\4", RAR: archives.RAR5}
    for media_type, magic in magics.items():
        for garbage in (b"", b"\0" * 600, b"\xff" * 600, bytes(range(256)) * 4):
            opened = Opened(tmp_path, magic + garbage, media_type)
            assert not opened.members, media_type
    with pytest.raises(ExtractError):
        list(extractor.extract(tmp_path / "file", Reading(RAR, scratch=tmp_path)))


# --- RAR through a program -------------------------------------------------------------------------------------


@pytest.mark.parametrize("solid", [False, True])
@pytest.mark.usefixtures("unpacker")
def test_a_compressed_rar_is_unpacked_by_a_program(tmp_path: Path, solid: bool) -> None:
    opened = Opened(tmp_path, archives.rar(MEMBERS, packed=True, solid=solid), RAR)
    assert (opened.members, opened.notes, opened.error) == (MEMBERS, {}, None), "apt install unar"


@pytest.mark.usefixtures("unpacker")
def test_a_solid_rar_with_a_damaged_member_keeps_what_comes_before(tmp_path: Path) -> None:
    whole = archives.rar({"a.txt": BOAT, "b.txt": CREW, "c.txt": BOAT}, packed=True, solid=True)
    broken = bytearray(whole)
    broken[whole.index(b"b.txt") + 40] ^= 0xFF
    opened = Opened(tmp_path, bytes(broken), RAR)
    assert opened.members["a.txt"] == BOAT
    assert "b.txt" in opened.damaged
    assert "b.txt" not in opened.members


def test_without_a_program_each_compressed_member_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import rarfile

    monkeypatch.setattr(rarfile, "CURRENT_SETUP", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    for solid in (False, True):
        notes = Opened(tmp_path, archives.rar(MEMBERS, packed=True, solid=solid), RAR).notes
        assert notes == dict.fromkeys(MEMBERS, rar.NO_PROGRAM)
    assert Opened(tmp_path, archives.rar(MEMBERS), RAR).members == MEMBERS


def test_a_rar_that_is_cut_off_or_one_of_several_volumes_is_reported(tmp_path: Path) -> None:
    whole = archives.rar(MEMBERS)
    cut = Opened(tmp_path, whole[:-60], RAR)
    assert cut.members == {"a.txt": BOAT}
    assert cut.error or cut.damaged


@pytest.mark.usefixtures("unpacker")
def test_files_beside_a_rar_are_not_taken_for_its_volumes(tmp_path: Path) -> None:
    for name in ("rar3-x.rar", "rar5-x.rar"):
        (tmp_path / name).write_bytes(archives.rar(MEMBERS, packed=True, solid=True))
    items = extractor.extract(tmp_path / "rar5-x.rar", Reading(RAR, scratch=tmp_path))
    assert {item.name: b"".join(item.chunks) for item in items if isinstance(item, Embedded)} == MEMBERS


def test_a_missing_library_is_told_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingAccess, match="needs py7zr") as raised:
        Opened(tmp_path, b"", SEVEN_ZIP)
    assert "slm-forge[archives]" in str(raised.value)
