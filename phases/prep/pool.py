"""Runs a function over items in child processes, so that a crash or a hang costs one item and never the run.

Python's own ProcessPoolExecutor gives up as a whole when one child dies (BrokenProcessPool) and cannot end a child
that hangs; both are normal here: no document library can be trusted (python-calamine aborts its process on a 9 kB file).
The children are forked, so a pool costs a few milliseconds; each is in its own process group, has limits, no network, one
folder that it may write to, a silent stdout and stderr, and dies with its parent.

A child reads many files. Measured on two cores over 440 documents, processor seconds of all processes: 2.1 in one process
without a pool, 2.9 with these children, 2.9 when their parent has imported lxml, pypdfium2 and the like for them (0.03 less
a child, 0.05 more in the parent), 10.2 with a fork for every file from such a parent, 14.9 from one that has not.
"""

from __future__ import annotations

import os
import pickle
import signal
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from forge import isolate
from forge.phases.prep import seat
from forge.phases.prep.seat import BEGIN, DONE, FINISHED, FRAME, Seat

TICK_SECONDS = 0.25
DEATH_SECONDS = 1.0
PARTS_SECONDS = 10
"""A file and all files inside it may take this many times what one file may."""

MAX_LOST_PARTS = 8
MAX_ANSWER = 2 << 30
SCRATCH_BYTES = 4 << 30
"""What may lie in a child's folder; looked at every LOOK_SECONDS while an item takes longer than that."""

LOOK_SECONDS = 1.0
READ_BYTES = 1 << 20

Work = Callable[[Any, Seat], bytes]


@dataclass(frozen=True)
class Lost:
    """What happened to an item that gave no result."""

    reason: str


@dataclass(frozen=True)
class _Task:
    """An item, with the parts of it that took a child down and are to be left out: part -> reason."""

    item: Any
    avoid: dict[str, str] = field(default_factory=dict)


@dataclass
class _Child:
    pid: int
    pipe: Connection
    folder: Path
    task: _Task | None = None
    part: str = ""
    served: int = 0
    deadline: float = 0.0
    last: float = 0.0
    looked: float = 0.0
    heard: bytearray = field(default_factory=bytearray)


def default_workers() -> int:
    """One child per core that this process may use, at most four."""
    return min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


