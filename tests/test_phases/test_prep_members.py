"""Files inside files: read as if they lay in the corpus, under safe names, and never without end."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from forge.errors import ExtractError
from forge.phases.prep import members
from forge.phases.prep.extract import Reader, ReadJob, Result
from forge.phases.prep.members import Budget, Unpacked, safe_name
from forge.phases.prep.seat import Seat
from forge.phases.prep.sidecars import assign, endings
from forge.protocols import Embedded, Reading
from forge.records import CorpusEntry, Piece
from forge.registry import Registry
from forge.testing import tiny_corpus

TEXT = "A paragraph that stands in a file of its own, long enough to be kept.\n"


class Box:
    """A container in one line: "box", then name=text;name=text. A name that starts with "!" cannot be read, for that reason."""

    name, media_types, extensions, requires = "box", ("text/x-box",), {".box": "text/x-box"}, ()
    magic: Mapping[bytes, str] = {b"box:": "text/x-box"}

    def extract(self, path: Path, ctx: Reading) -> Iterator[Piece | Embedded]:
        for part in path.read_text(encoding="utf-8")[4:].split(";"):
            name, _, text = part.partition("=")
            if name == "text":
                yield Piece(text=text)
            elif name == "raise":
                raise ExtractError(text, refused="unsafe" in text)
            elif name.startswith("!"):
                yield Embedded(name[1:], note=text)
            else:
                yield Embedded(name, chunks=damaged() if text == "damaged" else [text.replace("~", ";").encode()])


def damaged() -> Iterator[bytes]:
    yield b"the beginning"
    raise zipfile.BadZipFile("bad checksum")


class Pair:
    """Reads a .main with its sidecars."""

    name, media_types, extensions, requires = "pair", ("text/x-main",), {".main": "text/x-main"}, ()
    magic: Mapping[bytes, str] = {}
    sidecars: Mapping[str, tuple[str, ...]] = {".main": (".side", ".data/")}

    def extract(self, path: Path, ctx: Reading) -> Iterator[Piece]:
        yield Piece(text=path.read_text(encoding="utf-8"))
        for ending, sidecar in sorted(ctx.sidecars.items()):
            yield Piece(text=f"{ending}: {sidecar.read_text(encoding='utf-8')}")


def reader(*more: Any) -> Reader:
    registry = Registry()
    names = ("text", "archive", "mail")
    extractors = {name: registry.plugin("extractor", name, ready=False) for name in names}
    return Reader(extractors | {plugin.name: plugin for plugin in (Box(), Pair(), *more)}, words=180, words_max=320)


def read(tmp_path: Path, name: str, data: str | bytes) -> tuple[Result, ...]:
    data = data.encode() if isinstance(data, str) else data
    path = tmp_path / Path(name).name
    path.write_bytes(data)
    entry = CorpusEntry(path=name, kind="file", size=len(data), sha256=hashlib.sha256(data).hexdigest())
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    found = reader().read(entry, path, seat=Seat(scratch))
    assert [one.name for one in scratch.iterdir()] in ([], ["work"])
    return found


def told(results: Iterable[Result]) -> dict[str, tuple[str, str]]:
    return {one.document.source.path: (one.document.status, one.document.reason) for one in results}


def packed(files: Mapping[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_members_are_documents_of_their_own_through_every_level(tmp_path: Path) -> None:
    inner = packed({"deep/c.txt": TEXT + "c"})
    found = read(tmp_path, "in/outer.zip", packed({"a.txt": TEXT + "a", "b.zip": inner, "z.txt": TEXT + "z"}))
    assert [one.document.source.path for one in found] == [
        "in/outer.zip", "in/outer.zip!/a.txt", "in/outer.zip!/b.zip", "in/outer.zip!/b.zip!/deep/c.txt", "in/outer.zip!/z.txt",
    ]  # fmt: skip
    outer, a, b, c, _ = found
    assert (outer.document.status, outer.document.reason) == ("ok", "holds 3 files")
    assert (b.document.status, b.document.reason) == ("ok", "holds 1 file")
    assert c.document.source.sha256 == hashlib.sha256((TEXT + "c").encode()).hexdigest()
    assert {one.group for one in a.passages} == {a.document.id} != {one.group for one in c.passages}
    assert a.document.balance.holds
    assert a.document.chars


def test_a_file_with_text_and_attachments_gives_both(tmp_path: Path) -> None:
    outer, inner = read(tmp_path, "x.box", f"box:text={TEXT};a.txt={TEXT}")
    assert (outer.document.status, outer.document.reason) == ("ok", "holds 1 file")
    assert outer.passages
    assert inner.passages


def test_every_member_ends_with_a_status_and_a_reason(tmp_path: Path) -> None:
    parts = {
        "good.txt": TEXT, "bad.txt": "damaged", "!locked.txt": "encrypted member (it needs a password)", "!link": "symbolic link",
        "!odd.txt": "compressed in a way nobody knows", "__MACOSX/._good.txt": "x", "sub/.DS_Store": "x", "blank.txt": "", "folder/": "",
    }
    found = told(read(tmp_path, "x.box", "box:" + ";".join(f"{name}={text}" for name, text in parts.items())))
    junk = ("skipped", "left by an operating system, no document")
    assert found == {
        "x.box": ("ok", "holds 8 files"),
        "x.box!/good.txt": ("ok", ""),
        "x.box!/bad.txt": ("failed", "damaged (BadZipFile: bad checksum)"),
        "x.box!/locked.txt": ("refused", "encrypted member (it needs a password)"),
        "x.box!/link": ("skipped", "symbolic link"),
        "x.box!/odd.txt": ("failed", "compressed in a way nobody knows"),
        "x.box!/__MACOSX/._good.txt": junk,
        "x.box!/sub/.DS_Store": junk,
        "x.box!/blank.txt": ("skipped", "no text"),
    }


def test_names_that_lead_outside_are_made_safe_and_said(tmp_path: Path) -> None:
    names = ["../../etc/evil.txt", "/abs.txt", "C:\\win\\x.txt", "a\x01b.txt", "..", "same.txt", "same.txt", "same.txt/below.txt", "n" * 400 + ".txt"]
    found = read(tmp_path, "x.box", "box:" + ";".join(f"{name}={TEXT} {number}" for number, name in enumerate(names)))
    paths = [one.document.source.path.removeprefix("x.box!/") for one in found[1:]]
    assert paths[:8] == ["etc/evil.txt", "abs.txt", "win/x.txt", "a_b.txt", "unnamed", "same.txt", "same~2.txt", "same~3.txt/below.txt"]
    assert len(paths[8]) <= 200
    assert paths[8].endswith(".txt")
    assert {one.document.status for one in found} == {"ok"}
    assert "../../etc/evil.txt" in found[1].document.reason
    assert not (tmp_path.parent / "etc").exists()


def test_thousands_of_members_with_one_name_take_no_time(tmp_path: Path) -> None:
    unpacked = Unpacked(tmp_path / "out", "x.zip", Budget(10_000))
    for _ in range(members.MAX_MEMBERS):
        unpacked.take(Embedded("a/same.txt", note="symbolic link"))
    assert len({member.name for member in unpacked.members}) == members.MAX_MEMBERS
    with pytest.raises(members.LimitBroken, match="10,000 files"):
        unpacked.take(Embedded("a/same.txt"))


@pytest.mark.parametrize("name", ["../x", "a/../../x", "./x", "//x", "..\\..\\x", "c:/x", "x!/y", "\ud800", "a\nb", "~", "." * 3])
def test_a_safe_name_stays_below_its_folder(name: str) -> None:
    safe = safe_name(name)
    assert not Path(safe).is_absolute()
    assert ".." not in Path(safe).parts
    assert "!/" not in safe
    assert safe.encode().decode().isprintable()


def test_a_name_longer_than_any_path_may_be_keeps_its_end(tmp_path: Path) -> None:
    found = read(tmp_path, "x.box", "box:" + "f" * 180 + ("/" + "f" * 180) * 50 + f"/last.txt={TEXT}")
    assert found[1].document.status == "ok"
    assert found[1].document.source.path.endswith("/last.txt")


def test_what_came_out_of_a_damaged_archive_stays_but_nothing_of_a_refused_one(tmp_path: Path) -> None:
    failed = told(read(tmp_path, "x.box", f"box:a.txt={TEXT};raise=cut off here"))
    assert failed == {"x.box": ("failed", "holds 1 file; cut off here"), "x.box!/a.txt": ("ok", "")}
    assert told(read(tmp_path, "x.box", f"box:a.txt={TEXT};raise=unsafe thing")) == {"x.box": ("refused", "unsafe thing")}


def test_files_may_lie_five_files_deep_and_not_six(tmp_path: Path) -> None:
    data: str | bytes = TEXT
    for level in range(7):
        data = packed({"x.txt" if level == 0 else "x.zip": data})
    results = read(tmp_path, "x.zip", data)
    deepest = results[-1].document
    assert deepest.source.path.count("!/") == members.MAX_DEPTH + 1
    assert (deepest.status, deepest.reason) == ("refused", "lies more than 5 files deep")


def test_a_file_that_holds_too_much_is_refused_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "MAX_MEMBERS", 3)
    inner = f"box:a.txt={TEXT}~b.txt={TEXT}"
    assert told(read(tmp_path, "x.box", f"box:1.txt={TEXT};2.box={inner};3.txt={TEXT}")) == {
        "x.box": ("refused", "holds more than 3 files in all; unpack it into the corpus")
    }
    monkeypatch.setattr(members, "MAX_MEMBERS", 10_000)
    monkeypatch.setattr(members, "MAX_BYTES", 100)
    (only,) = read(tmp_path, "x.box", f"box:1.txt={TEXT};2.txt={TEXT}")
    assert (only.document.status, only.document.extractor, only.passages) == ("refused", "box", ())
    assert "in all" in only.document.reason


def test_a_bomb_that_no_directory_tells_of_is_refused_by_its_ratio(tmp_path: Path) -> None:
    budget = Budget(size=1000)
    budget.unpacked(members.FREE_BYTES)
    with pytest.raises(members.LimitBroken, match="200 times its size"):
        budget.unpacked(1)


def test_a_member_that_is_too_large_costs_itself_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "MAX_MEMBER_BYTES", 100)
    unpacked = Unpacked(tmp_path / "out", "x.zip", Budget(10_000))
    unpacked.take(Embedded("big", chunks=iter([b"x" * 60, b"x" * 60])))
    unpacked.take(Embedded("small", chunks=[b"x"]))
    big, small = unpacked.members
    assert (big.status, big.why) == ("refused", "larger than 0 MiB")
    assert not small.why
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["small"]


def test_the_text_of_all_members_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.phases.prep.extract.MAX_CHARACTERS_IN_ALL", 100)
    (only,) = read(tmp_path, "x.box", f"box:1.txt={TEXT};2.txt={TEXT}")
    assert only.document.status == "refused"


def test_a_member_that_takes_the_process_down_costs_itself_only(tmp_path: Path) -> None:
    from forge.phases.prep.tool import extract

    bad = (
        "import os, time\nfrom forge.records import Piece\nclass Bad:\n    name, media_types, magic, requires = 'bad', ('text/x-bad',), {}, ()\n"
        "    extensions = {'.bad': 'text/x-bad'}\n    def extract(self, path, ctx):\n        os.abort()\n        yield Piece(text='x')\nextractor = Bad()\n"
    )
    plugins = tiny_corpus(tmp_path / "plugins", {"bad.py": bad})
    root = tiny_corpus(tmp_path / "corpus", {"x.zip": packed({"a.txt": TEXT, "b.bad": "x", "c.txt": TEXT + "c"})})
    counts = extract(root, tmp_path / "out.jsonl", Registry((plugins,)), lambda *_: None)
    assert counts == {"failed": 1, "ok": 3}
    assert "the extractor crashed (SIGABRT)" in (tmp_path / "out.jsonl").read_text(encoding="utf-8")


# --- sidecars ----------------------------------------------------------------------------------------------------

WANTED = {".shp": (".dbf", ".shx", ".prj"), ".enl": (".data/",), ".frm": (".myd", ".myi")}


def test_sidecars_go_with_the_file_of_the_same_stem() -> None:
    names = ["a/Roads.shp", "a/Roads.DBF", "a/roads.prj", "a/Roads.txt", "b/Roads.dbf", "lonely.dbf", "only.shp"]
    assert assign(names, WANTED) == {"a/Roads.shp": {".dbf": "a/Roads.DBF", ".prj": "a/roads.prj"}}


def test_what_lies_in_a_main_files_folder_is_its_own() -> None:
    names = ["My.enl", "My.Data/rdb/refs.frm", "My.Data/rdb/refs.MYD", "other/refs.frm", "other/refs.MYD"]
    assert assign(names, WANTED) == {
        "My.enl": {".data/rdb/refs.frm": "My.Data/rdb/refs.frm", ".data/rdb/refs.myd": "My.Data/rdb/refs.MYD"},
        "other/refs.frm": {".myd": "other/refs.MYD"},
    }


def test_two_kinds_that_want_each_other_do_not_vanish_both() -> None:
    found = assign(["x.a", "x.b"], {".a": (".b",), ".b": (".a",)})
    assert found == {"x.a": {".b": "x.b"}}


def test_endings_are_gathered_over_all_extractors() -> None:
    assert endings({"pair": Pair(), "box": Box()}) == {".main": (".side", ".data/")}


def test_sidecars_inside_an_archive_are_read_with_their_file_and_say_so(tmp_path: Path) -> None:
    results = read(tmp_path, "x.zip", packed({"d/t.main": "the main text", "d/t.side": "the side text", "d/u.side": TEXT}))
    found = told(results)
    assert found["x.zip!/d/t.side"] == ("skipped", "read with d/t.main")
    assert found["x.zip!/d/u.side"][0] == "ok"
    assert results[1].passages[0].text == "the main text\n\n.side: the side text"


def test_a_changed_sidecar_fails_its_file_and_changes_the_jobs_key(tmp_path: Path) -> None:
    root = tiny_corpus(tmp_path / "corpus", {"t.main": "main", "t.side": "side"})
    main, side = (
        CorpusEntry(path=name, kind="file", size=4, sha256=hashlib.sha256(text).hexdigest()) for name, text in (("t.main", b"main"), ("t.side", b"side"))
    )
    job = ReadJob(entry=main, sidecars={".side": side})
    (result,) = reader().read_job(job, root, Seat(tmp_path))
    assert "side" in result.passages[0].text
    assert len({job.key, ReadJob(entry=main).key, ReadJob(entry=main, sidecars={".side": main}).key}) == 3
    (root / "t.side").write_text("other", encoding="utf-8")
    (result,) = reader().read_job(job, root, Seat(tmp_path))
    assert "changed" in result.document.reason
