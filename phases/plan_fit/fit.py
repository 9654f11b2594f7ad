"""Axis 5, hyperparameters: do the chosen numbers fit the rows, the model and the machine? And the leakage re-check."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from forge.phases.plan_fit.choice import Choice
from forge.phases.plan_fit.data import TESTS, Data
from forge.phases.plan_fit.machines import memory_gib
from forge.phases.plan_fit.verdicts import plural, some, undecided
from forge.protocols import ENVIRONMENT_GIB, Offer
from forge.questions import normalize
from forge.records import Chat, Example, Verdict

NF4_BYTES = 0.7
"""4 bits a weight with the scales, and the embeddings in bf16 (7B: 5.3 GB)."""
BF16_ROOM = 0.9
FULL_BYTES, FULL_BYTES_FP32 = 20.0, 16.0
"""A weight that is trained: itself, its gradient, two moments, and for bfloat16 a float32 copy of weight and gradient (phases/train/ways.py)."""
HOST_GIB = 3.0
"""torch with CUDA in memory."""
FILE_BYTES = {"F16": 2.0, "Q8_0": 1.07, "Q6_K": 0.82, "Q5_K_M": 0.71, "Q4_K_M": 0.61}
"""Bytes a weight in GGUF files (publish research)."""


def judge_hyperparameters(
    data: Data, choice: Choice, offer: Offer, thresholds: Mapping[str, float], *, dry_run: bool
) -> Verdict:
    """Effective epochs inside the envelope, rows that fit, memory that fits; undecided with too few rows."""
    rows, lora = len(data.splits["train"]), choice.lora
    low, high = thresholds["epochs_min"], thresholds["epochs_max"]
    if rows < thresholds["min_train_rows"]:
        return undecided("hyperparameters", f"only {plural(rows, 'training row')}", n=rows, threshold=high)
    long_share = data.contract.too_long / (data.contract.too_long + sum(map(len, data.splits.values())))
    memory = needed_memory_gib(choice, offer)
    have = offer.gpu_memory_gib if offer.device == "cuda" else offer.memory_gib
    broken = [
        text for text, bad in (
            (f"{lora.epochs:g} epochs are outside {low:g}-{high:g}", not low <= lora.epochs <= high and not dry_run),
            (f"{long_share:.1%} of the rows are too long", long_share > thresholds["max_too_long_share"]),
            (f"the longest row has {data.contract.longest} tokens", data.contract.longest > lora.max_length),
            (f"needs {memory:g} of {have:g} GiB", have and memory > have * (1 - thresholds["memory_headroom"])),
        ) if bad
    ]
    trained = lora.steps * lora.examples_per_step * data.train_tokens / rows
    evidence = (
        f"{lora.epochs:g} epochs in {plural(lora.steps, 'step')}; longest row {data.contract.longest} of {lora.max_length}"
        f" tokens, {data.contract.too_long} too long; {memory:g} of {f'{have:g}' if have else 'an unknown number of'} GiB;"
        f" {choice.parameters / max(trained, 1):.1f} parameters per tuning token"
    )
    if broken:
        evidence += f"; over the limit: {', '.join(broken)}"
    return Verdict(
        name="hyperparameters", estimate=lora.epochs, n=rows, threshold=high, outcome="fail" if broken else "pass",
        evidence=evidence,
    )


def needed_memory_gib(choice: Choice, offer: Offer) -> float:
    """Memory for the planned training, of one GPU or of the machine. A known base is held in bf16, or in 4 bits on a GPU that bf16
    does not fit, or spread over the GPUs of a machine that has several; in fp32 where there are no bfloat16 units. What training
    needs beside it is a fifth, and 2 GiB.
    """
    scratch = choice.scratch
    if scratch is None and choice.tuning == "full":
        return _beside(choice.parameters // (offer.gpus * offer.nodes), FULL_BYTES if offer.device == "cuda" and offer.bf16 else FULL_BYTES_FP32)
    if scratch is None:
        room = offer.gpu_memory_gib if offer.device == "cuda" else offer.memory_gib
        sizes = [_beside(choice.parameters, byte) for byte in ((2.0, NF4_BYTES) if offer.device == "cuda" and offer.bf16 else (4.0,))]
        if (gpus := offer.gpus * offer.nodes) > 1 and offer.bf16:
            sizes.append(_beside(choice.parameters // gpus, 2.0))
        return next((size for size in sizes if size < room * BF16_ROOM), sizes[-1])
    return memory_gib(
        choice.parameters, scratch.rows_per_step * scratch.context, scratch.hidden_size, scratch.layers, scratch.vocab_size
    )


def too_small(choice: Choice, offer: Offer, thresholds: Mapping[str, float]) -> str:
    """Why the machine's memory does not suffice, "" when it does or when the provider does not tell (0)."""
    on_gpu, needed = offer.device == "cuda", needed_memory_gib(choice, offer)
    host = needed_host_gib(choice.parameters, choice.scratch is None) if on_gpu else needed
    kinds = [("memory", host, offer.memory_gib), *([("GPU memory", needed, offer.gpu_memory_gib)] if on_gpu else [])]
    room = 1 - thresholds["memory_headroom"]
    return "; ".join(f"needs {least:g} GiB of {kind}, has {have:g}" for kind, least, have in kinds if least > have * room and have)