class Pool:
    """Children that compute `work(item, seat)`; `seconds` and `memory_mib` bound each item.

    scratch: where each child gets the one folder that it may write to; a temporary folder unless told.
    An item that takes its child down is tried once more in a fresh one, unless it was the child's first or it hung:
    what earlier items left behind must not decide, or results would depend on the number of workers. When the child had
    said which part of the item it was at (seat.begin), the item is tried again without that part.
    """

    def __init__(self, work: Work, *, workers: int, seconds: float, memory_mib: int, scratch: Path | None = None) -> None:
        self.work, self.workers, self.seconds, self.memory_mib, self.scratch = work, workers, seconds, memory_mib, scratch
        self._children: list[_Child] = []
        self._started = 0
        isolate.gaps()  # looked up once, before any fork

    def map(self, items: Iterable[Any], tick: Callable[[], None]) -> Generator[tuple[Any, bytes | Lost], None, None]:
        """(item, result) in the order of completion. tick() is called at least every quarter second and may raise.

        Items are taken one by one as children fall idle, and pickled.
        """
        source, again = iter(items), deque[_Task]()
        self._root = Path(tempfile.mkdtemp(prefix="reading-", dir=self._scratch_root()))
        try:
            done: list[tuple[Any, bytes | Lost]] = []
            while self._hand_out(source, again) or done or any(child.task for child in self._children):
                yield from done  # the children are at work again while the caller looks at what they gave
                tick()
                done = list(self._collect(again))
        finally:
            for child in self._children:
                _end(child)
            self._children = []
            seat.remove(self._root)

    def _scratch_root(self) -> Path | None:
        if self.scratch is not None:
            self.scratch.mkdir(parents=True, exist_ok=True)
        return self.scratch

    def _hand_out(self, source: Iterator[Any], again: deque[_Task]) -> bool:
        """One item for each idle child, the fresh ones first: an item that is tried again needs one. False: none is left."""
        idle = sorted((child for child in self._children if child.task is None), key=lambda child: child.served)
        for _ in range(self.workers - len(self._children) + len(idle)):
            task = again.popleft() if again else next((_Task(item) for item in source), None)
            if task is None:
                return False
            child = idle.pop(0) if idle else self._start()
            self._give(child, task)
        return True

    def _give(self, child: _Child, task: _Task) -> None:
        now = time.monotonic()
        child.task, child.part, child.looked = task, "", now
        child.deadline, child.last = now + self.seconds, now + PARTS_SECONDS * self.seconds
        with suppress(OSError):  # it died idle: its pipe reads as ended, and _collect tries the item again
            child.pipe.send_bytes(pickle.dumps((task.item, task.avoid)))

    def _collect(self, again: deque[_Task]) -> Iterator[tuple[Any, bytes | Lost]]:
        busy = [child for child in self._children if child.task is not None]
        if not busy:
            return
        next_deadline = min(child.deadline for child in busy) - time.monotonic()
        ready = wait([child.pipe for child in busy], timeout=max(0.0, min(TICK_SECONDS, next_deadline)))
        for child in busy:
            if child.pipe in ready:
                yield from self._receive(child, again)
            elif reason := self._too_much(child):
                yield from self._lose(child, reason, again)

    def _too_much(self, child: _Child) -> str:
        """Why a child that is silent has to be ended, if it has."""
        now = time.monotonic()
        if now > child.last:
            child.part = ""
            return f"it and the files inside it took longer than {PARTS_SECONDS * self.seconds:g} seconds"
        if now > child.deadline:
            return f"took longer than {self.seconds:g} seconds"
        if now > child.looked + LOOK_SECONDS:
            child.looked = now
            if _bytes_below(child.folder) > SCRATCH_BYTES:
                return f"wrote more than {SCRATCH_BYTES >> 20:,} MiB"
        return ""

    def _receive(self, child: _Child, again: deque[_Task]) -> Iterator[tuple[Any, bytes | Lost]]:
        """Take what has come; a message may come in many parts, and a child that stops in the middle blocks nobody."""
        assert child.task is not None
        try:
            data = os.read(child.pipe.fileno(), READ_BYTES)
        except OSError:
            data = b""
        if not data:
            yield from self._bury(child, again)
            return
        child.heard += data
        while len(child.heard) >= FRAME.size:
            what, length = FRAME.unpack_from(child.heard)
            if what not in (BEGIN, DONE, FINISHED) or length > MAX_ANSWER:
                yield from self._lose(child, "the extractor wrote over its process's memory or pipe", again)
                return
            if len(child.heard) < FRAME.size + length:
                return
            message = bytes(memoryview(child.heard)[FRAME.size : FRAME.size + length])
            del child.heard[: FRAME.size + length]
            if what != BEGIN:
                yield self._finish(child, message, replace=what == FINISHED)
                return
            child.part = message.decode(errors="replace")
            child.deadline = min(child.last, time.monotonic() + self.seconds)

    def _finish(self, child: _Child, result: bytes, *, replace: bool) -> tuple[Any, bytes]:
        assert child.task is not None
        item, child.task = child.task.item, None
        child.served += 1
        child.heard.clear()
        if replace:
            self._remove(child)
        return item, result

    def _bury(self, child: _Child, again: deque[_Task]) -> Iterator[tuple[Any, bytes | Lost]]:
        assert child.task is not None
        _await_death(child.pid)
        if child.served:
            self._remove(child)
            again.append(child.task)
            return
        yield from self._lose(child, "", again)

    def _lose(self, child: _Child, reason: str, again: deque[_Task]) -> Iterator[tuple[Any, bytes | Lost]]:
        """End a child for what it did; its item is lost, or tried again without the part that did it."""
        assert child.task is not None
        status = self._remove(child)
        reason = reason or _death(status, self.memory_mib, self.seconds)
        task = child.task
        if child.part and child.part not in task.avoid and len(task.avoid) < MAX_LOST_PARTS:
            again.append(_Task(task.item, {**task.avoid, child.part: reason}))
        else:
            yield task.item, Lost(f"{reason}, at {child.part!r} inside it" if child.part else reason)

    def _remove(self, child: _Child) -> int:
        status = _end(child)
        self._children.remove(child)
        return status

    def _start(self) -> _Child:
        self._started += 1
        folder = self._root / str(self._started)
        folder.mkdir()
        here, there = Pipe()
        parent = os.getpid()
        pid = os.fork()
        if pid:
            there.close()
            self._children.append(_Child(pid, here, folder))
            return self._children[-1]
        try:
            here.close()
            seat.serve(there, self.work, seat.Tooling(parent, folder, self.seconds, self.memory_mib << 20))
        except MemoryError:
            os._exit(seat.OUT_OF_MEMORY)
        finally:
            os._exit(seat.BROKEN)


def _bytes_below(folder: Path) -> int:
    """Bytes of all files below a folder that somebody may be writing to."""
    total, pending = 0, [str(folder)]
    while pending:
        with suppress(OSError), os.scandir(pending.pop()) as found:
            for entry in found:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    return total


def _await_death(pid: int) -> None:
    """Let a child whose pipe has ended die by itself, so that its status tells why; leaves it unreaped."""
    deadline = time.monotonic() + DEATH_SECONDS
    while time.monotonic() < deadline:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
            return
        time.sleep(0.001)


def _end(child: _Child) -> int:
    """Make sure that a child, what it started and what it wrote are gone; returns its wait status.

    Kills before it reaps: until then the process id cannot belong to anyone else.
    """
    child.pipe.close()
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError):
            kill(child.pid, signal.SIGKILL)
    status = os.waitpid(child.pid, 0)[1]
    seat.remove(child.folder)
    return status


def _death(status: int, memory_mib: int, seconds: float) -> str:
    if os.WIFSIGNALED(status):
        if os.WTERMSIG(status) == signal.SIGXCPU:
            return f"took longer than {seconds:g} seconds of processor time"
        return f"the extractor crashed ({signal.Signals(os.WTERMSIG(status)).name})"
    if os.WEXITSTATUS(status) == seat.OUT_OF_MEMORY:
        return f"needs more than {memory_mib:,} MiB of memory"
    if os.WEXITSTATUS(status) == seat.UNCONFINED:
        return "the process that reads files could not be isolated (forge doctor)"
    return f"the extractor ended its process (exit code {os.WEXITSTATUS(status)})"
