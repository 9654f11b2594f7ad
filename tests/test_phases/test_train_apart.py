"""A sweep whose candidates are trained apart ends with the bytes of one that is trained in one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from forge.phases.train import phase
from forge.phases.train.apart import BASE, groups, narrowed
from forge.records import Plan, read_record
from forge.store import hash_path
from forge.testing import run_phase
from tests.test_phases.test_train_grid import GRID, SETTINGS, known
from tests.test_phases.tiny_training import make_inputs

pytestmark = pytest.mark.local
__all__ = ["known"]


def apart(inputs: dict[str, Path], folder: Path) -> Path:
    """The phase's parts, each in a folder of its own, then the phase."""
    seeds: list[Path] = []
    for group in phase.parts(SETTINGS, inputs):
        for part in group:
            run_phase(phase, folder / part, settings=SETTINGS, inputs=inputs, part=part, seeds=seeds)
        seeds += [folder / part for part in group]
    whole = run_phase(phase, folder / "whole", settings=SETTINGS, inputs=inputs, seeds=seeds)
    trained = [fields for kind, fields in whole.events if kind == "progress" and fields.get("loss")]
    assert trained == [], "nothing is trained again"
    return whole.out


@pytest.mark.parametrize("base", ["from scratch", "known"])
def test_candidates_that_are_trained_apart_give_the_bytes_of_one_process(base: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    inputs = make_inputs(tmp_path / "in", steps=2, lora_steps=4, sweep=GRID) if base == "from scratch" else request.getfixturevalue("known")
    one = run_phase(phase, tmp_path / "one", settings=SETTINGS, inputs=inputs).out
    several = apart(inputs, tmp_path / "apart")
    for name in ("base", "adapter", "train.json"):
        assert hash_path(several / name) == hash_path(one / name), name


def test_a_base_from_scratch_comes_before_its_candidates_and_a_halved_sweep_has_no_parts(tmp_path: Path) -> None:
    plan = read_record(make_inputs(tmp_path / "in", steps=2, lora_steps=4, sweep=GRID)["plan"], Plan)
    assert groups(plan) == ((BASE,), ("r2", "r8"))
    assert groups(plan.model_copy(update={"scratch": None})) == (("r2", "r8"),)
    assert groups(plan.model_copy(update={"sweep": GRID.model_copy(update={"halving": True})})) == ()
    assert groups(plan.model_copy(update={"sweep": None})) == ()
    assert plan.sweep
    sweep = narrowed(plan, "r8").sweep
    assert sweep
    assert [one.name for one in sweep.candidates] == ["r8"]
    assert json.loads(narrowed(plan, BASE).model_dump_json()) == json.loads(plan.model_dump_json())
