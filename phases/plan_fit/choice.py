"""Which model, how large, and how long it is trained: from real token counts, each number with its reason.

Nothing here is measured at run time, so the same data and settings always give the same plan.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from forge.errors import UsageError, nearest
from forge.phases.plan_fit.data import Data
from forge.phases.plan_fit.settings import PlanFitSettings
from forge.phases.plan_fit.speed import (
    NOTHING_KNOWN,
    Known,
    adapter_tokens_per_second,
    tokens_per_second,
    training_on,
)
from forge.phases.plan_fit.tables import (
    Size,
    least_steps,
    load_tables,
    reading_for,
    tokens_a_step,
    tuning_for,
)
from forge.phases.plan_fit.training import adapters_trained, in_all, plan_stages, plan_sweep
from forge.phases.plan_fit.verdicts import plural
from forge.protocols import Offer
from forge.records import DataContract, LoraPlan, ScratchBase, StagePlan, SweepPlan

SCRATCH = "scratch"
SCRATCH_LICENSE = "apache-2.0"
CONTEXT_STEP = 64
DRY_RUN_STEPS = 4
K_QUANT_ROW = 256
CPU_MINUTES, MOST_CPU_MINUTES, GPU_MINUTES = 4, 15, 120.0
"""Of training, unless told. On a CPU and from nothing, as many as all wanted passes take, between these: a book of 296,000 tokens was
learnt in 12 minutes (token F1 0.86 on new questions) and not in four (0.14; 2026-11-22). On a GPU 7B for three epochs over the
original's 2,700 pairs (1.2 million tokens) takes 41 minutes on an A10G and one on an H200 by the table of speeds; two hours leave room
for three times the data, and bound what a rented machine can cost."""
CONTINUED_RATE = 0.5
"""Of the usual learning rate when a tuned model is tuned further; a start, not a measurement."""
FULL_RATE = 0.1
"""Of an adapter's learning rate when all weights are trained: 2e-5 where adapters take 2e-4 (Biderman et al. 2024, arXiv:2405.09673)."""
FULL_SPEED = 2 / 3
"""Of an adapter's speed: six operations for a weight and token instead of four."""


class Choice(NamedTuple):
    """The model and its training, with the reason of every number. share: of the wanted training that fits into its minutes."""

    base: str
    license: str
    architecture: str
    parameters: int
    scratch: ScratchBase | None
    lora: LoraPlan
    precision: str
    quantizations: tuple[str, ...]
    reasons: dict[str, str]
    sweep: SweepPlan | None = None
    stages: tuple[StagePlan, ...] = ()
    share: float = 1.0
    tuning: Literal["lora", "full"] = "lora"


def choose(data: Data, offer: Offer, settings: PlanFitSettings, *, dry_run: bool, known: Known = NOTHING_KNOWN) -> Choice:
    """The base that shape made the tokenizer for, sized for the machine. Raises UsageError for an unknown base.

    known: what earlier runs tell about the GPU's speed.
    """
    reasons: dict[str, str] = {}
    base, precision = data.contract.base, _precision(offer, reasons)
    settings = settings.model_copy(update={"train_minutes": train_minutes(data, offer, settings, precision, known)})
    if base == SCRATCH:
        scratch = _scratch(data, offer, settings, reasons, precision, dry_run)
        parameters, license, architecture = count_parameters(scratch), SCRATCH_LICENSE, "LlamaForCausalLM"
        context, seconds = scratch.context, 60 * settings.train_minutes - _reading_seconds(scratch, parameters, offer, precision)
    else:
        scratch, (parameters, license, architecture, longest) = None, known_base(data.contract, reasons, dry_run=dry_run)
        context, seconds = min(_context(data, CONTEXT_STEP), longest), 60 * settings.train_minutes
    most_tokens = int(seconds * _tuned_per_second(parameters, base, offer, settings, precision, known))
    lora = _lora(data, parameters, context, settings, reasons, most_tokens, dry_run)
    wanted = (settings.epochs or tuning_for(parameters).epochs) * max(data.train_tokens, 1)
    share = 1.0 if scratch or dry_run else min(1.0, round(most_tokens / wanted, 6))
    sweep = plan_sweep(lora, settings.sweep, reasons, dry_run=dry_run)
    stages = plan_stages(lora, data.contract.stages, settings.epochs or tuning_for(parameters).epochs, reasons, dry_run=dry_run)
    if sweep and stages:
        raise UsageError("a sweep cannot go through several stages", why="plan_fit.sweep and shape.stages are both set", next="leave one of them out")
    if sweep and settings.tuning == "full":
        raise UsageError("a sweep tries adapters, and plan_fit.tuning=full trains none", next="leave plan_fit.sweep or plan_fit.tuning out")
    files = _quantizations(settings, scratch, reasons)
    lora = in_all(lora, stages, len(data.splits["train"]))
    return Choice(base, license, architecture, parameters, scratch, lora, precision, files, reasons, sweep, stages, share, settings.tuning)


