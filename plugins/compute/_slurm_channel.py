"""Files and jobs of a lease in SLURM: requests, outcomes and heartbeats are files of the shared folder, so most looks ask nobody."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from forge.errors import ForgeError, MachineLost
from forge.plugins.compute._folder import FolderChannel, copy
from forge.plugins.compute._slurm import QueuedJob, Unanswered, seconds_of
from forge.plugins.compute._slurm_holder import PAST_DEADLINE, replace, spans

STALL_SECONDS = 10.0
"""A holder that has written no heartbeat for so long is looked up in the queue."""
UNSEEN_SECONDS = 120.0
"""How long a running job may take until its first file is seen here; a shared folder's caches need seconds."""
GONE, KILLED = -1, 137


class Asks(Protocol):
    """What a channel needs of its provider."""

    controller_seconds: float
    queue_seconds: float

    def jobs_of(self, token: str) -> list[QueuedJob]:
        """The queue's lines of a lease. Raises Unanswered."""
        ...

    def submit_array(self, lease: Path, job: str, tasks: int) -> None:
        """Hand in an array; idempotent by its name."""
        ...

    def cancel_array(self, lease: Path, job: str) -> None:
        """End an array."""
        ...

    def array_usd(self, lease: Path, tasks: int) -> float:
        """The most that so many tasks, started now, can cost."""
        ...


