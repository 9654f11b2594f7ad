"""What the parts of the host side share: where things lie in a lease's folder, its clock, and whether a job lives."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.plugins.compute import _supervise

if TYPE_CHECKING:   # Python 3.8 cannot evaluate it
    Request = dict[str, Any]

HEARTBEAT_SECONDS = 5.0


class Refused(Exception):
    """A verb cannot be done. kind: "disk", "missing", "busy", "damaged", "other"."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def place_of(text: str) -> Path:
    path = Path(text).expanduser()
    return path if path.is_absolute() else Path.home() / path


def inside(request: Request, remote: str) -> Path:
    root = place_of(request["root"])
    place = Path(os.path.normpath(str(root / remote)))
    if root not in place.parents:
        raise Refused("other", f"{remote} leads out of the lease's folder")
    return place


def boot_id() -> str:
    return text_of("/proc/sys/kernel/random/boot_id")


def uptime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def text_of(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def read_json(path: Path) -> Request:
    text = text_of(str(path))
    value: Request = json.loads(text) if text else {}
    return value


def remove_path(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(str(path))
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """One at a time in a folder, which is made; who waited for a lock that was removed meanwhile takes the new one."""
    lock = folder / ".lock"
    while True:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            handle = os.open(str(lock), os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if lock.exists() and os.fstat(handle).st_ino == lock.stat().st_ino:
                yield
                return
        finally:
            os.close(handle)


def lease_of(root: Path) -> Request:
    return read_json(root / "lease.json")


def seconds_left(lease: Request) -> float:
    if lease.get("boot") != boot_id():
        return 0.0
    return float(lease["started"] + lease["deadline_seconds"] - uptime())


def state_of(root: Path) -> str:
    lease = lease_of(root)
    if (root / "kept").exists():
        return "kept"
    if not lease or (root / "ended.json").exists() or (root / ".stop").exists() or lease["boot"] != boot_id():
        return "over"
    return "live" if seconds_left(lease) > 0 or any(map(is_alive, jobs_of(root))) else "over"


def jobs_of(root: Path) -> list[Path]:
    return sorted(note.parent for note in (root / "jobs").glob("*/.job"))


def pid_of(job: Path) -> Any:
    fields = text_of(str(job / ".job" / "pid")).split()
    return (int(fields[0]), int(fields[1]), fields[2]) if len(fields) == 3 else (0, 0, "")


def is_alive(job: Path) -> bool:
    pid, start, boot = pid_of(job)
    return bool(start > 0 and boot == boot_id() and _supervise.start_ticks(pid) == start)