def train_minutes(data: Data, offer: Offer, settings: PlanFitSettings, precision: str, known: Known) -> float:
    """What is asked for; else, for a pretrained base on a GPU, two hours; else what all passes take, in whole minutes within limits."""
    if settings.train_minutes:
        return settings.train_minutes
    if data.contract.base != SCRATCH and offer.device != "cpu":
        return GPU_MINUTES
    return float(min(MOST_CPU_MINUTES, max(CPU_MINUTES, int(_wanted_seconds(data, offer, settings, precision, known) // 60))))


def _wanted_seconds(data: Data, offer: Offer, settings: PlanFitSettings, precision: str, known: Known) -> float:
    """What all passes take, of which the base may have half."""
    contract, reading = data.contract, 0.0
    if contract.base == SCRATCH:
        size = load_tables().scratch[_size_name(offer, settings, dry_run=False)]
        parameters = count_parameters(_model(size, contract.vocab_size, _context(data, size.context), 1, 1, 0.0))
        tokens = reading_for(contract.pretrain_tokens, contract.task).epochs * contract.pretrain_tokens
        reading = tokens / tokens_per_second(parameters, offer, precision)[0]
    else:
        parameters = known_base(contract, {}, dry_run=False)[0]
    wanted = (settings.epochs or tuning_for(parameters).epochs) * data.train_tokens
    return reading + max(reading, wanted / _tuned_per_second(parameters, contract.base, offer, settings, precision, known))


def _tuned_per_second(parameters: int, base: str, offer: Offer, settings: PlanFitSettings, precision: str, known: Known) -> float:
    """Tokens of the training rows, each trained once in every adapter of a sweep."""
    rate = adapter_tokens_per_second(parameters, training_on(offer, alone=base == SCRATCH or bool(settings.sweep)), precision, known)
    return rate * (FULL_SPEED if settings.tuning == "full" else 1.0) / adapters_trained(settings.sweep)


def wanted_parameters(contract: DataContract, *, dry_run: bool) -> int:
    """Parameters of the base, or of the largest that would be trained from nothing."""
    if contract.base != SCRATCH:
        return known_base(contract, {}, dry_run=dry_run)[0]
    size = load_tables().scratch["tiny" if dry_run else "base"]
    return count_parameters(_model(size, contract.vocab_size, size.context, 1, 1, 0.0))


def _reading_seconds(scratch: ScratchBase, parameters: int, offer: Offer, precision: str) -> float:
    """What training the base takes; the adapter gets the rest of train_minutes."""
    return scratch.steps * scratch.rows_per_step * scratch.context / tokens_per_second(parameters, offer, precision)[0]


def count_parameters(model: ScratchBase) -> int:
    """Parameters of a LlamaForCausalLM with tied embeddings, exactly (checked against transformers in the tests)."""
    hidden, head = model.hidden_size, model.hidden_size // model.heads
    attention = 2 * hidden * hidden + 2 * hidden * head * model.kv_heads
    layer = attention + 3 * hidden * model.intermediate_size + 2 * hidden
    return model.vocab_size * hidden + model.layers * layer + hidden


def _scratch(
    data: Data, offer: Offer, settings: PlanFitSettings, reasons: dict[str, str], precision: str, dry_run: bool
) -> ScratchBase:
    contract, name = data.contract, _size_name(offer, settings, dry_run)
    size, reading = load_tables().scratch[name], reading_for(contract.pretrain_tokens, contract.task)
    context = _context(data, size.context)
    rows = 2 if dry_run else max(1, tokens_a_step(size, reading.epochs * contract.pretrain_tokens) // context)
    model = _model(size, contract.vocab_size, context, DRY_RUN_STEPS, rows, reading.learning_rate)
    parameters = count_parameters(model)
    if not dry_run:
        most = 60 * settings.train_minutes / 2 * tokens_per_second(parameters, offer, precision)[0]
        steps = _steps(contract, rows * context, int(most), settings, reasons)
        model = model.model_copy(update={"steps": steps})
    reasons["base"] = (
        "scratch: tokenizer and base are trained on this corpus, which needs no network, no GPU and no foreign licence;"
        " it has read nothing else. shape.base=OWNER/NAME or a folder tunes a pretrained base"
    )
    asked = "plan_fit.size asks for it" if settings.size != "auto" else f"for {size.use}"
    reasons["size"] = (
        f"{name}, {parameters:,} parameters: {'the rehearsal size' if dry_run else asked} ({offer.cores} cores"
        f"{', ' + offer.gpu if offer.gpu else ''}); widths are multiples of {K_QUANT_ROW}, so every row can be a K-quant"
    )
    reasons["context"] = f"{context} tokens: the longest row has {contract.longest}"
    reasons["learning_rate"] = (
        f"{reading.learning_rate:g} for the base: best of those measured for a corpus of {contract.pretrain_tokens:,} tokens"
    )
    return model


def _size_name(offer: Offer, settings: PlanFitSettings, dry_run: bool) -> str:
    if dry_run:
        return "tiny"
    if settings.size != "auto":
        return settings.size
    return "base" if offer.device == "cuda" else "small"


def _model(size: Size, vocab_size: int, context: int, steps: int, rows: int, learning_rate: float) -> ScratchBase:
    return ScratchBase(
        hidden_size=size.hidden_size, layers=size.layers, heads=size.heads, kv_heads=size.kv_heads,
        intermediate_size=size.intermediate_size, vocab_size=vocab_size, context=context, steps=steps, rows_per_step=rows,
        learning_rate=learning_rate,
    )


def _context(data: Data, at_least: int) -> int:
    """The longest row, rounded up, within what shape allows; not less than the size's own context."""
    longest = CONTEXT_STEP * math.ceil(data.contract.longest / CONTEXT_STEP)
    return max(at_least, min(longest, data.contract.max_length))


def _steps(
    contract: DataContract, step_tokens: int, most_tokens: int, settings: PlanFitSettings, reasons: dict[str, str]
) -> int:
    """Steps from the corpus' real tokens: its row of epochs, at least min_steps (none for some tasks), at most what the time allows."""
    corpus_tokens = contract.pretrain_tokens
    wanted = math.ceil(reading_for(corpus_tokens, contract.task).epochs * corpus_tokens / step_tokens)
    cap = max(1, most_tokens // step_tokens)
    steps = min(max(wanted, least_steps(contract.task)), cap)
    seen = steps * step_tokens / max(corpus_tokens, 1)
    limit = f"; plan_fit.train_minutes={settings.train_minutes:g} ends it there" if steps == cap else ""
    reasons["steps"] = (
        f"{plural(steps, 'step')} of {step_tokens:,} tokens go {seen:.1f} times through {corpus_tokens:,} tokens of"
        f" corpus{limit}"
    )
    return steps


def known_base(contract: DataContract, reasons: dict[str, str], *, dry_run: bool) -> tuple[int, str, str, int]:
    """Parameters, licence, architecture and the longest row of a base that shape found, or that only the table knows."""
    base, bases, model = contract.base, load_tables().bases, contract.model
    if model is not None and model.kind != "scratch":
        where = f"from the hub at {model.revision[:12]}" if model.kind == "hub" else "a local folder" if model.kind == "folder" else "tiny and random, as this is a rehearsal"
        given = "its own" if model.template == "own" else f"none of its own, so {model.template} was given to it"
        reasons["base"] = f"{base} ({where}), licence {model.license or 'unknown'}; chat template: {given}"
        parameters = model.parameters if dry_run else model.real_parameters or model.parameters
        reasons["size"] = f"{parameters:,} parameters, counted from its configuration"
        longest = min(model.context, bases[base].context if base in bases else model.context)
        reasons["context"] = f"at most {longest} tokens in training"
        return parameters, model.license, model.architecture, longest
    if base not in bases:
        raise UsageError(
            f'the base "{base}" is not in configs/models.yaml', why=nearest(base, [SCRATCH, *bases]),
            next="add it there, or forge resume --from shape",
        )
    found = bases[base]
    billions = found.parameters / 1e9
    reasons["base"] = f"{base}: shape's tokenizer is its own; {billions:.2f} B parameters, licence {found.license}"
    reasons["size"] = f"{found.parameters:,} parameters ({found.source})"
    reasons["context"] = f"at most {found.context} tokens in training"
    return found.parameters, found.license, found.family, found.context


def _lora(
    data: Data, parameters: int, max_length: int, settings: PlanFitSettings, reasons: dict[str, str], most_tokens: int,
    dry_run: bool,
) -> LoraPlan:
    row, rows = tuning_for(parameters), len(data.splits["train"])
    wanted = settings.epochs or row.epochs
    affordable = most_tokens / max(data.train_tokens, 1)
    per_step = row.per_step_of.get(data.contract.task, row.examples_per_step)
    per_step = min(per_step, 4) if dry_run else per_step
    steps = DRY_RUN_STEPS if dry_run else max(1, math.ceil(min(wanted, affordable) * rows / per_step))
    epochs = round(steps * per_step / max(rows, 1), 2)
    limit = f"; {wanted:g} were wanted, plan_fit.train_minutes={settings.train_minutes:g} ends it there"
    reasons["epochs"] = (
        f"{plural(steps, 'step')} of {per_step} of {plural(rows, 'example')} are {epochs:g} epochs"
        f"{limit if affordable < wanted and not dry_run else ''}"
    )
    rank, alpha = (settings.rank, 2 * settings.rank) if settings.rank else (row.rank, row.alpha)
    again = data.contract.model.continues if data.contract.model else ""
    full = settings.tuning == "full"
    learning_rate = settings.learning_rate or row.learning_rate * (CONTINUED_RATE if again else 1.0) * (FULL_RATE if full else 1.0)
    asked = " and ".join(name for name, value in (("plan_fit.rank", settings.rank), ("plan_fit.learning_rate", settings.learning_rate)) if value)
    reasons["adapter"] = f"none: plan_fit.tuning=full trains all weights, at {learning_rate:g}" if full else f"rank {rank} at {learning_rate:g}: {f'as {asked} asks' if asked else 'the row of configs/models.yaml for this size'}"
    if again:
        reasons["continues"] = f"run {again}: its merged model is the base, taught only what is new; {CONTINUED_RATE:g} times the usual rate keeps more of what it knows"
    return LoraPlan(
        rank=4 if dry_run else rank, alpha=8 if dry_run else alpha, target_modules="all-linear",
        learning_rate=learning_rate, epochs=epochs, steps=steps, examples_per_step=per_step, max_length=max_length,
    )


def _precision(offer: Offer, reasons: dict[str, str]) -> str:
    name = offer.gpu or "this CPU"
    if offer.bf16:
        reasons["precision"] = f"bf16: {name} multiplies bfloat16 natively"
        return "bf16"
    reasons["precision"] = f"fp32: {name} has no bfloat16 units; emulated bf16 was 20 times slower (2026-11-20)"
    return "fp32"


def _quantizations(settings: PlanFitSettings, scratch: ScratchBase | None, reasons: dict[str, str]) -> tuple[str, ...]:
    odd = scratch is not None and bool(scratch.hidden_size % K_QUANT_ROW or scratch.intermediate_size % K_QUANT_ROW)
    fits = "some rows are no multiple of 256 and fall back to larger types" if odd else "every row is a multiple of 256"
    reasons["quantizations"] = f"{', '.join(settings.quantizations)}: {fits}; the bits per weight are read from the files"
    return settings.quantizations
