"""The capacity rule: how many training tokens there are for each parameter that is trained, and what would fit better.

An adapter stores about two bits a parameter, a training text holds about one bit a token (Schulman et al., "LoRA Without
Regret", 2025; Allen-Zhu and Li 2024, arXiv:2404.05405): with more than two tokens a parameter the adapter cannot hold the data. With
very few, it can learn every row by heart; the original recipe therefore kept rank 8 for 0.5 B and rank 16 for 1.5 B.
The rule proposes and never fails: validation loss and the tests decide.
"""

from __future__ import annotations

from collections.abc import Mapping

from forge.phases.plan_fit.choice import SCRATCH, Choice
from forge.phases.plan_fit.data import Data
from forge.phases.plan_fit.tables import load_tables
from forge.records import ScratchBase

RANKS = (2, 4, 8, 16, 32, 64, 128)
KNOWN_PER_RANK, KNOWN_PARAMETERS, GROWTH = 2.52e6, 7.6e9, 0.56
"""LoRA parameters for each rank on all linear layers of Qwen2.5-7B (40.4 M at rank 16); they grow with the base to the power
of 0.56 (8.8 M at rank 16 for 0.5 B, 18.5 M for 1.5 B)."""


def per_rank(parameters: int, scratch: ScratchBase | None) -> float:
    """Trainable parameters for each rank of an adapter on all linear layers: the sum of inputs and outputs."""
    if scratch is None:
        return KNOWN_PER_RANK * float((parameters / KNOWN_PARAMETERS) ** GROWTH)
    hidden, narrow, wide = scratch.hidden_size, scratch.hidden_size // scratch.heads * scratch.kv_heads, scratch.intermediate_size
    return float(scratch.layers * (2 * (hidden + hidden) + 2 * (hidden + narrow) + 3 * (hidden + wide)))


def weigh_capacity(data: Data, choice: Choice, thresholds: Mapping[str, float]) -> str:
    """Tokens per trainable parameter, and a proposal with its reason where they are out of proportion."""
    if choice.tuning == "full":
        return f"{data.train_tokens:,} training tokens for all {choice.parameters:,} weights"
    tokens, each = data.train_tokens, per_rank(choice.parameters, choice.scratch)
    rank = choice.lora.rank
    ratio = tokens / (each * rank)
    low, high = thresholds["capacity_tokens_least"], thresholds["capacity_tokens_most"]
    text = f"{tokens:,} training tokens for {each * rank:,.0f} trainable parameters, {ratio:.2g} a parameter"
    if low <= ratio <= high:
        return f"{text}: within {low:g}-{high:g}"
    if ratio > high:
        return f"{text}: more than such an adapter holds ({high:g}); {_larger(tokens / each, rank, high)}"
    return f"{text}: under {low:g}, every row can be learnt by heart; {_smaller(data, choice, tokens / each, low)}"


def _larger(tokens_per_rank: float, rank: int, high: float) -> str:
    better = next((one for one in RANKS if one > rank and tokens_per_rank / one <= high), 0)
    return f"proposed: plan_fit.rank={better}" if better else "proposed: a larger base (shape.base), no rank up to 128 is enough"


def _smaller(data: Data, choice: Choice, tokens_per_rank: float, low: float) -> str:
    better = next((one for one in reversed(RANKS) if one < choice.lora.rank and tokens_per_rank / one >= low), 0)
    if better:
        return f"proposed: plan_fit.rank={better}"
    fitting = [
        (base.parameters, name) for name, base in load_tables().bases.items()
        if base.parameters < choice.parameters and data.train_tokens / (RANKS[1] * per_rank(base.parameters, None)) >= low
    ]
    if fitting:
        return f"proposed: the smaller base {max(fitting)[1]} (shape.base) at plan_fit.rank={RANKS[1]}"
    smaller = "more pairs" if data.contract.base == SCRATCH else f"shape.base={SCRATCH}, or more pairs"
    return f"proposed: {smaller}; no listed base is small enough"
