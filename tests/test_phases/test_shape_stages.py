"""Stages in shape and in the plan: which row belongs where, what a stage costs, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from forge.context import FolderContext
from forge.errors import UsageError
from forge.phases.plan_fit.training import (
    SweepSettings,
    adapters_trained,
    in_all,
    plan_stages,
    plan_sweep,
    sweep_passes,
)
from forge.phases.shape.material import Rows
from forge.phases.shape.stages import Stage, assign_stages, stage_data
from forge.records import Chat, Example, LoraPlan, Message, StageData
from forge.registry import Registry
from forge.testing import CountingMoney

TONE = Stage(name="tone", sources=("tone/*",), buckets=("tone",), epochs=1)
DOMAIN = Stage(name="domain", rate=0.5)
PATHS = {"p1": "tone/letters.md", "p2": "guide/pumps.md"}
LORA = LoraPlan(rank=16, alpha=32, target_modules="all-linear", learning_rate=2e-4, epochs=3, steps=30, examples_per_step=10, max_length=128)


def make_context(folder: Path, *, dry_run: bool = False) -> FolderContext:
    return FolderContext(
        folder, run_id="t", seed=7, dry_run=dry_run, inputs={}, writes=(), registry=Registry(), money=CountingMoney(), emit=lambda kind, fields: None,
    )


def row(name: str, passage: str = "", bucket: str = "") -> Example:
    body = Chat(prompt=(Message(role="user", content="?"),), completion=(Message(role="assistant", content="!"),))
    return Example(id=name, split="train", group=name, origin=(passage,) if passage else (), bucket=bucket, body=body)


def rows() -> Rows:
    found: Rows = {"train": [row("a", "p1"), row("b", "p2"), row("c", "p2", "tone"), row("d")], "val": [row("e", "p1")]}
    return found


def test_a_row_belongs_to_the_first_stage_that_it_fits_and_the_rest_to_the_last(tmp_path: Path) -> None:
    found = rows()
    assign_stages(found, PATHS, (TONE, DOMAIN), make_context(tmp_path))
    assert {one.id: one.stage for split in found.values() for one in split} == {
        "a": "tone", "b": "domain", "c": "tone", "d": "domain", "e": "tone",
    }
    counted = stage_data(found, {"train": [(1, 10), (1, 20), (1, 30), (1, 40)]}, (TONE, DOMAIN))
    assert counted == (StageData(name="tone", rows=2, tokens=40, epochs=1), StageData(name="domain", rows=2, tokens=60, rate=0.5))


def test_without_stages_nothing_is_written(tmp_path: Path) -> None:
    found = rows()
    assign_stages(found, PATHS, (), make_context(tmp_path))
    assert found == rows()


def test_a_stage_without_rows_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="stage law has no training rows") as error:
        assign_stages(rows(), PATHS, (Stage(name="law", sources=("law/*",)), DOMAIN), make_context(tmp_path))
    assert "law/*" in error.value.why
    assign_stages(rows(), PATHS, (Stage(name="law", sources=("law/*",)), DOMAIN), make_context(tmp_path, dry_run=True))
    with pytest.raises(UsageError, match="one name"):
        assign_stages(rows(), PATHS, (TONE, TONE), make_context(tmp_path))


def test_the_plan_gives_each_stage_its_steps_and_rate() -> None:
    reasons: dict[str, str] = {}
    data = (StageData(name="tone", rows=40, tokens=1, epochs=1), StageData(name="domain", rows=60, tokens=1, rate=0.5))
    stages = plan_stages(LORA, data, 3, reasons, dry_run=False)
    assert [(one.name, one.lora.steps, one.lora.learning_rate) for one in stages] == [("tone", 4, 2e-4), ("domain", 18, 1e-4)]
    assert in_all(LORA, stages, 100).steps == 22
    assert "tone (40 rows, 1 epochs at 0.0002), then domain" in reasons["stages"]
    half = plan_stages(LORA.model_copy(update={"epochs": 1.5}), data, 3, {}, dry_run=False)     # the minutes allow half of what was wanted
    assert [one.lora.steps for one in half] == [2, 9]


def test_the_plan_lists_every_candidate_of_the_grid() -> None:
    reasons: dict[str, str] = {}
    sweep = plan_sweep(LORA, SweepSettings(rank=(4, 16), learning_rate=(1e-4, 3e-4)), reasons, dry_run=False)
    assert sweep is not None
    assert [(one.name, one.rank, one.alpha, one.learning_rate) for one in sweep.candidates] == [
        ("r4-lr0.0001", 4, 8, 1e-4), ("r4-lr0.0003", 4, 8, 3e-4), ("r16-lr0.0001", 16, 32, 1e-4), ("r16-lr0.0003", 16, 32, 3e-4),
    ]
    assert sweep_passes(sweep) == adapters_trained(SweepSettings(rank=(4, 16), learning_rate=(1e-4, 3e-4))) == 4
    assert "validation" in reasons["sweep"]
    halved = plan_sweep(LORA, SweepSettings(rank=(4, 8, 16, 32), halving=True), {}, dry_run=False)
    assert sweep_passes(halved) == pytest.approx(4 * 7 / 12)
    assert plan_sweep(LORA, None, {}, dry_run=False) is None


@pytest.mark.parametrize("grid", [SweepSettings(rank=(4,)), SweepSettings(), SweepSettings(rank=(0, 4)), SweepSettings(learning_rate=(2.0, 1e-3))])
def test_a_senseless_grid_is_refused(grid: SweepSettings) -> None:
    with pytest.raises(UsageError):
        plan_sweep(LORA, grid, {}, dry_run=False)
