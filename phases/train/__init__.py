"""Trains what the approved plan names: a base from random weights, then a LoRA adapter on the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from forge.phase import Context, Estimate, Output, Requirement, Settings, Table
from forge.phases.train.apart import BASE, groups, narrowed
from forge.phases.train.bases import prepare_base, read_base
from forge.phases.train.ways import Machine, look_at_machine
from forge.records import Plan, read_record, write_json

if TYPE_CHECKING:
    from forge.phases.train.launch import Launch

FIXED_SECONDS = 20.0  # imports (7 s on an idle core), loading, saving
CPU_FLOPS = 6.0e10  # fp32, one Zen 3 core, measured 2026-11-20: 4,600 tokens/s at 2.10 M parameters
SPREAD_P90 = 2.5


class TrainSettings(Settings):
    """What a machine's owner may want to change; every hyperparameter is in the plan."""

    precision: Literal["auto", "fp8", "bf16", "nf4", "fp32"] = Field(
        "auto", description="of the frozen base while an adapter is trained; auto: FP8 or bfloat16 where the GPU has them and the base fits, else 4 bits; float32 on a CPU"
    )
    threads: int = Field(1, ge=1, description="CPU threads; another number changes the last bits of the weights")
    checkpoint_steps: int = Field(50, ge=1, description="steps between checkpoints: at most so many are trained again after a kill")
    gpus: Literal["auto"] | int = Field(
        "auto", description="GPUs of a machine that train together; auto: all of them. On a machine without any, as many processes on its CPU, to try it out"
    )
    parallel: Literal["auto", "ddp", "fsdp"] = Field(
        "auto", description="how several GPUs share the work; ddp: each holds the base; fsdp: it is split over all; auto: ddp where one GPU can hold it"
    )
    log_steps: int = Field(5, ge=1, description="steps between progress reports")
    report_to: tuple[str, ...] = Field(
        (), description="places that the trainer also reports to while it runs, by transformers' names (mlflow, tensorboard); each reads its own environment variables"
    )


class Train:
    """Pretraining and tuning on the leased machine, resumable to the bit."""

    name: ClassVar[str] = "train"
    VERSION: ClassVar[int] = 5
    summary: ClassVar[str] = "trains the base and the adapter that the plan names"
    reads: ClassVar[tuple[str, ...]] = (
        "plan", "approval", "machine", "train", "val", "pretrain", "pretrain_val", "tokenizer", "base_source",
    )
    writes: ClassVar[tuple[Output, ...]] = (
        Output(name="base_model", path="base"),
        Output(name="adapter", path="adapter"),
        Output(name="stage_adapters", path="stages"),
        Output(name="train_report", path="train.json"),
        Output(name="progress", path="progress.jsonl", telemetry=True),
    )
    settings: ClassVar[type[Settings]] = TrainSettings
    where: ClassVar[Literal["engine", "machine"]] = "machine"
    every_node: ClassVar[bool] = True
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "trl", "peft", "tokenizers")
    requires: ClassVar[tuple[Requirement, ...]] = tuple(
        Requirement(module=module, extra="train") for module in ("torch", "transformers", "trl", "peft", "datasets")
    )
    always: ClassVar[bool] = False
    no_effect: ClassVar[tuple[str, ...]] = ("checkpoint_steps", "report_to")

    def estimate(self, settings: TrainSettings, ctx: Context) -> Estimate:
        """Seconds from the plan's steps at a measured speed of one core; the lease is paid by provision."""
        plan = read_record(ctx.input("plan"), Plan)
        pretraining = plan.scratch.steps * plan.scratch.rows_per_step * plan.scratch.context if plan.scratch else 0
        adapters = len(plan.sweep.candidates) if plan.sweep else 1
        tuning = adapters * plan.lora.steps * plan.lora.examples_per_step * plan.lora.max_length / 2
        seconds = FIXED_SECONDS + 6 * plan.parameters * (pretraining + tuning) / CPU_FLOPS
        return Estimate(
            seconds_p50=seconds, seconds_p90=SPREAD_P90 * seconds,
            basis="6 operations a parameter and token, one CPU core; rows half as long as allowed",
        )

    def parts(self, settings: TrainSettings, inputs: Mapping[str, Path]) -> Sequence[Sequence[str]]:
        """The candidates of a sweep, after the base where that is trained too."""
        return groups(read_record(inputs["plan"], Plan))

    def run(self, settings: TrainSettings, ctx: Context) -> Mapping[str, float | str]:
        """Check that the data are the approved ones, train, and write base/, adapter/, train.json and progress.jsonl."""
        from forge.phases.train.guards import check_data
        from forge.phases.train.launch import choose_launch, free_memory
        from forge.phases.train.runtime import (
            count_gpus,
            keep_one_gpu,
            pick_precision,
            prepare_libraries,
        )

        plan = narrowed(read_record(ctx.input("plan"), Plan), ctx.part)
        check_data(plan, ctx)
        known = read_base(ctx)
        if plan.scratch is None:
            ctx.progress(0, None, f"preparing {known.name}")
            prepare_base(plan, ctx, known)
        launch = choose_launch(plan, settings, ctx.output("base_model"), gpus=count_gpus(), memory=free_memory)
        if launch.ranks > 1:
            ctx.notice(launch.reason)
            return _train_in_several(plan, settings, ctx, launch)
        keep_one_gpu()
        if launch.reason not in ("one GPU", "no GPU"):
            ctx.notice(launch.reason)
        prepare_libraries(settings.threads, plan.seed, ctx.work / "datasets")
        machine = look_at_machine(measure=plan.scratch is None)
        precision, reason = pick_precision(plan.precision, machine.device)
        if plan.scratch is not None:
            ctx.notice(f"training in {precision} on {machine.device}: {reason}")
        return _train(plan, settings, ctx, precision, machine)

    def tables(self, find: Callable[[str], Path], *, dropped: bool) -> Iterator[Table]:
        """Every candidate of a sweep, with its validation loss and how far it is behind the best."""
        from forge.phases.train.grid import tables

        if not dropped:
            yield from tables(find("train_report"))

    def undo(self, settings: TrainSettings, ctx: Context) -> None:
        """Nothing is made outside the run folder."""


