"""What is tuned: one adapter, one through several stages, or a grid of them; each with its own reports of progress."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from forge.phase import Context
from forge.phases.train.grid import train_grid
from forge.phases.train.pace import planned_steps
from forge.phases.train.recipes.lora_sft import Job, Tuning, tune_lora
from forge.phases.train.reporter import Reporter
from forge.phases.train.stages import in_all, train_stages, write_index
from forge.phases.train.ways import Machine
from forge.records import Plan

if TYPE_CHECKING:
    from forge.phases.train import TrainSettings


def tune_plan(
    plan: Plan, settings: TrainSettings, ctx: Context, machine: Machine, before: int, *, how: str = "ddp", smaller: int = 0
) -> tuple[Tuning, dict[str, Any]]:
    """Tune what the plan says and write the artifacts adapter, stage_adapters and progress; returns the training and what is told of
    stages or candidates. before: steps of pretraining, for the progress. how, smaller: of several processes (launch.py): "fsdp" splits
    the base; so many of the fastest ways have run out of memory.
    """
    total = before + planned_steps(plan)

    def reporter(name: str, steps: int, earlier: int) -> Reporter:
        return Reporter(ctx, name, steps, before=before + earlier, total=total, every=settings.log_steps)

    def tune(job: Job) -> Tuning:
        steps = (job.lora or plan.lora).steps
        return tune_lora(
            plan, ctx, reporter(job.name, steps, job.earlier), machine=machine, precision=settings.precision,
            checkpoint_steps=settings.checkpoint_steps, log_steps=settings.log_steps, job=job, report_to=settings.report_to, how=how, smaller=smaller,
        )

    told: dict[str, Any] = {}
    if plan.sweep is not None:
        tuned, told["sweep"] = train_grid(plan, ctx, reporter, machine, tune, settings.checkpoint_steps)
    elif plan.stages:
        tunings = train_stages(plan, ctx, tune)
        tuned = in_all(tunings)
        told["stages"] = [{"name": stage.name, **one._asdict()} for stage, one in zip(plan.stages, tunings, strict=True)]
    else:
        tuned = tune(Job())
    write_index(plan, ctx.output("stage_adapters"))
    reporter("lora", 0, 0).publish(ctx.output("progress"))
    return tuned, told
