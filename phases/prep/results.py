"""What reading gave, file by file, in one SQLite file: memory stays flat however large the corpus is.

A result travels packed: from the child that read the file, into the cache that runs share, and into the table. Only the
document records are ever looked into again; passages stay compressed until they are written out.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from forge.errors import ForgeError
from forge.phases.prep.extract import Result
from forge.phases.prep.masking import masked_label
from forge.records import Document, canonical_json, digest
from forge.state import set_journal_mode

SCHEMA = """
CREATE TABLE IF NOT EXISTS file(key TEXT PRIMARY KEY, extractor TEXT NOT NULL, cached INTEGER NOT NULL, seconds REAL NOT NULL);
CREATE TABLE IF NOT EXISTS document(
    id TEXT NOT NULL PRIMARY KEY, path TEXT NOT NULL, file TEXT NOT NULL, identity TEXT NOT NULL, known INTEGER NOT NULL, status TEXT NOT NULL,
    reason TEXT NOT NULL, extractor TEXT NOT NULL, extracted INTEGER NOT NULL, kept INTEGER NOT NULL, passages INTEGER NOT NULL,
    tokens INTEGER NOT NULL, dropped TEXT NOT NULL, losses TEXT NOT NULL, copy_of TEXT NOT NULL DEFAULT '', line TEXT NOT NULL, texts BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS document_identity ON document(identity);
CREATE INDEX IF NOT EXISTS document_path ON document(path);
"""
TOLD = ""
"""The `file` of a document that was not read: a link, a duplicate, a file outside the sample."""

DUPLICATE = "the same bytes as "
PAGES_KIB = 400
"""What SQLite may hold of the file. Children are forked from this process: what it holds counts once more in each of them."""

COMPRESSION = 1
"""zlib level: 1 takes 9 ms per MB of text and leaves 42 %, 6 takes 45 ms and leaves 34 %."""


class Held(NamedTuple):
    """One document as it was packed. texts: its passages as JSON lines, compressed; b"" without passages."""

    line: str
    passages: int
    tokens: int
    losses: dict[str, int]
    fault: tuple[str, str, str] | None
    texts: bytes


def pack(results: Sequence[Result]) -> bytes:
    """The results of one file and of those inside it, as bytes."""
    head, blobs = [], []
    for one in results:
        lines = "".join(canonical_json(passage) + "\n" for passage in one.passages)
        blobs.append(zlib.compress(lines.encode(), COMPRESSION) if lines else b"")
        tokens = sum(passage.tokens for passage in one.passages)
        head.append((canonical_json(one.document), len(one.passages), tokens, one.losses, one.fault, len(blobs[-1])))
    front = json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode()
    return b"".join([len(front).to_bytes(8, "big"), front, *blobs])


def unpack(data: bytes) -> list[Held]:
    """What pack() was given, one Held a result."""
    start = 8 + int.from_bytes(data[:8], "big")
    found = []
    for line, passages, tokens, losses, fault, size in json.loads(data[8:start]):
        found.append(Held(line, passages, tokens, losses, fault, data[start : start + size]))
        start += size
    return found


class Results:
    """The documents of one run of prep, in the file `path`; what was added survives a kill.

    extensions: those that some extractor knows: of equal files the first path that has one stays.
    lasting: False for a file that is removed afterwards: nothing waits for the disk then.
    own_text: extensions of files that are read with others; equal bytes alone do not make them equal.
    """

    def __init__(self, path: Path, extensions: Iterable[str] = (), own_text: Iterable[str] = (), *, lasting: bool = True) -> None:
        self.extensions, self.own_text = frozenset(extensions), frozenset(own_text)
        self._db = _open(path)
        if not lasting:
            self._db.execute("PRAGMA synchronous=OFF")
        with self._db:
            self._db.execute("DELETE FROM document WHERE file=?", (TOLD,))
            self._db.execute("UPDATE document SET copy_of='' WHERE copy_of<>''")

    def __contains__(self, key: str) -> bool:
        return self._db.execute("SELECT 1 FROM file WHERE key=?", (key,)).fetchone() is not None

    def add(self, key: str, held: Sequence[Held], *, seconds: float = 0.0) -> None:
        """Keep what a file gave, in one transaction. seconds: what reading it took. Raises ForgeError when two paths share an id."""
        with self._db:
            self._insert_file(key, held, 0, seconds)

    def add_many(self, files: Iterable[tuple[str, Sequence[Held]]]) -> None:
        """Keep what many files gave that came from the cache, in one transaction."""
        with self._db:
            for key, held in files:
                self._insert_file(key, held, 1, 0.0)

    def tell(self, documents: Iterable[tuple[Document, str]]) -> None:
        """Add documents that were not read, each with the path of the equal file that stands for it, or ""."""
        with self._db:
            for one, original in documents:
                self._insert(TOLD, [Held(canonical_json(one), 0, 0, {}, None, b"")], original)

    def document(self, path: str) -> Document | None:
        """The document that was read at a path."""
        row = self._db.execute("SELECT line FROM document WHERE path=? AND file<>?", (path, TOLD)).fetchone()
        return Document.model_validate_json(row[0]) if row else None

    def mark_copies(self) -> None:
        """Of documents with the same bytes, wherever they lie, the first path stays; the others give no passages."""
        equal = (
            "SELECT id, path, FIRST_VALUE(path) OVER (PARTITION BY identity ORDER BY known DESC, path) AS first FROM document"
            " WHERE status='ok' AND file<>'' AND identity IN"
            " (SELECT identity FROM document WHERE status='ok' AND file<>'' GROUP BY identity HAVING COUNT(*) > 1)"
        )
        found = self._db.execute(f"SELECT first, id FROM ({equal}) WHERE path<>first").fetchall()
        with self._db:
            self._db.executemany("UPDATE document SET copy_of=? WHERE id=?", found)

    def stands_for(self, path: str) -> str:
        """The path whose text stays for the document at `path`: its own, or that of an equal file."""
        row = self._db.execute("SELECT copy_of FROM document WHERE path=? AND file<>?", (path, TOLD)).fetchone()
        return str(row[0]) if row and row[0] else path

    def lines(self) -> Iterator[str]:
        """documents.jsonl, line by line, sorted by id."""
        for line, copy_of in self._db.execute("SELECT line, copy_of FROM document ORDER BY id"):
            yield _without_names(canonical_json(copy(json.loads(line), copy_of)) if copy_of else line) + "\n"

    def passage_lines(self) -> Iterator[bytes]:
        """passages.jsonl, one document's lines at a time, sorted by id."""
        for path, texts in self._db.execute("SELECT path, texts FROM document WHERE passages>0 AND copy_of='' ORDER BY id"):
            lines = zlib.decompress(texts)
            if masked_label(path) == path:
                yield lines
            else:
                yield "".join(_without_names(line) + "\n" for line in lines.decode().splitlines()).encode()

    def by_path(self) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Every document as plain data with its passages' JSON lines, in the order of paths; duplicates keep theirs."""
        for line, texts in self._db.execute("SELECT line, texts FROM document ORDER BY path"):
            yield json.loads(line), zlib.decompress(texts) if texts else b""

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """All rows of a query over the tables `document` and `file`."""
        return self._db.execute(sql, values).fetchall()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _insert_file(self, key: str, held: Sequence[Held], cached: int, seconds: float) -> None:
        extractor = json.loads(held[0].line)["extractor"]
        self._insert(key, held)
        self._db.execute("INSERT OR REPLACE INTO file VALUES(?,?,?,?)", (key, extractor, cached, seconds))

    def _insert(self, key: str, held: Sequence[Held], copy_of: str = "") -> None:
        for one in held:
            document = json.loads(one.line)
            source, balance = document["source"], document["balance"]
            extension = _extension(source["path"])
            identity = digest(source["sha256"], str(zlib.crc32(one.texts))) if extension in self.own_text else source["sha256"] or document["id"]
            self._check_id(document["id"], source["path"])
            self._db.execute(
                "INSERT OR REPLACE INTO document VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (
                    document["id"], source["path"], key, identity, extension in self.extensions, document["status"], document["reason"],
                    document["extractor"], balance["extracted"], balance["kept"], one.passages, one.tokens,
                    json.dumps(balance["dropped"]), json.dumps(one.losses), copy_of, one.line, one.texts,
                ),
            )

    def _check_id(self, id: str, path: str) -> None:
        row = self._db.execute("SELECT path FROM document WHERE id=?", (id,)).fetchone()
        if row and row[0] != path:
            raise ForgeError(f"two files share the id {id}", why=f"{row[0]!r} and {path!r} hash alike", next="rename one of them")


