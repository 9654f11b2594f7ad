"""The rank sweep of biomed-yesno (8 ranks, 1.7B shape, examples of mean 70 tokens) at once and one after another.

Wall time of whole sweeps, from a loaded base to trained adapters, and the steady speed after the first steps. "In turn" is the same
code with one candidate at a time over the same loaded base, so it is not slowed down by anything that a sweep could share.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

RANKS = (4, 8, 16, 24, 32, 40, 64, 128)
STEPS, PER_STEP, WARM = 93, 16, 20


def measure_sweep(*, device: str, size: dict[str, int], say: Callable[[str], None], steps: int = 0) -> dict[str, Any]:
    """Measure; returns tokens a second of both forms, wall seconds, the ratio, and how far final losses are apart."""
    from forge.phases.train.multilora import Candidate
    from forge.phases.train.sweep import Sweep, train_batched, train_in_turn

    steps = steps or (STEPS if device == "cuda" else 6)
    base, examples = _base(device, size), _examples(size["vocab_size"])
    candidates = [Candidate(f"r{rank}", rank, 2 * rank, 3e-4) for rank in RANKS]
    found: dict[str, Any] = {}
    outcomes = {}
    for name, call, compiled in (
        ("in_turn", train_in_turn, False), ("batched", train_batched, False),
        *((("in_turn_compiled", train_in_turn, True), ("batched_compiled", train_batched, True)) if device == "cuda" else ()),
    ):
        sweep = Sweep("all-linear", steps, PER_STEP, 7, 65536, compile=compiled)
        outcomes[name], row = _timed(lambda call=call, sweep=sweep, hooks=None: call(base, examples, candidates, sweep, hooks=hooks), device)
        found |= {f"{name}_{key}": value for key, value in row.items()}
        say(f"sweep {name:18s} {row['tok_s']:10,.0f} tok/s over all, {row['steady_tok_s']:10,.0f} steady, {row['seconds']:7.1f} s, {row['gib']:5.1f} GiB")
    best = min(found[f"{name}_seconds"] for name in outcomes if name.startswith("in_turn"))
    ours = min((name for name in outcomes if name.startswith("batched")), key=lambda name: found[f"{name}_seconds"])
    ratio = best / found[f"{ours}_seconds"]
    ends = [[sum(one.loss[-5:]) / len(one.loss[-5:]) for one in outcomes[name]] for name in ("in_turn", ours)]
    apart = max(abs(a - b) / a for a, b in zip(*ends, strict=True))
    say(f"sweep: all eight ranks at once are {ratio:.2f} times as fast as the fastest way one after another (2 wanted); final losses at most {apart:.2%} apart")
    return {**found, "ratio": ratio, "losses_apart": apart, "losses_in_turn": ends[0], "losses_batched": ends[1]}


def _timed(call: Callable[..., Any], device: str) -> tuple[Any, dict[str, float]]:
    import torch

    from forge.phases.train.sweep import Hooks

    told: list[tuple[float, int]] = []

    def tell(step: int, loss: float, tokens: int, norm: float) -> None:
        told.append((time.perf_counter(), tokens))

    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    outcome = call(hooks=Hooks(tell=tell))
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    late = _steady(told)
    gib = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    return outcome, {"tok_s": sum(tokens for _, tokens in told) / seconds, "steady_tok_s": late, "seconds": seconds, "gib": gib}


def _steady(told: list[tuple[float, int]]) -> float:
    """Tokens a second between readings (several steps are read at once), the first two of each candidate left out; the median."""
    reads: list[list[float]] = []
    for at, tokens in told:
        if reads and at - reads[-1][0] < 1e-3:
            reads[-1][1] += tokens
        else:
            reads.append([at, tokens])
    speeds = sorted(b[1] / (b[0] - a[0]) for a, b in pairwise(reads))
    return speeds[len(speeds) // 2] if speeds else 0.0


def _base(device: str, size: dict[str, int]) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(1)
    config = AutoConfig.for_model("qwen2", **size, max_position_embeddings=4096, tie_word_embeddings=True)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def _examples(vocabulary: int, number: int = 264) -> list[Any]:
    """Log-normal lengths of mean 70 tokens, two fifths prompt: the size and shape of the source's training set."""
    from forge.phases.train.packing import Encoded

    chance, found = random.Random(5), []
    for _ in range(number):
        length = min(512, max(16, round(chance.lognormvariate(4.15, 0.45))))
        found.append(Encoded(tuple(chance.randrange(10, vocabulary) for _ in range(length)), round(0.4 * length)))
    return found
