"""File names without personal data in the listing, and the way back to each file, also when several share a masked name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge.corpus import locate, scan_corpus, walk_corpus
from forge.filenames import masked_path
from forge.records import CorpusEntry, canonical_json
from forge.testing import tiny_corpus

ANN, BOB = "ann.lee@uni-jena.de", "bob@mill-works.org"


@pytest.mark.parametrize(
    ("path", "told"),
    [
        (f"letters/{ANN}.md", "letters/[email].md"),
        (f"{ANN}/notes.txt", "[email]/notes.txt"),
        (ANN, "[email]"),
        (f"mail from {ANN} (2).eml", "mail from [email] (2).eml"),
        (f"dump-ghp_{'aB3dE5gH7j' * 4}.json", "dump-[key].json"),
        ("phone +49 641 9939211.pdf", "phone [phone].pdf"),
        ("report [draft] v1.2.3.md", "report [draft] v1.2.3.md"),
        ("user@example.com.md", "user@example.com.md"),
        ("logo@2x.png", "logo@2x.png"),
        ("a.md", "a.md"),
    ],
)
def test_names_are_told_without_what_is_private_and_keep_their_extension(path: str, told: str) -> None:
    assert masked_path(path) == told
    assert masked_path(told) == told


def test_every_file_is_found_again_behind_its_masked_name(tmp_path: Path) -> None:
    files = {
        f"{ANN}.md": "one", f"{BOB}.md": "two", "[email].md": "three", f"{ANN}/a.txt": "four", f"{BOB}/a.txt": "five", f"{BOB}/{ANN}.txt": "six",
        "plain/[x] a.md": "seven", "same.md": "one",
    }
    root = tiny_corpus(tmp_path / "corpus", files)
    entries = scan_corpus(root)
    assert {locate(root, entry).read_text(encoding="utf-8") for entry in entries} == set(files.values())
    assert {entry.path: locate(root, entry).relative_to(root).as_posix() for entry in entries if entry.kind == "file"}.keys() == {
        "[email].md", "[email]~2.md", "[email]~3.md", "[email]/a.txt", "[email]/a~2.txt", "[email]/[email].txt", "plain/[x] a.md", "same.md",
    }
    listing = "".join(canonical_json(entry) for entry in entries)
    assert ANN not in listing
    assert BOB not in listing


def test_a_file_that_went_or_changed_is_not_taken_for_another(tmp_path: Path) -> None:
    root = tiny_corpus(tmp_path / "corpus", {f"{ANN}.md": "one", f"{BOB}.md": "two"})
    first = scan_corpus(root)[0]
    (root / f"{ANN}.md").unlink()
    (root / f"{BOB}.md").write_text("changed", encoding="utf-8")
    (root / "carl@mill-works.org.md").write_text("three", encoding="utf-8")
    assert not locate(root, first).exists()


def test_the_cache_of_hashes_holds_no_names(tmp_path: Path) -> None:
    root = tiny_corpus(tmp_path / "corpus", {f"{ANN}.md": "one"})
    os.utime(root / f"{ANN}.md", (1, 1))
    before = list(walk_corpus(root, tmp_path / "cache"))
    assert list(walk_corpus(root, tmp_path / "cache")) == before
    stored = b"".join(path.read_bytes() for path in (tmp_path / "cache").iterdir())
    assert len(stored) > 0
    assert ANN.encode() not in stored


def test_a_tool_for_the_user_sees_the_real_names(tmp_path: Path) -> None:
    root = tiny_corpus(tmp_path / "corpus", {f"{ANN}.md": "one"})
    assert [entry.path for entry in walk_corpus(root, masked=False)] == [f"{ANN}.md"]


def test_a_corpus_of_one_file_is_found(tmp_path: Path) -> None:
    root = tiny_corpus(tmp_path, {f"{ANN}.md": "one"}) / f"{ANN}.md"
    (entry,) = scan_corpus(root)
    assert entry.path == "[email].md"
    assert locate(root, entry) == root


@settings(max_examples=40, deadline=None)
@given(names=st.lists(st.sampled_from([ANN, BOB, "a", "[email]", "x[1]", "mail.md", "ab~2", "[email]~2"]), min_size=1, max_size=5, unique=True), nest=st.booleans())
def test_no_two_files_have_one_name_and_none_is_lost(tmp_path_factory: pytest.TempPathFactory, names: list[str], nest: bool) -> None:
    root = tmp_path_factory.mktemp("names")
    files = {f"{folder}/{name}.txt" if nest else f"{name}.txt": f"{folder} {name}" for folder in names for name in names}
    tiny_corpus(root, files)
    entries: list[CorpusEntry] = scan_corpus(root)
    assert len({entry.path for entry in entries}) == len(entries) == len(set(files))
    assert sorted(locate(root, entry).read_text(encoding="utf-8") for entry in entries) == sorted(files.values())
