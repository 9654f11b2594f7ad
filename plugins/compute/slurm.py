"""A SLURM cluster: a lease is one job, which waits in the queue once and then takes the run's jobs from a shared folder.

    forge run corpus --provider slurm --set slurm.partition=gpu --set slurm.folder=/scratch/me/forge

The scheduler's time limit is the deadline, so nothing outlives it whatever becomes of this process. Everything is named
forge-<lease>, and found again by that name in squeue. Files lie in a folder that this machine and the nodes share: what a job
wrote is there when the job is gone and when SLURM has forgotten it, which it does after MinJobAge (300 seconds by default).
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import Field

from forge.errors import ForgeError, NoCapacity, UsageError
from forge.executor import Books
from forge.ledger import MICRO
from forge.phase import Requirement, Settings
from forge.plugins.compute import _slurm, _supervise
from forge.plugins.compute._slurm import NodeKind, QueuedJob, Unanswered
from forge.plugins.compute._slurm_channel import SharedFolderChannel
from forge.plugins.compute._slurm_executor import SlurmExecutor
from forge.plugins.compute._slurm_holder import replace, spans
from forge.plugins.compute._slurm_tasks import Tasks, this_process
from forge.plugins.compute._state import private_folder
from forge.protocols import Lease, Need, Offer, Resource
from forge.run import runs_folder

GIB = 1024
WARNING_SECONDS, LEAST_WARNING_SECONDS = 120, 5
"""How long before the time limit jobs are asked to save a checkpoint; a tenth of a short lease."""
SETTLE_SECONDS = 5
GPU_MEMORY_GIB = {
    "b200": 179.0, "h200": 140.4, "h100": 79.6, "a100": 39.4, "l40s": 44.7, "l40": 44.7, "a40": 44.7, "a6000": 47.5, "a30": 23.8, "a10": 22.1, "l4": 22.2,
    "v100": 15.8, "t4": 14.6, "mi300x": 191.0,
}
"""By the names that sites give their types; the smaller one where a GPU is sold in two sizes."""
WITHOUT_BF16 = ("v100", "t4", "p100", "rtx2080", "rtx6000")
SHARED_SYSTEMS = ("nfs", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb", "panfs", "glusterfs", "ocfs2", "gfs2", "weka", "9p", "virtiofs", "orangefs", "fuse")

A = TypeVar("A")


class SlurmSettings(Settings):
    """What a site wants to be told, and where files go."""

    partition: str = Field("", description="partition to use; empty: all that sinfo lists are offered")
    account: str = Field("", description="account that the jobs are charged to")
    qos: str = Field("", description="quality of service")
    gres: str = Field("", description="generic resources of each node as sbatch takes them (gpu:a100:2); empty: one GPU where the nodes have some")
    nodes: int = Field(1, ge=1, description="nodes of a lease; training then runs on all of them")
    cores: int = Field(0, ge=0, description="cores of each node; 0 = 2, with GPUs 4 for each")
    options: tuple[str, ...] = Field((), description="further options of sbatch (--constraint=h200)")
    folder: str = Field("", description="folder that this machine and all nodes see; empty: the run's own, which must then be on a shared file system")
    python: str = Field("", description="Python with slm-forge on the nodes; empty: this one, which they must then see under the same path")
    usd_per_gpu_hour: float = Field(0.0, ge=0, description="what the site charges for a GPU, in USD an hour")
    usd_per_hour: float = Field(0.0, ge=0, description="what the site charges for a node besides, and for a task of prep or audit, in USD an hour")
    task_minutes: float = Field(0.0, ge=0, description="longest time of a task of prep or audit (run.executor=slurm), in minutes; 0: a day, or what the partition allows")
    idle_minutes: float = Field(30.0, gt=0, description="a job that no forge has asked for so long ends itself")
    array_tasks: int = Field(8, ge=0, description="most tasks of a sweep that run beside each other; 0: a sweep stays in one job. With a price, each needs room in the budget for its worst case")


class Slurm:
    """The cluster whose sbatch is on the PATH."""

    name: ClassVar[str] = "slurm"
    requires: ClassVar[tuple[Requirement, ...]] = ()
    settings: ClassVar[type[Settings]] = SlurmSettings
    creation_seconds: float = 5.0
    confirm_seconds: float = 1.0
    controller_seconds: float = 600.0
    patience_seconds: float = 90.0
    """A controller that does not answer is asked again for so long before a lookup gives up."""
    queue_seconds: float = 10.0
    """Between two looks at the queue while a job runs; sites dislike more."""
    poll_seconds: float = 1.0

    def __init__(self, settings: SlurmSettings | None = None) -> None:
        self._set = settings or SlurmSettings()
        self.idle_seconds = 60 * self._set.idle_minutes

    def configured(self, settings: Any) -> Slurm:
        """The same cluster with these settings."""
        found = type(self)(settings)
        for name in ("creation_seconds", "confirm_seconds", "controller_seconds", "patience_seconds", "queue_seconds", "poll_seconds"):
            setattr(found, name, getattr(self, name))
        return found

    def quote(self, need: Need) -> list[Offer]:
        """Kinds of nodes that fit, GPUs first; none where SLURM is not installed or does not answer."""
        if shutil.which("sbatch") is None:
            return []
        try:
            kinds = _slurm.node_kinds()
        except (Unanswered, OSError):
            return []
        wanted = [kind for kind in kinds if self._set.partition in ("", kind.partition)]
        fitting = {offer.name: offer for offer in (self._offer(kind) for kind in wanted) if _fits(offer, need)}
        return sorted(fitting.values(), key=lambda offer: (offer.device == "cpu", -offer.gpu_memory_gib, offer.name))

    def unready(self) -> str:
        """What is missing, without asking anybody."""
        return "" if shutil.which("sbatch") else "SLURM's programs are not on the PATH: run forge on a login node of the cluster"

    def preflight(self, offer: Offer) -> list[str]:
        """What SLURM says to this very request, without making it, and whether the folder looks shared. Raises NoCapacity."""
        lease = Lease(token="preflight", run="preflight", offer=offer, deadline_seconds=3600)
        said = _slurm.would_start([*self._resources(offer), *self._time(lease.deadline_seconds), "--export=NONE", "--wrap=true"])
        return [said, self._about_the_folder()]

    def start(self, lease: Lease) -> Resource:
        """Hand in the lease's job; one that is in the queue or runs already is taken instead. Raises NoCapacity, Unanswered."""
        if lease.offer.provider != self.name:
            raise NoCapacity(f"the offer {lease.offer.name} is from {lease.offer.provider}, not from SLURM")
        there = [one for one in self.find(lease.token) if one.state != "gone" and one.kind == "machine"]
        if there:
            return there[0]
        folder = self._open(lease)
        name = f"{_slurm.PREFIX}{lease.token}"
        job = _slurm.submit([f"--job-name={name}", *json.loads((folder / "lease.json").read_text(encoding="utf-8"))["sbatch"], str(folder / "hold.sh")])
        replace(folder / "submitted", job)
        return Resource(provider=self.name, id=job, lease=lease.token, state="starting", run=lease.run, held=True)

    def find(self, scope: str) -> list[Resource]:
        """The queue's jobs of a lease token, a run or "all". A controller that does not answer is an error: not knowing is not gone."""
        rows = self._patiently(_slurm.queued, 0.0 if scope == "all" else self.patience_seconds)
        found = [self._resource(row) for row in rows]
        return [one for one in found if scope in ("all", one.lease, one.run)]

    def stop(self, resource: Resource) -> None:
        """scancel: SLURM asks the job to end, and kills it after its KillWait. Idempotent."""
        _slurm.cancel(resource.id)

    def stop_command(self, resource: Resource) -> str:
        """What to type."""
        return f"scancel {resource.id}"

    def channel(self, resource: Resource, root: Path) -> SharedFolderChannel:
        """Files and jobs of the lease, in the folder that start() has told SLURM. Raises NoCapacity for a lease without one."""
        folder = self._lease_folder(resource)
        place = folder.parent.parent
        return SharedFolderChannel(self, place, folder, self._set.python or sys.executable, self.poll_seconds, arrays=self._set.array_tasks > 0)

    def settle(self, resource: Resource) -> int:
        """The site's rate times how long the job has run, all its incarnations, in micro-dollars, rounded up; the same for an array of
        the lease by its name.

        By the count that it kept itself, since SLURM forgets; SETTLE_SECONDS are added to each for its start and its end.
        """
        folder, array = self._lease_folder(resource), resource.id if resource.kind == "array" else ""
        rate = _task_rate(folder) if array else float(_told(folder)["usd_per_hour"])
        seconds = sum(math.ceil(float(span["seconds"])) + SETTLE_SECONDS for span in spans(folder) if span.get("array", "") == array)
        return math.ceil(rate * seconds / 3600 * MICRO)

    # --- shards -----------------------------------------------------------------------------------------------------

    def executor(self, folder: Path, run: str, tasks: int, tick: Callable[[], None], books: Books | None = None) -> SlurmExecutor:
        """Maps shards as an array; in `folder`, or in slurm.folder where that is set."""
        place = Path(self._set.folder).expanduser() / "shards" / run / folder.parent.parent.name / folder.name if self._set.folder else folder
        site = Tasks(self._set, self.queue_seconds, self.jobs_named, self._root, self._python())
        return SlurmExecutor(site, place, run, tasks, tick, books)

    def jobs_named(self, name: str) -> list[QueuedJob]:
        """The queue's lines of a name that have not ended."""
        return [row for row in self._patiently(_slurm.queued, self.patience_seconds) if row.name == name and row.stage != "gone"]

    # --- what the channel asks ------------------------------------------------------------------------------------

    def jobs_of(self, token: str) -> list[QueuedJob]:
        """The queue's lines of a lease and its arrays."""
        name = f"{_slurm.PREFIX}{token}"
        return [row for row in _slurm.queued() if row.name == name or row.name.startswith(f"{name}@")]

    def submit_array(self, lease: Path, job: str, tasks: int) -> None:
        """Hand in the tasks of an array, each with the lease's resources; one that was handed in before is left."""
        told = _told(lease)
        name = f"{_slurm.PREFIX}{told['token']}@{job}"
        note = lease / "arrays" / f"{job}.submitted"
        if note.exists() or any(row.name == name for row in self._patiently(_slurm.queued, self.patience_seconds)):
            return
        left = _seconds_left(lease)
        script = lease / "arrays" / f"{job}.sh"
        replace(script, _script(lease, self._python(), "task", left, self.idle_seconds, job))
        arguments = [one for one in told["sbatch"] if not one.startswith(("--time", "--signal", "--nodes", "--output"))]
        # No --deadline: SLURM drops a job that waits until its whole --time does not fit before that. A task ends with its lease by itself.
        replace(note, _slurm.submit([
            f"--job-name={name}", f"--array=0-{tasks - 1}%{self._set.array_tasks}", "--nodes=1", *self._time(left),
            f"--output={lease}/{job}-%a.log", *arguments, str(script),
        ]))

    def array_usd(self, lease: Path, tasks: int) -> float:
        """Each task for as long as SLURM lets it run, whole minutes; all incarnations of one together run no longer."""
        return tasks * _task_rate(lease) * (math.ceil(_seconds_left(lease) / 60) * 60 + SETTLE_SECONDS) / 3600

    def cancel_array(self, lease: Path, job: str) -> None:
        """End an array's tasks, those in the queue too."""
        _slurm.cancel(f"--name={_slurm.PREFIX}{_told(lease)['token']}@{job}", "--me")

    # --- offers ---------------------------------------------------------------------------------------------------

    def _offer(self, kind: NodeKind) -> Offer:
        gpu, gpus = self._gpus(kind)
        cores = min(kind.cores, self._set.cores or (4 * gpus if gpus else 2))
        share = max(cores / kind.cores, gpus / kind.gpus if kind.gpus and gpus else 0.0)
        what = f"{gpus} x {gpu}" if gpus else f"{cores} cores"
        return Offer(
            provider=self.name, name=f"{kind.partition} {what}", usd_per_hour=self._rate(gpus), device="cuda" if gpus else "cpu", cores=cores,
            memory_gib=math.floor(kind.memory_gib * min(1.0, share) * 10) / 10, gpu=gpu, gpus=max(1, gpus), nodes=self._set.nodes,
            gpu_memory_gib=GPU_MEMORY_GIB.get(gpu.lower(), 0.0), bf16=bool(gpus) and gpu.lower() not in WITHOUT_BF16,
            reason=f"partition {kind.partition}: {what} of {kind.nodes} nodes" + (f", at most {kind.limit / 3600:g} h a job" if kind.limit else ""),
            price_source="slurm.usd_per_gpu_hour and slurm.usd_per_hour", region=kind.partition,
        )

    def _gpus(self, kind: NodeKind) -> tuple[str, int]:
        """Type and number of GPUs to ask of each node."""
        if not self._set.gres:
            return (kind.gpu, 1) if kind.gpus else ("", 0)
        gpu, gpus = _slurm.gpus_in(self._set.gres)
        return (kind.gpu if gpu == "gpu" else gpu, gpus) if gpus <= kind.gpus else ("", 0)

    def _rate(self, gpus: int) -> float:
        return round(self._set.nodes * (self._set.usd_per_hour + gpus * self._set.usd_per_gpu_hour), 6)

    # --- jobs -----------------------------------------------------------------------------------------------------

    def _resources(self, offer: Offer) -> list[str]:
        gpu = f"gpu:{offer.gpu}:{offer.gpus}" if offer.gpu and offer.gpu != "gpu" else f"gpu:{offer.gpus}"
        asked = {
            "partition": offer.region, "account": self._set.account, "qos": self._set.qos,
            "gres": self._set.gres or (gpu if offer.device == "cuda" else ""),
        }
        return [
            *(f"--{name}={value}" for name, value in asked.items() if value), f"--nodes={offer.nodes}", "--ntasks-per-node=1",
            f"--cpus-per-task={offer.cores}", f"--mem={math.floor(offer.memory_gib * GIB)}M", *self._set.options,
        ]

    def _time(self, seconds: float) -> list[str]:
        return [f"--time={math.ceil(seconds / 60)}", f"--signal=B:USR1@{warning(seconds)}"]

    def _open(self, lease: Lease) -> Path:
        """The lease's folder with what its job needs; the same for every call with the same lease."""
        root = self._root(lease)
        folder = root / "leases" / f"{lease.token}-{lease.attempt}"
        for name in ("requests", "claimed", "spans", "arrays"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (private_folder("slurm") / lease.token).write_text(str(root), encoding="utf-8")
        seconds = float(lease.deadline_seconds)
        job_seconds = min(seconds, self._limit(lease.offer.region) or seconds)
        told = {
            **lease.model_dump(mode="json"), "usd_per_hour": lease.offer.usd_per_hour, "job_seconds": job_seconds,
            "engine": this_process(),
            "sbatch": [
                f"--comment={lease.run}", f"--chdir={root}", f"--output={folder}/slurm.log", "--open-mode=append", "--requeue", "--export=NONE",
                *self._time(job_seconds), *self._resources(lease.offer),
            ],
        }
        replace(folder / "lease.json", json.dumps(told, sort_keys=True))
        replace(folder / "hold.sh", _script(folder, self._python(), "hold", seconds, self.idle_seconds))
        return folder

    def _limit(self, partition: str) -> float:
        """The partition's longest time: SLURM would let a job that asks for more wait for ever."""
        return max((kind.limit for kind in _slurm.node_kinds() if kind.partition == partition), default=0.0)

    def _root(self, lease: Lease) -> Path:
        _check_token(lease.token)
        if self._set.folder:
            return Path(self._set.folder).expanduser().absolute() / lease.token
        return (runs_folder() / lease.run / "machine").absolute()

    def _python(self) -> str:
        return self._set.python or sys.executable

    def _about_the_folder(self) -> str:
        place = Path(self._set.folder).expanduser().absolute() if self._set.folder else runs_folder().absolute()
        system = file_system(place)
        if system.startswith(SHARED_SYSTEMS):
            return f"files go to {place} ({system})"
        return f"files go to {place}, which is on {system or 'an unknown file system'}: nodes on other machines do not see it (slurm.folder)"

    # --- what there is --------------------------------------------------------------------------------------------

    def _resource(self, row: QueuedJob) -> Resource:
        token, _, array = row.name.removeprefix(_slurm.PREFIX).partition("@")
        return Resource(
            provider=self.name, id=row.id, lease=token, state=row.stage, address=row.nodes, run=row.comment, kind="array" if array else "machine",
            held=_engine_lives(Path(row.folder) / "leases", token),
        )

    def _lease_folder(self, resource: Resource) -> Path:
        """The folder of the lease's attempt that a job is of; the newest without such a one."""
        _check_token(resource.lease)
        leases = self._root_of(resource.lease) / "leases"
        found = sorted(leases.glob(f"{resource.lease}-*"), key=lambda place: int(place.name.rpartition("-")[2]))
        if not found:
            raise ForgeError(f"the lease {resource.lease} has no folder below {leases}", next="forge resume starts a new one")
        mine = [place for place in found if resource.id in _ids(place)]
        return (mine or found)[-1]

    def _root_of(self, token: str) -> Path:
        """Where start() has put a lease: noted on this machine, and told by SLURM as long as it knows the job."""
        note = private_folder("slurm") / token
        if note.exists():
            return Path(note.read_text(encoding="utf-8"))
        for row in self.jobs_of(token):
            return Path(row.folder)
        raise NoCapacity(f"the lease {token} is not open", why=f"{note} is not there", next="forge resume starts a new one")

    def _patiently(self, ask: Callable[[], A], seconds: float) -> A:
        """The answer of a controller that may be down for a moment."""
        until, pause = time.monotonic() + seconds, 0.5
        while True:
            try:
                return ask()
            except Unanswered:
                if time.monotonic() + pause > until:
                    raise
            time.sleep(pause)
            pause = min(10.0, 2 * pause)


def warning(seconds: float) -> int:
    """Seconds before the end of so long a lease at which its jobs are asked to stop."""
    return max(LEAST_WARNING_SECONDS, min(WARNING_SECONDS, math.floor(seconds / 10)))


def file_system(place: Path) -> str:
    """The type of the file system that a path is or will be on ("ext4", "nfs4"); "" where the kernel does not tell."""
    mounts = Path("/proc/self/mounts")
    rows = [line.split()[1:3] for line in mounts.read_text(encoding="utf-8").splitlines()] if mounts.exists() else []
    above = [(where, kind) for where, kind in rows if place.is_relative_to(where)]
    return max(above, key=lambda row: len(row[0]))[1] if above else ""


def _fits(offer: Offer, need: Need) -> bool:
    if offer.device == "cpu" and need.gpu:
        return False
    if offer.gpu_memory_gib and offer.gpu_memory_gib < need.gpu_memory_gib:
        return False
    return offer.memory_gib >= need.memory_gib


def _script(lease: Path, python: str, verb: str, seconds: float, idle: float, *job: str) -> str:
    """What sbatch gets: it becomes the holder, so that SLURM's signals reach it."""
    words = [python, "-P", "-m", "forge.plugins.compute._slurm_holder", verb, str(lease), str(lease.parent.parent), f"{seconds:g}", f"{idle:g}"]
    words += [str(warning(seconds)), *job]
    quoted = " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)
    return f"#!/bin/sh\n# The folder must be on a file system that the nodes share, and so must the Python.\nexec {quoted}\n"


def _told(lease: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((lease / "lease.json").read_text(encoding="utf-8"))
    return told


def _task_rate(lease: Path) -> float:
    """What a task of an array costs, in USD an hour: it runs on one of the lease's nodes."""
    told = _told(lease)
    return float(told["usd_per_hour"]) / int(told["offer"].get("nodes", 1))


def _seconds_left(lease: Path) -> float:
    """How long a job that is started now may run: what is left of the lease, at most what its partition allows."""
    told = _told(lease)
    held = sum(float(span["seconds"]) for span in spans(lease) if not span.get("array"))
    whole = float(told["deadline_seconds"])
    return max(60.0, min(whole - held, float(told.get("job_seconds", whole))))


def _ids(lease: Path) -> set[str]:
    """The SLURM jobs that are known to be of a lease's attempt."""
    noted = {path.read_text(encoding="utf-8") for path in (lease / "submitted", lease / "owner") if path.exists()}
    return noted | {span["job"] for span in spans(lease)}


def _engine_lives(leases: Path, token: str) -> bool:
    """Whether the process that leased it runs, as far as this host can tell."""
    for path in leases.glob(f"{token}-*/lease.json"):
        host, pid, started = json.loads(path.read_text(encoding="utf-8"))["engine"]
        if host == os.uname().nodename and _supervise.start_ticks(pid) == started:
            return True
    return False


def _check_token(token: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}", token):
        raise UsageError(f"{token!r} is not a lease token")


provider = Slurm()
