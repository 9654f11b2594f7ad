"""Lists a corpus: every name under a folder, with size and hash, without ever blocking on or leaving the folder.

Symbolic links, FIFOs, sockets and devices are listed and not opened; unreadable files and folders are listed with the
reason. The listing is the `corpus` artifact, so a changed file changes the fingerprint of everything after it.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from forge.errors import UsageError
from forge.records import CorpusEntry
from forge.state import State

RACY_SECONDS = 2.0
"""A file changed this shortly before the scan may change again within the same time stamp: hash it anew (as git does)."""

IGNORED_FOLDERS = {".git", ".hg", ".svn", "__pycache__", ".forge", "node_modules", ".venv"}


def scan_corpus(root: Path, state: State | None = None, *, leave_out: Path | None = None) -> list[CorpusEntry]:
    """Every name under `root` (or the one file `root`), sorted by path. Raises UsageError if it is not there.

    state: keeps the hashes of unchanged files between runs (by inode, size, mtime, ctime).
    leave_out: a folder that is no part of the corpus even if it lies in it (where runs are kept).
    """
    if not root.exists():
        raise UsageError(f"there is no corpus at {root}", next="name an existing folder or file")
    hashes = _Hashes(state)
    names = [(root, root.name)] if root.is_file() else _walk(root, leave_out)
    entries = sorted((_entry(path, name, hashes) for path, name in names), key=lambda entry: entry.path)
    hashes.save()
    return entries


def _walk(root: Path, leave_out: Path | None) -> Iterator[tuple[Path, str]]:
    pending, outside = [root], leave_out.resolve() if leave_out else None
    while pending:
        folder = pending.pop()
        try:
            children = sorted(os.scandir(folder), key=lambda child: child.name)
        except OSError:
            yield folder, printable(folder.relative_to(root).as_posix())
            continue
        for child in children:
            path = Path(child.path)
            if child.is_dir(follow_symlinks=False):
                if child.name not in IGNORED_FOLDERS and path.resolve() != outside:
                    pending.append(path)
            else:
                yield path, printable(path.relative_to(root).as_posix())


def printable(name: str) -> str:
    """A file name as text that can be written and turned back: bytes that are not UTF-8 become \\xNN, \\ doubles."""
    return name.replace("\\", "\\\\").encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def locate(root: Path, entry: CorpusEntry) -> Path:
    """The file behind an entry of scan_corpus(root)."""
    if root.is_file():
        return root
    raw = re.sub(rb"\\(x[0-9a-f]{2}|\\)", _unescape, entry.path.encode())
    return root / os.fsdecode(raw)


def _unescape(match: re.Match[bytes]) -> bytes:
    code = match[1]
    return b"\\" if code == b"\\" else bytes([int(code[1:], 16)])


class _Hashes:
    """Hashes of files that have not changed since an earlier scan; new ones are saved in one transaction."""

    def __init__(self, state: State | None) -> None:
        self.state, self.fresh = state, list[tuple[object, ...]]()
        rows = state.rows("SELECT * FROM hashed") if state else []
        self.known = {row["path"]: row for row in rows}

    def of(self, path: Path, name: str, info: os.stat_result) -> str:
        """The file's sha256, from an earlier scan when nothing about the file has changed."""
        stamp = (info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        row = self.known.get(name)
        settled = time.time() - info.st_mtime > RACY_SECONDS
        if settled and row and (row["inode"], row["size"], row["mtime_ns"], row["ctime_ns"]) == stamp:
            return str(row["sha256"])
        sha256 = _hash_no_follow(path)
        self.fresh.append((name, *stamp, sha256))
        return sha256

    def save(self) -> None:
        """Keep the new hashes."""
        if self.state is not None and self.fresh:
            with self.state.transaction() as db:
                db.executemany("INSERT OR REPLACE INTO hashed VALUES(?,?,?,?,?,?)", self.fresh)


def _entry(path: Path, name: str, hashes: _Hashes) -> CorpusEntry:
    try:
        info = path.lstat()
        if stat.S_ISLNK(info.st_mode):
            return CorpusEntry(path=name, kind="symlink", note="symbolic links are not followed")
        if stat.S_ISDIR(info.st_mode):
            return CorpusEntry(path=name, kind="unreadable", note="the folder cannot be listed")
        if not stat.S_ISREG(info.st_mode):
            return CorpusEntry(path=name, kind="special", note="not a regular file (FIFO, socket or device)")
        return CorpusEntry(path=name, kind="file", size=info.st_size, sha256=hashes.of(path, name, info))
    except OSError as error:
        return CorpusEntry(path=name, kind="unreadable", note=error.strerror or str(error))


def _hash_no_follow(path: Path) -> str:
    hasher = hashlib.sha256()
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        while chunk := file.read(1 << 20):
            hasher.update(chunk)
    return hasher.hexdigest()
