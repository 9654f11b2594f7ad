"""What the tests of the slurm provider share: a provider that looks often, a lease, a job that saves what it has done."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from forge.plugins.compute import _slurm_channel
from forge.plugins.compute._slurm_channel import SharedFolderChannel
from forge.plugins.compute.slurm import Slurm, SlurmSettings
from forge.protocols import Lease, Need, Offer
from tests.servers.slurm import Cluster

ROOT = Path(__file__).resolve().parents[2]
NEED = Need(parameters=1, memory_gib=0.1, gpu=False, seconds=60)
OFFER = Offer(
    provider="slurm", name="main 1 x h200", usd_per_hour=0, device="cuda", cores=1, memory_gib=1, gpu="h200", gpus=1, region="main",
)
SLEEPER = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(600)"]
SAVER = """
import os, signal, sys, time
place = sys.argv[1]
done = int(open(place).read()) if os.path.exists(place) else 0
def save(*_):
    open(place, "w").write(str(done)); sys.exit(130)
signal.signal(signal.SIGTERM, save)
print("from", done, "on", os.environ.get("SLURMD_NODENAME"), flush=True)
while done < int(sys.argv[2]):
    time.sleep(0.02); done += 1
"""


def saver(place: Path, steps: int = 10**6) -> list[str]:
    """A job that counts, writes its count to `place` when it is asked to end, and goes on from there."""
    return [sys.executable, "-c", SAVER, str(place), str(steps)]


def provider(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: object) -> Slurm:
    """One with a folder of its own, that looks often and gives up soon."""
    monkeypatch.setattr(_slurm_channel, "STALL_SECONDS", 2.0)
    monkeypatch.setattr(Slurm, "queue_seconds", 0.3)
    monkeypatch.setattr(Slurm, "patience_seconds", 0.0)
    return Slurm(SlurmSettings(folder=str(folder), **settings))


def nodes_python(folder: Path, registry: str = "tests.test_engine.remote_toys.RemoteToys") -> str:
    """This Python on the nodes: it can import the tests, and `-m forge.worker` knows the phases of this registry."""
    module, _, name = registry.rpartition(".")
    worker = f"import sys; from {module} import {name}; from forge import worker; worker.Registry = {name}; sys.exit(worker.main(['worker', sys.argv[1]]))"
    path = folder / "python"
    path.write_text(
        f'#!/bin/sh\nexport PYTHONPATH={ROOT}\nif [ "$2" = forge.worker ]; then exec {sys.executable} -c "{worker}" "$3"; fi\nexec {sys.executable} "$@"\n',
        encoding="utf-8",
    )
    path.chmod(0o755)
    return str(path)


def lease(token: str = "lease-1", seconds: int = 600, attempt: int = 1, **changes: object) -> Lease:
    """A lease over OFFER with changes."""
    return Lease(token=token, run="run-a", offer=OFFER.model_copy(update=changes), deadline_seconds=seconds, attempt=attempt)


def until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Wait for it: seconds on a quiet machine, SLURM's own patience on a busy one."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.03)


def open_channel(site: Slurm, tmp_path: Path, given: Lease | None = None) -> SharedFolderChannel:
    """The channel of a lease that is started."""
    return site.channel(site.start(given or lease()), tmp_path)


def stages(site: Slurm, scope: str = "lease-1") -> list[str]:
    """The states of what is not gone."""
    return [one.state for one in site.find(scope) if one.state != "gone"]


def log(channel: SharedFolderChannel, job: str) -> str:
    """What a job has printed."""
    return channel.read(f"jobs/{job}/log", 0).decode()


def empty(cluster: Cluster) -> None:
    """No job, all nodes idle."""
    cluster.run("scancel", "--user=root")

    def is_empty() -> bool:
        for name in cluster.run("sinfo", "-h", "-N", "-p", "main", "-t", "drain,draining,drained,down", "-o", "%N").split():
            with suppress(subprocess.CalledProcessError):   # it came back by itself in the meantime
                cluster.run("scontrol", "update", f"nodename={name}", "state=resume")
        return cluster.run("sinfo", "-h", "-N", "-p", "main", "-o", "%t").split() == ["idle"] * len(cluster.nodes)

    until(is_empty)
