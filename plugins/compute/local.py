"""This machine (Linux) as a provider: quotes its cores, memory and GPUs, and runs jobs that die with the engine.

A lease is a folder under the user's state directory, so find() tells what exists without asking any run's records:

    $XDG_STATE_HOME/slm-forge/leases/<token>/lease.json   written by start()
                                            /jobs/*       the job folders that were started under it
                                            /ended.json   written by stop()

Deadlines count on the clock that runs since boot: a changed wall clock neither shortens nor extends a lease, and a
reboot ends every lease, as it ended every process.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from forge.errors import ForgeError, NoCapacity, UsageError
from forge.ledger import MICRO
from forge.phase import Requirement
from forge.plugins.compute import _supervise
from forge.plugins.compute._folder import FolderChannel, copy
from forge.plugins.compute._machine import cpu_offer, gpu_offers, read_text
from forge.plugins.compute._state import state_home
from forge.protocols import Lease, Need, Offer, Resource

GRACE_SECONDS = 5.0
START_SECONDS = 20.0
KEPT_SECONDS = 30 * 86400.0
"""How long a closed lease is kept, for a settlement that comes late."""
PASSED_ON = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONPATH", "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "XDG_CACHE_HOME", "XDG_STATE_HOME", "HF_HOME", "HF_HUB_OFFLINE",
)
"""What a job gets of our environment. Keys and tokens are not in it: a job gets those that it is given."""


class Local:
    """This machine. `state` holds the leases; None means the user's state directory."""

    name: ClassVar[str] = "local"
    requires: ClassVar[tuple[Requirement, ...]] = ()
    creation_seconds: ClassVar[float] = 0.0
    confirm_seconds: ClassVar[float] = 0.0
    """A lease is a folder: what is not listed is not there."""

    def __init__(self, state: Path | None = None) -> None:
        self._state = state
        self._lifelines: dict[Path, tuple[subprocess.Popen[bytes], int]] = {}

    def quote(self, need: Need) -> list[Offer]:
        """This machine's GPUs, largest first, then its CPU; only what has enough memory. Spends nothing."""
        offers = [offer for offer in gpu_offers() if offer.gpu_memory_gib >= (need.gpu_memory_gib or need.memory_gib)]
        if not need.gpu and (cpu := cpu_offer()).memory_gib >= need.memory_gib:
            offers.append(cpu)
        return offers

    def start(self, lease: Lease) -> Resource:
        """Open the lease; the same token twice is one lease. Raises NoCapacity when the offer is not of this machine."""
        if lease.offer.provider != self.name:
            raise NoCapacity(f"the local provider cannot start an offer of {lease.offer.provider}")
        if sys.platform != "linux":
            raise NoCapacity("jobs on this machine need Linux", why="ending a job with all it started reads /proc")
        folder = self._lease_folder(lease.token)
        if (resource := self._resource(folder)) is not None:
            return resource
        _forget_old(self._leases())
        billed = _billed_seconds(folder)
        (folder / "jobs").mkdir(parents=True, exist_ok=True)
        (folder / "ended.json").unlink(missing_ok=True)
        engine = [os.getpid(), _supervise.start_ticks(os.getpid())]
        opened = {**lease.model_dump(mode="json"), "boot": _boot_id(), "started": _now(), "billed_seconds": billed, "engine": engine}
        _write(folder / "lease.json", json.dumps(opened, sort_keys=True))
        return self._opened(opened)

    def find(self, scope: str) -> list[Resource]:
        """Open leases of a lease token, a run id or "all". A lease past its deadline with no job left is gone."""
        root = self._leases()
        folders = sorted(root.iterdir()) if root.is_dir() else []
        found = [self._resource(folder) for folder in folders if scope in ("all", folder.name, _read(folder).get("run"))]
        return [resource for resource in found if resource is not None]

    def stop(self, resource: Resource) -> None:
        """End all jobs of the lease, with everything that they started, and close it. Idempotent."""
        folder = self._lease_folder(resource.id)
        if not (folder / "lease.json").exists():
            return
        for job in _job_folders(folder):
            self.end_job(job, GRACE_SECONDS)
        if not (folder / "ended.json").exists():
            _write(folder / "ended.json", json.dumps({"ended": _now(), "boot": _boot_id()}))

    def stop_command(self, resource: Resource) -> str:
        """The watchers of the lease's jobs; each takes its job and all that it started with it."""
        pids = [str(_pid(job)[0]) for job in _job_folders(self._lease_folder(resource.id)) if _alive(job)]
        return f"kill {' '.join(pids)}" if pids else ""

    def channel(self, resource: Resource, root: Path) -> LocalChannel:
        """Files and jobs below `root`. Raises NoCapacity when the lease is not open."""
        if self._resource(self._lease_folder(resource.id)) is None:
            raise NoCapacity(f"the lease {resource.id} is not open", next="forge resume starts a new one")
        self._hold(self._lease_folder(resource.id))
        return LocalChannel(self, resource, root)

    def settle(self, resource: Resource) -> int:
        """Hourly rate times the time that the lease was open, in micro-dollars, rounded up."""
        folder = self._lease_folder(resource.id)
        lease = _read(folder)
        rate = float(lease["offer"]["usd_per_hour"]) if lease else 0.0
        return math.ceil(rate * _billed_seconds(folder) / 3600 * MICRO)

    def start_job(self, resource: Resource, folder: Path, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Start the watcher of one job; `folder`/.job must be new. The job ends with the lease's deadline."""
        lease_folder = self._lease_folder(resource.id)
        left = _seconds_left(_read(lease_folder))
        name = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
        _write(lease_folder / "jobs" / name, str(folder))
        read, write = os.pipe()
        command = [sys.executable, "-I", "-S", _supervise.__file__, str(folder), str(left), str(GRACE_SECONDS), *argv]
        watcher = subprocess.Popen(
            command, stdin=read, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            env={**{key: os.environ[key] for key in PASSED_ON if key in os.environ}, **env, "FORGE_SECONDS_LEFT": f"{left:.0f}"}, cwd=folder,
        )
        os.close(read)
        self._lifelines[folder] = (watcher, write)
        _wait_for(folder / ".job" / "pid", watcher)

    def job_code(self, folder: Path) -> int | None:
        """The exit code of a job, None while it runs, -1 when it is gone without one (a reboot, a killed watcher)."""
        if folder in self._lifelines:
            self._lifelines[folder][0].poll()
        alive = _alive(folder)
        code = folder / ".job" / "rc"
        if code.exists():
            self._forget(folder)
            return int(code.read_text(encoding="utf-8"))
        if alive:
            return None
        _end_orphans(folder)
        return -1

    def end_job(self, folder: Path, grace_seconds: float) -> None:
        """Ask the watcher to end the job and wait until nothing of it is left."""
        if self.job_code(folder) is not None:
            return
        _write(folder / ".job" / "grace", str(grace_seconds))
        _supervise.send_signal(_pid(folder)[0], signal.SIGTERM)
        until = time.monotonic() + grace_seconds + START_SECONDS
        while self.job_code(folder) is None:
            if time.monotonic() > until:
                raise ForgeError(f"the job in {folder} does not end", why="its watcher does not answer",
                                 next=f"kill -9 {_pid(folder)[0]}")
            time.sleep(0.02)

    def _forget(self, folder: Path) -> None:
        if folder in self._lifelines:
            watcher, lifeline = self._lifelines.pop(folder)
            os.close(lifeline)
            watcher.wait()

    def _resource(self, folder: Path) -> Resource | None:
        lease = _read(folder)
        if not lease or (folder / "ended.json").exists() or lease["boot"] != _boot_id():
            return None
        if _seconds_left(lease) <= 0 and not any(_alive(job) for job in _job_folders(folder)):
            return None
        return self._opened(lease)

    def _opened(self, lease: Mapping[str, Any]) -> Resource:
        pid, started = lease.get("engine", (0, -1))
        return Resource(
            provider=self.name, id=lease["token"], lease=lease["token"], state="live", address="localhost", run=lease["run"],
            held=_supervise.start_ticks(pid) == started, overdue=_seconds_left(lease) <= 0,
        )

    def _hold(self, folder: Path) -> None:
        """Write down that this process works with the lease now."""
        lease, engine = _read(folder), [os.getpid(), _supervise.start_ticks(os.getpid())]
        if lease.get("engine") != engine:
            _write(folder / "lease.json", json.dumps({**lease, "engine": engine}, sort_keys=True))

    def _leases(self) -> Path:
        return (self._state or state_home()) / "leases"

    def _lease_folder(self, token: str) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}", token):
            raise UsageError(f"{token!r} is not a lease token")
        return self._leases() / token


