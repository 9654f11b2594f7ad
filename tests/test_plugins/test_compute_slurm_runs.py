"""Whole runs on a SLURM cluster: the engine killed, the job taken away, the rehearsal of the real chain."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from forge.plugins.compute._slurm_channel import SharedFolderChannel
from forge.plugins.compute.slurm import Slurm, SlurmSettings
from forge.protocols import Lease, Resource
from tests.servers.rented import Rented, host
from tests.servers.slurm import Cluster
from tests.test_engine.remote_toys import (
    artifacts,
    life,
    money,
    new_run,
    run_job,
    work_on,
)
from tests.test_plugins.slurm_world import nodes_python

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = {"cores": 8, "min_job_age": 3600}
Step = Callable[[str], None]
A = TypeVar("A")


class Stepped(Slurm):
    """The real provider; `step` is called before and after everything that it and its channels do."""

    creation_seconds, confirm_seconds, queue_seconds, poll_seconds = 0.3, 0.1, 0.2, 0.1
    step: Step = staticmethod(lambda name: None)

    def start(self, lease: Lease) -> Resource:
        return self._stepped("start", super().start, lease)

    def find(self, scope: str) -> list[Resource]:
        return self._stepped("find", super().find, scope)

    def stop(self, resource: Resource) -> None:
        self._stepped("stop", super().stop, resource)

    def settle(self, resource: Resource) -> int:
        return self._stepped("settle", super().settle, resource)

    def channel(self, resource: Resource, root: Path) -> SharedFolderChannel:
        channel = self._stepped("channel", super().channel, resource, root)
        for name in ("put", "get", "spawn", "stop"):
            setattr(channel, name, self._wrapped(name, getattr(channel, name)))
        return channel

    def _wrapped(self, name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **more: self._stepped(name, act, *args, **more)

    def _stepped(self, name: str, act: Callable[..., A], *args: Any, **more: Any) -> A:
        self.step(f"before {name}")
        found = act(*args, **more)
        self.step(f"after {name}")
        return found


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The artifacts of an undisturbed run elsewhere, but for those that name the provider."""
    place = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch, host(place / "cloud", run_job):
        patch.setenv("FORGE_HOME", str(place / "home"))
        new_run(place).close()
        assert life(lambda: work_on({"rented": Rented(place / "cloud")})) == "done"
        return artifacts()


def on(site: Slurm, **values: Any) -> str:
    """One life of an engine over the toys, with this provider."""
    clouds: Mapping[str, Any] = {"slurm": site}
    return life(lambda: work_on(clouds, plan_it__provider="slurm", **values))


def same_results(straight: dict[str, str]) -> None:
    made = artifacts()
    for name in ("weights", "curve", "model", "data"):
        assert made[name] == straight[name], name


def books_are_right(slurm: Cluster, site: Slurm) -> None:
    """Nothing is in the queue, and the ledger holds what is charged for every job that ever held a lease of the run."""
    assert slurm.run("squeue", "-h") == ""
    settled, reserved, cap = money()
    held = sorted(Path(os.environ["FORGE_HOME"]).glob("runs/toy/machine/leases/*/owner"))
    bill = sum(site.settle(Resource(provider="slurm", id=one.read_text(), lease=one.parent.name.rpartition("-")[0], state="gone")) for one in held)
    assert (settled, reserved) == (bill, 0)
    assert 0 < settled <= cap


def steps(folder: Path) -> list[int]:
    """What the training made, step by step."""
    (found,) = folder.glob("**/machine/steps")
    return [int(line) for line in found.read_text().split()]


def test_a_run_waits_in_the_queue_once_and_trains_there(slurm: Cluster, tmp_path: Path, straight: dict[str, str]) -> None:
    new_run(tmp_path).close()
    site = Stepped(SlurmSettings(python=nodes_python(tmp_path)))
    assert on(site) == "done"
    same_results(straight)
    assert len(slurm.run("squeue", "-h", "--states=all", "-o", "%i").split()) == 1
    books_are_right(slurm, site)


def test_killed_again_and_again_it_ends_in_the_same_bytes_with_nothing_left(
    slurm: Cluster, tmp_path: Path, straight: dict[str, str]
) -> None:
    """Each life is killed one step later than the one before, until one comes to the end."""
    new_run(tmp_path).close()
    lives, said = 0, "killed"
    while said == "killed":
        lives += 1
        site = Stepped(SlurmSettings(python=nodes_python(tmp_path)))
        count = [0]

        def step(name: str, last: int = lives, count: Sequence[int] = count) -> None:
            count[0] += 1  # type: ignore[index]
            if count[0] == last:
                os.kill(os.getpid(), signal.SIGKILL)

        site.step = step
        said = on(site, train__step_seconds=0.02)
        assert said in ("killed", "done"), said
    same_results(straight)
    assert lives > 10
    books_are_right(slurm, Stepped())


@pytest.mark.local
def test_the_whole_chain_trains_evaluates_and_quantizes_in_one_wait_in_the_queue(slurm: Cluster, tmp_path: Path) -> None:
    """The rehearsal of the example corpus, through the command line."""
    command = [str(Path(sys.executable).parent / "forge"), "run", str(ROOT / "examples" / "handbook"), "--dry-run", "--new", "--provider", "slurm"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=slurm.environment(), check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    (machine,) = Path(os.environ["FORGE_HOME"]).glob("runs/*/machine")
    assert [job.name.partition("-")[0] for job in sorted((machine / "jobs").iterdir())] == ["eval", "quantize", "train"]
    (held,) = machine.glob("leases/*/owner")
    assert slurm.run("squeue", "-h", "--states=all", "-j", held.read_text(), "-o", "%j").startswith("forge-lease-")
    assert slurm.run("squeue", "-h") == ""
    assert list(machine.parent.glob("work/publish/work/hub/*/README.md"))
