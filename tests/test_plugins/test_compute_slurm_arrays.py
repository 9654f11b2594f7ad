"""Many jobs at once on a SLURM cluster: an array of a sweep's parts."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from forge.phase import Context, Output, Settings
from forge.plugins.compute.slurm import SETTLE_SECONDS, Slurm, SlurmSettings
from forge.protocols import PAST_DEADLINE, Lease
from forge.records import write_json
from forge.run import Run
from tests.servers.slurm import Cluster
from tests.test_engine.remote_toys import (
    PlanIt,
    Provision,
    RemoteToys,
    artifacts,
    life,
    money,
    new_run,
    work_on,
)
from tests.test_engine.toys import Toy
from tests.test_plugins.slurm_world import lease, log, nodes_python, open_channel, provider, saver, until

CLUSTER = {"cores": 6, "min_job_age": 600}
PARTS = tuple(f"r{2**number}" for number in range(8))


def cpu(usd_per_hour: float = 0.0) -> Lease:
    """A lease without GPUs, of which a node has only two."""
    return lease(device="cpu", gpu="", name="main 1 cores", usd_per_hour=usd_per_hour)


def test_an_array_runs_one_job_for_each_argv_on_both_nodes_and_only_once(slurm: Cluster, site: Slurm, tmp_path: Path) -> None:
    channel = open_channel(site, tmp_path, cpu())
    argvs = [[sys.executable, "-c", f"import os, time; print(os.environ['SLURMD_NODENAME'], {number}); time.sleep(1); raise SystemExit({number % 2})"] for number in range(8)]
    assert channel.arrays
    jobs = channel.spawn_array("sweep", argvs, {})
    assert channel.spawn_array("sweep", argvs, {}) == jobs == [f"sweep-{number}" for number in range(8)]
    until(lambda: all(channel.poll(job) is not None for job in jobs))
    assert [channel.poll(job) for job in jobs] == [0, 1] * 4
    assert [log(channel, job).split()[1] for job in jobs] == [str(number) for number in range(8)]
    assert {log(channel, job).split()[0] for job in jobs} == {"n1", "n2"}
    channel.spawn_array("sweep", argvs, {})
    assert len(slurm.run("squeue", "-h", "--array", "--states=all", "--name=forge-lease-1@sweep", "-o", "%i").split()) == 8


def test_a_requeued_task_goes_on_under_its_id_and_a_cancelled_one_says_so(slurm: Cluster, site: Slurm, tmp_path: Path) -> None:
    channel = open_channel(site, tmp_path, cpu())
    jobs = channel.spawn_array("again", [saver(tmp_path / "first"), saver(tmp_path / "second")], {})
    until(lambda: all("from 0" in log(channel, job) for job in jobs))
    ids = dict(line.split() for line in slurm.run("squeue", "-h", "--array", "--name=forge-lease-1@again", "-o", "%K %i").splitlines())
    slurm.run("scontrol", "requeue", ids["0"])
    slurm.run("scancel", ids["1"])
    until(lambda: channel.poll(jobs[1]) is not None)
    assert channel.poll(jobs[1]) == 85
    until(lambda: log(channel, jobs[0]).count("from ") == 2)
    assert int(log(channel, jobs[0]).splitlines()[1].split()[1]) == int((tmp_path / "first").read_text())
    assert channel.poll(jobs[0]) is None
    assert sorted(one.kind for one in site.find("lease-1") if one.state != "gone") == ["array", "machine"]
    for one in site.find("lease-1"):
        if one.state != "gone":
            site.stop(one)
    until(lambda: not [one for one in site.find("lease-1") if one.state != "gone"])


def test_tasks_wait_in_the_queue_as_long_as_their_lease_and_end_with_it(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a partition whose limit is shorter than the lease: a task that asked for more would never start. One at a time."""
    channel = open_channel(provider(tmp_path, monkeypatch, array_tasks=1), tmp_path, cpu().model_copy(update={"deadline_seconds": 7200, "offer": cpu().offer.model_copy(update={"region": "short"})}))
    channel.spawn("a", [sys.executable, "-c", "import time; time.sleep(600)"], {})
    jobs = channel.spawn_array("late", [saver(tmp_path / "first"), saver(tmp_path / "second")], {})
    told = slurm.run("scontrol", "show", "job", slurm.run("squeue", "-h", "--name=forge-lease-1@late", "-o", "%A").split()[0])
    assert "Deadline=N/A" in told
    assert "TimeLimit=00:30:00" in told
    until(lambda: "from 0" in log(channel, jobs[0]))
    (lease_folder,) = tmp_path.glob("lease-1/leases/*")
    until(lambda: any(file.read_text() for file in lease_folder.glob("owner")))   # the lease's own job may start after the tasks
    owner = (lease_folder / "owner").read_text()
    ended = {"job": owner, "restart": 9, "node": "n1", "seconds": 7200.0, "ended": True, "why": PAST_DEADLINE, "array": ""}
    (lease_folder / "spans" / f"{owner}.9.json").write_text(json.dumps(ended))
    until(lambda: channel.poll(jobs[0]) is not None)
    assert (tmp_path / "first").exists(), "it was asked, and has saved"
    until(lambda: channel.poll(jobs[1]) is not None)
    assert [channel.poll(job) for job in jobs] == [PAST_DEADLINE, PAST_DEADLINE]
    assert log(channel, jobs[1]) == "", "it came too late and did nothing"