def copy(document: Mapping[str, Any], original: str) -> dict[str, Any]:
    """A document, as plain data, whose text stays at the path `original`: all its characters count as duplicate."""
    count = document["balance"]["extracted"]
    balance = {"extracted": count, "kept": 0, "dropped": {}, "duplicate": count}
    return {**document, "balance": balance, "reason": DUPLICATE + original}


def _without_names(line: str) -> str:
    """A record's line with nothing private in its file's name; the name itself stays in corpus.jsonl, to open the file by."""
    record = json.loads(line)
    source = record["source"]
    path, reason = masked_label(source["path"]), masked_label(record.get("reason", ""))
    if path == source["path"] and reason == record.get("reason", ""):
        return line
    told = {"reason": reason} if reason else {}
    return canonical_json({**record, **told, "source": {**source, "path": path}})


def _open(path: Path) -> sqlite3.Connection:
    """The database; one that a power cut left damaged is begun anew, since everything in it can be read again."""
    try:
        return _connect(path)
    except sqlite3.DatabaseError as error:
        if "malformed" not in str(error) and "not a database" not in str(error):
            raise
        for name in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
            name.unlink(missing_ok=True)
        return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path)
    set_journal_mode(db, path)
    db.execute("PRAGMA synchronous=NORMAL")   # a kill loses nothing; a power cut may lose the last files
    db.execute(f"PRAGMA cache_size=-{PAGES_KIB}")
    db.executescript(SCHEMA)
    return db


def _extension(path: str) -> str:
    return Path(path).suffix.lower()
