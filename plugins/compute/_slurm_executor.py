"""Maps shards on a SLURM cluster: an array whose task k does the shards k, k + N, k + 2 N of a shared folder (forge.executor).

    python -P -m forge.plugins.compute._slurm_executor FOLDER N      in task SLURM_ARRAY_TASK_ID of the array
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from forge.errors import ForgeError
from forge.executor import TRIES, failure, results, unfinished, work_on, write_shards
from forge.plugins.compute import _slurm
from forge.plugins.compute._slurm import QueuedJob, Unanswered

S = TypeVar("S")
T = TypeVar("T")

LOOK_SECONDS = 0.5


class Site(Protocol):
    """What is needed of the provider."""

    queue_seconds: float

    def jobs_named(self, name: str) -> list[QueuedJob]:
        """The queue's lines of a name that have not ended. Raises Unanswered."""
        ...

    def task_options(self) -> list[str]:
        """Options of sbatch for a task without GPUs."""
        ...

    def task_command(self, *words: str) -> str:
        """A script that starts this package's Python with these words."""
        ...


class SlurmExecutor:
    """forge.protocols.Executor. folder: its own, shared with the nodes; run: for the queue's comment; tasks: most beside each other.

    tick(): called while waiting; may raise, and the array is then cancelled.
    """

    def __init__(self, site: Site, folder: Path, run: str, tasks: int, tick: Callable[[], None] = lambda: None) -> None:
        self.site, self.folder, self.run, self.tasks, self.tick = site, folder.absolute(), run, tasks, tick

    def map_shards(self, function: Callable[[S], T], shards: Iterable[S]) -> Iterator[T]:
        """Results in the order of the shards. A shard whose task died is done again; one that fails TRIES times is an error."""
        name = f"{_slurm.PREFIX}shards-{self.run}-{write_shards(self.folder, function, shards)}@map"
        left, tries = unfinished(self.folder), 0
        while left:
            if tries == TRIES:
                raise ForgeError(f"{len(left)} parts of the work did not come to their end in {TRIES} SLURM arrays", why=failure(self.folder, left[0]), next=f"{self.folder} has the logs")
            tries += 1
            self._submit(name, left)
            try:
                self._wait(name)
            except BaseException:
                _slurm.cancel("--me", f"--name={name}")
                raise
            left = unfinished(self.folder)
        yield from results(self.folder)

    def _submit(self, name: str, left: Sequence[int]) -> None:
        """Hand in the array, unless an earlier process did and it is still there."""
        if self.site.jobs_named(name):
            return
        tasks = min(self.tasks, len(left))
        script = self.folder / "task.sh"
        script.write_text(self.site.task_command("-m", __name__, str(self.folder), str(tasks)), encoding="utf-8")
        _slurm.submit([
            f"--job-name={name}", f"--comment={self.run}", f"--chdir={self.folder}", f"--output={self.folder}/%a.log", "--open-mode=append", "--requeue",
            "--export=NONE", f"--array=0-{tasks - 1}", *self.site.task_options(), str(script),
        ])

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


def task_time(limit: float) -> str:
    """The time limit of a task: a day, or the partition's own."""
    return f"--time={math.floor(min(limit or 86400.0, 86400.0) / 60)}"


def main(argv: Sequence[str]) -> int:
    """Do this task's shards; one that fails leaves the others to be done."""
    folder, tasks = Path(argv[0]), int(argv[1])
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