class SharedFolderChannel(FolderChannel):
    """forge.protocols.Channel below `root`; `lease` is the folder in it that the job's holder looks at."""

    def __init__(self, provider: Asks, root: Path, lease: Path, python: str, poll_seconds: float, *, arrays: bool = False) -> None:
        """arrays: spawn_array() may be used."""
        super().__init__(root)
        self.poll_seconds, self.arrays = poll_seconds, arrays
        self._provider, self._lease, self._python = provider, lease, python
        self._beat: tuple[list[dict[str, Any]], float] = ([], -1e9)
        self._queue: tuple[float, list[QueuedJob]] = (-1e9, [])
        self._silent_since: float | None = None
        self._asked = 0.0

    def prepare(self, tell: Callable[[str], None]) -> str:
        """The Python of the setting slurm.python, which the nodes see too. Says when the job still waits in the queue."""
        try:
            rows = self._rows()
        except Unanswered:
            rows = []
        for row in rows:
            if row.stage == "starting" and "@" not in row.name:
                tell(f"SLURM job {row.id} waits in the queue ({row.reason}); it starts when there is room, and keeps its place if you stop here")
        return self._python or sys.executable

    def put(self, local: Path, remote: str, sha256: str = "") -> None:
        """Copy a file or folder to `remote`, replacing it whole; one that was put under the same hash is left."""
        target = self._inside(remote)
        mark = target.with_name(f".{target.name}.sha256")
        if sha256 and target.exists() and mark.exists() and mark.read_text(encoding="utf-8") == sha256:
            return
        mark.unlink(missing_ok=True)
        copy(local, target)
        if sha256:
            replace(mark, sha256)

    def spawn(self, job: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Ask the holder to start a job, now or when it has come through the queue; a second request does nothing."""
        folder = self._inside(f"jobs/{job}")
        folder.mkdir(parents=True, exist_ok=True)
        self._touch()
        if not (folder / ".job").exists():
            replace(self._lease / "requests" / f"{job}.json", json.dumps({"argv": [*argv], "env": {**env}}))

    def spawn_array(self, job: str, argvs: Sequence[Sequence[str]], env: Mapping[str, str]) -> list[str]:
        """Start one job for each argv as tasks of an array, beside the holder; returns their ids for poll() and read().

        A second call with the same id does nothing. A task whose node fails is started again by SLURM under its id.
        """
        names = [f"{job}-{number}" for number in range(len(argvs))]
        for name in names:
            self._inside(f"jobs/{name}").mkdir(parents=True, exist_ok=True)
        self._touch()
        replace(self._lease / "arrays" / f"{job}.json", json.dumps({"argvs": [[*argv] for argv in argvs], "env": {**env}}))
        if any(self._code(name) is None for name in names):
            self._provider.submit_array(self._lease, job, len(argvs))
        self._queue = (-1e9, [])
        return names

    def array_usd(self, tasks: int) -> float:
        """The most that so many tasks, started now, can cost besides the lease."""
        return self._provider.array_usd(self._lease, tasks)

    def poll(self, job: str) -> int | None:
        """The job's exit code, None while it runs or waits in the queue, -1 when it was never started."""
        self._touch()
        if (code := self._code(job)) is not None:
            return code
        array = self._array_of(job)
        if not array and not (self._lease / "requests" / f"{job}.json").exists() and not self._inside(f"jobs/{job}/.job").exists():
            return GONE
        if self._is_heard(array):
            return None
        return self._ask_the_queue(job, array)

    def stop(self, job: str, *, grace_seconds: float) -> None:
        """Ask the job's watcher to end it with all it started, and wait for the code. One in the queue is withdrawn."""
        if self._array_of(job + "-0"):
            self._provider.cancel_array(self._lease, job)
            return
        folder = self._inside(f"jobs/{job}/.job")
        if self.poll(job) is not None or self._withdraw(job, folder):
            return
        replace(folder / "stop", str(grace_seconds))
        until = time.monotonic() + grace_seconds + UNSEEN_SECONDS
        while self.poll(job) is None:
            if time.monotonic() > until:
                raise ForgeError(f"the job {job} does not end", why="its holder does not answer", next=f"scancel --name=forge-{self._token()}")
            time.sleep(0.1)

    def _withdraw(self, job: str, folder: Path) -> bool:
        try:
            folder.mkdir()
        except FileExistsError:
            return False
        (self._lease / "requests" / f"{job}.json").unlink(missing_ok=True)
        replace(folder / "code", "130")
        return True

    def _code(self, job: str) -> int | None:
        path = self._inside(f"jobs/{job}/.job/code")
        return int(path.read_text(encoding="utf-8")) if path.exists() else None

    def _array_of(self, job: str) -> str:
        """The array that a job is a task of, "" for none."""
        name, _, number = job.rpartition("-")
        return name if number.isdigit() and (self._lease / "arrays" / f"{name}.json").exists() else ""

    def _is_heard(self, array: str) -> bool:
        """Whether the heartbeat has moved lately. Moments are counted here: the nodes' clocks may differ."""
        if array:
            return False   # many tasks, some of them in the queue: the queue is asked
        living, now = [span for span in spans(self._lease, self._holder()) if not span["ended"]], time.monotonic()
        before, since = self._beat
        if living and living != before:
            self._beat, self._silent_since = (living, now), None
            return True
        return bool(living) and now - since < STALL_SECONDS

    def _holder(self) -> str:
        owner = self._lease / "owner"
        return owner.read_text(encoding="utf-8") if owner.exists() else "none"

    def _ask_the_queue(self, job: str, array: str) -> int | None:
        try:
            rows = self._rows()
        except Unanswered as error:
            self._wait_for_the_controller(error)
            return None
        self._silent_since = None
        mine = [row for row in rows if self._is_mine(row, job, array)]
        if any(row.stage != "gone" for row in mine):
            self._check_that_folder_is_shared(mine)
            return None
        if (code := self._code(job)) is not None:   # written between the two looks
            return code
        return self._why_gone(mine, array)

    def _why_gone(self, rows: Sequence[QueuedJob], array: str) -> int:
        """The code for a job whose SLURM job has ended without one. Raises MachineLost where another machine may do, else ForgeError."""
        states = {row.state for row in rows}
        told = spans(self._lease, rows[0].id if array and rows else self._holder())
        if states & {"TIMEOUT", "DEADLINE"}:
            return PAST_DEADLINE
        if "OUT_OF_MEMORY" in states:
            return KILLED
        if told and told[-1]["ended"]:
            return int(told[-1]["why"])
        if not told and "FAILED" in states:
            log = self._lease / "slurm.log"
            said = log.read_text(encoding="utf-8", errors="replace").strip()[-500:] if log.exists() else "SLURM could not write its log: is slurm.folder shared with the nodes?"
            raise ForgeError(f"SLURM job {rows[0].id} could not start on {rows[0].nodes}", why=said, next="forge config show slurm   # python and folder have to exist on the nodes")
        raise MachineLost(f"SLURM job {self._holder()} is gone ({', '.join(sorted(states)) or 'not in the queue any more'})")

    def _is_mine(self, row: QueuedJob, job: str, array: str) -> bool:
        name = f"forge-{self._token()}"
        if array:
            return row.name == f"{name}@{array}" and row.id.endswith(f"_{job.rpartition('-')[2]}")
        return row.name == name

    def _wait_for_the_controller(self, error: Unanswered) -> None:
        """Jobs go on without slurmctld; not knowing is not gone. Raises MachineLost after controller_seconds."""
        now = time.monotonic()
        self._silent_since = self._silent_since or now
        if now - self._silent_since > self._provider.controller_seconds:
            raise MachineLost(
                f"SLURM's controller has not answered for {self._provider.controller_seconds:.0f} seconds, and the job shows no sign of life",
                why=str(error), next="scontrol ping, then forge resume",
            )

    def _check_that_folder_is_shared(self, rows: Sequence[QueuedJob]) -> None:
        """A job that SLURM calls running must show up in the folder."""
        running = [row for row in rows if row.stage == "live"]
        if running and not any((self._lease / "spans").iterdir()) and seconds_of(running[0].used) > UNSEEN_SECONDS:
            raise ForgeError(
                f"SLURM job {running[0].id} runs on {running[0].nodes}, and nothing of it is seen in {self._lease}",
                why="the folder is not shared with the nodes", next="set slurm.folder to one that is: --set slurm.folder=/shared/folder",
            )

    def _rows(self) -> list[QueuedJob]:
        """The queue's lines of the lease, at most queue_seconds old."""
        at, rows = self._queue
        if time.monotonic() - at >= self._provider.queue_seconds:
            rows = self._provider.jobs_of(self._token())
            self._queue = (time.monotonic(), rows)
        return rows

    def _token(self) -> str:
        return self._lease.name.rpartition("-")[0]

    def _touch(self) -> None:
        """Tell the holder that somebody is there, at most every second."""
        if time.monotonic() - self._asked > 1.0:
            self._asked = time.monotonic()
            (self._lease / "asked").touch()
