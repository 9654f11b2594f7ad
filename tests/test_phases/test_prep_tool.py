"""`forge extract`: one line a file, as prep reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from forge.errors import UsageError
from forge.phases.prep.read import Progress
from forge.phases.prep.tool import extract
from forge.registry import Registry
from forge.testing import tiny_corpus


def test_extract_writes_text_or_the_reason_for_every_file(tmp_path: Path) -> None:
    root = tiny_corpus(tmp_path / "corpus", {"a.md": "# T\n\nwords", "b.md": "# T\n\nwords", "c.bin": bytes(range(256)) * 9, "d.pdf": b"%PDF-"})
    seen: list[Progress] = []
    counts = extract(root, tmp_path / "out.jsonl", Registry(), seen.append)
    assert counts == {"failed": 1, "ok": 3}
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["path"] for row in rows] == ["a.md", "b.md", "c.bin", "d.pdf"]
    assert rows[0]["text"] == rows[1]["text"] == "T\n\nwords"
    assert "Size: 2,304 bytes" in rows[2]["text"]
    assert [(one.done, one.total) for one in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [one.share for one in seen] == sorted(one.share for one in seen)
    assert seen[-1].share == 1


def test_extract_takes_a_single_file_and_says_what_is_not_there(tmp_path: Path) -> None:
    root = tiny_corpus(tmp_path, {"a.txt": "words"})
    assert extract(root / "a.txt", tmp_path / "out.jsonl", Registry(), lambda *_: None) == {"ok": 1}
    with pytest.raises(UsageError):
        extract(root / "none", tmp_path / "out.jsonl", Registry(), lambda *_: None)
    with pytest.raises(UsageError):
        extract(root / "a.txt", tmp_path / "no/folder/out.jsonl", Registry(), lambda *_: None)


def test_extract_takes_settings_of_prep(tmp_path: Path) -> None:
    root = tiny_corpus(tmp_path, {"a.csv": "name,city\n" + "\n".join(f"n{row},c{row}" for row in range(50))})
    extract(root / "a.csv", tmp_path / "out.jsonl", Registry(), lambda _: None, flags=["prep.max_rows=3"])
    text = json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8"))["text"]
    assert "n2" in text
    assert "n40" not in text
    with pytest.raises(UsageError):
        extract(root / "a.csv", tmp_path / "out.jsonl", Registry(), lambda _: None, flags=["prep.max_rwos=3"])
    assert extract(root / "a.csv", tmp_path / "out.jsonl", Registry(), lambda _: None, flags=["prep.ocr=off"]) == {"ok": 1}
