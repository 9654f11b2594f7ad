"""prep: routing, balance, duplicates, passages, failures, dry run, the same bytes however it was run."""

from __future__ import annotations

import json
import shutil
import sqlite3
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from forge.errors import ForgeError, Interrupted
from forge.phases.prep import PrepSettings, phase, stamp
from forge.phases.prep.extract import document_id
from forge.phases.prep.results import Results
from forge.records import CorpusEntry, Document, Passage, read_jsonl, write_jsonl
from forge.registry import Registry
from forge.testing import PhaseRun, run_phase, tiny_corpus
from tests import corpus

WORDS = "The ledger reserves the worst case of every paid act before it starts and settles it afterwards. "
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"


def documents(run: PhaseRun) -> dict[str, Document]:
    return {one.source.path: one for one in read_jsonl(run.out / "documents.jsonl", Document)}


def passages(run: PhaseRun) -> list[Passage]:
    return list(read_jsonl(run.out / "passages.jsonl", Passage))


def prep(tmp_path: Path, files: dict[str, str | bytes], **settings: object) -> PhaseRun:
    root = tiny_corpus(tmp_path / "corpus", files)
    return run_phase(phase, tmp_path / "run", corpus=root, settings=PrepSettings.model_validate(settings))


def mixed() -> dict[str, str | bytes]:
    """A corpus of every family, with text that tells the files apart."""
    return {
        "a.md": "# Leases\n\n" + WORDS * 30 + "\n\n## Deadlines\n\n" + WORDS * 3,
        "b.pdf": corpus.pdf([corpus.lines([f"Sentence {row} of the second file is here." for row in range(20)])]),
        "c.docx": corpus.docx(corpus.paragraph("Third file. " + WORDS)),
        "d.csv": "name,city\n" + "\n".join(f"n{row},c{row}" for row in range(50)),
        "e.ipynb": corpus.notebook([{"cell_type": "markdown", "source": "# Fifth\n\n" + WORDS}]),
        "f.html": f"<html><body><h1>Sixth</h1><p>{WORDS}</p></body></html>",
        "g.txt": "Seventh file.\n\n" + WORDS * 8,
    }


def test_every_family_becomes_passages_and_every_character_is_accounted_for(tmp_path: Path) -> None:
    run = prep(tmp_path, mixed())
    found = documents(run)
    assert {path: one.status for path, one in found.items()} == dict.fromkeys(mixed(), "ok")
    assert [one.extractor for _, one in sorted(found.items())] == ["text", "pdf", "word", "text", "notebook", "html", "text"]
    assert all(one.balance.holds and one.balance.kept > 0 for one in found.values())
    kept = sum(len("".join(one.text.split())) for one in passages(run))
    assert kept == sum(one.balance.kept for one in found.values()) == run.metrics["chars_kept"]
    assert run.metrics["passages"] == len(passages(run))


def test_passages_know_their_document_heading_and_place(tmp_path: Path) -> None:
    run = prep(tmp_path, {"a.md": "# Leases\n\n" + WORDS * 30 + "\n\n## Deadlines\n\n" + WORDS * 12})
    found = passages(run)
    assert [one.meta["heading"] for one in found] == ["Leases"] * 3 + ["Leases > Deadlines"]
    assert all(one.group == document_id("a.md") and one.id.startswith(one.group) for one in found)
    assert found[-1].source.locator == "line=5..7"
    assert found == sorted(found, key=lambda one: one.id)
    assert all(40 <= len(one.text.split()) <= 320 for one in found)


# --- routing by content ----------------------------------------------------------------------------------------


def test_content_decides_before_the_extension(tmp_path: Path) -> None:
    word, book = corpus.docx(corpus.paragraph(WORDS)), corpus.notebook([{"cell_type": "code", "source": WORDS}])
    run = prep(tmp_path, {
        "really_word.pdf": word, "really_pdf.docx": corpus.pdf([corpus.lines([WORDS[:60]])]), "no_extension": WORDS + "once",
        "text.docx": WORDS + "twice", "page.txt": f"<!DOCTYPE html><html><body>{WORDS}thrice</body></html>", "book.json": book,
        "wide.md": (WORDS + "äö").encode("utf-16"), "data.bin": bytes(range(256)) * 40, "old.doc": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
        + b"\0" * 512 + "WordDocument".encode("utf-16-le"), "picture.md": b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "old.zip": corpus.packed({"a": "b"}),
    })  # fmt: skip
    found = {path: (one.status, one.media_type) for path, one in documents(run).items()}
    assert found == {
        "really_word.pdf": ("ok", DOCX), "really_pdf.docx": ("ok", "application/pdf"), "no_extension": ("ok", "text/plain"),
        "text.docx": ("ok", "text/plain"), "page.txt": ("ok", "text/html"), "book.json": ("ok", "application/x-ipynb+json"),
        "wide.md": ("ok", "text/markdown"), "data.bin": ("ok", "application/octet-stream"),
        "old.doc": ("skipped", "application/msword"), "picture.md": ("failed", "image/png"), "old.zip": ("ok", "application/zip"),
        "old.zip!/a": ("ok", "text/plain"),
    }  # fmt: skip
    assert "LibreOffice" in documents(run)["old.doc"].reason


