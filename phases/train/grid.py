"""A sweep inside a run: train every candidate, choose on validation rows, keep the winner's adapter, tell how all of them did."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from forge.phase import Context, Table
from forge.phases.train.apart import any_finished
from forge.phases.train.bases import load_base
from forge.phases.train.checkpoints import latest_checkpoint, save_checkpoint
from forge.phases.train.encode import chat_rows, encode_rows
from forge.phases.train.guards import check_rows, check_training
from forge.phases.train.multilora import Candidate
from forge.phases.train.pace import Hold, seconds_for
from forge.phases.train.packing import Encoded
from forge.phases.train.recipes.lora_sft import Job, Tuning
from forge.phases.train.reporter import Reporter
from forge.phases.train.saving import save_adapter
from forge.phases.train.sweep import Hooks, Outcome, Sweep, measure_model, train_batched, with_adapter
from forge.phases.train.ways import Machine
from forge.records import Example, Plan, SweepPlan, read_jsonl, write_json
from forge.stats import cluster_bootstrap, compare_counts

ROW_TOKENS = 16384
"""Tokens of one pass, all candidates together: long enough for the matrices, 10 GiB of activations at 1.7B."""

Tune = Callable[[Job], Tuning]
MakeReporter = Callable[[str, int, int], Reporter]
"""(name, steps, steps before it) -> how its progress is told."""


class Tried(NamedTuple):
    """One line of the table. val_loss: nats per answer token with its 95 % interval; behind: its difference to the best, with interval."""

    name: str
    rank: int
    alpha: int
    learning_rate: float
    stopped_at: int
    train_loss: float
    val_loss: float
    low: float
    high: float
    behind: float
    behind_low: float
    behind_high: float


def train_grid(plan: Plan, ctx: Context, reporter: MakeReporter, machine: Machine, tune: Tune, checkpoint_steps: int) -> tuple[Tuning, dict[str, Any]]:
    """Train all candidates and write the chosen one's adapter; returns its training and the table of all (train.json's "sweep")."""
    assert plan.sweep is not None
    rows = list(read_jsonl(ctx.input("val"), Example))
    apart = any_finished(ctx.work / "sweep", [one.name for one in plan.sweep.candidates], plan.lora.steps)
    if plan.scratch is None and machine.device == "cuda" and apart:
        how, reason = "each by itself", "they were trained beside each other"
    elif plan.scratch is None and machine.device == "cuda":
        how, reason = "all at once", "one pass carries every candidate over the frozen base"
    elif plan.scratch is None:
        how, reason = "one after another over one loaded base", "on a CPU a pass with all of them takes longer than each alone"
    else:
        how, reason = "one after another", "the embeddings of a scratch base are trained with each adapter"
    ctx.notice(f"sweep of {len(plan.sweep.candidates)}: {how}: {reason}")
    if plan.scratch is not None:
        outcomes, tunings = _tuned_in_turn(plan, plan.sweep, ctx, tune)
    else:
        outcomes, tunings = _over_one_base(plan, plan.sweep, ctx, reporter, machine, checkpoint_steps)
    groups = [row.group or row.id for row in rows]
    table, chosen, why = choose(outcomes, groups, _answer_tokens(ctx, plan), plan.seed)
    ctx.notice(f"sweep: {why}")
    source = ctx.work / "sweep-adapters" / outcomes[chosen].candidate.name
    shutil.copytree(source, ctx.output("adapter"), dirs_exist_ok=True)
    told = {"how": how, "chosen": outcomes[chosen].candidate.name, "why": why, "validation_rows": len(rows), "candidates": [one._asdict() for one in table]}
    return tunings[chosen], told


def choose(outcomes: Sequence[Outcome], groups: Sequence[str], tokens: Sequence[int], seed: int) -> tuple[list[Tried], int, str]:
    """The table, the place of the chosen candidate, and why: the smallest of those that are not significantly worse than the best.

    groups, tokens: of each validation row; rows of one document are drawn together. Only candidates that went to the end are
    chosen from. Without validation rows the first candidate is taken.
    """
    if not groups:
        return [], 0, f"{outcomes[0].candidate.name}: there are no validation rows to choose on"
    finished = [place for place, one in enumerate(outcomes) if not one.stopped_at]
    best = min(finished, key=lambda place: (sum(outcomes[place].val), place))
    table = [_tried(one, outcomes[best], groups, tokens, seed) for one in outcomes]
    equal = [place for place in finished if table[place].behind_low <= 0]
    chosen = min(equal, key=lambda place: (outcomes[place].candidate.rank, sum(outcomes[place].val), place))
    name, top = outcomes[chosen].candidate.name, outcomes[best].candidate.name
    if len(equal) == 1:
        return table, chosen, f"{name} has the lowest validation loss, and every other is significantly worse"
    others = ", ".join(outcomes[place].candidate.name for place in equal if place != chosen)
    lowest = "" if chosen == best else f", although {top} has the lowest loss by {table[chosen].behind:.4f} nats per token"
    return table, chosen, f"{name} is the smallest of {len(equal)} without a significant difference (the others: {others}){lowest}"


def tables(train_report: Path) -> Iterator[Table]:
    """For `forge show`: one line a candidate."""
    found = json.loads(train_report.read_text(encoding="utf-8")).get("sweep")
    if found:
        yield Table(name="sweep", head=("candidate", "train loss", "validation loss", "behind the best", "stopped at"), rows=tuple(
            (
                ("* " if one["name"] == found["chosen"] else "") + one["name"], f"{one['train_loss']:.4f}",
                f"{one['val_loss']:.4f} ({one['low']:.4f} to {one['high']:.4f})",
                f"{one['behind']:+.4f} ({one['behind_low']:+.4f} to {one['behind_high']:+.4f})", one["stopped_at"] or "",
            )
            for one in found["candidates"]
        ))


def _tried(one: Outcome, best: Outcome, groups: Sequence[str], tokens: Sequence[int], seed: int) -> Tried:
    alone: dict[str, list[tuple[float, float]]] = defaultdict(list)
    paired: dict[str, list[tuple[tuple[float, ...], tuple[float, ...]]]] = defaultdict(list)
    for group, count, nats, least in zip(groups, tokens, one.val, best.val, strict=True):
        alone[group].append((nats, count))
        paired[group].append(((least, count), (nats, count)))
    loss, low, high = cluster_bootstrap(alone, seed=seed)
    behind = compare_counts(paired, lambda sums: sums[0] / sums[1] if sums[1] else 0.0, seed=seed)
    last = one.loss[-5:]
    numbers = (sum(last) / len(last), loss, low, high, behind.difference, *behind.ci)
    setting = one.candidate
    return Tried(setting.name, setting.rank, setting.alpha, setting.learning_rate, one.stopped_at, *(round(value, 6) for value in numbers))


def _over_one_base(
    plan: Plan, sweep: SweepPlan, ctx: Context, reporter: MakeReporter, machine: Machine, checkpoint_steps: int
) -> tuple[list[Outcome], list[Tuning]]:
    from transformers import AutoTokenizer

    lora, task, folder = plan.lora, ctx.use("task", plan.task), ctx.output("base_model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = chat_rows(ctx.input("train"), task)
    examples, validation = encode_rows(rows, tokenizer), encode_rows(chat_rows(ctx.input("val"), task), tokenizer)
    guards = check_rows(examples, rows, tokenizer, lora.max_length)
    candidates = [Candidate(one.name, one.rank, one.alpha, one.learning_rate) for one in sweep.candidates]
    cuda = machine.device == "cuda"
    together = cuda and len(candidates) > 1 and not any_finished(ctx.work / "sweep", [one.name for one in candidates], lora.steps)
    longest = max(len(one.ids) for one in [*examples, *validation])
    setting = Sweep(
        lora.target_modules, lora.steps, lora.examples_per_step, plan.seed, max(longest, ROW_TOKENS // (len(candidates) if together else 1)),
        halving=sweep.halving, compile=cuda, checkpoint_steps=checkpoint_steps,
    )
    base = load_base(folder, "bfloat16" if cuda else "float32", machine.device)
    outcomes = _train_parts(base, examples, validation, candidates, setting, ctx, reporter, plan.deadline_seconds, together=together)
    for one in outcomes:
        model = with_adapter(base, one, lora.target_modules)
        save_adapter(model, ctx.work / "sweep-adapters" / one.candidate.name)
        model.unload()
    return outcomes, [_tuning(one, examples, lora.steps, guards, "bf16" if cuda else "fp32") for one in outcomes]


def _train_parts(
    base: Any, examples: Sequence[Encoded], validation: Sequence[Encoded], candidates: Sequence[Candidate], setting: Sweep, ctx: Context,
    reporter: MakeReporter, deadline_seconds: float, *, together: bool,
) -> list[Outcome]:
    """All candidates at once, or, where memory does not suffice for that, one after another over the same base."""
    import torch

    outcomes: list[Outcome] = []
    for number, part in enumerate([candidates] if together else [[one] for one in candidates]):
        name = "sweep" if together else f"sweep-{part[0].name}"
        teller = reporter(name, setting.steps, number * setting.steps)
        teller.start(0)
        parts = 1 if together else len(candidates)
        hold = Hold(ctx, seconds_for(ctx, deadline_seconds, setting.steps, earlier=number * setting.steps, in_all=parts * setting.steps), setting.steps)

        def tell(step: int, loss: float, tokens: int, norm: float, teller: Reporter = teller, hold: Hold = hold) -> None:
            teller.step(step, loss, tokens, norm)
            hold.step(step)

        try:
            outcomes += train_batched(
                base, examples, part, setting, validation=validation, folder=ctx.work / "sweep" / ("all" if together else part[0].name),
                hooks=Hooks(tell, ctx.check_stop, ctx.keep),
            )
        except torch.OutOfMemoryError:
            if not together:
                raise
            torch.cuda.empty_cache()
            ctx.notice("sweep: out of memory with all candidates in one pass; going on with one after another")
            return _train_parts(
                base, examples, validation, candidates, setting._replace(halving=False), ctx, reporter, deadline_seconds, together=False
            )
    return outcomes


def _tuned_in_turn(plan: Plan, sweep: SweepPlan, ctx: Context, tune: Tune) -> tuple[list[Outcome], list[Tuning]]:
    """Each candidate as a run of its own by the usual trainer, measured on the validation rows; finished ones are sealed."""
    outcomes, tunings = [], []
    for number, one in enumerate(sweep.candidates):
        root, target = ctx.work / "sweep" / one.name, ctx.work / "sweep-adapters" / one.name
        done = latest_checkpoint(root)
        if done is None or not target.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            lora = plan.lora.model_copy(update={"rank": one.rank, "alpha": one.alpha, "learning_rate": one.learning_rate})
            tuning = tune(Job(lora=lora, target=target, name=f"sweep-{one.name}", earlier=number * lora.steps))
            report = {"tuning": tuning._asdict(), "val": _measure(plan, ctx, target)}
            done = (lora.steps, save_checkpoint(root, lora.steps, lambda folder, report=report: write_json(folder / "report.json", report)))  # type: ignore[misc]
            ctx.keep(done[1])
            ctx.keep(target)
        told = json.loads((done[1] / "report.json").read_text(encoding="utf-8"))
        tunings.append(Tuning(**told["tuning"]))
        outcomes.append(Outcome(Candidate(**one.model_dump()), [loss for _, loss in tunings[-1].loss], told["val"], 0, {}))
    return outcomes, tunings


def _measure(plan: Plan, ctx: Context, adapter: Path) -> list[float]:
    """Summed nats of every validation row under a trained adapter."""
    from peft import PeftModel
    from transformers import AutoTokenizer

    folder = ctx.output("base_model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    validation = encode_rows(chat_rows(ctx.input("val"), ctx.use("task", plan.task)), tokenizer)
    if not validation:
        return []
    model = PeftModel.from_pretrained(load_base(folder, "float32", "cpu"), adapter).get_base_model()
    return measure_model(model, validation, max(1024, max(len(one.ids) for one in validation)))


def _answer_tokens(ctx: Context, plan: Plan) -> list[int]:
    from transformers import AutoTokenizer

    rows = chat_rows(ctx.input("val"), ctx.use("task", plan.task))
    return [len(one.ids) - one.prompt_length for one in encode_rows(rows, AutoTokenizer.from_pretrained(ctx.output("base_model")))]


def _tuning(one: Outcome, examples: Sequence[Encoded], steps: int, guards: dict[str, bool | None], precision: str) -> Tuning:
    """A candidate's training as train.json reports it."""
    trained = {name: weight for name, weight in one.adapter.items() if "lora_" in name}
    found = guards | check_training(trained, one.loss, [])
    loss = [(step, round(value, 6)) for step, value in enumerate(one.loss, 1)]
    tokens = sum(len(example.ids) for example in examples)
    share = len(one.loss) / steps
    return Tuning(len(one.loss), round(tokens * share), sum(weight.numel() for weight in trained.values()), loss, [], found, precision)
