"""Trains what the approved plan names: a base from random weights, then a LoRA adapter on the answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from forge.errors import UsageError
from forge.phase import Context, Estimate, Output, Requirement, Settings
from forge.records import Plan, read_record, write_json

FIXED_SECONDS = 20.0  # imports (7 s on an idle core), loading, saving
CPU_FLOPS = 6.0e10  # fp32, one Zen 3 core, measured 2026-11-20: 4,600 tokens/s at 2.10 M parameters
SPREAD_P90 = 2.5


class TrainSettings(Settings):
    """What a machine's owner may want to change; every hyperparameter is in the plan."""

    threads: int = Field(1, ge=1, description="CPU threads; another number changes the last bits of the weights")
    checkpoint_steps: int = Field(50, ge=1, description="steps between checkpoints: at most so many are trained again after a kill")
    log_steps: int = Field(5, ge=1, description="steps between progress reports")


class Train:
    """Pretraining and tuning on the leased machine, resumable to the bit."""

    name: ClassVar[str] = "train"
    VERSION: ClassVar[int] = 1
    summary: ClassVar[str] = "trains the base and the adapter that the plan names"
    reads: ClassVar[tuple[str, ...]] = (
        "plan", "approval", "machine", "train", "val", "pretrain", "pretrain_val", "tokenizer",
    )
    writes: ClassVar[tuple[Output, ...]] = (
        Output(name="base_model", path="base"),
        Output(name="adapter", path="adapter"),
        Output(name="train_report", path="train.json"),
        Output(name="progress", path="progress.jsonl", telemetry=True),
    )
    settings: ClassVar[type[Settings]] = TrainSettings
    where: ClassVar[Literal["engine", "machine"]] = "machine"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "trl", "peft", "tokenizers")
    requires: ClassVar[tuple[Requirement, ...]] = tuple(
        Requirement(module=module, extra="train") for module in ("torch", "transformers", "trl", "peft", "datasets")
    )
    always: ClassVar[bool] = False

    def estimate(self, settings: TrainSettings, ctx: Context) -> Estimate:
        """Seconds from the plan's steps at a measured speed of one core; the lease is paid by provision."""
        plan = read_record(ctx.input("plan"), Plan)
        pretraining = plan.scratch.steps * plan.scratch.rows_per_step * plan.scratch.context if plan.scratch else 0
        tuning = plan.lora.steps * plan.lora.examples_per_step * plan.lora.max_length / 2
        seconds = FIXED_SECONDS + 6 * plan.parameters * (pretraining + tuning) / CPU_FLOPS
        return Estimate(
            seconds_p50=seconds, seconds_p90=SPREAD_P90 * seconds,
            basis="6 operations a parameter and token, one CPU core; rows half as long as allowed",
        )

    def run(self, settings: TrainSettings, ctx: Context) -> Mapping[str, float | str]:
        """Check that the data are the approved ones, train, and write base/, adapter/, train.json and progress.jsonl."""
        from forge.phases.train.guards import check_data
        from forge.phases.train.runtime import pick_device, pick_precision, prepare_libraries

        plan = read_record(ctx.input("plan"), Plan)
        check_data(plan, ctx)
        if plan.scratch is None:
            raise UsageError(
                f"the base {plan.base} cannot be trained here", why="only scratch bases are built into this version",
                next="forge resume --set shape.base=scratch",
            )
        prepare_libraries(settings.threads, plan.seed, ctx.work / "datasets")
        device = pick_device()
        precision, reason = pick_precision(plan.precision, device)
        ctx.notice(f"training in {precision} on {device}: {reason}")
        return _train(plan, settings, ctx, precision, device)

    def undo(self, settings: TrainSettings, ctx: Context) -> None:
        """Nothing is made outside the run folder."""


phase = Train()


def _train(plan: Plan, settings: TrainSettings, ctx: Context, precision: str, device: str) -> Mapping[str, float | str]:
    from forge.phases.train.recipes.lora_sft import tune_lora
    from forge.phases.train.recipes.scratch_base import train_scratch_base
    from forge.phases.train.reporter import Reporter

    assert plan.scratch is not None
    before, total = plan.scratch.steps, plan.scratch.steps + plan.lora.steps
    first = Reporter(ctx, "pretrain", before, before=0, total=total, every=settings.log_steps)
    how: dict[str, Any] = {"precision": precision, "device": device, "checkpoint_steps": settings.checkpoint_steps}
    base = train_scratch_base(plan, ctx, first, **how)
    second = Reporter(ctx, "lora", plan.lora.steps, before=before, total=total, every=settings.log_steps)
    tuned = tune_lora(plan, ctx, second, **how)
    second.publish(ctx.output("progress"))
    lora, pretrain = tuned._asdict(), base._asdict()
    report = {"guards": lora.pop("guards"), "parameters": pretrain.pop("parameters"), "precision": precision}
    write_json(ctx.output("train_report"), {**report, "pretrain": pretrain, "lora": lora})
    losses = f"loss {base.loss[0][1]:.2f} → {base.loss[-1][1]:.2f} pretrained, {tuned.loss[0][1]:.2f} → {tuned.loss[-1][1]:.2f} tuned"
    return {
        "summary": f"{losses} · {base.tokens + tuned.tokens:,} tokens",
        "parameters": base.parameters, "pretrain_tokens": base.tokens, "pretrain_loss": base.loss[-1][1],
        "lora_tokens": tuned.tokens, "lora_loss": tuned.loss[-1][1],
        **({"val_loss": tuned.val_loss[-1][1]} if tuned.val_loss else {}),
    }
