"""A cloud of folders whose machines run real worker processes: they can be killed, cut off and taken back at any moment.

    cloud/machines/<id>.json   what find() lists: machines, and the key that was made for each
    cloud/disks/<id>/          a machine's disk: what the channel's root is
    cloud/cut                  while it is there no channel answers

One process (the host) starts the jobs of all machines, so that they outlive whoever asked for them. `step` is called in the
engine's process before and after everything that the provider and its channels do: it may kill that process.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from forge.errors import ForgeError, MachineLost
from forge.protocols import ABANDONED, PAST_DEADLINE, PREEMPTED, Lease, Need, Offer, Resource

OFFER = Offer(provider="rented", name="gpu.large", usd_per_hour=2.0, device="cuda", cores=8, memory_gib=64)
BILL = 10_000
"""What each machine costs, in micro-dollars, however long it was up."""
TICK = 0.004

ENDS = {"taken_back": PREEMPTED, "past_deadline": PAST_DEADLINE, "abandoned": ABANDONED}
"""Files on a machine's disk that make its jobs end at a checkpoint, with the exit code that says why."""

Step = Callable[[str], None]
RunJob = Callable[[Path], int]


class Rented:
    """The provider. `take_back` and `lose` are what a cloud does to its customers."""

    requires: ClassVar[tuple[Any, ...]] = ()
    creation_seconds: ClassVar[float] = 0.02
    confirm_seconds: ClassVar[float] = 0.01

    def __init__(self, folder: Path, step: Step = lambda name: None, *, name: str = "rented", idle_seconds: float | None = None, durable: bool = False) -> None:
        """durable: files outlive a machine and are here, as those of this machine are."""
        self.folder, self.step, self.name, self.durable = folder, step, name, durable
        for sub in ("machines", "disks"):
            (folder / sub).mkdir(parents=True, exist_ok=True)
        if idle_seconds is not None:
            self.idle_seconds = idle_seconds

    def quote(self, need: Need) -> list[Offer]:
        """One offer."""
        return [OFFER.model_copy(update={"provider": self.name})]

    def start(self, lease: Lease) -> Resource:
        """A machine with its key, or the one that this token and attempt made before."""
        self.step("before start")
        name = f"i-{lease.token}-{lease.attempt}"
        if not self._note(name).exists():
            (self.folder / "disks" / name).mkdir()
            self._put(Resource(provider=self.name, id=f"key-{name}", lease=lease.token, run=lease.run, state="live", kind="key"))
            self._put(Resource(provider=self.name, id=name, lease=lease.token, run=lease.run, state="live"))
        self.step("after start")
        return self._get(name)

    def find(self, scope: str) -> list[Resource]:
        """What it lists."""
        self.step("before find")
        return [one for one in self.all() if one.state != "gone" and scope in ("all", one.lease, one.run)]

    def stop(self, resource: Resource) -> None:
        """The machine, or its key, is gone; a key that a machine still uses cannot be removed."""
        self.step("before stop")
        if resource.kind == "key" and resource.id.removeprefix("key-") in self.up():
            raise ForgeError(f"{resource.id} is in use")
        if resource.kind == "machine":
            self.lose(resource.id)
        self._put(self._get(resource.id).model_copy(update={"state": "gone"}))
        self.step("after stop")

    def channel(self, resource: Resource, root: Path) -> Wire:
        """Files and jobs on a machine."""
        return Wire(self, resource.id)

    def settle(self, resource: Resource) -> int:
        """Every machine costs the same."""
        self.step("before settle")
        return BILL if self._note(resource.id).exists() else 0

    # --- what tests do and see ----------------------------------------------------------------------------------

    def lose(self, name: str) -> None:
        """The machine is gone with its disk, and all that ran on it is dead."""
        self._put(self._get(name).model_copy(update={"state": "gone"}))
        end = time.monotonic() + 10
        while (self.folder / "disks" / name / "running").exists():
            assert time.monotonic() < end, "the host does not end the jobs"
            time.sleep(TICK)

    def all(self) -> list[Resource]:
        """All that ever was."""
        return [Resource.model_validate_json(path.read_text(encoding="utf-8")) for path in sorted((self.folder / "machines").glob("*.json"))]

    def up(self) -> list[str]:
        """What is there now, machines and keys."""
        return [one.id for one in self.all() if one.state != "gone"]

    def machines(self) -> list[str]:
        """Every machine that ever was."""
        return [one.id for one in self.all() if one.kind == "machine"]

    def bill(self) -> int:
        """What the cloud will charge, in micro-dollars."""
        return BILL * len(self.machines())

    def disk(self, name: str) -> Path:
        """The disk of a machine; it stays to be looked at after the machine is gone."""
        return self.folder / "disks" / name

    def _note(self, name: str) -> Path:
        return self.folder / "machines" / f"{name}.json"

    def _get(self, name: str) -> Resource:
        return Resource.model_validate_json(self._note(name).read_text(encoding="utf-8"))

    def _put(self, resource: Resource) -> None:
        partial = self._note(resource.id).with_suffix(".partial")
        partial.write_text(resource.model_dump_json(), encoding="utf-8")
        partial.replace(self._note(resource.id))


