"""Tunes a LoRA adapter on the base with trl's SFTTrainer, on answers only. Reads top to bottom.

A step has exactly the planned examples, laid end to end without padding (packing.py). How a step is computed on this machine is
chosen with reasons (ways.py) and tried once (tuner.py). There is no dropout and no truncation. Stopped anywhere, it goes on from the
last whole checkpoint; on a CPU to the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from forge.errors import Interrupted
from forge.phase import Context
from forge.phases.train.bases import load_base
from forge.phases.train.checkpoints import drop_damaged
from forge.phases.train.distributed import (
    first_says,
    local_rank,
    processes,
    share_of_step,
    wait_for_all,
)
from forge.phases.train.encode import chat_rows, encode_rows
from forge.phases.train.guards import check_rows, check_training
from forge.phases.train.pace import (
    Limits,
    Pace,
    leased_usd_per_hour,
    planned_steps,
    seconds_for,
)
from forge.phases.train.packing import Encoded, pack_steps
from forge.phases.train.reporter import Reporter
from forge.phases.train.saving import load_adapter, save_adapter, save_rounded_base, save_tuned
from forge.phases.train.shards import in_turn, shared_checkpoint, split_model, trained_weights
from forge.phases.train.tuner import (
    Numbers,
    adapt,
    make_trainer,
    too_large,
    train_on,
    train_that_fits,
    trial_step,
)
from forge.phases.train.variants import VERSIONS, capitalise_mentions, has_capitals, take_turns
from forge.phases.train.watcher import logged, make_watcher
from forge.phases.train.ways import Machine, Way, adapter_parameters, choose_way, shape_of
from forge.records import Example, LoraPlan, Plan, read_jsonl

VALIDATION_ROWS = 64

Losses = list[tuple[int, float]]
"""(step, mean nats per answer token)."""


class Tuning(NamedTuple):
    """What tuning did. Guards are what was checked, and how it came out."""

    steps: int
    tokens: int
    trainable_parameters: int
    loss: Losses
    val_loss: Losses
    guards: dict[str, bool | None]
    precision: str


class Job(NamedTuple):
    """What is trained, where it is not simply the plan: one stage of it, or one candidate of a sweep.

    start: an adapter to go on from. target: where the adapter goes instead of into the artifact. name: of its checkpoints and
    in the progress. earlier: steps of the jobs before it.
    """

    lora: LoraPlan | None = None
    stage: str = ""
    start: Path | None = None
    target: Path | None = None
    name: str = "lora"
    earlier: int = 0


def tune_lora(
    plan: Plan, ctx: Context, reporter: Reporter, *, machine: Machine, precision: str, checkpoint_steps: int, log_steps: int,
    job: Job = Job(),  # noqa: B008 - a tuple without state
    report_to: Sequence[str] = (),
    how: str = "ddp", smaller: int = 0,
) -> Tuning:
    """Train the planned adapter, or with `plan.tuning` "full" all of it, on the artifact base_model and save it as the artifact adapter.

    precision: of the base, or "auto". how, smaller: of several processes, which all call this (launch.py): "fsdp" splits the base; so
    many of the fastest ways have run out of memory before. Raises Interrupted after saving a checkpoint, GateFailed when a guard finds rows or a
    result that must not ship, UsageError for a precision that the machine does not have.
    """
    from transformers import AutoConfig, AutoTokenizer

    lora, task, full = job.lora or plan.lora, ctx.use("task", plan.task), plan.tuning == "full"
    base = ctx.output("base_model")
    tokenizer = AutoTokenizer.from_pretrained(base)
    examples, versions, guards = _examples(plan, lora, ctx, tokenizer, job.stage)
    validation = encode_rows(chat_rows(ctx.input("val"), task)[:VALIDATION_ROWS], tokenizer)

    adapter = None if full else adapter_of(plan, lora)
    lengths, config = [len(one.ids) for one in examples], AutoConfig.from_pretrained(base)
    shape = shape_of(config, plan.parameters, plan.parameters if full else adapter_parameters(config, lora.rank, lora.target_modules))
    whole = pack_steps(lengths, lora.steps, lora.examples_per_step, plan.seed, sum(lengths) + 1, versions=versions)
    ways = choose_way(
        machine, shape, asked="fp32" if plan.scratch else precision, step_tokens=share_of_step(max(whole.tokens)), longest=max(lengths),
        total_tokens=sum(whole.tokens) / processes(), compile=False if plan.scratch else None, shards=processes() if how == "fsdp" else 1, full=full,
    )
    for name, reason in ways[0].reasons.items():
        ctx.notice(f"{name}: {reason}")
    replanned = ctx.work / f"{job.name}-steps"  # written when the machine's time did not suffice for all
    steps = first_says(int(replanned.read_text()) if replanned.exists() else lora.steps)
    numbers = Numbers(steps, lora.learning_rate, plan.seed, checkpoint_steps, log_steps)
    checkpoints = ctx.work / job.name

    def build(way: Way) -> Any:
        device = "cpu" if way.precision == "nf4" or way.shards > 1 else way.device  # what does not fit the GPU whole reaches it already small
        start = job.start if full and job.start else base

        def load() -> Any:
            model = adapt(load_base(start, "float32" if way.precision == "fp32" else "bfloat16", device), adapter, way, seed=plan.seed)
            if job.start and not full:
                load_adapter(model, job.start)
            return split_model(model, way.device) if way.shards > 1 else model

        model = in_turn(load) if way.shards > 1 else load()
        packed = pack_steps(lengths, lora.steps, lora.examples_per_step, plan.seed, way.row_tokens, multiple=processes(), versions=versions)
        trainer = make_trainer(model, tokenizer, examples, packed, numbers, way, checkpoints, validation=validation)
        fits = way.device == "cpu" or trial_step(trainer, packed, lengths, ctx.notice)
        return (trainer, way, packed) if fits else None

    if local_rank() == 0 and (damaged := drop_damaged(checkpoints)):
        ctx.notice(f"dropped {', '.join(damaged)}: not whole")
    wait_for_all()
    peak = machine.peak_flops * processes()

    def train(built: Any) -> None:
        trainer, way, packed = built
        found = shared_checkpoint(checkpoints, split=way.shards > 1)
        done = found[0] if found else 0
        if found:
            ctx.notice(f"tuning goes on after step {done} of {lora.steps}")
        seconds = seconds_for(ctx, plan.deadline_seconds, lora.steps, earlier=job.earlier, in_all=planned_steps(plan))
        limits = Limits(seconds, leased_usd_per_hour(ctx, plan), shape.flops_per_token if peak else 0.0, peak)
        watcher = make_watcher(ctx, reporter, packed.tokens, Pace(limits, numbers.steps, done), replanned)
        reporter.start(done)
        train_on(trainer, watcher, found[1] if found else None, report_to)
        if watcher.stopped:
            raise Interrupted

    if smaller >= len(ways):
        raise too_large(ways[-1])
    trainer, way, packed = train_that_fits(ways[smaller:], build, ctx.notice, train)
    history = trainer.state.log_history
    loss, val_loss = logged(history, "loss"), logged(history, "eval_loss")
    model = trainer.model
    guards |= _save(model, way, plan, ctx, job.target or ctx.output("adapter"), loss, val_loss)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    made = trainer.state.max_steps
    return Tuning(made, sum(packed.tokens[:made]), trained, loss, val_loss, guards, way.precision)


def _examples(plan: Plan, lora: LoraPlan, ctx: Context, tokenizer: Any, stage: str) -> tuple[list[Encoded], int, dict[str, bool | None]]:
    """(encoded training rows, how many versions of them they are, the guards that passed). Raises GateFailed for rows that must not be trained."""
    task, path = ctx.use("task", plan.task), ctx.input("train")
    rows = chat_rows(path, task, stage)
    examples = encode_rows(rows, tokenizer)
    guards = check_rows(examples, rows, tokenizer, lora.max_length)
    if not (plan.scratch and plan.task == "extract" and has_capitals(read_jsonl(path, Example))):
        return examples, 1, guards
    capitals = encode_rows(chat_rows(path, task, stage, told=capitalise_mentions), tokenizer)
    return take_turns(examples, capitals, lora.max_length), VERSIONS, guards


def adapter_of(plan: Plan, lora: LoraPlan) -> Any:
    """The planned adapter as peft's LoraConfig.

    The embeddings of a scratch base are trained whole: it has read too little for them to be good, and with frozen ones the
    handbook's recall test is answered word for word 3 % of the time instead of 61 % (2.1 M parameters, 4 epochs, 2026-11-21).
    Input and output embedding stay one matrix, so merge_and_unload() gives a plain Llama with tied weights. "<|im_end|>"
    needs nothing of its own: the base has learnt it as the end of every passage.
    """
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM", r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0,
        target_modules=lora.target_modules if "," not in lora.target_modules else lora.target_modules.split(","),
        modules_to_save=["embed_tokens"] if plan.scratch else None, ensure_weight_tying=plan.scratch is not None,
    )


def _save(
    model: Any, way: Way, plan: Plan, ctx: Context, target: Path, loss: Losses, val_loss: Losses
) -> dict[str, bool | None]:
    """What was trained goes to `target`, by the first process alone; the guards on the result. Returns when all processes are there."""
    full, guards = plan.tuning == "full", dict[str, bool | None]()
    weights = trained_weights(model) if way.shards > 1 else {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if local_rank() == 0:
        guards = check_training({} if full else weights, [value for _, value in loss], [value for _, value in val_loss])
        if full:
            save_tuned(model, ctx.input("tokenizer"), target, weights)
        else:
            save_adapter(model, target, weights if way.shards > 1 else None)
        if way.precision == "nf4":
            save_rounded_base(model, ctx.output("base_model"))
    wait_for_all()
    return guards