# --- a sweep through the engine ---------------------------------------------------------------------------------


class SweepSettings(Settings):
    """Toy settings."""

    fail: tuple[str, ...] = ()


class Sweep(Toy):
    """data -> table: one number for each part, the base first. Writes down where it did what."""

    name = "train"
    reads = ("plan", "approval", "machine", "data")
    writes = (Output(name="table", path="table.json"),)
    where = "machine"
    settings = SweepSettings

    def parts(self, settings: Settings, inputs: Mapping[str, Path]) -> Sequence[Sequence[str]]:
        return (("base",), PARTS)

    def run(self, settings: SweepSettings, ctx: Context) -> Mapping[str, float | str]:
        for name in ("base", *(PARTS if not ctx.part else [ctx.part] if ctx.part != "base" else [])):
            place = ctx.work / "made" / name
            if place.exists():
                continue
            if ctx.part in settings.fail:
                raise RuntimeError("this part breaks")
            before = "" if name == "base" else (ctx.work / "made" / "base").read_text()
            place.parent.mkdir(exist_ok=True)
            place.write_text(f"{before}{name};")
            machine = next(folder for folder in ctx.work.parents if folder.name == "machine")
            with (machine / "did").open("a") as file:
                file.write(f"{ctx.part or 'whole'} {name}\n")
            time.sleep(0.2)
        if not ctx.part:
            write_json(ctx.output("table"), {name: (ctx.work / "made" / name).read_text() for name in PARTS})
        return {}


class Polish(Toy):
    """table -> model."""

    name = "polish"
    reads = ("plan", "approval", "machine", "table")
    writes = (Output(name="model", path="model.txt"),)
    where = "machine"

    def run(self, settings: Settings, ctx: Context) -> Mapping[str, float | str]:
        ctx.output("model").write_bytes(ctx.input("table").read_bytes())
        return {}


class SweepToys(RemoteToys):
    """The sweep in the place of the training."""

    toys: ClassVar[dict[str, Any]] = {toy.name: toy() for toy in (PlanIt, Provision, Sweep, Polish)}


def swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, usd_per_hour: float = 0.0, stop: Callable[[], bool] = lambda: False, **values: Any
) -> tuple[str, list[str]]:
    """A run over the toys; how it ended, and who did what."""
    monkeypatch.setattr("tests.test_engine.remote_toys.RemoteToys", SweepToys)
    monkeypatch.setattr("tests.test_engine.remote_toys.OFFER", cpu(usd_per_hour).offer)
    for name, value in {"creation_seconds": 0.3, "confirm_seconds": 0.1, "queue_seconds": 0.2, "poll_seconds": 0.1}.items():
        monkeypatch.setattr(Slurm, name, value)
    clouds: Mapping[str, Any] = {"slurm": Slurm(SlurmSettings(python=nodes_python(tmp_path, "tests.test_plugins.test_compute_slurm_arrays.SweepToys")))}
    said = life(lambda: work_on(clouds, plan_it__provider="slurm", stop=stop, **values))
    run = Run.open("toy")
    did = (run.folder / "machine" / "did").read_text().splitlines()
    run.close()
    return said, did


def notices() -> str:
    """What the run has told its user."""
    lines = (Path(os.environ["FORGE_HOME"]) / "runs" / "toy" / "events.jsonl").read_text().splitlines()
    return " | ".join(line["text"] for line in map(json.loads, lines) if line["event"] == "notice")


def test_a_sweep_of_eight_runs_as_an_array_and_ends_as_in_one_process(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_run(tmp_path).close()
    said, did = swept(tmp_path, monkeypatch)
    assert said == "done"
    assert did[0] == "base base"
    assert sorted(did[1:]) == sorted(f"{part} {part}" for part in PARTS), "each once, each in its own task, nothing in the phase itself"
    table = {name: f"base;{name};" for name in PARTS}
    run = Run.open("toy")
    found = run.store.get("table")
    assert found
    assert json.loads(run.store.open(found).read_text()) == table
    run.close()
    assert set(artifacts()) >= {"table", "model"}
    assert slurm.run("squeue", "-h") == ""


def test_a_part_that_breaks_is_done_by_the_phase(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_run(tmp_path).close()
    said, did = swept(tmp_path, monkeypatch, train__fail=["r4"])
    assert said == "done"
    assert "whole r4" in did
    assert len(did) == 9


def test_a_sweep_with_a_price_is_paid_by_the_hours_of_its_tasks_through_a_kill(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """$2 an hour and ten minutes for the lease and for each of nine tasks, with ten per cent: 0.37 + 3.33 of $5."""
    new_run(tmp_path).close()

    def kill_among_the_tasks() -> bool:
        if len(slurm.run("squeue", "-h", "--array", "-o", "%j").split()) > 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    said, _ = swept(tmp_path, monkeypatch, usd_per_hour=2.0, stop=kill_among_the_tasks)
    assert said == "killed"
    settled, reserved, cap = money()
    assert settled == 0
    assert 2_500_000 < reserved <= 3_700_000 < cap
    said, did = swept(tmp_path, monkeypatch, usd_per_hour=2.0)
    assert said == "done"
    assert len(did) == 9, "no task was done twice"
    (place,) = (Path(os.environ["FORGE_HOME"]) / "runs" / "toy" / "machine" / "leases").iterdir()
    ran = [json.loads(path.read_text()) for path in (place / "spans").iterdir()]
    assert sorted(span["array"].rpartition("-")[2] for span in ran) == ["", "parts0a", *["parts1a"] * 8]
    hours = [2 / 3600 * sum(math.ceil(span["seconds"]) + SETTLE_SECONDS for span in ran if span["array"] == name) for name in {span["array"] for span in ran}]
    assert money()[:2] == (sum(math.ceil(1e6 * usd) for usd in hours), 0)


def test_a_sweep_that_its_budget_does_not_hold_beside_each_other_is_done_in_one_job(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_run(tmp_path).close()
    said, did = swept(tmp_path, monkeypatch, usd_per_hour=20.0)
    assert said == "done"
    assert did == [f"whole {name}" for name in ("base", *PARTS)]
    assert "base: one after the other, in one job: 1 tasks beside each other could cost $" in notices()
    settled, reserved, cap = money()
    assert 0 < settled < cap
    assert reserved == 0
