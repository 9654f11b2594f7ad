"""Runs inside a SLURM job, on its first node: takes the engine's job requests from the shared folder, one wait in the queue for all.

    python -P -m forge.plugins.compute._slurm_holder hold LEASE ROOT SECONDS IDLE GRACE
    python -P -m forge.plugins.compute._slurm_holder task LEASE ROOT SECONDS IDLE GRACE JOB     one task of an array

LEASE/owner            the SLURM job that may hold the lease: another one, submitted by mistake, ends at once
LEASE/asked            touched by the engine whenever it asks; untouched for IDLE seconds ends the lease
LEASE/requests/J.json  {"argv", "env"} of a job to start                LEASE/arrays/J.json   {"argvs", "env"}
LEASE/claimed/J        the request, when the holder has taken it
LEASE/spans/ID.R.json  how long SLURM job ID has run in its R-th incarnation; rewritten every BEAT_SECONDS: the heartbeat. `array`: J, or ""
ROOT/jobs/J/.job/      of _supervise.py, which watches the job; `stop` (grace seconds) asks for its end, `code` is the outcome

SIGUSR1 (sent ahead of the time limit) and the lease's own seconds end all jobs with PAST_DEADLINE, and untouched for IDLE with
ABANDONED; each is asked first, so that its checkpoint is whole. SIGTERM (scancel, preemption, a node taken away) ends them too, but no
code is written: SLURM may requeue this job, and the next incarnation starts them again under their ids, to go on from what they have
saved. Whether it does is for the queue to say. A task of an array, which may come through the queue much later, ends with the lease.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from forge.plugins.compute import _supervise
from forge.plugins.compute._slurm_nodes import STOPPED, nodes_environment, on_each_node, slurm_id

PREEMPTED, PAST_DEADLINE, ABANDONED = 85, 86, 87   # as in forge.protocols, which would import pydantic here
TICK_SECONDS, BEAT_SECONDS = 0.2, 1.0
LOOK_SECONDS = 5.0
"""How often a task of an array looks whether its lease is over."""
NEVER = 10.0**9
USR1_EARLY_SECONDS = 60.0   # sbatch(1), --signal: "may be sent up to 60 seconds earlier than specified"
PASSED_ON = (
    "PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "XDG_CACHE_HOME", "HF_HOME",
    "SLURM_CONF", "SLURMD_NODENAME",
)
"""What a job gets of the node's environment, besides SLURM_*."""


@dataclass
class Job:
    """A job that runs. wanted: the engine asked for its end."""

    name: str
    folder: Path
    watcher: subprocess.Popen[bytes]
    wanted: bool = False
    told: bool = False


