"""The walk lists everything, opens only regular files, and never hangs or leaves the folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from forge.corpus import locate, scan_corpus
from forge.errors import UsageError
from forge.state import State
from forge.testing import tiny_corpus


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


def test_a_missing_corpus_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no corpus"):
        scan_corpus(tmp_path / "nowhere")


def test_hashes_are_kept_until_a_file_changes(tmp_path: Path) -> None:
    root = tiny_corpus(tmp_path / "corpus", {"a.md": "old text"})
    state = State(tmp_path / "state.db")
    old = 1_600_000_000
    os.utime(root / "a.md", (old, old))
    first = scan_corpus(root, state)[0].sha256
    state.execute("UPDATE hashed SET sha256='kept'")
    assert scan_corpus(root, state)[0].sha256 == "kept"
    (root / "a.md").write_text("new text", encoding="utf-8")
    assert scan_corpus(root, state)[0].sha256 not in ("kept", first)
