"""Real training on machines that are taken back: the loss curve and every byte are those of training that nobody disturbed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forge.context import InputFile
from forge.lease import Machine, as_provider
from forge.phases.train import TrainSettings, phase
from forge.protocols import Lease
from forge.remote import MachineRun, Preempted
from forge.state import State
from forge.store import hash_path
from forge.worker import Job, JobPhase
from tests.servers.rented import OFFER, Rented, host
from tests.test_phases.tiny_training import make_inputs

pytestmark = [pytest.mark.local, pytest.mark.fault]
SETTINGS = TrainSettings(checkpoint_steps=2, log_steps=1)
PRETRAIN_STEPS, LORA_STEPS = 5, 120   # a notice is seen some steps after its own: enough of them must be left
RESULTS = ("base", "adapter", "train.json")


def run_worker(job: Path) -> int:
    """The worker as on a real machine: a process of its own that shares nothing."""
    os.execv(sys.executable, [sys.executable, "-m", "forge.worker", str(job)])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_inputs(tmp_path_factory.mktemp("inputs"), steps=PRETRAIN_STEPS, lora_steps=LORA_STEPS)


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rented]:
    folder = tmp_path_factory.mktemp("cloud")
    with host(folder, run_worker):
        yield Rented(folder)


@pytest.fixture(scope="module")
def straight(cloud: Rented, inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    on_machine(cloud, "straight", inputs, folder, lambda event: None)
    return folder / "out"


def on_machine(cloud: Rented, token: str, inputs: dict[str, Path], folder: Path, emit: Callable[[dict[str, Any]], None]) -> None:
    """Train on a machine of its own; the run's state and folder are in `folder`."""
    resource = cloud.start(Lease(token=token, run="run", offer=OFFER, deadline_seconds=600))
    machine = Machine(as_provider(cloud), cloud.channel(resource, folder), f"{token}/1", token, 2.0)
    files = {name: InputFile(path=str(path), sha256=hash_path(path)) for name, path in inputs.items()}
    item = JobPhase(name="train", fingerprint="f" * 64, folder="", settings=SETTINGS.model_dump(mode="json"), inputs=files)
    job = Job(run_id="run", seed=7, dry_run=False, phases=(item,))
    state = State(folder / "state.db")
    try:
        MachineRun(machine, job, state, folder, writes={one.name: one.path for one in phase.writes}, emit=emit).run()
    finally:
        state.close()
        cloud.stop(resource)


def curves(out: Path) -> dict[str, list[Any]]:
    report = json.loads((out / "train.json").read_text(encoding="utf-8"))
    return {stage: report[stage]["loss"] for stage in ("pretrain", "lora")}


def test_taken_back_at_a_step_the_curve_is_that_of_undisturbed_training(
    cloud: Rented, inputs: dict[str, Path], straight: Path, tmp_path: Path
) -> None:
    notice_at = PRETRAIN_STEPS + 12

    def take_back(event: dict[str, Any]) -> None:
        if event["event"] == "progress" and event["done"] >= notice_at:
            (cloud.disk("i-first-1") / "taken_back").touch()

    with pytest.raises(Preempted):
        on_machine(cloud, "first", inputs, tmp_path, take_back)
    told: list[dict[str, Any]] = []
    on_machine(cloud, "second", inputs, tmp_path, told.append)
    assert any("goes on after step" in str(event.get("text")) for event in told), "it did not begin anew"
    assert min(event["done"] for event in told if event["event"] == "progress" and event["done"]) > notice_at
    assert curves(tmp_path / "out") == curves(straight)
    assert {name: hash_path(tmp_path / "out" / name) for name in RESULTS} == {name: hash_path(straight / name) for name in RESULTS}
    lines = [json.loads(line) for line in (tmp_path / "out" / "progress.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["stage"], line["step"]) for line in lines] == [
        *(("pretrain", step) for step in range(1, PRETRAIN_STEPS + 1)), *(("lora", step) for step in range(1, LORA_STEPS + 1)),
    ]