class LocalChannel(FolderChannel):
    """Files and jobs of one lease, below `root`."""

    poll_seconds: ClassVar[float] = 0.1

    def __init__(self, provider: Local, resource: Resource, root: Path) -> None:
        super().__init__(root.resolve())
        self._provider, self._resource = provider, resource

    def prepare(self, tell: Callable[[str], None]) -> str:
        """This Python: what the engine runs on can run jobs."""
        return sys.executable

    def put(self, local: Path, remote: str, sha256: str = "") -> None:
        """Copy a file or folder to `remote`, replacing it whole. A copy, so that a job cannot change a stored artifact."""
        copy(local, self._inside(remote))

    def spawn(self, job: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Start a job in its folder; a second call with the same id does nothing, whatever became of the first."""
        folder = self._inside(f"jobs/{job}")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            (folder / ".job").mkdir()
        except FileExistsError:
            return
        self._provider.start_job(self._resource, folder, argv, env)

    def poll(self, job: str) -> int | None:
        """The job's exit code, None while it runs, -1 when it is gone without one or was never started."""
        return self._provider.job_code(self._inside(f"jobs/{job}"))

    def stop(self, job: str, *, grace_seconds: float) -> None:
        """SIGTERM, then SIGKILL after the grace, to the job and everything it started."""
        self._provider.end_job(self._inside(f"jobs/{job}"), grace_seconds)

    def _inside(self, remote: str) -> Path:
        """Links are followed: what a job leaves here must not lead out of its folder."""
        place = (self._root / remote).resolve()
        if not place.is_relative_to(self._root):
            raise UsageError(f"{remote} leads out of the working folder")
        return place


# --- leases and jobs on disk -----------------------------------------------------------------------------------


def _boot_id() -> str:
    return read_text("/proc/sys/kernel/random/boot_id")


def _now() -> float:
    """Seconds since boot, sleep included; the same clock for every process of this machine."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "lease.json"
    lease: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return lease


def _seconds_left(lease: Mapping[str, Any]) -> float:
    return float(lease["started"]) + float(lease["deadline_seconds"]) - _now()


def _billed_seconds(folder: Path) -> float:
    """How long a lease was open, over all times it was started. A reboot ends the count at the last known moment."""
    lease = _read(folder)
    if not lease:
        return 0.0
    ended = folder / "ended.json"
    end = json.loads(ended.read_text(encoding="utf-8")) if ended.exists() else {"ended": _now(), "boot": _boot_id()}
    seconds = end["ended"] - lease["started"] if end["boot"] == lease["boot"] else lease["deadline_seconds"]
    return float(lease["billed_seconds"]) + min(float(seconds), float(lease["deadline_seconds"]))


def _forget_old(leases: Path) -> None:
    for ended in leases.glob("*/ended.json"):
        if time.time() - ended.stat().st_mtime > KEPT_SECONDS:
            shutil.rmtree(ended.parent)


def _job_folders(folder: Path) -> Iterator[Path]:
    for note in sorted((folder / "jobs").glob("*")):
        if not note.name.startswith("."):
            yield Path(note.read_text(encoding="utf-8"))


def _pid(folder: Path) -> tuple[int, int]:
    pid, start = (folder / ".job" / "pid").read_text(encoding="utf-8").split()
    return int(pid), int(start)


def _alive(folder: Path) -> bool:
    if not (folder / ".job" / "pid").exists():
        return False
    pid, start = _pid(folder)
    return start > 0 and _supervise.start_ticks(pid) == start


def _end_orphans(folder: Path) -> None:
    """End what a job left behind when its watcher was killed; the job itself died with the watcher."""
    session = folder / ".job" / "session"
    if session.exists():
        for pid in _supervise.orphans(int(session.read_text(encoding="utf-8"))):
            _supervise.send_signal(pid, signal.SIGKILL)


def _wait_for(path: Path, watcher: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_SECONDS
    while not path.exists():
        if watcher.poll() is not None or time.monotonic() > until:
            raise ForgeError("a job's watcher did not start", why=f"{path.parent} has no pid file")
        time.sleep(0.005)


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


provider = Local()
