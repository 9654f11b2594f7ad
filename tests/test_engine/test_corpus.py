"""The walk lists everything, opens only regular files, and never hangs or leaves the folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from forge import corpus
from forge.corpus import locate, scan_corpus, walk_corpus
from forge.errors import UsageError
from forge.testing import tiny_corpus

OLD = 1_600_000_000


def test_every_name_is_listed_with_its_kind(tmp_path: Path) -> None:
    root = tiny_corpus(tmp_path / "corpus", {"a.md": "a", "deep/b.txt": "b", ".git/config": "no", "n\nl.md": "c"})
    (root / "loop").symlink_to(root)
    (root / "out.md").symlink_to("/etc/hostname")
    os.mkfifo(root / "pipe")
    found = {entry.path: entry.kind for entry in scan_corpus(root)}
    assert found == {
        "a.md": "file", "deep/b.txt": "file", "loop": "symlink", "out.md": "symlink", "pipe": "special", "n\nl.md": "file",
    }


@pytest.mark.parametrize("name", [b"a\xff.txt", b"back\\slash.txt", b"\\xff.txt", "gr\u00fc\u00df.txt".encode()])
def test_any_file_name_can_be_written_down_and_found_again(tmp_path: Path, name: bytes) -> None:
    (tmp_path / os.fsdecode(name)).write_text("x", encoding="utf-8")
    entry = scan_corpus(tmp_path)[0]
    assert entry.path.encode("utf-8").decode("utf-8") == entry.path
    assert os.fsencode(locate(tmp_path, entry)) == os.fsencode(tmp_path) + b"/" + name


def test_one_file_can_be_a_corpus(tmp_path: Path) -> None:
    file = tiny_corpus(tmp_path, {"a.md": "text"}) / "a.md"
    entry = scan_corpus(file)[0]
    assert (entry.path, locate(file, entry)) == ("a.md", file)


def test_a_hub_of_models_inside_a_corpus_is_no_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("text")
    (tmp_path / "hub" / "model").mkdir(parents=True)
    (tmp_path / "hub" / ".slm-forge").touch()
    (tmp_path / "hub" / "model" / "README.md").write_text("a card")
    assert [entry.path for entry in scan_corpus(tmp_path)] == ["a.md"]
    assert [entry.path for entry in scan_corpus(tmp_path / "hub")] == [".slm-forge", "model/README.md"]   # asked for by name


def test_a_missing_corpus_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no corpus"):
        scan_corpus(tmp_path / "nowhere")


def count_hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose bytes the walk reads from now on."""
    names: list[str] = []
    original = corpus._hash_no_follow

    def counted(path: str) -> str:
        names.append(Path(path).name)
        return original(path)

    monkeypatch.setattr(corpus, "_hash_no_follow", counted)
    return names


def test_hashes_are_kept_for_all_runs_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tiny_corpus(tmp_path / "corpus", {"a.md": "old text", "b.md": "another"})
    for name in ("a.md", "b.md"):
        os.utime(root / name, (OLD, OLD))
    hashed = count_hashed(monkeypatch)
    first = scan_corpus(root, tmp_path / "cache")
    assert scan_corpus(root, tmp_path / "cache") == first
    assert hashed == ["a.md", "b.md"]
    (root / "a.md").write_text("new text", encoding="utf-8")
    os.utime(root / "a.md", (OLD, OLD))   # the same size and time stamp: the inode's own change time tells
    changed = scan_corpus(root, tmp_path / "cache")
    assert hashed == ["a.md", "b.md", "a.md"]
    assert [one.sha256 for one in changed] == [corpus._hash_no_follow(str(root / "a.md")), first[1].sha256]


def test_a_file_written_a_moment_ago_is_hashed_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tiny_corpus(tmp_path / "corpus", {"a.md": "text"})
    hashed = count_hashed(monkeypatch)
    for _ in range(2):
        scan_corpus(root, tmp_path / "cache")
    assert len(hashed) == 2


def test_the_listing_is_sorted_by_path_without_being_collected(tmp_path: Path) -> None:
    names = ["a.txt", "a/z.txt", "a-b/c.txt", "a/b/c.txt", "b\\x", "B.txt", "a b.txt", "a/b.txt", "ab"]
    root = tiny_corpus(tmp_path / "corpus", dict.fromkeys(names, "x"))
    paths = [entry.path for entry in walk_corpus(root)]
    assert paths == sorted(paths)
    assert len(paths) == len(names)


def test_a_cache_that_cannot_be_written_or_is_damaged_changes_nothing(tmp_path: Path) -> None:
    root = tiny_corpus(tmp_path / "corpus", {"a.md": "text"})
    os.utime(root / "a.md", (OLD, OLD))
    expected = scan_corpus(root)
    tiny_corpus(tmp_path, {"taken": "a file where the folder should be", "cache/hashes.db": "no database" * 900})
    assert scan_corpus(root, tmp_path / "taken") == expected
    assert scan_corpus(root, tmp_path / "cache") == expected
    assert scan_corpus(root, tmp_path / "cache") == expected
