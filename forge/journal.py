"""The item journal of a phase: what is finished is never done, or paid, twice.

Append-only JSONL; every record carries a checksum. A torn or damaged tail (a kill in mid-write) is cut off when
the journal is opened. Order on disk depends on concurrency and kills; readers use `items()`, which is sorted by key,
so a phase's output is a pure function of the set of finished items.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SYNC_EVERY_SECONDS = 1.0


class Journal:
    """Finished items by key. Values are plain JSON.

    durable=True: each record is on disk before put() returns (4 ms; use it for paid items). Otherwise records are
    synced about once a second: a kill loses nothing that was written, a power cut at most the last second.
    """

    def __init__(self, path: Path, *, durable: bool = False) -> None:
        self.path, self.durable = path, durable
        path.parent.mkdir(parents=True, exist_ok=True)
        self._values, good_bytes = _read(path)
        self._file = path.open("ab")
        self._file.truncate(good_bytes)
        self._synced_at = time.monotonic()

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: str) -> Any:
        """The value of a finished item, or None."""
        return self._values.get(key)

    def put(self, key: str, value: Any) -> None:
        """Record a finished item. One write() call per record, so a kill tears at most the last one."""
        self._values[key] = value
        self._file.write(_line(key, value))
        self._file.flush()
        now = time.monotonic()
        if self.durable or now - self._synced_at > SYNC_EVERY_SECONDS:
            os.fdatasync(self._file.fileno())
            self._synced_at = now

    def items(self) -> Iterator[tuple[str, Any]]:
        """All finished items, sorted by key."""
        return iter(sorted(self._values.items()))

    def close(self) -> None:
        """Sync and close."""
        if not self._file.closed:
            self._file.flush()
            os.fdatasync(self._file.fileno())
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _line(key: str, value: Any) -> bytes:
    body = json.dumps([key, value], ensure_ascii=False, separators=(",", ":"))
    data = body.encode("utf-8", "surrogatepass")
    return b"%08x %s\n" % (zlib.crc32(data), data)


def _read(path: Path) -> tuple[dict[str, Any], int]:
    """Values and the length of the undamaged front part, in bytes."""
    values: dict[str, Any] = {}
    good_bytes = 0
    if not path.exists():
        return values, 0
    with path.open("rb") as file:
        for line in file:
            checksum, _, data = line[:-1].partition(b" ")
            if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(data):
                break
            key, value = json.loads(data.decode("utf-8", "surrogatepass"))
            values[key] = value
            good_bytes += len(line)
    return values, good_bytes
