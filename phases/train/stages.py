"""One adapter through several data sets, one after the other; every stage's adapter is kept, so that each can be measured later.

A finished stage is sealed like a checkpoint: a resumed run goes on with the stage that was stopped, to the same bits on a CPU.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from forge.phase import Context
from forge.phases.train.checkpoints import latest_checkpoint, save_checkpoint
from forge.phases.train.distributed import local_rank, wait_for_all
from forge.phases.train.recipes.lora_sft import Job, Tuning
from forge.records import Plan, write_json

INDEX = "index.json"
ADAPTER, REPORT = "adapter", "report.json"

Tune = Callable[[Job], Tuning]


def train_stages(plan: Plan, ctx: Context, tune: Tune) -> list[Tuning]:
    """Train every stage of the plan from the adapter of the one before; the last one's becomes the artifact adapter.

    tune: trains one job (recipes/lora_sft.py). Raises what it raises; finished stages are not trained again.
    """
    found, start, earlier = [], None, 0
    for number, stage in enumerate(plan.stages, 1):
        root = ctx.work / "stages" / f"{number}-{stage.name}"
        done = latest_checkpoint(root)
        if done is None:
            made = ctx.work / f"{root.name}-adapter"
            if local_rank() == 0:
                shutil.rmtree(made, ignore_errors=True)
            tuning = tune(Job(lora=stage.lora, stage=stage.name, start=start, target=made, name=root.name, earlier=earlier))
            if local_rank() == 0:
                ctx.keep(save_checkpoint(root, stage.lora.steps, _writer(made, tuning)))
            wait_for_all()
            done = latest_checkpoint(root)
        assert done is not None
        wait_for_all()
        start, earlier = done[1] / ADAPTER, earlier + stage.lora.steps
        found.append(Tuning(**json.loads((done[1] / REPORT).read_text(encoding="utf-8"))))
        if local_rank() == 0:
            shutil.copytree(start, ctx.output("stage_adapters") / root.name, dirs_exist_ok=True)
    assert start is not None
    if local_rank() == 0:
        shutil.copytree(start, ctx.output("adapter"), dirs_exist_ok=True)
    return found


def write_index(plan: Plan, folder: Path) -> None:
    """Name the stages whose adapters lie in `folder`; there may be none."""
    if local_rank():
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / INDEX, [{"name": stage.name, "folder": f"{number}-{stage.name}"} for number, stage in enumerate(plan.stages, 1)])


def in_all(tunings: list[Tuning]) -> Tuning:
    """All stages as one report: steps counted through, losses one after the other."""
    loss, val_loss, before = [], [], 0
    for one in tunings:
        loss += [(before + step, value) for step, value in one.loss]
        val_loss += [(before + step, value) for step, value in one.val_loss]
        before += one.steps
    last = tunings[-1]
    return last._replace(steps=before, tokens=sum(one.tokens for one in tunings), loss=loss, val_loss=val_loss)


def _writer(adapter: Path, tuning: Tuning) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        shutil.copytree(adapter, folder / ADAPTER)
        write_json(folder / REPORT, tuning._asdict())

    return write
