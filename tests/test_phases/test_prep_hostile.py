"""Files made to hurt: prep reports them and goes on, and nothing outlives it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
import zipfile
from contextlib import closing
from pathlib import Path

import pytest

from forge.phases.prep import PrepSettings, phase
from forge.phases.prep.guard import MAX_ENTRIES
from forge.phases.prep.pool import Pool
from forge.records import Document, Passage, read_jsonl
from forge.testing import PhaseRun, run_phase, tiny_corpus
from tests import corpus

TEXT = "A file that can be read stands beside the others so that the run has something to keep.\n"


def prep(root: Path, tmp_path: Path) -> PhaseRun:
    (root / "good.md").write_text(TEXT, encoding="utf-8")
    settings = PrepSettings(allowed_failed_share=1.0, seconds_per_file=10)
    return run_phase(phase, tmp_path / "run", corpus=root, settings=settings)


def ending(run: PhaseRun, path: str) -> tuple[str, str]:
    (found,) = [one for one in read_jsonl(run.out / "documents.jsonl", Document) if one.source.path == path]
    return found.status, found.reason


def one_file(tmp_path: Path, name: str, content: str | bytes) -> tuple[str, str]:
    root = tiny_corpus(tmp_path / "corpus", {name: content})
    return ending(prep(root, tmp_path), name)


def test_links_pipes_and_empty_files_are_skipped_without_being_opened(tmp_path: Path) -> None:
    root = tiny_corpus(tmp_path / "corpus", {"empty.pdf": b"", "blank.txt": " \n\t\n"})
    os.mkfifo(root / "pipe.md")
    (root / "loop").symlink_to(root)
    (root / "self").symlink_to("self")
    (root / "passwd.txt").symlink_to("/etc/passwd")
    started = time.monotonic()
    run = prep(root, tmp_path)
    assert time.monotonic() - started < 60   # a pipe that is opened blocks for ever
    assert {name: ending(run, name)[0] for name in ("pipe.md", "loop", "self", "passwd.txt", "empty.pdf", "blank.txt")} == dict.fromkeys(
        ("pipe.md", "loop", "self", "passwd.txt", "empty.pdf", "blank.txt"), "skipped"
    )
    assert ending(run, "empty.pdf")[1] == "no text"
    assert {one.source.path for one in read_jsonl(run.out / "passages.jsonl", Passage)} == {"good.md"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_or_folder_has_failed(tmp_path: Path) -> None:
    root = tiny_corpus(tmp_path / "corpus", {"locked.md": TEXT, "closed/a.md": TEXT})
    (root / "locked.md").chmod(0)
    (root / "closed").chmod(0)
    run = prep(root, tmp_path)
    (root / "closed").chmod(0o700)
    assert ending(run, "locked.md")[0] == ending(run, "closed")[0] == "failed"


def test_an_unreadable_entry_has_failed_with_the_systems_words(tmp_path: Path) -> None:
    from forge.phases.prep import not_opened
    from forge.records import CorpusEntry

    document = not_opened(CorpusEntry(path="locked.md", kind="unreadable", note="Permission denied")).document
    assert (document.status, document.reason) == ("failed", "Permission denied")


def test_names_that_are_no_text_are_read_and_told_apart(tmp_path: Path) -> None:
    root = tiny_corpus(tmp_path / "corpus", {"line\nbreak.md": TEXT + "1", "back\\slash.md": TEXT + "2"})
    Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9.md")).write_text(TEXT + "3", encoding="utf-8")
    Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9.pdf")).write_bytes(corpus.pdf([corpus.lines([TEXT[:50]])]))
    run = prep(root, tmp_path)
    for name in ("line\nbreak.md", "back\\\\slash.md", "caf\\xe9.md", "caf\\xe9.pdf"):
        assert ending(run, name)[0] == "ok"


def test_an_encrypted_pdf_is_refused_and_a_truncated_one_failed(tmp_path: Path) -> None:
    whole = corpus.pdf([corpus.lines([TEXT[:60]])])
    assert one_file(tmp_path / "a", "x.pdf", corpus.pdf([corpus.lines([TEXT])], encrypted=True)) == (
        "refused", "encrypted PDF (it needs a password)",
    )  # fmt: skip
    status, reason = one_file(tmp_path / "b", "x.pdf", whole[: len(whole) // 3])
    assert status == "failed"
    assert "damaged PDF" in reason


def test_an_encrypted_office_file_is_refused(tmp_path: Path) -> None:
    ole2 = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600 + "EncryptedPackage".encode("utf-16-le") + b"\0" * 600
    status, reason = one_file(tmp_path, "x.docx", ole2)
    assert status == "refused"
    assert "encrypted" in reason


def test_a_truncated_or_garbled_docx_failed(tmp_path: Path) -> None:
    whole = corpus.docx(corpus.paragraph(TEXT))
    assert one_file(tmp_path / "a", "x.docx", whole[: len(whole) // 2])[0] == "failed"
    broken = corpus.packed({"[Content_Types].xml": "", "word/document.xml": "<w:document><unclosed>"})
    status, reason = one_file(tmp_path / "b", "x.docx", broken)
    assert status == "failed"
    assert "word/document.xml" in reason


def test_a_zip_bomb_named_docx_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    bomb = corpus.packed({"[Content_Types].xml": "", "word/document.xml": b"\0" * (60 << 20)})
    status, reason = one_file(tmp_path / "ratio", "x.docx", bomb)
    assert status == "refused"
    assert "is packed" in reason
    many = corpus.packed({f"word/{number}": "" for number in range(MAX_ENTRIES + 1)})
    assert "entries" in one_file(tmp_path / "many", "x.docx", many)[1]


def test_a_zip_whose_entries_overlap_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(5):
            archive.writestr(f"word/{number}.xml", os.urandom(2000))
        for entry in archive.filelist:
            entry.header_offset = 0
    status, reason = one_file(tmp_path / "run", "x.docx", path.read_bytes())
    assert status == "refused"
    assert "overlaps" in reason


def test_entities_in_a_docx_are_refused_and_read_nothing(tmp_path: Path) -> None:
    laughs = '<!ENTITY a "lol">' + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    for name, dtd, entity in (("laughs", laughs, "i"), ("external", '<!ENTITY e SYSTEM "file:///etc/passwd">', "e")):
        xml = f'<?xml version="1.0"?><!DOCTYPE w [{dtd}]><w><body><p><t>&{entity};</t></p></body></w>'
        made = corpus.packed({"[Content_Types].xml": "", "word/document.xml": xml})
        assert one_file(tmp_path / name, "x.docx", made)[0] == "refused"


def test_absurd_nesting_is_an_answer_and_no_crash(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"deep.html": "<html>" + "<div>" * 50_000 + "x", "deep.ipynb": '{"nbformat":4,"cells":' + "[" * 200_000}
    root = tiny_corpus(tmp_path / "corpus", files)
    run = prep(root, tmp_path)
    assert ending(run, "deep.ipynb")[0] == "failed"
    assert ending(run, "deep.html")[0] in {"ok", "refused"}


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux")
def test_children_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import time\nfrom forge.phases.prep.pool import Pool\n"
        "pool = Pool(lambda item, seat: time.sleep(600) or b'', workers=2, seconds=600, memory_mib=512)\n"
        "for _ in pool.map([1, 2], lambda: open('started', 'w').close()):\n    pass\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path)
    deadline = time.monotonic() + 20
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    children = children_of(parent.pid)
    assert len(children) == 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 5
    while any(map(alive, children)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(alive, children))


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"


def test_a_stop_between_files_ends_the_children(tmp_path: Path) -> None:
    done: list[int] = []

    def tick() -> None:
        if len(done) >= 3:
            raise KeyboardInterrupt

    def run() -> None:
        for item, _ in Pool(lambda item, seat: b"", workers=2, seconds=5, memory_mib=512).map(list(range(50)), tick):
            done.append(item)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert 3 <= len(done) < 50
    assert children_of(os.getpid()) == []


COUNTING = '''
import os, time
from forge.records import Piece

class Counting:
    name, media_types, extensions, magic, requires = "counting", ("text/x-count",), {".count": "text/x-count"}, {}, ()
    calls = 0

    def extract(self, path, ctx):
        self.calls += 1
        if path.read_bytes().startswith(b"wear") and self.calls == 3:
            os.abort()
        if path.read_bytes().startswith(b"slow"):
            time.sleep(0.15)
        yield Piece(text=path.read_text())

extractor = Counting()
'''


def counted(root: Path, folder: Path, plugins: Path) -> PhaseRun:
    return run_phase(phase, folder, corpus=root, settings=PrepSettings(workers=1), plugin_dirs=(plugins,))


def test_what_earlier_files_left_behind_does_not_cost_a_file(tmp_path: Path) -> None:
    plugins = tiny_corpus(tmp_path / "plugins", {"counting.py": COUNTING})
    root = tiny_corpus(tmp_path / "corpus", {f"{number}.count": f"wear and tear {number}" for number in range(7)})
    assert counted(root, tmp_path / "run", plugins).metrics["ok"] == 7


def finished_files(results: Path) -> int:
    """How many files a run has finished, as another process sees it."""
    try:
        with closing(sqlite3.connect(f"file:{results}?mode=ro", uri=True)) as db:
            return int(db.execute("SELECT COUNT(*) FROM file").fetchone()[0])
    except sqlite3.OperationalError:   # it is not there yet
        return 0


def test_a_run_killed_between_files_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    plugins = tiny_corpus(tmp_path / "plugins", {"counting.py": COUNTING})
    root = tiny_corpus(tmp_path / "corpus", {f"{number}.count": f"slow file {number}" for number in range(8)})
    whole = counted(root, tmp_path / "whole", plugins)
    script = (
        "from pathlib import Path\nfrom forge.phases.prep import PrepSettings, phase\nfrom forge.testing import run_phase\n"
        f"here = Path({str(tmp_path)!r})\n"
        "run_phase(phase, here / 'killed', corpus=here / 'corpus', settings=PrepSettings(workers=1), plugin_dirs=(here / 'plugins',))\n"
    )
    victim = subprocess.Popen([sys.executable, "-c", script])
    results, deadline = tmp_path / "killed/work/results.db", time.monotonic() + 30
    while finished_files(results) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    victim.kill()
    victim.wait()
    finished = finished_files(results)
    assert 3 <= finished < 8
    resumed = counted(root, tmp_path / "killed", plugins)
    assert sum(kind == "progress" for kind, _ in resumed.events) == 8 - finished
    for name in ("documents.jsonl", "passages.jsonl"):
        assert (resumed.out / name).read_bytes() == (whole.out / name).read_bytes()
