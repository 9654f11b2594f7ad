"""Maps a function over shards in processes of this machine; each result is a file that appears whole, so a lost process costs one shard.

A shard and its result are pickled: they never leave the run's own folders. The function is one of a module, so that another process, here
or on another machine, finds it by its name. Results stay until the phase is done, so that a later process begins where this one was killed.
Of the shards one at a time is in memory.
"""

from __future__ import annotations

import gc
import hashlib
import io
import os
import pickle
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

from pydantic import BaseModel

from forge.errors import ForgeError
from forge.protocols import Lease, Offer

S = TypeVar("S")
T = TypeVar("T")

TRIES = 3
"""How often a shard whose process died is begun."""
TICK_SECONDS = 0.02
NAME_BYTES = 200


ALONE = "forge resume --set run.shards=0 does the work in one process"


class MakesExecutors(Protocol):
    """What a compute provider has that can map shards too. folder: empty, the executor's own."""

    def executor(self, folder: Path, run: str, tasks: int, tick: Callable[[], None], books: Books) -> Any:
        """A forge.protocols.Executor with so many tasks beside each other. tick(): called while waiting; may raise.

        What costs money is reserved in `books` before it is asked for, under a token that Provider.find() and settle() know.
        """
        ...


class Books(Protocol):
    """The run's ledger for machines, as an executor needs it (forge.lease.Leases). All raise what leasing raises."""

    def open(self, offer: Offer, deadline_seconds: int, token: str, prepare: Callable[[Lease], None]) -> Lease:
        """Reserve the offer's rate for so long; prepare(lease) is called before anything may be asked for."""
        ...

    def is_open(self, token: str) -> bool:
        """Whether something may be at work under this token, whichever process asked for it."""
        ...

    def end(self, token: str) -> None:
        """End what is left of it, with proof, and settle."""
        ...


@dataclass
class _Worker:
    """A process, the pipe through which it hears what to do, and the shard that it has; None when it waits."""

    pid: int
    pipe: int
    number: int | None = None


class LocalExecutor:
    """Forked processes of this machine, `workers` at once, each for many shards. folder: its own, empty. tick(): called while waiting; may raise."""

    def __init__(self, folder: Path, workers: int, tick: Callable[[], None] = lambda: None) -> None:
        self.folder, self.workers, self.tick = folder, workers, tick
        self._working: list[_Worker] = []

    def map_shards(self, function: Callable[[S], T], shards: Iterable[S]) -> Iterator[T]:
        """Results in the order of the shards. Raises ForgeError for a shard whose process dies again and again."""
        write_shards(self.folder, function, shards)
        waiting, tries = unfinished(self.folder), Counter[int]()
        try:
            while waiting or self._working:
                self._hand_out(waiting)
                self.tick()
                for number in self._lost():
                    tries[number] += 1
                    if tries[number] == TRIES:
                        raise ForgeError(f"a part of the work ended its process {TRIES} times", why=failure(self.folder, number), next=ALONE)
                    waiting.append(number)
                time.sleep(TICK_SECONDS)
        finally:
            for worker in self._working:
                os.kill(worker.pid, signal.SIGKILL)
                os.waitpid(worker.pid, 0)
                os.close(worker.pipe)
            self._working.clear()
        yield from results(self.folder)

    def _hand_out(self, waiting: list[int]) -> None:
        """Give every worker that waits a shard, or its leave."""
        while len(self._working) < min(self.workers, sum(one.number is not None for one in self._working) + len(waiting)):
            self._working.append(self._begin())
        for worker in list(self._working):
            if worker.number is not None and _result(self.folder, worker.number).exists():
                worker.number = None
            if worker.number is None and waiting:
                worker.number = waiting.pop(0)
                with suppress(BrokenPipeError):   # it is dead: _lost() will tell
                    os.write(worker.pipe, b"%d\n" % worker.number)
            elif worker.number is None:
                self._working.remove(worker)
                os.close(worker.pipe)
                os.waitpid(worker.pid, 0)

    def _begin(self) -> _Worker:
        heard, pipe = os.pipe()
        pid = os.fork()
        if pid:
            os.close(heard)
            return _Worker(pid, pipe)
        try:
            for one in self._working:
                os.close(one.pipe)   # else a sibling would wait for ever when the engine is gone
            os.close(pipe)
            gc.freeze()   # what the engine holds is no garbage of ours: looking through it would copy every page of it
            with os.fdopen(heard) as numbers:
                for number in numbers:
                    work_on(self.folder, int(number))
        finally:
            os._exit(0)

    def _lost(self) -> list[int]:
        """Shards whose process has ended without their result."""
        lost = []
        for worker in list(self._working):
            if os.waitpid(worker.pid, os.WNOHANG)[0]:
                self._working.remove(worker)
                os.close(worker.pipe)
                if worker.number is not None and not _result(self.folder, worker.number).exists():
                    lost.append(worker.number)
        return lost


