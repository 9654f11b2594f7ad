"""Real training on a real cluster: the sweep of eight ranks as an array, and one model over two nodes, disturbed as clusters do.

Some thirty processes import torch (five CPU minutes), so it runs by itself:

    make cluster
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field

from forge.phase import Context, Output, Settings
from forge.phases.train import TrainSettings, phase
from forge.plugins.compute.slurm import Slurm, SlurmSettings
from forge.records import Candidate, Plan, SweepPlan, read_record, write_json
from forge.run import Run
from forge.store import hash_path
from forge.testing import run_phase
from tests.servers.slurm import Cluster
from tests.test_engine.remote_toys import Provision, RemoteToys, artifacts, life, new_run, work_on
from tests.test_engine.toys import Toy
from tests.test_phases.test_train_several import known_inputs
from tests.test_phases.tiny_training import make_inputs
from tests.test_plugins.slurm_world import lease

pytestmark = [
    pytest.mark.local, pytest.mark.cluster, pytest.mark.timeout(1800),
    pytest.mark.skipif(not os.environ.get("FORGE_CLUSTER"), reason="training on a cluster runs with `make cluster`"),
]
CLUSTER = {"nodes": 2, "cores": 2, "min_job_age": 3600, "kill_wait": 30}
READS = ("train", "val", "pretrain", "pretrain_val", "tokenizer", "base_source")
RANKS = (1, 2, 4, 8, 16, 32, 64, 128)
GRID = SweepPlan(candidates=tuple(Candidate(name=f"r{rank}", rank=rank, alpha=2 * rank, learning_rate=4e-3) for rank in RANKS))


class GivenSettings(Settings):
    """Toy settings."""

    steps: int = Field(12, description="of tuning")
    sweep: bool = Field(False, description="the eight ranks on a base from scratch; else one on a base that exists")
    deadline_seconds: int = Field(3600, description="of the lease")


def given(folder: Path, settings: GivenSettings) -> dict[str, Path]:
    """What train reads."""
    if settings.sweep:
        return make_inputs(folder, steps=4, lora_steps=settings.steps, sweep=GRID)
    return known_inputs(folder, lora_steps=settings.steps)


class Given(Toy):
    """corpus -> everything that training needs, and its plan."""

    name = "plan_it"
    reads = ("corpus",)
    writes = (*(Output(name=name, path=name) for name in READS), Output(name="plan", path="plan.json"))
    settings = GivenSettings

    def run(self, settings: GivenSettings, ctx: Context) -> Mapping[str, float | str]:
        made = given(ctx.work / "made", settings)
        for name in READS:
            (shutil.copytree if made[name].is_dir() else shutil.copyfile)(made[name], ctx.output(name))
        plan = read_record(made["plan"], Plan)
        changed = {"run": ctx.run_id, "provider": "slurm", "deadline_seconds": settings.deadline_seconds}
        write_json(ctx.output("plan"), plan.model_copy(update=changed))
        return {}


class TrainingToys(RemoteToys):
    """The real training between toys."""

    toys: ClassVar[dict[str, Any]] = {"plan_it": Given(), "provision": Provision(), "train": phase}


@pytest.fixture
def world(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new run over the training; its folder."""
    monkeypatch.setattr("tests.test_engine.remote_toys.RemoteToys", TrainingToys)
    for name, value in {"creation_seconds": 0.3, "confirm_seconds": 0.1, "queue_seconds": 0.5, "poll_seconds": 0.2}.items():
        monkeypatch.setattr(Slurm, name, value)
    new_run(tmp_path).close()
    return Path(os.environ["FORGE_HOME"]) / "runs" / "toy"


class Engine:
    """A life of the engine that goes on beside the test."""

    def __init__(self, place: Path, **values: Any) -> None:
        self.note = place / "engine.pid"
        self.note.unlink(missing_ok=True)

        def work() -> None:
            self.note.write_text(str(os.getpid()))
            clouds: Mapping[str, Any] = {"slurm": Slurm(SlurmSettings())}
            work_on(clouds, plan_it__sweep=values.pop("sweep", False), **values)

        self._pool = ThreadPoolExecutor(1)
        self.said: Future[str] = self._pool.submit(life, work)

    def kill(self) -> None:
        """As a power cut does."""
        os.kill(int(self.note.read_text()), signal.SIGKILL)
        assert self.said.result() == "killed"

    def until(self, condition: Callable[[], Any]) -> None:
        """Wait for it, as long as the engine lives."""
        while not condition():
            assert not self.said.done(), self.said.result()
            time.sleep(0.05)


def notices(world: Path) -> list[str]:
    """What the run has told its user."""
    lines = [json.loads(line) for line in (world / "events.jsonl").read_text().splitlines()]
    return [line["text"] for line in lines if line["event"] == "notice"]


def worker_of(job: str) -> int:
    """The process of a job's worker (its watcher has the same words later on its command line), 0 before it is there."""
    found = subprocess.run(["pgrep", "-f", f"^[^ ]*python[^ ]* -m forge.worker .*jobs/{job}/job.json"], capture_output=True, text=True, check=False).stdout.split()
    return int(found[0]) if found else 0


