"""Which extractor reads a file: by content, by what plugins accept, by priority; and what a broken plugin costs."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from forge.errors import ExtractError, ForgeError
from forge.phases.prep.route import ENDNOTE, UNKNOWN, Router
from forge.protocols import Reading
from forge.records import Piece
from forge.registry import Registry
from forge.testing import tiny_corpus


class Made:
    """An extractor of given claims."""

    requires = ()
    magic: Mapping[bytes, str] = {}

    def __init__(self, name: str, *types: str, extensions: Mapping[str, str] | None = None, **more: Any) -> None:
        self.name, self.media_types, self.extensions = name, types, extensions or {}
        for key, value in more.items():
            setattr(self, key, value)

    def extract(self, path: Path, ctx: Reading) -> Iterator[Piece]:
        yield Piece(text=self.name)


def routed(tmp_path: Path, name: str, data: bytes, *plugins: Made) -> tuple[str, str]:
    path = tmp_path / "file"
    path.write_bytes(data)
    found = Router({plugin.name: plugin for plugin in plugins}).route(path, name)
    return found.media_type, found.extractor


def packed(names: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (b"CDF\x01" + bytes(28), "application/x-netcdf"),
        (b"CDF\x02" + bytes(28), "application/x-netcdf"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "application/x-hdf5"),
        (b"\x00\x00\x27\x0a" + bytes(96), "application/vnd.shp"),
        (b"PAR1" + bytes(40) + b"PAR1", "application/vnd.apache.parquet"),
        (b"SQLite format 3\0" + bytes(84), "application/vnd.sqlite3"),
        (bytes(128) + b"DICM" + bytes(40), "application/dicom"),
        (b"\xff\xfb\x90\x00" + bytes(400), "audio/mpeg"),
        (b"\0\0\0\x20ftypM4A " + bytes(40), "audio/mp4"),
        (b"\0\0\0\x20ftypisom" + bytes(40), "video/mp4"),
        (b"\0\0\0\x20ftypheic" + bytes(40), "image/heic"),
        (b"Rar!\x1a\x07\x01\x00" + bytes(40), "application/vnd.rar"),
        (b"{\\rtf1\\ansi text}", "application/rtf"),
        (b"<?xml version='1.0'?>\n<!-- drawn -->\n<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"),
        (b"<svg width='4'><text>a</text></svg>", "image/svg+xml"),
        (b"<?xml version='1.0'?><note><svgish/></note>", "application/xml"),
        (packed({"mimetype": "application/epub+zip", "x": ""}), "application/epub+zip"),
        (packed({"mimetype": "application/vnd.oasis.opendocument.spreadsheet", "content.xml": ""}), "application/vnd.oasis.opendocument.spreadsheet"),
        (packed({"mimetype": "text/html", "x": ""}), "application/zip"),
        (packed({"rdb/refs.frm": "", "rdb/refs.MYD": ""}), ENDNOTE),
        (packed({"[Content_Types].xml": "", "xl/workbook.bin": ""}), "application/vnd.ms-excel.sheet.binary.macroEnabled.12"),
        (packed({"a.txt": ""}), "application/zip"),
    ],
)
def test_content_tells_the_type_whatever_the_name(tmp_path: Path, data: bytes, media_type: str) -> None:
    assert routed(tmp_path, "x.txt", data)[0] == media_type


def test_the_higher_priority_reads_a_type_that_two_claim(tmp_path: Path) -> None:
    plugins = [Made("aaa", "text/plain"), Made("mmm", "text/plain", priority=5), Made("zzz", "text/plain", priority=-5)]
    assert routed(tmp_path, "x", b"words", *plugins) == ("text/plain", "mmm")


def test_a_plugin_that_accepts_a_file_reads_it_before_signature_and_extension_decide(tmp_path: Path) -> None:
    picky = Made("picky", "image/png;own", accepts=lambda head, name: "image/png;own" if b"mine" in head and name.endswith(".dat") else "")
    plugins = (picky, Made("images", "image/png"))
    png = b"\x89PNG\r\n\x1a\n"
    assert routed(tmp_path, "x.dat", png + b"mine", *plugins)[1] == "picky"
    assert routed(tmp_path, "x.dat", png + b"other", *plugins)[1] == "images"


def test_a_bomb_is_refused_before_any_plugin_is_asked(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(30 << 20))
    with pytest.raises(ExtractError, match="unsafe ZIP"):
        routed(tmp_path, "x.zip", buffer.getvalue(), Made("all", "application/zip", accepts=lambda head, name: "application/zip"))


def test_an_accepts_that_breaks_costs_the_plugins_own_files_only(tmp_path: Path) -> None:
    def accepts(head: bytes, name: str) -> str:
        raise KeyError("oops")

    plugins = (Made("buggy", "text/x-buggy", extensions={".bug": "text/x-buggy"}, accepts=accepts), Made("text", "text/plain"))
    assert routed(tmp_path, "x.txt", b"words", *plugins)[1] == "text"
    with pytest.raises(ExtractError, match=r"extractor buggy cannot tell what it is \(KeyError: 'oops'\)"):
        routed(tmp_path, "x.bug", b"words", *plugins)


def test_what_nobody_claims_goes_to_the_extractor_for_unknown_files(tmp_path: Path) -> None:
    data = bytes(range(256)) * 4
    assert routed(tmp_path, "x.odd", data) == (UNKNOWN, "")
    assert routed(tmp_path, "x.odd", data, Made("fallback", UNKNOWN)) == (UNKNOWN, "fallback")
    assert routed(tmp_path, "x", b"\x7fELF" + bytes(60), Made("fallback", UNKNOWN)) == ("application/x-elf", "fallback")


def test_old_office_files_and_text_are_not_merely_described(tmp_path: Path) -> None:
    word = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512) + "WordDocument".encode("utf-16-le")
    assert routed(tmp_path, "old.doc", word, Made("fallback", UNKNOWN)) == ("application/msword", "")
    assert routed(tmp_path, "page.ps", b"%!PS-Adobe-3.0", Made("fallback", UNKNOWN)) == ("application/postscript", "")


def test_a_document_that_nobody_reads_is_never_passed_off_as_read(tmp_path: Path) -> None:
    word = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600) + "WordDocument".encode("utf-16-le") + bytes(600)
    path = tmp_path / "old.doc"
    path.write_bytes(word)
    found = Router({"fallback": Made("fallback", UNKNOWN)}).route(path, "old.doc")
    assert found.extractor == ""
    assert "save it as .docx" in found.reason
    assert routed(tmp_path, "x.ps", b"%!PS-Adobe-3.0\n", Made("fallback", UNKNOWN))[1] == ""


def test_an_empty_file_that_stands_for_its_folder_is_its_own_type(tmp_path: Path) -> None:
    library = Made("library", ENDNOTE, extensions={".enl": ENDNOTE}, sidecars={".enl": (".data/",)})
    assert routed(tmp_path, "my.enl", b"", library) == (ENDNOTE, "library")
    assert routed(tmp_path, "my.txt", b"", library)[0] == "text/plain"


# --- broken plugins ----------------------------------------------------------------------------------------------

BROKEN = '''
import a_library_that_nobody_has

class Reader:
    name, media_types, extensions = "odd", ("application/x-odd",), {".odd": "application/x-odd", ".txt": "text/plain"}
    magic, requires = {}, ()

    def extract(self, path, ctx):
        yield

extractor = Reader()
'''


def test_a_broken_extractor_fails_its_files_with_the_reason_and_leaves_the_others(tmp_path: Path) -> None:
    from forge.phases.prep.tool import extract

    plugins = tiny_corpus(tmp_path / "plugins", {"odd.py": BROKEN})
    root = tiny_corpus(tmp_path / "corpus", {"a.odd": "text of an odd kind", "b.txt": "plain words", "c.md": "# T\n\nwords"})
    out = tmp_path / "out.jsonl"
    assert extract(root, out, Registry((plugins,)), lambda *_: None) == {"failed": 1, "ok": 2}
    assert "extractor odd cannot be imported" in out.read_text(encoding="utf-8")
    assert "a_library_that_nobody_has" in out.read_text(encoding="utf-8")


def test_a_broken_extractor_is_refused_where_it_is_asked_for_by_name_and_where_plugins_are_checked(tmp_path: Path) -> None:
    from forge.conformance import check_plugin

    plugins = tiny_corpus(tmp_path / "plugins", {"odd.py": BROKEN})
    with pytest.raises(ForgeError, match="extractor odd cannot be imported"):
        Registry((plugins,)).plugin("extractor", "odd")
    with pytest.raises(ForgeError, match="cannot be imported"):
        check_plugin(plugins / "odd.py")


@pytest.mark.parametrize("source", ["extractor = = 1\nname = 'x'", "import sys\nextractor = sys.exit(3)", "extractor = undefined_name"])
def test_however_a_plugin_file_breaks_the_run_goes_on(tmp_path: Path, source: str) -> None:
    plugins = tiny_corpus(tmp_path / "plugins", {"file_name.py": source})
    registry = Registry((plugins,))
    assert "file_name" in registry.names("extractor") or "x" in registry.names("extractor")
    assert sum(hasattr(registry.plugin("extractor", name, ready=False), "broken") for name in registry.names("extractor")) == 1


HALF_INSTALLED = """
import json
from importlib.metadata import EntryPoint
original = EntryPoint.load
def load(self):
    if self.name in ("slides", "offline"):
        raise ImportError(f"{self.name} is half installed")
    return original(self)