class Wire:
    """The channel of one machine."""

    def __init__(self, cloud: Rented, name: str) -> None:
        self.poll_seconds = TICK
        self.cloud, self.name, self.root = cloud, name, cloud.disk(name)
        self.durable = cloud.durable
        self._seen: set[str] = set()

    def prepare(self, tell: Callable[[str], None]) -> str:
        """Nothing to do."""
        with self._asked("prepare"):
            return "python"

    def put(self, local: Path, remote: str, sha256: str = "") -> None:
        """Copy to the disk, whole."""
        with self._asked("put"):
            _copy(local, self.root / remote)

    def get(self, remote: str, local: Path) -> None:
        """Copy from the disk, whole."""
        with self._asked("get"):
            if not (self.root / remote).exists():
                raise ForgeError(f"the job left no {remote}")
            _copy(self.root / remote, local)

    def read(self, remote: str, offset: int) -> bytes:
        """The bytes of a file from an offset on."""
        with self._asked("read", once=remote):
            path = self.root / remote
            return path.read_bytes()[offset:] if path.is_file() else b""

    def spawn(self, job: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Ask the host to start a worker; the same id starts once."""
        with self._asked("spawn"):
            folder = self.root / "jobs" / job
            folder.mkdir(parents=True, exist_ok=True)
            try:
                (folder / ".job").mkdir()
            except FileExistsError:
                return
            (folder / ".job" / "asked").write_text(argv[-1], encoding="utf-8")

    def poll(self, job: str) -> int | None:
        """The exit code, None while it runs."""
        with self._asked("poll", once=job):
            note = self.root / "jobs" / job / ".job"
            if (note / "rc").exists():
                return int((note / "rc").read_text(encoding="utf-8"))
            return None if (note / "asked").exists() else -1

    def path(self, remote: str) -> str:
        """The absolute path."""
        return str(self.root / remote)

    def stop(self, job: str, *, grace_seconds: float) -> None:
        """Ask for SIGTERM."""
        with self._asked("end"):
            (self.root / "jobs" / job / ".job" / "stop").touch()

    @contextmanager
    def _asked(self, verb: str, once: str = "") -> Iterator[None]:
        """Steps around a verb; of polls and reads only those of the first time count. Raises MachineLost on both sides of a cut."""
        told = not once or (verb + once) not in self._seen
        self._seen.add(verb + once)
        self._answers()
        if told:
            self.cloud.step(f"before {verb}")
            self._answers()
        yield
        if told:
            self.cloud.step(f"after {verb}")
        self._answers()

    def _answers(self) -> None:
        if (self.cloud.folder / "cut").exists() or self.cloud._get(self.name).state == "gone":
            raise MachineLost(f"{self.name} does not answer")


@contextmanager
def host(folder: Path, run_job: RunJob) -> Iterator[None]:
    """The process that runs the jobs of a cloud's machines. run_job(job file) is called in a process of its own."""
    pid = os.fork()
    if pid == 0:
        try:
            _serve(folder, run_job, os.getppid())
        except BaseException:  # noqa: BLE001 - a forked child of the test must not go on as the test
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


def _serve(folder: Path, run_job: RunJob, parent: int) -> None:
    jobs: dict[int, Path] = {}
    ending = [False]
    signal.signal(signal.SIGTERM, lambda *_: ending.__setitem__(0, True))
    while not ending[0] and os.getppid() == parent:
        for asked in folder.glob("disks/*/jobs/*/.job/asked"):
            if not (asked.parent / "pid").exists() and _state(folder, asked) != "gone":
                jobs[_begin(asked.parent, run_job)] = asked.parent
        for pid, note in list(jobs.items()):
            if _watch(folder, pid, note):
                del jobs[pid]
        time.sleep(TICK)
    for pid in jobs:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _begin(note: Path, run_job: RunJob) -> int:
    disk = note.parents[2]
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            log = os.open(note.parent / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.stdout = sys.stderr = os.fdopen(2, "w", closefd=False)
            code = run_job(note.parent / "job.json")
        except BaseException:  # noqa: BLE001 - as above
            traceback.print_exc()
            code = 1
        finally:
            sys.stderr.flush()
            os._exit(code)
    (note / "pid").write_text(str(pid), encoding="utf-8")
    alive = (disk / "running").read_text().split() if (disk / "running").exists() else []
    if alive:
        (disk / "two_at_once").touch()
    (disk / "running").write_text(" ".join([*alive, str(pid)]), encoding="utf-8")
    return pid


def _watch(folder: Path, pid: int, note: Path) -> bool:
    """Whether a job is over; its exit code is then written, unless its machine is gone."""
    disk = note.parents[2]
    gone, code = _state(folder, note) == "gone", None
    ends = next((code for name, code in ENDS.items() if (disk / name).exists()), None)
    if gone:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        code = -9
    else:
        if (ends or (note / "stop").exists()) and not (note / "asked_to_stop").exists():
            (note / "asked_to_stop").touch()
            os.kill(pid, signal.SIGTERM)
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
    if code is None:
        return False
    code = ends or (128 - code if code < 0 else code)
    if not gone:
        partial = note / ".rc"
        partial.write_text(str(code), encoding="utf-8")
        partial.replace(note / "rc")
    alive = [one for one in (disk / "running").read_text().split() if one != str(pid)]
    if alive:
        (disk / "running").write_text(" ".join(alive), encoding="utf-8")
    else:
        (disk / "running").unlink()
    return True


def _state(folder: Path, path: Path) -> str:
    name = path.relative_to(folder / "disks").parts[0]
    return str(json.loads((folder / "machines" / f"{name}.json").read_text(encoding="utf-8"))["state"])


def _copy(source: Path, target: Path) -> None:
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, partial)
        shutil.rmtree(target, ignore_errors=True)
    else:
        shutil.copyfile(source, partial)
    partial.rename(target)
