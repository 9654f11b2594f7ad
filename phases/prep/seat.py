"""The child's side of the pool: takes on its limits, then computes item after item in a folder of its own."""

from __future__ import annotations

import ctypes
import os
import pickle
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from forge import isolate
from forge.children import SECRET_WORDS

BEGIN, DONE, FINISHED = b"B", b"D", b"F"
"""What a child says: which part it begins; a result; a result, and that it wants to be replaced."""

FRAME = struct.Struct("=cQ")
"""Before each message: what it says, and its length in bytes."""

WORK = "work"
OUT_OF_MEMORY, BROKEN, UNCONFINED = 97, 98, 96
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
M_ARENA_MAX = -8
FILE_BYTES = 1 << 30
OPEN_FILES = 512
ITEMS = 2_000
GROWTH_BYTES = 400 << 20
"""A child that has done so many items, or grown so much, is replaced: what libraries leak then stays bounded."""


@dataclass(frozen=True)
class Tooling:
    """What a child is given: its parent, its folder, seconds and bytes of memory for an item."""

    parent: int
    folder: Path
    seconds: float
    memory: int


@dataclass
class Seat:
    """Where an item is worked on. folder: may be written to, emptied after each item. avoid: parts to leave out, and why."""

    folder: Path
    avoid: dict[str, str] = field(default_factory=dict)
    on_begin: Callable[[str], None] = lambda part: None

    def scratch(self) -> Path:
        """An empty folder, always the same one: libraries remember where temporary files go."""
        work = self.folder / WORK
        if work.is_dir() and not work.is_symlink():
            empty(work)
        else:
            work.unlink(missing_ok=True)
            work.mkdir()
        return work

    def begin(self, part: str) -> None:
        """Say which part of the item comes now: it gets its own time, and its death does not cost the others."""
        self.on_begin(part)

    def end_processes(self) -> bool:
        """End what the extractor started and left running; True if there was any."""
        return False


@dataclass
class _ChildSeat(Seat):
    tired: bool = False

    def end_processes(self) -> bool:
        left = False
        with suppress(ChildProcessError):
            while not self.tired:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    left = True
                    self.tired = not _kill_children()  # then the parent ends the whole group
                    time.sleep(0.001)
        return left


def serve(pipe: Connection, work: Callable[[Any, Seat], bytes], tooling: Tooling) -> None:
    """Never returns. Items come pickled with the parts to avoid; results go back as DONE or FINISHED and the bytes."""
    _settle_in(tooling, keep=pipe.fileno())
    me, start = os.getpid(), _held_bytes()
    for served in range(1, ITEMS + 1):
        try:
            item, avoid = pickle.loads(pipe.recv_bytes())
        except EOFError:
            os._exit(0)
        _allow_processor_time(tooling.seconds)
        seat = _ChildSeat(tooling.folder, avoid, on_begin=lambda part: _begin(pipe, part, tooling.seconds, me))
        result = work(item, seat)
        _check_self(me)
        tired = seat.end_processes() or seat.tired or served == ITEMS
        try:
            empty(tooling.folder)
            tired = tired or _held_bytes() - start > GROWTH_BYTES
        except OSError:
            tired = True  # no file can be opened any more; what lies here the parent removes
        _say(pipe, FINISHED if tired else DONE, result)
    signal.pause()


def empty(folder: Path) -> None:
    """Remove all that lies in a folder; a link in it is removed, not followed."""
    with os.scandir(folder) as found:
        entries = list(found)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            remove(Path(entry.path))
        else:
            Path(entry.path).unlink()


def remove(folder: Path) -> None:
    """Remove a folder and all below it, however deep."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except RecursionError:
        subprocess.run(["rm", "-rf", "--", folder], check=False, capture_output=True)


def _begin(pipe: Connection, part: str, seconds: float, me: int) -> None:
    _check_self(me)
    _allow_processor_time(seconds)
    _say(pipe, BEGIN, part.encode())


def _check_self(me: int) -> None:
    if os.getpid() != me:
        os._exit(BROKEN)  # a copy of us that an extractor forked: it has no say


def _say(pipe: Connection, what: bytes, data: bytes) -> None:
    left = memoryview(FRAME.pack(what, len(data)) + data)
    while left:
        left = left[os.write(pipe.fileno(), left) :]


def _settle_in(tooling: Tooling, keep: int) -> None:
    os.setpgrp()
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if os.getppid() != tooling.parent:
        os._exit(BROKEN)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    # Other children's pipes and the run's lock must not stay open here: a pipe that never closes hides its end.
    os.closerange(3, keep)
    os.closerange(keep + 1, _highest_descriptor() + 1)
    for name in [name for name in os.environ if any(word in name.upper() for word in SECRET_WORDS)]:
        del os.environ[name]
    os.environ["TMPDIR"] = tempfile.tempdir = str(tooling.folder / WORK)
    os.environ["KMP_USE_SHM"] = "0"  # Intel's OpenMP wants /dev/shm otherwise, and ends the process without
    for name in ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"  # one child a core is at work: tesseract with more threads takes 3.7 s of processor time for 1.2 s
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_ARENA_MAX, 2)  # each thread else reserves 64 MiB of address space, which is limited here
    _limit(tooling.memory)
    try:
        isolate.confine(tooling.folder)
    except OSError:
        os._exit(UNCONFINED)


def _limit(memory: int) -> None:
    for kind, value in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, FILE_BYTES), (resource.RLIMIT_NOFILE, OPEN_FILES)):
        _lower(kind, value)
    if sys.platform == "linux":  # macOS does not enforce it
        used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        _lower(resource.RLIMIT_AS, used + memory)


def _lower(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _allow_processor_time(seconds: float) -> None:
    """From now on; every core may be used for the whole time. The wall clock ends us earlier, this ends what we start."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    limit = int(time.process_time() + seconds * _cores()) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _cores() -> int:
    return os.cpu_count() or 1


def _held_bytes() -> int:
    """Memory of this process without what it maps from files, which the system takes back when it likes; 0 where that is not told."""
    if sys.platform != "linux":
        return 0
    resident, of_files = map(int, Path("/proc/self/statm").read_text(encoding="ascii").split()[1:3])
    return (resident - of_files) * resource.getpagesize()


def _kill_children() -> bool:
    """False where the system does not tell who they are."""
    try:
        children = [child for task in Path("/proc/self/task").iterdir() for child in (task / "children").read_text(encoding="ascii").split()]
    except OSError:
        return False
    for child in children:
        with suppress(ProcessLookupError):
            os.kill(int(child), signal.SIGKILL)
    return True


def _highest_descriptor() -> int:
    folder = Path("/proc/self/fd") if sys.platform == "linux" else Path("/dev/fd")
    return max(int(entry.name) for entry in folder.iterdir())