def test_the_sweep_of_eight_ranks_is_an_array_and_chooses_as_one_process_does(slurm: Cluster, world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tests.test_engine.remote_toys.OFFER", lease(device="cpu", gpu="", name="main 1 core").offer)
    engine = Engine(tmp_path, sweep=True, train__checkpoint_steps=4, train__log_steps=1)

    def task(number: int) -> str:
        (job,) = (world / "machine" / "jobs").glob(f"train-*-parts1a-{number}") or [Path()]
        return job.name

    def ids() -> dict[str, str]:
        rows = [line.split() for line in slurm.run("squeue", "-h", "--array", "-t", "running", "-o", "%j %K %i").splitlines()]
        return {number: job for name, number, job in rows if name.endswith("-parts1a")}

    engine.until(lambda: worker_of(task(0)) if list((world / "machine" / "jobs").glob("train-*-parts1a-0")) else 0)
    os.kill(worker_of(task(0)), signal.SIGKILL)           # out of memory, say
    engine.until(lambda: "1" in ids() and worker_of(task(1)))
    slurm.run("scancel", ids()["1"])                      # by an administrator
    said = engine.said.result()
    assert said == "done", said

    told = " | ".join(notices(world))
    assert "8 parts beside each other: r1, r2, r4, r8, r16, r32, r64, r128" in told
    assert "the part r1 ended with code 137" in told
    assert "the part r2 ended with code 85" in told
    assert "2 parts beside each other: r1, r2" in told, "both are done again"
    names = [line.split("@")[1].split()[0] for line in slurm.run("squeue", "-h", "--array", "--states=all", "-o", "%j %K").splitlines() if "@" in line]
    assert sorted(name.rpartition("-")[2] for name in names) == ["parts0a", *["parts1a"] * 8, *["parts1b"] * 2]
    logs = [(world / "machine" / "phases" / "train" / "parts" / f"r{rank}" / "done") for rank in RANKS]
    assert all(log.exists() for log in logs)

    alone = run_phase(phase, tmp_path / "alone", settings=TrainSettings(checkpoint_steps=4, log_steps=1), inputs=given(tmp_path / "in", GivenSettings(sweep=True))).out
    made = artifacts()
    report = json.loads((alone / "train.json").read_text())
    assert [one["name"] for one in report["sweep"]["candidates"]] == [f"r{rank}" for rank in RANKS]
    for name, path in {"train_report": "train.json", "adapter": "adapter", "base_model": "base"}.items():
        assert made[name] == hash_path(alone / path), name
    (events,) = (path for path in (world / "machine" / "jobs").glob("train-*-1/events.jsonl") if "-parts" not in path.parent.name)
    assert not [line for line in events.read_text().splitlines() if '"loss"' in line], "the phase itself trains nothing again"
    assert slurm.run("squeue", "-h") == ""


def test_two_nodes_train_one_model_through_a_kill_a_requeue_and_a_cancelled_job(slurm: Cluster, world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tests.test_engine.remote_toys.OFFER", lease(device="cpu", gpu="", name="main 1 core", nodes=2).offer)
    values: dict[str, Any] = {"plan_it__steps": 240, "train__checkpoint_steps": 20, "train__log_steps": 1, "train__parallel": "fsdp", "train__gpus": 1}
    folders = [world / "machine" / "phases" / name / "work" / "lora" for name in ("train", "train.node1")]

    def steps() -> int:
        """The step of the newest checkpoint that both nodes have."""
        found = [[int(one.parent.name.rpartition("-")[2]) for one in folder.glob("checkpoint-*/complete.json")] for folder in folders]
        return min(max(one, default=0) for one in found)

    def job() -> list[str]:
        return slurm.run("squeue", "-h", "-t", "running", "-o", "%i %D %N").split()

    first = Engine(tmp_path, **values)
    first.until(steps)
    held, nodes, names = job()
    assert (nodes, names) == ("2", "n[1-2]")
    assert all(list(folder.glob(f"checkpoint-*/__{rank}_0.distcp")) for rank, folder in enumerate(folders)), "each node keeps its own part"
    first.kill()

    second = Engine(tmp_path, **values)
    before = steps()
    second.until(lambda: steps() > before)
    assert job()[0] == held, "the job went on without an engine, and is followed by the next one"
    slurm.run("scontrol", "requeue", held)
    second.until(lambda: not job())
    second.until(job)
    before = steps()
    assert before % 20, "what came to its SIGTERM was saved, between two checkpoints"
    second.until(lambda: steps() > before)
    assert job()[0] == held
    slurm.run("scancel", held)
    second.until(lambda: job() and job()[0] != held)
    said = second.said.result()
    assert said == "done", said

    told = notices(world)
    starts = [line for line in told if line.startswith("tuning goes on after step")]
    assert len(starts) == 2, told
    assert "2 processes on 2 machines, FSDP2: train.parallel=fsdp" in told
    assert slurm.run("squeue", "-h") == ""

    from safetensors.torch import load_file

    inputs = given(tmp_path / "in", GivenSettings(steps=240))
    alone = run_phase(phase, tmp_path / "alone", settings=TrainSettings(checkpoint_steps=20, log_steps=1, gpus=1), inputs=inputs).out
    run = Run.open("toy")
    found = {name: run.store.open(artifact) for name in ("adapter", "train_report") if (artifact := run.store.get(name))}
    run.close()
    curves = [dict(json.loads(path.read_text())["lora"]["loss"]) for path in (found["train_report"], alone / "train.json")]
    assert curves[0].keys() == curves[1].keys()
    worst = max(abs(curves[0][step] - curves[1][step]) for step in curves[0])
    assert worst < 1e-4, worst   # 6e-6 was measured over 240 steps
    weights = load_file(found["adapter"] / "adapter_model.safetensors")
    for name, weight in load_file(alone / "adapter" / "adapter_model.safetensors").items():
        assert weights[name].allclose(weight, rtol=1e-3, atol=1e-4), name
