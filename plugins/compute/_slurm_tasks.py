"""A site as the executor of shards sees it: what a task without GPUs asks for, how long it may run, and what it costs."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.plugins.compute import _slurm, _supervise
from forge.plugins.compute._slurm import QueuedJob
from forge.plugins.compute._slurm_holder import replace
from forge.plugins.compute._state import private_folder
from forge.protocols import Lease, Offer

if TYPE_CHECKING:
    from forge.plugins.compute.slurm import SlurmSettings

DAY_SECONDS = 86400.0


@dataclass(frozen=True)
class Tasks:
    """jobs_named(name): the queue's lines of a name that have not ended. root(lease): the shared folder of a lease. python: on the nodes."""

    settings: SlurmSettings
    queue_seconds: float
    jobs_named: Callable[[str], list[QueuedJob]]
    root: Callable[[Lease], Path]
    python: str

    def seconds(self) -> float:
        """How long a task may run: slurm.task_minutes, at most what the partition allows, in whole minutes."""
        asked = self.settings.partition
        limits = [kind.limit for kind in _slurm.node_kinds() if asked == kind.partition or (kind.default and not asked)]
        wanted = 60 * self.settings.task_minutes or DAY_SECONDS
        return 60.0 * max(1, math.floor(min(wanted, max(limits, default=0.0) or wanted) / 60))

    def options(self, seconds: float) -> list[str]:
        """Options of sbatch for a task that may run so long."""
        asked = {"partition": self.settings.partition, "account": self.settings.account, "qos": self.settings.qos}
        return [
            *(f"--{name}={value}" for name, value in asked.items() if value), f"--cpus-per-task={self._cores()}", f"--time={math.ceil(seconds / 60)}",
            *self.settings.options,
        ]

    def command(self, *words: str) -> str:
        """A script that starts the nodes' Python."""
        return "#!/bin/sh\nexec " + shlex.join([self.python, "-P", *words]) + "\n"

    def offer(self, tasks: int) -> Offer:
        """So many tasks beside each other; each is charged as a node without GPUs."""
        return Offer(
            provider="slurm", name=f"{tasks} tasks", usd_per_hour=tasks * self.settings.usd_per_hour, device="cpu", cores=self._cores(), memory_gib=0,
            price_source="slurm.usd_per_hour",
        )

    def open(self, lease: Lease, tasks: int) -> Path:
        """Make the lease's folder, in which its tasks count their time and Slurm.settle() reads it."""
        root = self.root(lease)
        folder = root / "leases" / f"{lease.token}-{lease.attempt}"
        (folder / "spans").mkdir(parents=True, exist_ok=True)
        (private_folder("slurm") / lease.token).write_text(str(root), encoding="utf-8")
        replace(folder / "lease.json", json.dumps({"usd_per_hour": lease.offer.usd_per_hour / tasks, "engine": this_process()}))
        return folder

    def _cores(self) -> int:
        return self.settings.cores or 2


def this_process() -> list[Any]:
    """What tells whether the process that leased something still lives: host, pid, start."""
    return [os.uname().nodename, os.getpid(), _supervise.start_ticks(os.getpid())]