# --- duplicates ------------------------------------------------------------------------------------------------


def test_files_with_the_same_bytes_are_read_once_and_counted_whole(tmp_path: Path) -> None:
    run = prep(tmp_path, {"b/copy.md": "# T\n\n" + WORDS, "a/first.md": "# T\n\n" + WORDS, "a/blob.dat": "# T\n\n" + WORDS})
    found = documents(run)
    assert {one.source.path for one in passages(run)} == {"a/first.md"}, "a known extension stays, then the first path"
    copy = found["b/copy.md"]
    assert copy.status == "ok"
    assert copy.balance.duplicate == copy.balance.extracted == found["a/first.md"].balance.extracted
    assert copy.reason == "the same bytes as a/first.md"
    assert run.metrics["duplicates"] == 2


def test_files_inside_files_that_repeat_others_count_as_duplicates_too(tmp_path: Path) -> None:
    inner = {"notes/a.md": "# T\n\n" + WORDS, "only-here.md": "# U\n\nThis stands in the archive alone. " + WORDS}
    run = prep(tmp_path, {"b.zip": corpus.packed(inner), "a.zip": corpus.packed({"x.md": inner["notes/a.md"]}), "c/a.md": inner["notes/a.md"]})
    found = documents(run)
    assert {one.source.path for one in passages(run) if one.meta["kind"] != "metadata"} == {"a.zip!/x.md", "b.zip!/only-here.md"}
    for name in ("b.zip!/notes/a.md", "c/a.md"):
        assert found[name].reason == "the same bytes as a.zip!/x.md"
        assert found[name].balance.duplicate == found[name].balance.extracted > 0
    assert run.metrics["duplicates"] == 2
    assert run.metrics["chars_kept"] == sum(len("".join(one.text.split())) for one in passages(run))


# --- failures that stop the phase ------------------------------------------------------------------------------


