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
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from forge.cache import Cache
from forge.errors import UsageError
from forge.filenames import MaskedNames, find_masked
from forge.records import CorpusEntry

RACY_SECONDS = 2.0
"""A file changed this shortly before the scan may change again within the same time stamp: hash it anew (as git does)."""

HASHES_BYTES = 256 << 20
"""Room for the hashes of about a million files."""

IGNORED_FOLDERS = {".git", ".hg", ".svn", "__pycache__", ".forge", "node_modules", ".venv"}
MADE_HERE = ".slm-forge"
"""A folder below the corpus that holds a file of this name was written by slm-forge (a hub of models) and is left out."""


def scan_corpus(root: Path, cache: Path | None = None, *, leave_out: Path | None = None) -> list[CorpusEntry]:
    """walk_corpus() as a list."""
    return list(walk_corpus(root, cache, leave_out=leave_out))


def walk_corpus(
    root: Path, cache: Path | None = None, *, leave_out: Path | None = None, wanted: Callable[[str], bool] | None = None, masked: bool = True
) -> Iterator[CorpusEntry]:
    """Every name under `root` (or the one file `root`) in the order of paths; holds one folder's names at a time.

    cache: a folder that keeps the hashes of unchanged files between runs (by inode, size, mtime, ctime).
    leave_out: a folder that is no part of the corpus even if it lies in it (where runs are kept).
    wanted: picks by path; the others are neither listed nor hashed.
    masked: secrets and personal data in names are told as placeholders (forge/filenames.py); locate() finds the files all the same.
    Raises UsageError, at once, if there is nothing at `root`.
    """
    return _entries(_names(root, leave_out, wanted), _Hashes(cache, root), MaskedNames() if masked else None)


def walk_names(
    root: Path, *, leave_out: Path | None = None, wanted: Callable[[str], bool] | None = None
) -> Iterator[tuple[Path, str]]:
    """The same as (file, path below root), without looking into any file."""
    return ((Path(path), name) for path, name in _names(root, leave_out, wanted))


def _names(root: Path, leave_out: Path | None, wanted: Callable[[str], bool] | None) -> Iterator[tuple[str, str]]:
    if not root.exists():
        raise UsageError(f"there is no corpus at {root}", next="name an existing folder or file")
    names = iter([(str(root), printable(root.name))]) if root.is_file() else _walk(root, leave_out)
    return names if wanted is None else (one for one in names if wanted(one[1]))


def _entries(names: Iterable[tuple[str, str]], hashes: _Hashes, told: MaskedNames | None) -> Iterator[CorpusEntry]:
    try:
        for path, name in names:
            entry = _entry(path, name, hashes)
            yield entry.model_copy(update={"path": shown}) if told and (shown := told.of(name)) != name else entry
    finally:
        hashes.close()


def _walk(root: Path, leave_out: Path | None) -> Iterator[tuple[str, str]]:
    """(path, printable name) in the order of names. Plain strings: Path objects take half of the time for 10,000 files."""
    outside = str(leave_out.resolve()) if leave_out else ""
    if not _can_be_listed(str(root)):
        yield str(root), "."
        return
    pending = [_children(str(root), "", outside)]
    while pending:
        found = next(pending[-1], None)
        if found is None:
            pending.pop()
        elif found[1].endswith("/"):
            pending.append(_children(*found, outside))
        else:
            yield found


def _children(folder: str, prefix: str, outside: str) -> Iterator[tuple[str, str]]:
    """(path, name) of what lies in a folder, the names of folders to go into with a slash: "a.txt" comes before "a/b".

    A folder that cannot be listed is handed over as a name of its own.
    """
    found = []
    children = _listed(folder)
    if prefix and any(child.name == MADE_HERE for child in children):
        return iter(())
    for child in children:
        name = prefix + printable(child.name)
        if child.is_dir(follow_symlinks=False):
            if child.name in IGNORED_FOLDERS or (outside and str(Path(child.path).resolve()) == outside):
                continue
            name += "/" * _can_be_listed(child.path)
        found.append((name, child.path))
    return iter([(path, name) for name, path in sorted(found)])


def _listed(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as children:
            return list(children)
    except OSError:
        return []   # it could be listed a moment ago


def _can_be_listed(folder: str) -> bool:
    try:
        os.scandir(folder).close()
    except OSError:
        return False
    return True


def printable(name: str) -> str:
    """A file name as text that can be written and turned back: bytes that are not UTF-8 become \\xNN, \\ doubles."""
    return name.replace("\\", "\\\\").encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def locate(root: Path, entry: CorpusEntry) -> Path:
    """The file behind an entry of scan_corpus(root)."""
    if root.is_file():
        return root
    if "[" in entry.path and (found := find_masked(root, entry.path, entry.size, entry.sha256)):
        return found
    raw = re.sub(rb"\\(x[0-9a-f]{2}|\\)", _unescape, entry.path.encode())
    return root / os.fsdecode(raw)


def _unescape(match: re.Match[bytes]) -> bytes:
    code = match[1]
    return b"\\" if code == b"\\" else bytes([int(code[1:], 16)])


class _Hashes:
    """Hashes of files that have not changed since an earlier scan of any run."""

    def __init__(self, folder: Path | None, root: Path) -> None:
        self.cache = Cache(folder / "hashes.db", max_bytes=HASHES_BYTES) if folder else None
        self.root = os.fsencode(root.resolve()).decode("utf-8", "backslashreplace")

    def of(self, path: str, name: str, info: os.stat_result) -> str:
        """The file's sha256, from an earlier scan when nothing about the file has changed."""
        if self.cache is None or time.time() - info.st_mtime <= RACY_SECONDS:
            return _hash_no_follow(path)
        key = hashlib.blake2b(f"{self.root}/{name}".encode(), digest_size=20).hexdigest()   # no names in a cache
        stamp = f"{info.st_dev} {info.st_ino} {info.st_size} {info.st_mtime_ns} {info.st_ctime_ns} ".encode()
        known = self.cache.get(key)
        if known is not None and known.startswith(stamp):
            return known[len(stamp) :].decode("ascii")
        sha256 = _hash_no_follow(path)
        self.cache.put(key, stamp + sha256.encode("ascii"))
        return sha256

    def close(self) -> None:
        """Keep the new hashes."""
        if self.cache is not None:
            self.cache.close()


def _entry(path: str, name: str, hashes: _Hashes) -> CorpusEntry:
    try:
        info = os.lstat(path)
        if stat.S_ISLNK(info.st_mode):
            return CorpusEntry(path=name, kind="symlink", note="symbolic links are not followed")
        if stat.S_ISDIR(info.st_mode):
            return CorpusEntry(path=name, kind="unreadable", note="the folder cannot be listed")
        if not stat.S_ISREG(info.st_mode):
            return CorpusEntry(path=name, kind="special", note="not a regular file (FIFO, socket or device)")
        return CorpusEntry(path=name, kind="file", size=info.st_size, sha256=hashes.of(path, name, info))
    except OSError as error:
        return CorpusEntry(path=name, kind="unreadable", note=error.strerror or str(error))


def _hash_no_follow(path: str) -> str:
    hasher = hashlib.sha256()
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        while chunk := file.read(1 << 20):
            hasher.update(chunk)
    return hasher.hexdigest()
