"""The cache that runs share: it may lose everything, it never lies and never fails."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from forge.cache import Cache


def test_what_was_stored_is_there_for_the_next_one(tmp_path: Path) -> None:
    with Cache(tmp_path / "deep/x.db") as cache:
        cache.put("a", b"one")
        cache.put("a", b"two")
        cache.put("b", bytes(1000))
    with Cache(tmp_path / "deep/x.db") as cache:
        assert (cache.get("a"), cache.get("b"), cache.get("c")) == (b"two", bytes(1000), None)


def test_a_damaged_row_is_dropped_and_made_again(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with Cache(path) as cache:
        cache.put("a", b"one")
        cache.put("b", b"two")
    with sqlite3.connect(path) as db:
        db.execute("UPDATE cached SET value=? WHERE key='a'", (b"lie",))
    with Cache(path) as cache:
        assert (cache.get("a"), cache.get("b")) == (None, b"two")
        cache.put("a", b"one")
    with Cache(path) as cache:
        assert cache.get("a") == b"one"


@pytest.mark.parametrize("offset", [0, 20, 4096, 9000])
def test_a_file_with_overwritten_bytes_never_gives_a_wrong_value(tmp_path: Path, offset: int) -> None:
    path = tmp_path / "x.db"
    values = {f"key{number}": os.urandom(700) for number in range(60)}
    with Cache(path) as cache:
        for key, value in values.items():
            cache.put(key, value)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xa5" * 600)
    with Cache(path) as cache:
        assert all(cache.get(key) in (None, value) for key, value in values.items())
        cache.put("fresh", b"value")
    with Cache(path) as cache:
        assert cache.get("fresh") == b"value"


def test_a_place_that_cannot_be_written_is_an_empty_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    with Cache(tmp_path / "file" / "x.db") as cache:
        cache.put("a", b"one")
        assert cache.get("a") is None
        assert cache.fault


def test_processes_that_start_together_fill_one_cache(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from forge.cache import Cache\n"
        "sys.stdin.read(1)\n"
        "with Cache(Path(sys.argv[1])) as cache:\n"
        "    for number in range(500): cache.put(f'{sys.argv[2]}-{number}', sys.argv[2].encode() * 50)\n"
    )
    path, names = tmp_path / "x.db", ("north", "east", "south", "west")
    all_four = [subprocess.Popen([sys.executable, "-c", script, str(path), name], stdin=subprocess.PIPE) for name in names]
    for one in all_four:
        assert one.stdin is not None
        one.stdin.write(b"x")
        one.stdin.close()
    assert [one.wait(60) for one in all_four] == [0, 0, 0, 0]
    with Cache(path) as cache:
        lost = [f"{name}-{number}" for name in names for number in range(500) if cache.get(f"{name}-{number}") != name.encode() * 50]
    assert lost == []


def test_rows_wait_while_another_process_holds_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.cache.BUSY_SECONDS", 0.01)
    with Cache(tmp_path / "x.db") as cache:
        other = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        cache.put("a", b"one")
        cache.write()
        assert "locked" in cache.fault
        other.execute("ROLLBACK")
        other.close()
        cache.write()
        assert cache.get("a") == b"one"


def test_a_killed_process_leaves_whole_rows(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from forge.cache import Cache\n"
        "cache = Cache(Path(sys.argv[1])); number = 0\n"
        "while True: cache.put(str(number), str(number).encode() * 300); number += 1\n"
    )
    path = tmp_path / "x.db"
    child = subprocess.Popen([sys.executable, "-c", script, str(path)])
    deadline = time.monotonic() + 30
    while (not path.exists() or path.stat().st_size < 200_000) and time.monotonic() < deadline:
        time.sleep(0.02)
    child.kill()
    child.wait()
    with Cache(path) as cache:
        assert cache.get("0") == b"0" * 300
        with sqlite3.connect(path) as db:
            keys = [key for (key,) in db.execute("SELECT key FROM cached")]
        assert all(cache.get(key) == key.encode() * 300 for key in keys)


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with Cache(path) as cache:
        for number in range(100):
            cache.put(f"k{number}", os.urandom(10_000))
    with sqlite3.connect(path) as db:
        db.execute("UPDATE cached SET used = used - 900000 + CAST(substr(key, 2) AS INTEGER)")
    with Cache(path, max_bytes=500_000) as cache:
        assert cache.get("k0") is not None   # used today: it stays
    with Cache(path, max_bytes=500_000) as cache:
        kept = [number for number in range(100) if cache.get(f"k{number}")]
    assert 0 in kept
    assert 25 <= len(kept) <= 50
    assert kept[1:] == list(range(100 - len(kept) + 1, 100))