@dataclass
class Holder:
    """One incarnation. lease, root: the folders above. seconds: of the lease, all incarnations together."""

    lease: Path
    root: Path
    seconds: float
    idle: float
    grace: float
    array: str = ""
    began: float = field(default_factory=time.monotonic)
    jobs: list[Job] = field(default_factory=list)
    ending: int = 0
    asked: tuple[float, int] = (0.0, 0)
    beaten: float = 0.0
    looked: float = -NEVER

    def __post_init__(self) -> None:
        """Listen to SLURM's signals."""
        self.id = slurm_id()
        self.restart = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        self.asked = (self.began, -1)
        for number in (signal.SIGUSR1, signal.SIGTERM):
            signal.signal(number, self._signalled)

    def hold(self) -> int:
        """Take requests until the lease ends."""
        if not self._owns():
            return 0
        self._go_on()
        while not self.ending:
            self._beat()
            self._take_requests()
            self._tend()
            self._decide()
            time.sleep(TICK_SECONDS)
        self._end_all()
        self._beat(ended=True)
        return 0

    def task(self, name: str, argv: list[str], env: dict[str, str]) -> int:
        """Run one job to its end; one that SLURM has requeued goes on. Nothing is begun when the lease is over."""
        folder = self.root / "jobs" / name
        (folder / ".job").mkdir(parents=True, exist_ok=True)
        self._decide()
        if self.ending:
            replace(folder / ".job" / "code", str(self.ending))
        elif not (folder / ".job" / "code").exists():
            self.jobs.append(self._start(name, argv, env))
        while self.jobs and not self.ending:
            self._beat()
            self._tend()
            self._decide()
            time.sleep(TICK_SECONDS)
        self._end_all()
        self._beat(ended=True)
        return 0

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        is_over = self._left() < self.grace + USR1_EARLY_SECONDS   # else the partition's limit is shorter than the lease
        self.ending = self.ending or (PAST_DEADLINE if number == signal.SIGUSR1 and is_over else PREEMPTED)

    def _owns(self) -> bool:
        """Whether this SLURM job is the lease's; the first one that comes is."""
        try:
            handle = os.open(self.lease / "owner", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return (self.lease / "owner").read_text(encoding="utf-8") in (self.id, "")
        with os.fdopen(handle, "w") as file:
            file.write(self.id)
        return True

    def _go_on(self) -> None:
        """Start again what an incarnation before this one was at; a job that the engine wanted to end has ended with it."""
        for claim in sorted((self.lease / "claimed").iterdir()):
            folder = self.root / "jobs" / claim.name / ".job"
            told: dict[str, Any] = json.loads(claim.read_text(encoding="utf-8"))
            if (folder / "stop").exists():
                replace(folder / "code", str(STOPPED[0]))
            elif not (folder / "code").exists():
                folder.mkdir(parents=True, exist_ok=True)
                self.jobs.append(self._start(claim.name, told["argv"], told["env"]))
            (self.lease / "requests" / f"{claim.name}.json").unlink(missing_ok=True)

    def _take_requests(self) -> None:
        for request in sorted((self.lease / "requests").glob("*.json")):
            try:
                text = request.read_text(encoding="utf-8")
            except FileNotFoundError:
                continue   # withdrawn
            told: dict[str, Any] = json.loads(text)
            replace(self.lease / "claimed" / request.stem, text)
            folder = self.root / "jobs" / request.stem
            try:
                (folder / ".job").mkdir(parents=True)
            except FileExistsError:
                (self.lease / "claimed" / request.stem).unlink()   # withdrawn, or started under an earlier lease
            else:
                self.jobs.append(self._start(request.stem, told["argv"], told["env"]))
            request.unlink(missing_ok=True)

    def _start(self, name: str, argv: list[str], env: dict[str, str]) -> Job:
        folder = self.root / "jobs" / name
        for left in (".job/rc", ".job/grace", "result.json"):
            (folder / left).unlink(missing_ok=True)   # of an earlier incarnation
        kept = {key: value for key, value in os.environ.items() if key in PASSED_ON or (key.startswith("SLURM_") and key != "SLURM_EXPORT_ENV")}
        command = [sys.executable, "-I", "-S", _supervise.__file__, str(folder), str(NEVER), str(self.grace), *on_each_node(argv)]
        watcher = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, cwd=folder,
            env={**kept, **env, **nodes_environment(), "FORGE_SECONDS_LEFT": f"{max(0.0, self._left()):.0f}"},
        )
        return Job(name, folder, watcher)

    def _tend(self) -> None:
        for job in list(self.jobs):
            stop = job.folder / ".job" / "stop"
            if not job.told and stop.exists():
                job.wanted = True
                self._ask_to_end(job, float(stop.read_text(encoding="utf-8")))
            if job.watcher.poll() is not None:
                self._note_code(job)

    def _note_code(self, job: Job) -> None:
        """Write down how a job has ended, unless SLURM ended it and may start it again."""
        rc = job.folder / ".job" / "rc"
        code = int(rc.read_text(encoding="utf-8")) if rc.exists() else -1
        self.jobs.remove(job)
        taken = bool(code) and not job.wanted and (job.told or code in STOPPED)
        why = self.ending or PREEMPTED
        if taken and why == PREEMPTED:
            self.ending = PREEMPTED   # SLURM's SIGTERM came to the job before it came to us
            return
        replace(job.folder / ".job" / "code", str(why if taken else code))

    def _ask_to_end(self, job: Job, grace: float) -> None:
        job.told = True
        replace(job.folder / ".job" / "grace", str(grace))
        _supervise.send_signal(job.watcher.pid, signal.SIGTERM)

    def _decide(self) -> None:
        """Whether the lease is over."""
        now = time.monotonic()
        seen = _changed(self.lease / "asked")
        if seen != self.asked[1]:
            self.asked = (now, seen)
        if self._left() <= self.grace:
            self.ending = self.ending or PAST_DEADLINE
        elif now - self.asked[0] > self.idle:
            self.ending = self.ending or ABANDONED
        elif self.array and now - self.looked > LOOK_SECONDS:
            self.looked = now
            self.ending = self.ending or how_it_ended(self.lease)

    def _left(self) -> float:
        """Seconds until the lease's deadline."""
        return self.seconds - self._used_before() - (time.monotonic() - self.began)

    def _used_before(self) -> float:
        """Seconds of this SLURM job's earlier incarnations."""
        if not self.restart:
            return 0.0
        earlier = [span for span in spans(self.lease, self.id) if span["restart"] < self.restart]
        return float(sum(span["seconds"] for span in earlier))

    def _end_all(self) -> None:
        """Ask every job to end, and wait until it has."""
        for job in self.jobs:
            if not job.told:
                self._ask_to_end(job, self.grace)
        while self.jobs:
            self._beat()
            for job in list(self.jobs):
                if job.watcher.poll() is not None:
                    self._note_code(job)
            time.sleep(TICK_SECONDS / 4)

    def _beat(self, *, ended: bool = False) -> None:
        now = time.monotonic()
        if not ended and now - self.beaten < BEAT_SECONDS:
            return
        self.beaten = now
        span = {
            "job": self.id, "restart": self.restart, "node": os.environ.get("SLURMD_NODENAME", ""), "seconds": round(now - self.began, 3),
            "ended": ended, "why": self.ending, "array": self.array,
        }
        replace(self.lease / "spans" / f"{self.id}.{self.restart}.json", json.dumps(span))


def spans(lease: Path, job: str = "") -> list[dict[str, Any]]:
    """How long each incarnation of each SLURM job of a lease has run, by its own count; of one job only if told."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted((lease / "spans").glob(f"{job or '*'}.*.json"))]


def how_it_ended(lease: Path) -> int:
    """PAST_DEADLINE or ABANDONED when the holder has ended the lease; 0 while it may go on, in another incarnation too."""
    owner = lease / "owner"
    held = spans(lease, owner.read_text(encoding="utf-8")) if owner.exists() else []
    return next((int(span["why"]) for span in held if span["ended"] and span["why"] in (PAST_DEADLINE, ABANDONED)), 0)


def replace(path: Path, text: str) -> None:
    """Write a small file whole: readers see the old or the new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def main(argv: list[str]) -> int:
    """Do what the first argument says."""
    holder = Holder(Path(argv[1]), Path(argv[2]), seconds=float(argv[3]), idle=float(argv[4]), grace=float(argv[5]), array="".join(argv[6:]))
    if argv[0] == "hold":
        return holder.hold()
    number = int(os.environ["SLURM_ARRAY_TASK_ID"])
    told: dict[str, Any] = json.loads((holder.lease / "arrays" / f"{argv[6]}.json").read_text(encoding="utf-8"))
    return holder.task(f"{argv[6]}-{number}", told["argvs"][number], told["env"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
