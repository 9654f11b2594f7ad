"""Maps a function over shards in processes of this machine; each result is a file that appears whole, so a lost process costs one shard.

A shard and its result are pickled: they never leave the run's own folders. The function is one of a module, so that another process, here
or on another machine, finds it by its name.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

from forge.errors import ForgeError

S = TypeVar("S")
T = TypeVar("T")

TRIES = 3
"""How often a shard whose process died is begun."""
TICK_SECONDS = 0.02


class MakesExecutors(Protocol):
    """What a compute provider has that can map shards too. folder: empty, the executor's own."""

    def executor(self, folder: Path, run: str, tasks: int, tick: Callable[[], None]) -> Any:
        """A forge.protocols.Executor with so many tasks beside each other. tick(): called while waiting; may raise."""
        ...


class LocalExecutor:
    """Forked processes of this machine, `workers` at once. folder: its own, empty. tick(): called while waiting; may raise."""

    def __init__(self, folder: Path, workers: int, tick: Callable[[], None] = lambda: None) -> None:
        self.folder, self.workers, self.tick = folder, workers, tick
        self._children: dict[int, int] = {}

    def map_shards(self, function: Callable[[S], T], shards: Iterable[S]) -> Iterator[T]:
        """Results in the order of the shards. Raises ForgeError for a shard whose process dies again and again."""
        write_shards(self.folder, function, shards)
        waiting, tries = unfinished(self.folder), dict[int, int]()
        try:
            while waiting or self._children:
                while waiting and len(self._children) < self.workers:
                    number = waiting.pop(0)
                    tries[number] = tries.get(number, 0) + 1
                    self._children[self._begin(number)] = number
                self.tick()
                for number in self._ended():
                    if tries[number] == TRIES:
                        raise ForgeError(f"a part of the work ended its process {TRIES} times", why=failure(self.folder, number))
                    waiting.append(number)
                time.sleep(TICK_SECONDS)
        finally:
            for pid in self._children:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            self._children.clear()
        yield from results(self.folder)

    def _begin(self, number: int) -> int:
        pid = os.fork()
        if pid:
            return pid
        try:
            work_on(self.folder, number)
        finally:
            os._exit(0)

    def _ended(self) -> list[int]:
        """Shards whose process has ended without a result."""
        lost = []
        for pid, number in list(self._children.items()):
            if os.waitpid(pid, os.WNOHANG)[0]:
                del self._children[pid]
                if not _result(self.folder, number).exists():
                    lost.append(number)
        return lost


def write_shards(folder: Path, function: Callable[[Any], Any], shards: Iterable[Any]) -> str:
    """Write what there is to do; returns a name for it. Results of the same work that an earlier process had are kept."""
    todo = [pickle.dumps(function), *(pickle.dumps(shard) for shard in shards)]
    identity = hashlib.sha256(b"".join(hashlib.sha256(one).digest() for one in todo)).hexdigest()[:16]
    note = folder / "identity"
    if note.exists() and note.read_text(encoding="utf-8") == identity:
        return identity
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "function").write_bytes(todo[0])
    for number, data in enumerate(todo[1:]):
        (folder / f"{number}.shard").write_bytes(data)
    (folder / "count").write_text(str(len(todo) - 1), encoding="utf-8")
    note.write_text(identity, encoding="utf-8")
    return identity


def work_on(folder: Path, number: int) -> None:
    """Compute one shard; its result appears by rename. An exception is written beside it and raised."""
    target = _result(folder, number)
    if target.exists():
        return
    try:
        function = pickle.loads((folder / "function").read_bytes())
        data = pickle.dumps(function(pickle.loads((folder / f"{number}.shard").read_bytes())))
    except Exception as error:
        (folder / f"{number}.error").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
        raise
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    partial.write_bytes(data)
    partial.replace(target)


def unfinished(folder: Path) -> list[int]:
    """Shards without a result."""
    count = int((folder / "count").read_text(encoding="utf-8"))
    return [number for number in range(count) if not _result(folder, number).exists()]


def results(folder: Path) -> Iterator[Any]:
    """All results, in order; the folder is removed after the last one."""
    for number in range(int((folder / "count").read_text(encoding="utf-8"))):
        yield pickle.loads(_result(folder, number).read_bytes())
    shutil.rmtree(folder)


def failure(folder: Path, number: int) -> str:
    """Why a shard has no result, as far as it could say."""
    path = folder / f"{number}.error"
    return path.read_text(encoding="utf-8") if path.exists() else "its process was killed"


def _result(folder: Path, number: int) -> Path:
    return folder / f"{number}.result"