EntryPoint.load = load
from forge import doctor
from forge.extending import plugin_rows
found = {finding.name: [finding.state, finding.detail] for finding in doctor.examine()}
print(json.dumps([found, [list(row) for row in plugin_rows(())]]))
"""


def test_doctor_and_the_list_of_plugins_name_what_is_broken_and_go_on() -> None:
    told = subprocess.run([sys.executable, "-c", HALF_INSTALLED], capture_output=True, text=True, check=True).stdout
    found, listed = json.loads(told)
    for name in ("extractor slides", "teacher offline"):
        assert found[name][0] == "missing"
        assert "half installed" in found[name][1]
    rows = {(kind, name): state for kind, name, state in listed}
    assert rows["extractor", "slides"] == "broken: ImportError: slides is half installed"
    assert rows["teacher", "offline"] == "broken: ImportError: offline is half installed"
    assert rows["extractor", "text"] == "ready"


def test_a_broken_teacher_still_stops(tmp_path: Path) -> None:
    plugins = tiny_corpus(tmp_path / "plugins", {"mine.py": "import a_library_that_nobody_has\nteacher = 1\n"})
    with pytest.raises(ForgeError, match="cannot be imported"):
        Registry((plugins,)).names("teacher")


def test_no_heavy_library_is_needed_to_stand_in_for_a_broken_one() -> None:
    from forge.broken import stand_in

    made = stand_in("odd", "reason", BROKEN)
    assert set(made.extensions) == {".odd", ".txt"}
    assert "application/x-odd" in made.media_types
    assert "a_library_that_nobody_has" not in sys.modules
