"""Writes files that come out of a file (an archive's members, a mail's attachments) to a folder: safely, and not without end."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Literal

from forge.corpus import printable
from forge.errors import ExtractError
from forge.phases.prep.balance import clean
from forge.protocols import Embedded
from forge.records import CorpusEntry

Status = Literal["ok", "skipped", "refused", "failed"]
SEPARATOR = "!/"
MAX_DEPTH = 5
MAX_MEMBERS = 10_000
MAX_MEMBER_BYTES = 256 << 20
MAX_BYTES = 1 << 30
FREE_BYTES = 64 << 20
"""Whatever its size, a file may unpack to this much; above, to MAX_RATIO times its size."""

MAX_RATIO = 200
MAX_PARTS = 60
MAX_NAME_BYTES = 2_000
MAX_PART_BYTES = 200
"""Of a name, so that it fits into any file system (255 bytes) with a number added."""

UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f]")
NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Half characters that do not stand for a byte of a name either."""

JUNK = re.compile(r"(^|/)(__MACOSX/|\.DS_Store$|Thumbs\.db$|desktop\.ini$)")
DRIVE = re.compile(r"^[A-Za-z]:")
NO_FILE = re.compile(r"^link |symbolic link|hard link|device|fifo|named pipe|socket", re.IGNORECASE)
REFUSED = re.compile(r"encrypt|password|unsafe|bomb|limit|at most|larger|bigger", re.IGNORECASE)


class LimitBroken(ExtractError):
    """A file holds more than any file may: it is refused as a whole, with all that came out of it."""


@dataclass
class Budget:
    """What one file of the corpus and all files inside it may come to. size: of that file, in bytes."""

    size: int
    members: int = 0
    bytes: int = 0
    characters: int = 0

    def one_more(self) -> None:
        """Count a member. Raises LimitBroken."""
        self.members += 1
        if self.members > MAX_MEMBERS:
            raise LimitBroken(f"holds more than {MAX_MEMBERS:,} files in all", next="unpack it into the corpus", refused=True)

    def unpacked(self, count: int) -> None:
        """Count bytes. Raises LimitBroken."""
        self.bytes += count
        if self.bytes > MAX_BYTES:
            raise LimitBroken(f"unpacks to more than {MAX_BYTES >> 20:,} MiB in all", next="unpack it into the corpus", refused=True)
        if self.bytes > max(FREE_BYTES, MAX_RATIO * self.size):
            raise LimitBroken(f"unsafe: unpacks to more than {MAX_RATIO} times its size", refused=True)


@dataclass(frozen=True)
class Member:
    """A file inside a file. entry: its path through all levels; why: it was not written, for this reason."""

    entry: CorpusEntry
    name: str
    why: str = ""
    status: Status = "skipped"
    note: str = ""