def each(items: Iterable[S], name: Callable[[S], str]) -> Iterator[S]:
    """The items of a shard one after the other. Should an error or the end of the process come in one of them, failure() names it.

    name: what the user knows the item by. Costs 1.5 microseconds an item; without a shard being worked on it does nothing.
    """
    for item in items:
        if _place is not None:
            os.pwrite(_place, name(item).encode("utf-8", "replace")[:NAME_BYTES].ljust(NAME_BYTES), 0)
        yield item


def write_shards(folder: Path, function: Callable[[Any], Any], shards: Iterable[Any]) -> str:
    """Write what there is to do; returns a name for it. Results of the same work that an earlier process had are kept."""
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    parts, count = [_write(fresh / "function", function)], 0
    for count, shard in enumerate(shards, 1):
        parts.append(_write(fresh / f"{count - 1}.shard", shard))
    identity = hashlib.sha256(b"".join(parts)).hexdigest()[:16]
    if (note := folder / "identity").exists() and note.read_text(encoding="utf-8") == identity:
        shutil.rmtree(fresh)
        return identity
    (fresh / "count").write_text(str(count), encoding="utf-8")
    (fresh / "identity").write_text(identity, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    return identity


def work_on(folder: Path, number: int) -> None:
    """Compute one shard; its result appears by rename. An exception is written beside it and raised."""
    global _place
    target = _result(folder, number)
    if target.exists():
        return
    _place = os.open(folder / f"{number}.at", os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    try:
        function = pickle.loads((folder / "function").read_bytes())
        data = pickle.dumps(function(pickle.loads((folder / f"{number}.shard").read_bytes())))
    except Exception as error:
        (folder / f"{number}.error").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
        raise
    finally:
        os.close(_place)
        _place = None
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    partial.write_bytes(data)
    partial.replace(target)


def unfinished(folder: Path) -> list[int]:
    """Shards without a result."""
    count = int((folder / "count").read_text(encoding="utf-8"))
    return [number for number in range(count) if not _result(folder, number).exists()]


def finished(folder: Path) -> int:
    """How many shards have their result."""
    return sum(1 for _ in folder.glob("[0-9]*.result"))


def results(folder: Path) -> Iterator[Any]:
    """All results, in order, one at a time in memory. They stay; the shards are removed."""
    count = int((folder / "count").read_text(encoding="utf-8"))
    for number in range(count):
        (folder / f"{number}.shard").unlink(missing_ok=True)
    for number in range(count):
        yield pickle.loads(_result(folder, number).read_bytes())


def failure(folder: Path, number: int) -> str:
    """Why a shard has no result, as far as it could say, and the item that it had come to, where it goes through each()."""
    error, at = folder / f"{number}.error", folder / f"{number}.at"
    told = error.read_text(encoding="utf-8") if error.exists() else "its process was killed"
    item = at.read_text(encoding="utf-8", errors="replace").strip() if at.exists() else ""
    return f"{told}, at {item}" if item else told


_place: int | None = None
"""The open file of the shard that this process works on: which item it has come to."""


class _SteadyPickler(pickle.Pickler):
    """The same bytes for the same work in every process: a resumed one has to find the results of the one before.

    Without the memo, since strings that are one object here may be equal copies there; and the names of a model's fields, a set,
    in their order, since the order in a set changes from process to process.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.fast = True

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, BaseModel):
            return _model, (type(obj), obj.__dict__, sorted(obj.model_fields_set))
        return NotImplemented


def _model(kind: type[BaseModel], values: dict[str, Any], given: list[str]) -> BaseModel:
    return kind.model_construct(set(given), **values)


def _write(path: Path, thing: Any) -> bytes:
    """Write a thing pickled; returns its hash."""
    data = io.BytesIO()
    _SteadyPickler(data).dump(thing)
    path.write_bytes(data.getbuffer())
    return hashlib.sha256(data.getbuffer()).digest()


def _result(folder: Path, number: int) -> Path:
    return folder / f"{number}.result"