def needed_host_gib(parameters: int, is_known: bool) -> float:
    """Memory of a machine beside its GPU: a known base's weights go through it in bf16, when they are loaded and when they are merged."""
    return round(HOST_GIB + (2.0 * parameters / 2**30 if is_known else 0.0), 2)


def needed_disk_gib(parameters: int, quantizations: Sequence[str]) -> float:
    """Disk of a machine: Python with torch, the base, the merged model and its files, a tenth more; whole GiB."""
    bytes_each = 2 * 2.0 + sum(FILE_BYTES[name] for name in quantizations)
    return float(math.ceil(ENVIRONMENT_GIB + 1.1 * bytes_each * parameters / 2**30))


def _beside(parameters: int, bytes_each: float) -> float:
    return round(1.2 * bytes_each * parameters / 2**30 + 2, 2)


def judge_leakage(data: Data) -> Verdict:
    """Counted again here from the rows themselves: shared groups and shared questions. Any at all fails."""
    splits = data.splits
    train = {row.group for row in splits["train"]} | {passage.group for passage in data.pretrain}
    held_out = {row.group for name in ("val", "test_unseen") for row in splits[name]}
    held_out |= {passage.group for passage in data.pretrain_val}
    groups = train & held_out
    seen = {_input(row) for name in ("train", "val") for row in splits[name]}
    repeated = [row.id for name in TESTS for row in splits[name] if _input(row) in seen]
    items = sum(len(splits[name]) for name in TESTS)
    if not items:
        return undecided("leakage", "no test rows").model_copy(update={"kind": "integrity", "threshold": 0.0})
    evidence = f"{plural(items, 'test row')}, {plural(len(held_out), 'held-out group')}: "
    evidence += f"{plural(len(groups), 'group')} and {plural(len(repeated), 'question')} shared with training"
    if groups or repeated:
        evidence += f" ({some([*groups, *repeated])})"
    return Verdict(
        name="leakage", estimate=float(len(groups) + len(repeated)), n=items, threshold=0.0, kind="integrity",
        outcome="fail" if groups or repeated else "pass", evidence=evidence,
    )


def _input(row: Example) -> str:
    """What the model is asked, normalised: the user's turns without case, punctuation and articles; or the text."""
    body = row.body
    if isinstance(body, Chat):
        return "\n".join(normalize(turn.content) for turn in body.prompt if turn.role == "user")
    text = getattr(body, "text", "") or getattr(body, "image", "")
    return " ".join(text.lower().split())
