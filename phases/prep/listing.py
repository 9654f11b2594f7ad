"""The corpus as prep sees it: what is read, with which sidecars, and what is known without reading. Kept on disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from forge.phases.prep.extract import ReadJob
from forge.phases.prep.results import PAGES_KIB
from forge.phases.prep.sidecars import assign
from forge.records import CorpusEntry, digest

SCHEMA = """
CREATE TABLE entry(
    row INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, size INTEGER NOT NULL, sha256 TEXT NOT NULL,
    note TEXT NOT NULL, known INTEGER NOT NULL, owner INTEGER, leader INTEGER, chosen INTEGER NOT NULL DEFAULT 1,
    pending INTEGER NOT NULL DEFAULT 0, identity TEXT NOT NULL);
CREATE TABLE sidecar(owner INTEGER NOT NULL, ending TEXT NOT NULL, row INTEGER NOT NULL, PRIMARY KEY(owner, ending));
"""
COLUMNS = "path, kind, size, sha256, note"


class Listing:
    """The names of a corpus, in a database that is gone when it is closed.

    extensions: those that some extractor knows. sidecars: extension -> endings of the files that belong to one with that
    extension (see sidecars.py). Files with the same bytes and the same sidecars are read once, at the first path,
    among those whose extension is known if there is one; with `copies` every file is read.
    """

    def __init__(
        self, entries: Iterable[CorpusEntry], extensions: Collection[str], sidecars: Mapping[str, tuple[str, ...]], *, copies: bool = False
    ) -> None:
        self._db = sqlite3.connect("")   # a private file that SQLite removes itself
        self._db.execute(f"PRAGMA cache_size=-{PAGES_KIB}")
        self._db.executescript(SCHEMA)
        with self._db:
            self._db.executemany(
                "INSERT INTO entry(path, kind, size, sha256, note, known, identity) VALUES(?,?,?,?,?,?,?)",
                ((one.path, one.kind, one.size, one.sha256, one.note, _extension(one.path) in extensions, one.sha256) for one in entries),
            )
            self._pair(sidecars)
            if not copies:
                self._find_copies()

    def jobs(self, *, pending: bool = False) -> Iterator[ReadJob]:
        """What is to be read, in the order of paths; with `pending` what was postponed, the largest first.

        The largest first: a book that starts last would keep one core busy alone.
        """
        alone = self._db.execute("SELECT COUNT(*) FROM sidecar").fetchone()[0] == 0
        which = "pending ORDER BY size DESC, path" if pending else f"{READ} AND chosen ORDER BY path"
        for row, *fields in self._db.execute(f"SELECT row, {COLUMNS} FROM entry WHERE {which}"):
            found = () if alone else self._db.execute(
                f"SELECT ending, {COLUMNS} FROM sidecar JOIN entry USING(row) WHERE sidecar.owner=? ORDER BY ending", (row,)
            )
            yield ReadJob(entry=_entry(fields), sidecars={ending: _entry(rest) for ending, *rest in found})

    def postpone(self, job: ReadJob) -> None:
        """Read this file later, with the others that are pending."""
        self._db.execute("UPDATE entry SET pending=1 WHERE path=?", (job.entry.path,))

    def pending(self) -> tuple[int, int]:
        """How many files are pending, and their bytes."""
        count, size = self._db.execute("SELECT COUNT(*), COALESCE(SUM(size), 0) FROM entry WHERE pending").fetchone()
        return int(count), int(size)

    def leaders(self) -> list[CorpusEntry]:
        """The entries that are read, one for equal files."""
        return [_entry(fields) for fields in self._db.execute(f"SELECT {COLUMNS} FROM entry WHERE {READ} ORDER BY path")]

    def choose(self, chosen: Iterable[CorpusEntry]) -> None:
        """Read these leaders only."""
        with self._db:
            self._db.execute("UPDATE entry SET chosen=0")
            self._db.executemany("UPDATE entry SET chosen=1 WHERE path=?", ((one.path,) for one in chosen))

    def count_leaders(self) -> int:
        """How many entries stand for themselves."""
        return int(self._db.execute(f"SELECT COUNT(*) FROM entry WHERE {READ}").fetchone()[0])

    def count_chosen(self) -> int:
        """How many of them are read."""
        return int(self._db.execute(f"SELECT COUNT(*) FROM entry WHERE {READ} AND chosen").fetchone()[0])

    def not_files(self) -> Iterator[CorpusEntry]:
        """Links, pipes, unreadable files and folders."""
        return map(_entry, self._db.execute(f"SELECT {COLUMNS} FROM entry WHERE kind<>'file'"))

    def not_chosen(self) -> Iterator[CorpusEntry]:
        """Leaders that are left out, and their copies."""
        return map(_entry, self._db.execute(
            f"SELECT {COLUMNS} FROM entry AS e WHERE kind='file' AND owner IS NULL"
            " AND NOT (SELECT chosen FROM entry WHERE row=COALESCE(e.leader, e.row))"
        ))

    def sidecars(self) -> Iterator[tuple[CorpusEntry, str]]:
        """Files that are read with another one, and that one's path."""
        rows = self._db.execute(f"SELECT {COLUMNS}, (SELECT path FROM entry WHERE row=e.owner) FROM entry AS e WHERE owner IS NOT NULL")
        for *fields, owner in rows:
            yield _entry(fields), owner

    def copies(self) -> Iterator[tuple[CorpusEntry, str]]:
        """Files with the bytes of a chosen leader, and its path."""
        rows = self._db.execute(
            "SELECT e.path, e.kind, e.size, e.sha256, e.note, l.path FROM entry AS e JOIN entry AS l ON l.row=e.leader WHERE l.chosen ORDER BY e.path"
        )
        for *fields, leader in rows:
            yield _entry(fields), leader

    def close(self) -> None:
        """Forget everything."""
        self._db.close()

    def _pair(self, sidecars: Mapping[str, tuple[str, ...]]) -> None:
        mains = [row for ending in sidecars for row in self._db.execute("SELECT 1 FROM entry WHERE path LIKE ? LIMIT 1", ("%" + ending,))]
        if not mains:
            return
        names = (path for (path,) in self._db.execute("SELECT path FROM entry WHERE kind='file'"))
        for main, parts in assign(names, sidecars).items():
            found = [(ending, *self._db.execute("SELECT row, sha256 FROM entry WHERE path=?", (part,)).fetchone()) for ending, part in parts.items()]
            row, sha256 = self._db.execute("SELECT row, sha256 FROM entry WHERE path=?", (main,)).fetchone()
            self._db.executemany("INSERT INTO sidecar VALUES(?,?,?)", ((row, ending, other) for ending, other, _ in found))
            self._db.executemany("UPDATE entry SET owner=? WHERE row=? AND owner IS NULL", ((row, other) for _, other, _ in found))
            identity = digest(sha256, *(part for ending, _, hashed in sorted(found) for part in (ending, hashed)))
            self._db.execute("UPDATE entry SET identity=? WHERE row=?", (identity, row))

    def _find_copies(self) -> None:
        self._db.execute(
            "CREATE TABLE first AS SELECT row AS copy, FIRST_VALUE(row) OVER (PARTITION BY identity ORDER BY known DESC, path) AS first"
            " FROM entry WHERE kind='file' AND owner IS NULL"
        )
        found = self._db.execute("SELECT first, copy FROM first WHERE copy<>first").fetchall()
        self._db.executemany("UPDATE entry SET leader=? WHERE row=?", found)


READ = "kind='file' AND owner IS NULL AND leader IS NULL"


def _entry(fields: Any) -> CorpusEntry:
    path, kind, size, sha256, note = fields
    return CorpusEntry.model_construct(path=path, kind=kind, size=size, sha256=sha256, note=note)   # they were validated before


def _extension(path: str) -> str:
    return PurePosixPath(path).suffix.lower()