def test_an_empty_corpus_is_an_error_with_a_next_step(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    with pytest.raises(ForgeError, match="the corpus is empty") as caught:
        prep(tmp_path, {})
    assert caught.value.next


def test_a_corpus_without_text_is_an_error_that_counts(tmp_path: Path) -> None:
    with pytest.raises(ForgeError, match=r"no file yielded text \(2 names: 2 skipped\)"):
        prep(tmp_path, {"a.md": "", "b.txt": "\n \n"})


def test_more_failed_files_than_allowed_fail_the_phase_and_fewer_do_not(tmp_path: Path) -> None:
    damaged = {f"{number}.pdf": b"%PDF-1.4 " + bytes([number]) * 20 for number in range(2)}
    with pytest.raises(ForgeError, match="2 of 9 readable files failed") as caught:
        prep(tmp_path / "strict", {**mixed(), **damaged})
    assert "damaged PDF" in caught.value.why
    assert "allowed_failed_share" in caught.value.next
    run = prep(tmp_path / "lax", {**mixed(), **damaged}, allowed_failed_share=0.5)
    assert run.metrics["failed"] == 2
    assert sum(kind == "notice" and fields["text"].startswith("not read") for kind, fields in run.events) == 2


def test_refused_and_skipped_files_do_not_fail_the_phase(tmp_path: Path) -> None:
    locked = {f"{number}.pdf": corpus.pdf([corpus.lines([str(number)])], encrypted=True) for number in range(5)}
    run = prep(tmp_path, {"a.md": WORDS, **locked, "x.ps": "%!PS-Adobe-3.0\n"})
    assert (run.metrics["ok"], run.metrics["refused"], run.metrics["skipped"]) == (1, 5, 1)


def test_a_missing_extra_is_named_with_its_install_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import forge.registry

    monkeypatch.setattr(forge.registry, "missing", lambda requires: tuple(need for need in requires if need.module == "pypdfium2"))
    run = prep(tmp_path, mixed())
    assert documents(run)["b.pdf"].status == "failed"
    assert documents(run)["b.pdf"].reason == "extractor pdf needs pypdfium2: pip install 'slm-forge[docs]'"
    with pytest.raises(ForgeError) as caught:
        prep(tmp_path / "only", {"b.pdf": mixed()["b.pdf"]})
    assert caught.value.next == "pip install 'slm-forge[docs]'"


# --- determinism -----------------------------------------------------------------------------------------------


def test_the_result_does_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    files = {**mixed(), "bad.pdf": b"%PDF-1.4 nothing"}
    runs = [prep(tmp_path / str(workers), files, workers=workers) for workers in (1, 2, 4)]
    for name in ("documents.jsonl", "passages.jsonl"):
        assert len({(run.out / name).read_bytes() for run in runs}) == 1
    assert len({json.dumps(dict(run.metrics)) for run in runs}) == 1


def count_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the files that are read from now on: what comes from the cache is added in another way."""
    read: list[str] = []
    original = Results.add

    def counted(self: Results, key: str, *given: Any, **options: Any) -> None:
        read.append(key.split(":", 2)[2])
        original(self, key, *given, **options)

    monkeypatch.setattr(Results, "add", counted)
    return read


def same_outputs(one: PhaseRun, two: PhaseRun) -> bool:
    names = ("documents.jsonl", "passages.jsonl", "prep.json")
    return all((one.out / name).read_bytes() == (two.out / name).read_bytes() for name in names)


def test_a_stopped_run_repeats_no_file_and_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prep(tmp_path / "whole", mixed())
    original, left = Results.add, iter(range(4))

    def stop(*given: Any, **options: Any) -> None:
        if next(left, None) is None:
            raise Interrupted
        original(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Results, "add", stop)
        with pytest.raises(Interrupted):
            prep(tmp_path / "stopped", mixed(), workers=1)
    shutil.rmtree(tmp_path / "stopped/run/cache")   # what is finished survives in the run itself
    read = count_read(monkeypatch)
    resumed = prep(tmp_path / "stopped", mixed(), workers=1)
    assert len(read) == len(mixed()) - 4
    assert resumed.metrics["files_read"] == len(mixed())
    assert same_outputs(resumed, whole)


# --- the cache that runs share ---------------------------------------------------------------------------------


def test_a_new_run_opens_no_unchanged_file_and_one_changed_file_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tiny_corpus(tmp_path / "corpus", mixed())
    first = run_phase(phase, tmp_path / "1", corpus=root, cache=tmp_path / "cache")
    read = count_read(monkeypatch)
    second = run_phase(phase, tmp_path / "2", corpus=root, cache=tmp_path / "cache")
    assert read == []
    assert (second.metrics["files_read"], second.metrics["from_cache"]) == (0, len(mixed()))
    assert same_outputs(first, second)
    (root / "a.md").write_text("# Changed\n\n" + WORDS, encoding="utf-8")
    (root / "g.txt").rename(root / "h.txt")
    third = run_phase(phase, tmp_path / "3", corpus=root, cache=tmp_path / "cache")
    assert sorted(read) == ["a.md", "h.txt"], "a path is part of what a passage says about its source"
    assert same_outputs(third, run_phase(phase, tmp_path / "4", corpus=root))


@pytest.mark.parametrize("change", [{"passage_words": 60}, {"ocr": "off"}, {"max_rows": 7}])
def test_a_setting_that_changes_the_result_reads_again(tmp_path: Path, change: dict[str, object]) -> None:
    root = tiny_corpus(tmp_path / "corpus", mixed())
    run_phase(phase, tmp_path / "1", corpus=root, cache=tmp_path / "cache")
    again = run_phase(phase, tmp_path / "2", corpus=root, cache=tmp_path / "cache", settings=PrepSettings.model_validate(change))
    assert again.metrics["files_read"] == len(mixed())
    same = run_phase(phase, tmp_path / "3", corpus=root, cache=tmp_path / "cache", settings=PrepSettings(workers=1, seconds_per_file=60))
    assert same.metrics["files_read"] == 0


def test_a_changed_plugin_reads_again_and_a_failed_file_is_tried_again(tmp_path: Path) -> None:
    root = tiny_corpus(tmp_path / "corpus", {"a.notes": WORDS, "b.md": "# B\n\n" + WORDS, "c.pdf": b"%PDF-1.4 nothing"})
    folder = tiny_corpus(tmp_path / "plugins", {"notes.py": PLUGIN})
    lax = PrepSettings(allowed_failed_share=0.9)
    counts = []
    for number in range(3):
        run = run_phase(phase, tmp_path / str(number), corpus=root, cache=tmp_path / "cache", plugin_dirs=(folder,), settings=lax)
        counts.append(run.metrics["files_read"])
        if number == 1:
            stamp._code.cache_clear()
            (folder / "notes.py").write_text(PLUGIN + "# another version\n", encoding="utf-8")
    assert counts == [3, 1, 3]


def test_a_damaged_cache_costs_time_and_nothing_else(tmp_path: Path) -> None:
    root = tiny_corpus(tmp_path / "corpus", mixed())
    first = run_phase(phase, tmp_path / "1", corpus=root, cache=tmp_path / "cache")
    with sqlite3.connect(tmp_path / "cache/prep.db") as db:
        db.execute("UPDATE cached SET value=substr(value, 1, 40) WHERE rowid=2")
    second = run_phase(phase, tmp_path / "2", corpus=root, cache=tmp_path / "cache")
    assert second.metrics["files_read"] == 1
    (tmp_path / "cache/prep.db").write_bytes(b"\xff" * 5000)
    third = run_phase(phase, tmp_path / "3", corpus=root, cache=tmp_path / "cache")
    assert third.metrics["files_read"] == len(mixed())
    tiny_corpus(tmp_path, {"taken": "no folder"})
    fourth = run_phase(phase, tmp_path / "4", corpus=root, cache=tmp_path / "taken")
    assert same_outputs(first, second)
    assert same_outputs(first, third)
    assert same_outputs(first, fourth)


# --- what it says ----------------------------------------------------------------------------------------------


def test_the_report_counts_each_family_and_what_was_lost_why(tmp_path: Path) -> None:
    run = prep(tmp_path, {**mixed(), "bad.pdf": b"%PDF-1.4 nothing", "copy.md": mixed()["a.md"], "x.ps": "%!PS-Adobe-3.0\n"})
    told = json.loads((run.out / "prep.json").read_text(encoding="utf-8"))
    families = {one["family"]: one for one in told["families"]}
    pdf = families["pdf"]
    assert (pdf["files"], pdf["ok"], pdf["failed"]) == (2, 1, 1)
    assert pdf["reasons"][0][:2] == ["failed", 1]
    assert pdf["reasons"][0][2].startswith("damaged PDF")
    assert families["(no extractor)"]["skipped"] == 1
    kept = passages(run)
    assert sum(one["passages"] for one in families.values()) == len(kept)
    assert sum(one["tokens"] for one in families.values()) == sum(one.tokens for one in kept), "from the text, not from file sizes"
    assert sum(one["copies"] for one in families.values()) == 1
    seconds = json.loads((run.out / "seconds.json").read_text(encoding="utf-8"))
    assert seconds["pdf"] > 0


def test_tables_show_the_families_and_every_file_that_gave_no_text(tmp_path: Path) -> None:
    run = prep(tmp_path, {**mixed(), "bad.pdf": b"%PDF-1.4 nothing", "x.ps": "%!PS-Adobe-3.0\n"})
    paths = {output.name: run.out / output.path for output in phase.writes}
    families, reasons = phase.tables(paths.__getitem__, dropped=False)
    assert [row[:3] for row in reasons.rows] == [("(no extractor)", "skipped", 1), ("pdf", "failed", 1)]
    assert [row[0] for row in families.rows] == sorted(str(row[0]) for row in families.rows)
    files, characters, losses = phase.tables(paths.__getitem__, dropped=True)
    assert [row[:2] for row in files.rows] == [("x.ps", "skipped"), ("bad.pdf", "failed")]
    assert all(row[2] for row in files.rows)
    assert sum(int(row[0]) for row in characters.rows) == run.metrics["chars_dropped"]
    assert losses.rows == ()


def test_progress_counts_files_and_follows_the_bytes(tmp_path: Path) -> None:
    run = prep(tmp_path, mixed(), workers=1)
    told = [fields for kind, fields in run.events if kind == "progress"]
    assert [one["done"] for one in told] == list(range(1, len(mixed()) + 1))
    assert told[-1]["share"] == 1
    assert all(one["note"] in mixed() and one["megabytes_per_second"] > 0 for one in told)


def test_a_file_that_changed_since_the_listing_is_not_taken_for_the_listed_one(tmp_path: Path) -> None:
    root = tiny_corpus(tmp_path / "corpus", {"a.md": WORDS, "b.md": WORDS * 2})
    listing = tmp_path / "corpus.jsonl"
    write_jsonl(listing, [
        CorpusEntry(path="a.md", kind="file", size=1, sha256="0" * 64), *list_files(root, "b.md"), CorpusEntry(path="gone.md", kind="file", sha256="1" * 64)
    ])  # fmt: skip
    with pytest.raises(ForgeError, match="2 of 3 readable files failed") as caught:
        _run_listing(tmp_path, root, listing)
    assert "changed since the corpus was listed" in caught.value.why
    assert "No such file" in caught.value.why


def list_files(root: Path, *names: str) -> list[CorpusEntry]:
    from forge.corpus import scan_corpus

    return [entry for entry in scan_corpus(root) if entry.path in names]


def _run_listing(tmp_path: Path, root: Path, listing: Path) -> PhaseRun:
    from forge.context import FolderContext, InputFile
    from forge.store import hash_path
    from forge.testing import CountingMoney

    given = {"corpus": InputFile(path=str(listing), sha256=hash_path(listing))}
    ctx = FolderContext(
        tmp_path / "run", run_id="t", seed=1, dry_run=False, inputs=given, writes=phase.writes, registry=Registry(), money=CountingMoney(),
        emit=lambda kind, fields: None, corpus_root=root,
    )  # fmt: skip
    return PhaseRun(phase.run(PrepSettings(), ctx), [], ctx.out)


# --- dry run ---------------------------------------------------------------------------------------------------


def test_a_dry_run_reads_a_small_sample_of_every_kind_and_says_so(tmp_path: Path) -> None:
    files = {**mixed(), **{f"many/{number:03d}.md": f"# N{number}\n\n" + WORDS * 200 for number in range(60)}, "x.bin": bytes(range(256)) * 9}
    root = tiny_corpus(tmp_path / "corpus", files)
    runs = [run_phase(phase, tmp_path / str(number), corpus=root, dry_run=True) for number in range(2)]
    found = documents(runs[0])
    sampled = [path for path, one in found.items() if one.status == "ok"]
    assert {Path(path).suffix for path in sampled} == {".md", ".pdf", ".docx", ".csv", ".ipynb", ".html", ".txt"}
    assert 12 <= len(sampled) <= 25
    assert found["many/059.md"].reason == "not in the dry-run sample"
    assert runs[0].metrics["sample"] == f"{len(sampled)} of 68 distinct files"
    assert (runs[0].out / "passages.jsonl").read_bytes() == (runs[1].out / "passages.jsonl").read_bytes()


# --- plugins ---------------------------------------------------------------------------------------------------

PLUGIN = '''
import os, signal, time
from forge.records import Piece

class Streamed(Piece):
    """Its text can be read once, as from a file."""

    def __getattribute__(self, name):
        if name == "text":
            try:
                return next(CHUNKS)
            except StopIteration:
                return ""
        return super().__getattribute__(name)

CHUNKS = iter(["all of the text"])

class Notes:
    name, media_types, extensions = "notes", ("text/x-notes",), {".notes": "text/x-notes"}
    magic, requires = {b"NOTES\\x01": "text/x-notes"}, ()

    def extract(self, path, ctx):
        data = path.read_bytes()
        if b"crash" in data:
            os.kill(os.getpid(), signal.SIGSEGV)
        if b"hang" in data:
            time.sleep(600)
        if b"greedy" in data:
            hold = bytearray(3 << 30)
        if b"bug" in data:
            raise KeyError("no such thing")
        if b"exit" in data:
            os._exit(3)
        if b"words" in data:
            yield "not a piece"
        yield Piece(text=data.decode("latin-1"), locator="note=1")
        if b"stream" in data:
            yield Streamed(text="")

extractor = Notes()
'''


def with_plugin(tmp_path: Path, files: dict[str, str | bytes], **settings: object) -> PhaseRun:
    folder = tiny_corpus(tmp_path / "plugins", {"notes.py": PLUGIN})
    root = tiny_corpus(tmp_path / "corpus", files)
    made = PrepSettings.model_validate({"allowed_failed_share": 0.9, **settings})
    return run_phase(phase, tmp_path / "run", corpus=root, settings=made, plugin_dirs=(folder,))


def test_a_third_party_extractor_claims_files_by_extension_and_by_magic(tmp_path: Path) -> None:
    run = with_plugin(tmp_path, {"a.notes": WORDS, "b": b"NOTES\x01" + WORDS.encode() + b"\x02"})
    found = documents(run)
    assert {path: one.extractor for path, one in found.items()} == {"a.notes": "notes", "b": "notes"}
    assert passages(run)[0].source.locator == "note=1"
    assert found["b"].balance.dropped == {"control character": 2}


def test_an_extractor_that_cannot_be_imported_costs_its_files_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = EntryPoint.load

    def broken(self: EntryPoint) -> Any:
        if self.value.endswith("extractors.pdf:extractor"):
            raise ImportError("its library is half installed")
        return original(self)

    monkeypatch.setattr(EntryPoint, "load", broken)
    run = prep(tmp_path, mixed(), allowed_failed_share=0.5)
    reason = "ImportError: its library is half installed"
    assert (documents(run)["b.pdf"].status, documents(run)["b.pdf"].reason) == ("failed", f"extractor pdf cannot be imported: {reason}")
    assert run.metrics["ok"] == len(mixed()) - 1
    assert ("notice", {"text": f"the extractor pdf cannot be imported, its files fail: {reason}"}) in run.events


def test_a_crash_a_hang_a_bug_or_a_memory_bomb_costs_one_file_each(tmp_path: Path) -> None:
    bad = {f"{word}.notes": word for word in ("crash", "hang", "greedy", "bug", "exit", "words")}
    good = {f"good{number}.notes": f"{number} {WORDS}" for number in range(12)}
    run = with_plugin(tmp_path, {**bad, **good}, seconds_per_file=1.5, memory_mib=1024, workers=2)
    found = documents(run)
    assert {path: one.reason for path, one in found.items() if one.status == "failed"} == {
        "crash.notes": "the extractor crashed (SIGSEGV)", "hang.notes": "took longer than 1.5 seconds",
        "greedy.notes": "needs more than 1,024 MiB of memory", "bug.notes": "KeyError: 'no such thing'",
        "exit.notes": "the extractor ended its process (exit code 3)", "words.notes": "its extractor yielded str, not Piece or Embedded",
    }  # fmt: skip
    assert sum(one.status == "ok" for one in found.values()) == 12


def test_an_extractor_whose_characters_do_not_add_up_stops_the_run_and_is_named(tmp_path: Path) -> None:
    with pytest.raises(ForgeError, match=r"the characters of stream\.notes do not add up"):
        with_plugin(tmp_path, {"stream.notes": "stream " + WORDS, "good.notes": WORDS})


PAIRED = '''
from forge.records import Piece

class Paired:
    """Text that lies in two files."""

    name, media_types, extensions = "paired", ("text/x-main",), {".main": "text/x-main"}
    magic, requires, sidecars = {}, (), {".main": (".part", ".data/")}

    def extract(self, path, ctx):
        for file in (path, *(ctx.sidecars[ending] for ending in sorted(ctx.sidecars))):
            yield Piece(text=file.read_text(encoding="utf-8"), locator="file=1")

extractor = Paired()
'''


def test_files_that_belong_to_another_are_read_with_it_and_their_change_reads_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_corpus(tmp_path / "plugins", {"paired.py": PAIRED})
    root = tiny_corpus(tmp_path / "corpus", {
        "a.main": "The same. " + WORDS, "a.part": "One. " + WORDS, "b.main": "The same. " + WORDS, "B.Data/x.txt": "Two. " + WORDS, "c.part": "Alone.",
    })  # fmt: skip

    def run(number: int) -> PhaseRun:
        return run_phase(phase, tmp_path / str(number), corpus=root, cache=tmp_path / "cache", plugin_dirs=(folder,))

    first = run(1)
    found = documents(first)
    assert {path: one.reason for path, one in found.items() if one.status == "skipped"} == {
        "a.part": "read with a.main", "B.Data/x.txt": "read with b.main",
    }  # fmt: skip
    texts = {one.source.path: one.text for one in passages(first)}
    assert "One." in texts["a.main"]
    assert "Two." in texts["b.main"], "equal bytes do not make two files equal whose sidecars differ"
    read = count_read(monkeypatch)
    (root / "B.Data/x.txt").write_text("Three. " + WORDS, encoding="utf-8")
    assert "Three." in {one.source.path: one.text for one in passages(run(2))}["b.main"]
    assert read == ["b.main"]
