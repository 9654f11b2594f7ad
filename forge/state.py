"""The one truth about a run: runs/<id>/state.db (SQLite, WAL, synchronous=FULL). Everything else is made from it."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forge.errors import ForgeError

SCHEMA = """
CREATE TABLE IF NOT EXISTS run(key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS phase(
    name TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, status TEXT NOT NULL, attempt INTEGER NOT NULL,
    started REAL, ended REAL, metrics TEXT NOT NULL DEFAULT '{}', error TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS artifact(
    name TEXT PRIMARY KEY, phase TEXT NOT NULL, path TEXT NOT NULL, sha256 TEXT NOT NULL, bytes INTEGER NOT NULL,
    telemetry INTEGER NOT NULL, files TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS verified(
    blob TEXT PRIMARY KEY, inode INTEGER NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS spend(
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, phase TEXT NOT NULL, what TEXT NOT NULL, epoch INTEGER NOT NULL,
    before_gate INTEGER NOT NULL, reserved INTEGER NOT NULL, actual INTEGER, at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS spend_key ON spend(key);
CREATE TABLE IF NOT EXISTS lease(
    token TEXT PRIMARY KEY, provider TEXT NOT NULL, offer TEXT NOT NULL, state TEXT NOT NULL, resource TEXT NOT NULL DEFAULT '',
    deadline_seconds INTEGER NOT NULL, spend_id INTEGER NOT NULL, created REAL NOT NULL, changed REAL NOT NULL);
CREATE TABLE IF NOT EXISTS approval(
    plan_sha256 TEXT PRIMARY KEY, who TEXT NOT NULL, at REAL NOT NULL, kind TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS decision(
    id INTEGER PRIMARY KEY AUTOINCREMENT, pair TEXT NOT NULL, action TEXT NOT NULL, body TEXT NOT NULL DEFAULT '',
    was TEXT NOT NULL DEFAULT '', why TEXT NOT NULL DEFAULT '', who TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS estimate(
    phase TEXT PRIMARY KEY, seconds_p50 REAL NOT NULL, seconds_p90 REAL NOT NULL, usd_p50 REAL NOT NULL, usd_p90 REAL NOT NULL,
    basis TEXT NOT NULL, at REAL NOT NULL);
"""

ATTEMPTS = """
CREATE TABLE IF NOT EXISTS purse(before_gate INTEGER PRIMARY KEY, settled INTEGER NOT NULL, reserved INTEGER NOT NULL);
INSERT OR IGNORE INTO purse SELECT side.value, COALESCE(SUM(spend.actual), 0),
    COALESCE(SUM(CASE WHEN spend.id IS NOT NULL AND spend.actual IS NULL THEN spend.reserved END), 0)
    FROM json_each('[0, 1]') AS side LEFT JOIN spend ON spend.before_gate = side.value GROUP BY side.value;
CREATE INDEX IF NOT EXISTS spend_open ON spend(batch) WHERE actual IS NULL;
CREATE TRIGGER IF NOT EXISTS purse_opened AFTER INSERT ON spend BEGIN
    UPDATE purse SET settled = settled + COALESCE(new.actual, 0), reserved = reserved + CASE WHEN new.actual IS NULL THEN new.reserved ELSE 0 END
    WHERE before_gate = new.before_gate; END;
CREATE TRIGGER IF NOT EXISTS purse_changed AFTER UPDATE OF actual, reserved ON spend BEGIN
    UPDATE purse SET settled = settled + COALESCE(new.actual, 0) - COALESCE(old.actual, 0),
        reserved = reserved + CASE WHEN new.actual IS NULL THEN new.reserved ELSE 0 END - CASE WHEN old.actual IS NULL THEN old.reserved ELSE 0 END
    WHERE before_gate = new.before_gate; END;
"""
"""Since version 2 a line of `spend` is one attempt. purse holds its sums, kept by the database itself, so that the cap is
checked in the time of one row however long the ledger grows."""
NEW_COLUMNS = {
    "spend": {
        "number": "INTEGER NOT NULL DEFAULT 1", "outcome": "TEXT NOT NULL DEFAULT ''", "usage": "TEXT NOT NULL DEFAULT '{}'",
        "batch": "TEXT NOT NULL DEFAULT ''",
    },
    "lease": {"attempt": "INTEGER NOT NULL DEFAULT 1", "proof": "TEXT NOT NULL DEFAULT ''"},
}
VERSION = 3

BUSY_SECONDS = 10.0
NETWORK_FILESYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"}


@dataclass
class _Change:
    """One caller's part of a shared transaction."""

    make: Callable[[sqlite3.Connection], Any]
    durable: bool
    value: Any = None
    error: BaseException | None = None
    done: bool = False


class State:
    """A run's database. Every change is one durable transaction; a killed process leaves none half done. Threads may share it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock, self._queue_lock = threading.RLock(), threading.Lock()
        self._queue: list[_Change] = []
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=BUSY_SECONDS, check_same_thread=False)
            set_journal_mode(self._db, path)
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA foreign_keys=ON")
            self._db.executescript(SCHEMA)
            _bring_up_to_date(self._db)
        except sqlite3.DatabaseError as error:
            raise _cannot_open(path, str(error)) from error
        self._db.row_factory = sqlite3.Row

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """BEGIN IMMEDIATE … COMMIT: the write lock is taken first, so what is read stays true until the commit."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def together(self, make: Callable[[sqlite3.Connection], Any], *, durable: bool = True) -> Any:
        """One change, committed with those of other threads that wait at this moment: one fsync for all of them.

        durable=False: a kill loses nothing, a power cut may lose the change; for what errs on the safe side when it is lost.
        `make` may raise a ForgeError before it has changed anything; only its own caller gets that.
        """
        change = _Change(make, durable)
        with self._queue_lock:
            self._queue.append(change)
        with self._lock:   # whoever gets it first works for everybody in the queue
            if not change.done:
                self._commit_queue()
        if change.error is not None:
            raise change.error
        return change.value

    def _commit_queue(self) -> None:
        with self._queue_lock:
            changes, self._queue = self._queue, []
        try:
            with self._synced(any(change.durable for change in changes)), self.transaction() as db:
                for change in changes:
                    try:
                        change.value = change.make(db)
                    except ForgeError as refusal:
                        change.error = refusal
        except BaseException as error:   # nothing was committed, for nobody
            for change in changes:
                change.error = error
            raise
        finally:
            for change in changes:
                change.done = True

    @contextmanager
    def _synced(self, durable: bool) -> Iterator[None]:
        """synchronous=NORMAL for one transaction: in WAL mode its commit does not wait for the disk (sqlite.org/pragma.html)."""
        if durable:
            yield
            return
        before = self._db.execute("PRAGMA synchronous").fetchone()[0]
        self._db.execute("PRAGMA synchronous=NORMAL")
        try:
            yield
        finally:
            self._db.execute(f"PRAGMA synchronous={before}")

    def rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        """All rows of a query."""
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    def row(self, sql: str, *values: Any) -> sqlite3.Row | None:
        """The first row of a query, or None."""
        with self._lock:
            found: sqlite3.Row | None = self._db.execute(sql, values).fetchone()
        return found

    def execute(self, sql: str, *values: Any) -> None:
        """One change in a transaction of its own."""
        with self.transaction() as db:
            db.execute(sql, values)

    def get(self, key: str, default: str = "") -> str:
        """A fact about the run ("corpus", "epoch", "created")."""
        found = self.row("SELECT value FROM run WHERE key=?", key)
        return str(found["value"]) if found else default

    def put(self, key: str, value: str) -> None:
        """Set a fact about the run."""
        self.execute("INSERT INTO run VALUES(?,?) ON CONFLICT(key) DO UPDATE SET value=excluded.value", key, value)

    def close(self) -> None:
        """Close the database."""
        self._db.close()


def _bring_up_to_date(db: sqlite3.Connection) -> None:
    """Add what later versions added, in one transaction; a run of an older version keeps its lines."""
    if db.execute("PRAGMA user_version").fetchone()[0] >= VERSION:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        for table, columns in NEW_COLUMNS.items():
            there = {row[1] for row in db.execute(f"PRAGMA table_info({table})")}
            for name, kind in columns.items():
                if name not in there:
                    db.execute(f"ALTER TABLE {table} ADD COLUMN {name} {kind}")
        for statement in _statements(ATTEMPTS):
            db.execute(statement)
        db.execute(f"PRAGMA user_version={VERSION}")
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _statements(script: str) -> Iterator[str]:
    """The statements of a script, one by one: executescript() would commit before it runs."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def journal_mode(path: Path) -> str:
    """SQLite's journal for a database at `path`: WAL, except on network file systems (it needs shared memory)."""
    return "DELETE" if _filesystem(path) in NETWORK_FILESYSTEMS else "WAL"


def set_journal_mode(db: sqlite3.Connection, path: Path) -> None:
    """Give a new database its journal. Waits for others who do the same: for this change SQLite has no timeout of its own."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            db.execute(f"PRAGMA journal_mode={journal_mode(path)}")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.01)


def _cannot_open(path: Path, reason: str) -> ForgeError:
    fact = f"cannot open the run's state at {path}"
    if "not a database" in reason or "malformed" in reason:
        anew = "the run cannot go on; start anew with forge run CORPUS --new (its artifacts stay in the folder)"
        return ForgeError(fact, why=reason, next=anew)
    if not os.access(path.parent, os.W_OK):
        return ForgeError(
            fact, why=f"its folder is read-only or not yours ({reason})", next="make it writable, or copy the runs and set FORGE_HOME=FOLDER"
        )
    return ForgeError(fact, why=reason, next="free disk space or fix the permissions")


def _filesystem(path: Path) -> str:
    """The type of the file system that holds `path` ("ext4", "nfs"); empty when the system does not say."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return ""
    best, kind = "", ""
    target = os.path.realpath(path.parent)
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        fields = line.split(" ")
        if len(fields) > 2 and len(fields[1]) >= len(best) and (target + "/").startswith(fields[1].rstrip("/") + "/"):
            best, kind = fields[1], fields[2]
    return kind
