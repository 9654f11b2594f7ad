"""What sources that bring files share: safe names, which files are wanted, and a cap on bytes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import Field

from forge.errors import ForgeError
from forge.phase import Settings
from forge.previews import HEAD_BYTES, describe_head
from forge.protocols import Fetching, Sample
from forge.sources import selected

GIB = 1 << 30
MAX_SEGMENT_BYTES = 180
STRANGE = re.compile(r"[\x00-\x1f\x7f\\:*?\"<>|]")


class FilesSettings(Settings):
    """Keys of every source that brings files."""

    include: tuple[str, ...] = Field((), description="patterns of which a file's path has to match one; * also crosses /")
    exclude: tuple[str, ...] = Field((), description="patterns that leave files out")
    max_bytes: int = Field(10 * GIB, ge=1, description="most bytes that the whole source may bring")

    def wants(self, path: str) -> bool:
        """True for a path that include and exclude let through."""
        return selected(path, self.include, self.exclude)


class ByteBudget:
    """Counts bytes against a cap."""

    def __init__(self, most: int) -> None:
        self.most, self.used = most, 0

    def take(self, count: int) -> None:
        """Count. Raises ForgeError beyond the cap."""
        self.used += count
        if self.used > self.most:
            raise ForgeError(f"the source brings more than {self.most:,} bytes", why="max_bytes is the cap", next="raise max_bytes, or narrow the source with include")


class Names:
    """Relative file names made safe: no "..", no control characters, no two alike, no file where a folder is."""

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def of(self, wanted: str) -> str:
        """A free name; the same sequence of calls gives the same names."""
        safe = "/".join(_segment(part) for part in wanted.split("/") if part not in ("", ".", "..")) or "file"
        if self._clashes(safe):   # flat, so that no file can lie where the new one needs a folder
            flat = Path(safe.replace("/", "_"))
            safe = f"{flat.stem}-{hashlib.sha256(wanted.encode()).hexdigest()[:8]}{flat.suffix}"
        self._files.add(safe)
        self._folders.update(_parents(safe))
        return safe

    def _clashes(self, name: str) -> bool:
        return name in self._files | self._folders or any(parent in self._files for parent in _parents(name))


def write_chunks(target: Path, chunks: Iterable[bytes], budget: ByteBudget, ctx: Fetching) -> int:
    """Write a file; returns its length."""
    target.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with target.open("xb") as file:
        for chunk in chunks:
            ctx.check_stop()
            budget.take(len(chunk))
            size += len(chunk)
            file.write(chunk)
    return size


def head_sample(place: str, head: bytes) -> Sample:
    """The beginning of a file as a sample."""
    return Sample(place=place, text=describe_head(head[:HEAD_BYTES], Path(place).suffix))


def _segment(part: str) -> str:
    clean = STRANGE.sub("_", part)
    raw = clean.encode("utf-8", "replace")
    if len(raw) <= MAX_SEGMENT_BYTES:
        return raw.decode()
    suffix = Path(clean).suffix[:12]
    return raw[: MAX_SEGMENT_BYTES - 24].decode("utf-8", "ignore") + "-" + hashlib.sha256(part.encode("utf-8", "replace")).hexdigest()[:10] + suffix


def _parents(name: str) -> Iterator[str]:
    parts = name.split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts)))