@dataclass
class Unpacked:
    """The members of one file, written to `folder` under their own names as far as these are safe."""

    folder: Path
    owner: str
    budget: Budget
    members: list[Member] = field(default_factory=list)
    _names: set[str] = field(default_factory=set)
    _folders: set[str] = field(default_factory=set)
    _numbers: dict[str, Iterator[str]] = field(default_factory=dict)
    _tried: dict[str, int] = field(default_factory=dict)

    def take(self, embedded: Embedded) -> None:
        """Write one file; one that is damaged or too large becomes a member with the reason. Raises LimitBroken."""
        if embedded.name.endswith("/") and not embedded.note:
            return  # a folder: its files name it
        self.budget.one_more()
        name = self._free(safe_name(embedded.name))
        if JUNK.search(name):
            self._reject(name, "skipped", "left by an operating system, no document")
        elif embedded.note:
            self._reject(name, _status(embedded.note), clean(embedded.note)[:300])
        else:
            self._write(name, embedded)

    def path(self, member: Member) -> Path:
        """Where a member was written."""
        return self.folder / member.name

    def _write(self, name: str, embedded: Embedded) -> None:
        target = self.folder / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            size, sha256 = self._copy(embedded.chunks, target)
        except (LimitBroken, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001  # a library on a damaged member: costs that member
            target.unlink(missing_ok=True)
            refused = isinstance(error, ExtractError) and error.refused
            told = error.fact if isinstance(error, ExtractError) else f"damaged ({type(error).__name__}: {error})"
            self._reject(name, "refused" if refused else "failed", clean(told)[:300])
            return
        note = "" if str(PurePosixPath(_plain(embedded.name))) == name else f"stored as {_written(embedded.name)[:200]!r}"
        entry = CorpusEntry(path=self.owner + SEPARATOR + name, kind="file", size=size, sha256=sha256)
        self.members.append(Member(entry, name, note=note))

    def _copy(self, chunks: Iterable[bytes], target: Path) -> tuple[int, str]:
        hasher, size = hashlib.sha256(), 0
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as file:
            for chunk in chunks:
                size += len(chunk)
                self.budget.unpacked(len(chunk))
                if size > MAX_MEMBER_BYTES:
                    raise ExtractError(f"larger than {MAX_MEMBER_BYTES >> 20:,} MiB", refused=True)
                hasher.update(chunk)
                file.write(chunk)
        return size, hasher.hexdigest()

    def _reject(self, name: str, status: Status, why: str) -> None:
        entry = CorpusEntry(path=self.owner + SEPARATOR + name, kind="file")
        self.members.append(Member(entry, name, why, status))

    def _free(self, name: str) -> str:
        """`name`, or with a number where another member has it, or has one of its folders as a file's name."""
        *folders, last = name.split("/")
        folder = ""
        for part in folders:
            folder = next(one for one in _numbered(folder + part) if one not in self._names)
            self._folders.add(folder)
            folder += "/"
        numbers = self._numbers.setdefault(folder + last, _numbered(folder + last))  # goes on where it stopped: many may be alike
        name = next(one for one in numbers if one not in self._names and one not in self._folders)
        self._names.add(name)
        return name


def _numbered(name: str) -> Iterator[str]:
    """a/b.txt, a/b~2.txt, a/b~3.txt, ..."""
    yield name
    folder, slash, last = name.rpartition("/")
    stem, dot, extension = last.rpartition(".")
    if not stem:
        stem, dot, extension = last, "", ""
    for number in count(2):
        yield f"{folder}{slash}{stem}~{number}{dot}{extension}"


def safe_name(name: str) -> str:
    """A relative path without "..", drive, control characters or over-long parts; as it was wherever it was safe."""
    parts = [_safe_part(part) for part in _plain(name).split("/") if part not in ("", ".", "..")]
    parts = parts[-MAX_PARTS:]
    while len(parts) > 1 and len("/".join(parts).encode()) > MAX_NAME_BYTES:
        parts.pop(0)
    return "/".join(parts) or "unnamed"


def _plain(name: str) -> str:
    """Windows' separators turned; bytes that are no text written as \\xNN."""
    text = name.replace("\\", "/") if "/" not in name else name
    return _written(DRIVE.sub("", text)).replace("!/", "!_/")


def _written(name: str) -> str:
    return printable(NO_BYTE.sub("\ufffd", name))


def _safe_part(part: str) -> str:
    part = UNSAFE.sub("_", part)
    if len(part.encode()) <= MAX_PART_BYTES:
        return part
    stem, dot, extension = part.rpartition(".")
    mark = "~" + hashlib.sha256(part.encode()).hexdigest()[:8] + (dot + extension if stem and len(extension.encode()) <= 16 else "")
    return part.encode()[: MAX_PART_BYTES - len(mark.encode())].decode(errors="ignore") + mark


def _status(note: str) -> Status:
    if NO_FILE.search(note):
        return "skipped"
    return "refused" if REFUSED.search(note) else "failed"
