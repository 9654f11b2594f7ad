"""What runs share and may lose: bytes by key in one SQLite file. A shortcut, never a truth.

Nothing here raises for a cache that cannot be read or written: it then holds nothing, and `fault` says why. Each row
carries a checksum over its key and value, so a damaged one is dropped and made again. Several processes may use one
file at once; a killed one leaves whole rows only.
"""

from __future__ import annotations

import sqlite3
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from forge.state import set_journal_mode

SCHEMA = """
CREATE TABLE IF NOT EXISTS cached(
    key TEXT NOT NULL PRIMARY KEY, checksum INTEGER NOT NULL, size INTEGER NOT NULL, used INTEGER NOT NULL, value BLOB NOT NULL);
"""
# `value` comes last: what looks at the other columns then never reads the pages that hold the bytes.

MAX_BYTES = 2 << 30
TRIMMED_SHARE = 0.8
"""How full a cache is left that had to be trimmed: trimming to the brim would come back with every row."""

BATCH_ROWS, BATCH_BYTES, BATCH_SECONDS = 64, 1 << 20, 1.0
WAITING_ROWS = 8 * BATCH_ROWS
BUSY_SECONDS = 5.0
PAGES_KIB = 400
DAY = 86400

T = TypeVar("T")


class Cache:
    """Bytes by key in the file `path`, at most about `max_bytes`: what was not used for longest goes first."""

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self.path, self.max_bytes, self.fault = path, max_bytes, ""
        self._db: sqlite3.Connection | None = None
        self._fresh: list[tuple[str, int, int, int, bytes]] = []
        self._fresh_bytes, self._written_at = 0, time.monotonic()
        self._touched: list[tuple[int, str]] = []
        self._open()

    def get(self, key: str) -> bytes | None:
        """The bytes stored under a key, or None."""
        row = self._try(lambda db: db.execute("SELECT checksum, used, value FROM cached WHERE key=?", (key,)).fetchone())
        if row is None:
            return None
        checksum, used, value = row
        if not isinstance(value, bytes) or checksum != _checksum(key, value):
            self._try(lambda db: db.execute("DELETE FROM cached WHERE key=?", (key,)))
            return None
        now = int(time.time())
        if now - used > DAY:
            self._touched.append((now, key))
        return value

    def put(self, key: str, value: bytes) -> None:
        """Store bytes; written with others, at the latest a second later or when the cache is closed."""
        if self._db is None:
            return
        self._fresh.append((key, _checksum(key, value), len(value), int(time.time()), value))
        self._fresh_bytes += len(value)
        late = time.monotonic() - self._written_at > BATCH_SECONDS
        if late or len(self._fresh) >= BATCH_ROWS or self._fresh_bytes >= BATCH_BYTES:
            self.write()

    def write(self) -> None:
        """Write what was put so far."""
        fresh, touched = self._fresh, self._touched
        self._fresh, self._fresh_bytes, self._written_at, self._touched = [], 0, time.monotonic(), []

        def save(db: sqlite3.Connection) -> bool:
            db.execute("BEGIN IMMEDIATE")
            try:
                db.executemany("INSERT OR REPLACE INTO cached VALUES(?,?,?,?,?)", fresh)
                db.executemany("UPDATE cached SET used=? WHERE key=?", touched)
            except sqlite3.Error:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")
            return True

        if (fresh or touched) and not self._try(save) and len(fresh) < WAITING_ROWS:
            self._fresh, self._fresh_bytes, self._touched = fresh, sum(len(row[-1]) for row in fresh), touched   # in use: with the next ones

    def close(self) -> None:
        """Write the rest, keep the size within its bound, close."""
        self.write()
        self._try(self._trim)
        if self._db is not None:
            self._db.close()
            self._db = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _open(self) -> None:
        for attempt in (1, 2):
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._db = _connect(self.path)
                return
            except (OSError, sqlite3.Error) as error:
                self.fault = str(error)
                if attempt == 2 or not _is_damage(error):
                    return
                _remove(self.path)

    def _try(self, act: Callable[[sqlite3.Connection], T]) -> T | None:
        """act(database), or None when that fails: a damaged file is thrown away, a file that is in use is let be."""
        if self._db is None:
            return None
        try:
            return act(self._db)
        except (sqlite3.Error, OSError) as error:
            self.fault = str(error)
            if _is_damage(error):
                self._db.close()
                self._db = None
                _remove(self.path)
                self._open()
            return None

    def _trim(self, db: sqlite3.Connection) -> None:
        def number(name: str) -> int:
            return int(db.execute(f"PRAGMA {name}").fetchone()[0])

        held = (number("page_count") - number("freelist_count")) * number("page_size")
        if held <= self.max_bytes:
            return
        gone, surplus = [], held - TRIMMED_SHARE * self.max_bytes
        for key, size in db.execute("SELECT key, size FROM cached ORDER BY used, rowid"):
            if surplus <= 0:
                break
            gone.append((key,))
            surplus -= size
        db.execute("BEGIN IMMEDIATE")
        db.executemany("DELETE FROM cached WHERE key=?", gone)
        db.execute("COMMIT")


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, timeout=BUSY_SECONDS)
    try:
        set_journal_mode(db, path)
        db.execute("PRAGMA synchronous=NORMAL")   # a power cut may lose the last rows, never damage the file
        db.execute(f"PRAGMA cache_size=-{PAGES_KIB}")
        db.executescript(SCHEMA)
    except sqlite3.Error:
        db.close()
        raise
    return db


def _checksum(key: str, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(key.encode("utf-8", "surrogatepass")))


def _is_damage(error: Any) -> bool:
    return isinstance(error, sqlite3.DatabaseError) and any(word in str(error) for word in ("malformed", "not a database", "no such table", "no column"))


def _remove(path: Path) -> None:
    """Another process that has the file open keeps what it has; its rows are checked like all others."""
    for name in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
        name.unlink(missing_ok=True)


__all__ = ["MAX_BYTES", "Cache"]