phase = Train()


def _train_in_several(plan: Plan, settings: TrainSettings, ctx: Context, launch: Launch) -> Mapping[str, float | str]:
    """One process a GPU writes adapter, stages and progress; the report is written here."""
    from forge.phases.train.launch import train_together

    found = train_together(launch, Train.reads, settings, ctx)
    lora = found["tuned"]
    guards = lora.pop("guards")
    report = {"parameters": plan.parameters, "guards": guards, "precision": lora["precision"], "parallel": launch.reason, "lora": lora}
    write_json(ctx.output("train_report"), {**report, **found["told"]})
    losses = [loss for _, loss in lora["loss"]]
    return {
        "summary": f"loss {losses[0]:.2f} → {losses[-1]:.2f} tuned · {lora['tokens']:,} tokens · {launch.reason.partition(':')[0]}",
        "lora_tokens": lora["tokens"], "lora_loss": losses[-1], **({"val_loss": lora["val_loss"][-1][1]} if lora["val_loss"] else {}),
    }


def _train(plan: Plan, settings: TrainSettings, ctx: Context, precision: str, machine: Machine) -> Mapping[str, float | str]:
    from forge.phases.train.pace import planned_steps
    from forge.phases.train.recipes.scratch_base import train_scratch_base
    from forge.phases.train.reporter import Reporter
    from forge.phases.train.several import tune_plan

    before = plan.scratch.steps if plan.scratch else 0
    total, report, numbers = before + planned_steps(plan), {}, {}
    if plan.scratch is not None:
        first = Reporter(ctx, "pretrain", before, before=0, total=total, every=settings.log_steps)
        base = train_scratch_base(plan, ctx, first, precision=precision, device=machine.device, checkpoint_steps=settings.checkpoint_steps)
        pretrain = base._asdict()
        report = {"parameters": pretrain.pop("parameters"), "pretrain": pretrain}
        numbers = {"parameters": base.parameters, "pretrain_tokens": base.tokens, "pretrain_loss": base.loss[-1][1]}
    if ctx.part == BASE:
        return numbers
    tuned, told = tune_plan(plan, settings, ctx, machine, before)
    lora = tuned._asdict()
    guards = lora.pop("guards")
    write_json(ctx.output("train_report"), {"parameters": plan.parameters, "guards": guards, "precision": precision, "lora": lora, **report, **told})
    first_loss = f"loss {base.loss[0][1]:.2f} → {base.loss[-1][1]:.2f} pretrained, " if plan.scratch else "loss "
    tokens = tuned.tokens + (base.tokens if plan.scratch else 0)
    return {
        "summary": f"{first_loss}{tuned.loss[0][1]:.2f} → {tuned.loss[-1][1]:.2f} tuned · {tokens:,} tokens",
        **numbers, "lora_tokens": tuned.tokens, "lora_loss": tuned.loss[-1][1],
        **({"val_loss": tuned.val_loss[-1][1]} if tuned.val_loss else {}),
    }
