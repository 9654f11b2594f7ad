"""Maps shards on a SLURM cluster: an array whose task k does the shards k, k + N, k + 2 N of a shared folder (forge.executor).

    python -P -m forge.plugins.compute._slurm_executor FOLDER N [LEASE]      in task SLURM_ARRAY_TASK_ID of the array

With a price each array is a lease of its own, reserved before it is handed in: every task for as long as SLURM lets it run. It is
settled by what the tasks have counted themselves in LEASE/spans, as those of a lease's own job do.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from forge.errors import ForgeError, OverBudget
from forge.executor import TRIES, Books, failure, results, unfinished, work_on, write_shards
from forge.plugins.compute import _slurm
from forge.plugins.compute._slurm import Unanswered
from forge.plugins.compute._slurm_holder import BEAT_SECONDS, replace
from forge.plugins.compute._slurm_nodes import slurm_id
from forge.plugins.compute._slurm_tasks import Tasks

S = TypeVar("S")
T = TypeVar("T")

LOOK_SECONDS = 0.5
END_SECONDS = 60.0
"""What SLURM may take to end a task whose time is over (KillWait, 30 seconds by default)."""


class SlurmExecutor:
    """forge.protocols.Executor. folder: its own, shared with the nodes; run: for the queue's comment; tasks: most beside each other.

    tick(): called while waiting; may raise, and the array is then cancelled. books: where its cost is reserved and settled; without
    them only what is free is done.
    """

    def __init__(self, site: Tasks, folder: Path, run: str, tasks: int, tick: Callable[[], None], books: Books | None = None) -> None:
        self.site, self.folder, self.run, self.tasks, self.tick, self.books = site, folder.absolute(), run, tasks, tick, books

    def map_shards(self, function: Callable[[S], T], shards: Iterable[S]) -> Iterator[T]:
        """Results in the order of the shards. A shard whose task died is done again; one that fails TRIES times is an error."""
        token = f"shards-{self.run}-{write_shards(self.folder, function, shards)}"
        name = f"{_slurm.PREFIX}{token}@map"
        left, tries = unfinished(self.folder), 0
        while left:
            if tries == TRIES:
                raise ForgeError(f"{len(left)} parts of the work did not come to their end in {TRIES} SLURM arrays", why=failure(self.folder, left[0]), next=f"{self.folder} has the logs")
            tries += 1
            self._submit(name, token, left)
            try:
                self._wait(name)
            except BaseException:
                _slurm.cancel("--me", f"--name={name}")
                raise
            self._settle(token)
            left = unfinished(self.folder)
        self._settle(token)   # of an earlier process that was killed after its last shard
        yield from results(self.folder)

    def _submit(self, name: str, token: str, left: Sequence[int]) -> None:
        """Hand in the array, unless an earlier process did and it is still there."""
        if self.site.jobs_named(name):
            return
        tasks, seconds = min(self.tasks, len(left)), self.site.seconds()
        account = self._reserve(token, tasks, seconds)
        script = self.folder / "task.sh"
        script.write_text(self.site.command("-m", __name__, str(self.folder), str(tasks), *account), encoding="utf-8")
        _slurm.submit([
            f"--job-name={name}", f"--comment={self.run}", f"--chdir={self.folder}", f"--output={self.folder}/%a.log", "--open-mode=append",
            "--no-requeue" if account else "--requeue",   # a second start has the whole time again, which was not reserved
            "--export=NONE", f"--array=0-{tasks - 1}", *self.site.options(seconds), str(script),
        ])

    def _reserve(self, token: str, tasks: int, seconds: float) -> list[str]:
        """The folder where the tasks count their time; none where they cost nothing. Raises OverBudget."""
        offer, folder = self.site.offer(tasks), list[str]()
        if not offer.usd_per_hour:
            return []
        if self.books is None:
            raise OverBudget(f"{offer.name} cost ${offer.usd_per_hour:g} an hour", why="nobody keeps books here")
        try:
            self.books.open(offer, math.ceil(seconds + END_SECONDS), token, lambda lease: folder.append(str(self.site.open(lease, tasks))))
        except OverBudget as error:
            told = f"{error.why}; {tasks} tasks may run {seconds / 3600:.3g} hours each"
            raise OverBudget(error.fact, why=told, next=f"{error.next}; or --set slurm.task_minutes=N, or fewer run.shards") from error
        return folder

    def _settle(self, token: str) -> None:
        if self.books is not None and self.books.is_open(token):
            self.books.end(token)

    def _wait(self, name: str) -> None:
        """Until every shard has its result, or no task is left that could write one."""
        asked = time.monotonic()
        while unfinished(self.folder):
            self.tick()
            time.sleep(LOOK_SECONDS)
            if time.monotonic() - asked < self.site.queue_seconds:
                continue
            asked = time.monotonic()
            try:
                if not self.site.jobs_named(name):
                    return
            except Unanswered:
                continue   # the controller is down; tasks go on without it


def count_time(lease: Path) -> Callable[[], None]:
    """Write down every second how long this process has run, in the form of _slurm_holder.py; returns what writes the last word."""
    began, path = time.monotonic(), lease / "spans" / f"{slurm_id()}.0.json"

    def write(*, ended: bool) -> None:
        span = {"job": slurm_id(), "restart": 0, "node": os.environ.get("SLURMD_NODENAME", ""), "seconds": round(time.monotonic() - began, 3)}
        replace(path, json.dumps({**span, "ended": ended, "why": 0, "array": ""}))

    def beat() -> None:
        while not over.wait(BEAT_SECONDS):
            write(ended=False)

    def end() -> None:
        over.set()
        thread.join()
        write(ended=True)

    over, thread = threading.Event(), threading.Thread(target=beat, daemon=True)
    write(ended=False)
    thread.start()
    return end


def main(argv: Sequence[str]) -> int:
    """Do this task's shards, counting its time where it costs money."""
    end = count_time(Path(argv[2])) if argv[2:] else lambda: None
    try:
        return work(Path(argv[0]), int(argv[1]))
    finally:
        end()


def work(folder: Path, tasks: int) -> int:
    """Do this task's shards; one that fails leaves the others to be done."""
    own = int(os.environ["SLURM_ARRAY_TASK_ID"])
    failed = 0
    for number in [number for number in unfinished(folder) if number % tasks == own]:
        try:
            work_on(folder, number)
        except Exception as error:  # noqa: BLE001 - written beside the shard by work_on; told by map_shards
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
