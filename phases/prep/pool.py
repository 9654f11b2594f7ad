"""Runs a function over numbered items in child processes, so that a crash or a hang costs one item and never the run.

Python's own ProcessPoolExecutor gives up as a whole when one child dies (BrokenProcessPool) and cannot end a child
that hangs; both are normal here: no document library can be trusted (python-calamine aborts its process on a 9 kB file).
The children are forked, so a pool costs a few milliseconds; each is in its own process group, has a memory limit, a
silent stdout and stderr, and dies with its parent.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path

TICK_SECONDS = 0.25
DEATH_SECONDS = 1.0
PR_SET_PDEATHSIG = 1
OUT_OF_MEMORY = 97
BROKEN = 98

Work = Callable[[int], bytes]


@dataclass(frozen=True)
class Lost:
    """What happened to an item that gave no result."""

    reason: str


@dataclass
class _Child:
    pid: int
    pipe: Connection
    item: int | None = None
    served: int = 0
    deadline: float = 0.0


def default_workers() -> int:
    """One child per core that this process may use, at most four."""
    return min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


class Pool:
    """Children that compute `work(item)`; `seconds` and `memory_mib` bound each item.

    An item that takes its child down is tried once more in a fresh one, unless it was the child's first or it hung:
    what earlier items left behind must not decide, or results would depend on the number of workers.
    """

    def __init__(self, work: Work, *, workers: int, seconds: float, memory_mib: int) -> None:
        self.work, self.workers, self.seconds, self.memory_mib = work, workers, seconds, memory_mib
        self._children: list[_Child] = []
        self._libc = ctypes.CDLL(None, use_errno=True)

    def map(self, items: list[int], tick: Callable[[], None]) -> Generator[tuple[int, bytes | Lost], None, None]:
        """(item, result) in the order of completion. tick() is called at least every quarter second and may raise."""
        waiting = deque(items)
        self._children = [self._start() for _ in range(min(self.workers, len(items)))]
        try:
            while waiting or any(child.item is not None for child in self._children):
                self._hand_out(waiting)
                tick()
                yield from self._collect(waiting)
        finally:
            for child in self._children:
                _end(child)
            self._children = []

    def _hand_out(self, waiting: deque[int]) -> None:
        """One item for each idle child, the fresh ones first: an item that is tried again needs one."""
        for child in sorted(self._children, key=lambda child: child.served):
            if child.item is None and waiting:
                child.item, child.deadline = waiting.popleft(), time.monotonic() + self.seconds
                try:
                    child.pipe.send_bytes(child.item.to_bytes(8, "big"))
                except OSError:
                    continue  # it died idle: its pipe reads as ended, and _collect tries the item again

    def _collect(self, waiting: deque[int]) -> Iterator[tuple[int, bytes | Lost]]:
        busy = [child for child in self._children if child.item is not None]
        next_deadline = min(child.deadline for child in busy) - time.monotonic()
        ready = wait([child.pipe for child in busy], timeout=max(0.0, min(TICK_SECONDS, next_deadline)))
        for child in busy:
            assert child.item is not None
            item = child.item
            if child.pipe in ready:
                yield from self._receive(child, item, waiting)
            elif time.monotonic() > child.deadline:
                self._replace(child)
                yield item, Lost(f"took longer than {self.seconds:g} seconds")

    def _receive(self, child: _Child, item: int, waiting: deque[int]) -> Iterator[tuple[int, bytes | Lost]]:
        try:
            result = child.pipe.recv_bytes()
        except (EOFError, OSError):
            status = self._replace(child, dying=True)
            if child.served:
                waiting.appendleft(item)
            else:
                yield item, Lost(_death(status, self.memory_mib))
            return
        child.item = None
        child.served += 1
        yield item, result

    def _replace(self, child: _Child, *, dying: bool = False) -> int:
        if dying:
            _await_death(child.pid)
        status = _end(child)
        self._children[self._children.index(child)] = self._start()
        return status

    def _start(self) -> _Child:
        here, there = Pipe()
        parent = os.getpid()
        pid = os.fork()
        if pid:
            there.close()
            return _Child(pid, here)
        try:
            here.close()
            self._settle_in(parent, keep=there.fileno())
            _serve(there, self.work)
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        finally:
            os._exit(BROKEN)

    def _settle_in(self, parent: int, keep: int) -> None:
        os.setpgrp()
        if hasattr(self._libc, "prctl"):
            self._libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
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
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _limit_memory(self.memory_mib << 20)


def _serve(pipe: Connection, work: Work) -> None:
    while True:
        try:
            item = int.from_bytes(pipe.recv_bytes(), "big")
        except EOFError:
            os._exit(0)
        pipe.send_bytes(work(item))


def _limit_memory(extra_bytes: int) -> None:
    """Address space of this process as it is now, plus `extra_bytes`. Not enforced by macOS."""
    if sys.platform != "linux":
        return
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = used + extra_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _highest_descriptor() -> int:
    folder = Path("/proc/self/fd") if sys.platform == "linux" else Path("/dev/fd")
    return max(int(entry.name) for entry in folder.iterdir())


def _await_death(pid: int) -> None:
    """Let a child whose pipe has ended die by itself, so that its status tells why; leaves it unreaped."""
    deadline = time.monotonic() + DEATH_SECONDS
    while time.monotonic() < deadline:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
            return
        time.sleep(0.001)


def _end(child: _Child) -> int:
    """Make sure that a child and what it started are gone; returns its wait status. Kills before it reaps: until then
    the process id cannot belong to anyone else."""
    child.pipe.close()
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError):
            kill(child.pid, signal.SIGKILL)
    return os.waitpid(child.pid, 0)[1]


def _death(status: int, memory_mib: int) -> str:
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return f"the extractor crashed ({name})"
    if os.WEXITSTATUS(status) == OUT_OF_MEMORY:
        return f"needs more than {memory_mib:,} MiB of memory"
    return f"the extractor ended its process (exit code {os.WEXITSTATUS(status)})"
