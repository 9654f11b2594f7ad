"""The machines that were considered, and the one that the plan names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from forge.errors import ForgeError, NoCapacity
from forge.phase import Context
from forge.protocols import Need, Offer

GIB = 1024**3
LIBRARIES_GIB = 1.2
"""torch, transformers and trl imported, before any model (measured here: 0.9-1.1 GiB)."""


class Considered(NamedTuple):
    """One provider's answer: its offers, or why it has none."""

    provider: str
    offers: tuple[Offer, ...]
    note: str = ""


def memory_gib(parameters: int, step_tokens: int, hidden_size: int, layers: int, vocab_size: int) -> float:
    """An estimate of what full training needs, in GiB: weights, gradients and two AdamW moments in fp32 (16 bytes a
    parameter), activations of a layer about 34 x hidden values (Korthikanti et al. 2022, arXiv:2205.05198) at 4 bytes,
    and three copies of the logits.
    """
    activations = step_tokens * layers * 34 * hidden_size * 4
    logits = 3 * step_tokens * vocab_size * 4
    return round(LIBRARIES_GIB + (16 * parameters + activations + logits) / GIB, 2)


def consider(ctx: Context, need: Need) -> list[Considered]:
    """Ask every installed provider for offers. A provider that cannot answer is listed with its reason."""
    return [_ask(ctx, name, need) for name in sorted(ctx.names("provider"))]


def pick(considered: Sequence[Considered], provider: str) -> Offer:
    """The best offer of the chosen provider. Raises NoCapacity when it has none."""
    for answer in considered:
        if answer.provider == provider and answer.offers:
            return answer.offers[0]
    note = next((answer.note for answer in considered if answer.provider == provider), "")
    raise NoCapacity(
        f"the provider {provider} offers no machine for this plan",
        why=note or f"providers: {', '.join(answer.provider for answer in considered) or 'none'}",
        next="forge resume --set plan_fit.provider=local",
    )


def _ask(ctx: Context, name: str, need: Need) -> Considered:
    try:
        offers = tuple(ctx.use("provider", name).quote(need))
    except ForgeError as error:
        return Considered(name, (), f"{error.fact}: {error.why}" if error.why else error.fact)
    return Considered(name, offers, "" if offers else f"no machine with {need.memory_gib:g} GiB")
