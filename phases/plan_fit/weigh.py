"""Compares machines: what the whole lease would take and cost on each, what speaks against it, and which one is planned.

This machine is taken when it is enough, since it is free. Else the cheapest at P90 among those that hold the model, fit the budget with
their worst case, and train what was wanted within the minutes for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from forge.errors import ForgeError, MissingAccess, NoCapacity
from forge.lease import SLACK
from forge.ledger import MICRO, Spend
from forge.machines import LOCAL, has_price
from forge.phases.plan_fit.choice import Choice
from forge.phases.plan_fit.fit import too_small
from forge.phases.plan_fit.forecast import LEASED, Row, deadline_seconds, total
from forge.phases.plan_fit.machines import AUTO, Answer
from forge.phases.plan_fit.settings import PlanFitSettings
from forge.protocols import Offer

Fault = Literal["", "slow", "dear", "small", "excluded"]
LEAST_SHARE = 0.5
"""Of the wanted training: a machine that could not make half of it in the minutes is too slow (as in phases/train/pace.py)."""
SAME_KIND = ("provider", "device", "gpu", "gpus", "nodes", "bf16", "spot")


@dataclass(frozen=True)
class Weighed:
    """One machine with the model and training that it would get. fault, why: what speaks against it."""

    offer: Offer
    choice: Choice
    rows: tuple[Row, ...]
    tokens_per_second: float = 0.0
    fault: Fault = ""
    why: str = ""

    @property
    def deadline_seconds(self) -> int:
        """When it would end itself."""
        return deadline_seconds(self.rows)

    @property
    def worst_usd(self) -> float:
        """What is reserved for it: it runs to its deadline."""
        return worst_usd(self.offer, self.deadline_seconds)

    @property
    def hours(self) -> float:
        """Hours of the lease at P50."""
        return sum(row.seconds_p50 for row in self.rows if row.phase in LEASED) / 3600

    @property
    def cost(self) -> Row:
        """Everything to come."""
        return total(self.rows)


Preflight = Callable[[Offer], tuple[str, ...]]


@dataclass(frozen=True)
class Chosen:
    """The machine that is planned, all that were weighed, what was proven about it, and why it was taken. refused: those of which
    their provider said that they cannot be had.
    """

    machine: Weighed
    weighed: tuple[Weighed, ...]
    answers: tuple[Answer, ...]
    preflight: tuple[str, ...]
    reason: str
    refused: tuple[Weighed, ...] = ()

    @property
    def alternates(self) -> tuple[Weighed, ...]:
        """Others of its kind that cost no more and do as well: they are leased when it cannot be had."""
        return tuple(one for one in self.weighed if one is not self.machine and not one.fault and _stands_in(one.offer, self.machine.offer))


def worst_usd(offer: Offer, deadline: int) -> float:
    """The most that a lease can cost."""
    return offer.usd_per_hour * deadline / 3600 * SLACK


def told_hours(hours: float) -> str:
    """`25 min`, `3.5 h`."""
    return f"{60 * hours:.0f} min" if hours < 2 else f"{hours:.1f} h"


def find_fault(one: Weighed, settings: PlanFitSettings, spend: Spend, limits: Mapping[str, float]) -> Weighed:
    """The same with what speaks against it."""
    for fault, why in (
        ("excluded", _excluded(one.offer, settings)), ("small", too_small(one.choice, one.offer, limits)), ("dear", _too_dear(one, spend, limits)),
        ("slow", _too_slow(one)),
    ):
        if why:
            return replace(one, fault=fault, why=why)   # type: ignore[arg-type]
    return one


def pick(weighed: Sequence[Weighed], answers: Sequence[Answer], wanted: str, preflight: Preflight) -> Chosen:
    """The machine that is planned; the next best when a provider says that one cannot be had. Raises NoCapacity, MissingAccess."""
    left = [one if wanted in (AUTO, one.offer.provider) else replace(one, fault="excluded", why=_unasked(wanted)) for one in weighed]
    refused: list[tuple[Weighed, ForgeError]] = []
    while (found := _best(left)) is not None:
        try:
            lines = preflight(found.offer)
        except (NoCapacity, MissingAccess) as error:
            if isinstance(error, MissingAccess) and wanted != AUTO:
                raise
            left.remove(found)
            refused.append((found, error))
            continue
        cannot = tuple(replace(one, fault="excluded", why=_told(error)) for one, error in refused)
        return Chosen(found, (*left, *cannot), tuple(answers), lines, _reason(found, left), cannot)
    raise _nothing(weighed, answers, wanted, refused)


def _best(left: Sequence[Weighed]) -> Weighed | None:
    """This machine when it is enough; the cheapest without a fault; then slow ones, then one that the budget refuses, then this one."""
    good = [one for one in left if not one.fault]
    for group in (
        [one for one in good if _is_here(one.offer)][:1], sorted(good, key=_by_cost), sorted((one for one in left if one.fault == "slow"), key=_by_share),
        sorted((one for one in left if one.fault == "dear"), key=_by_cost), [one for one in left if one.fault == "small" and _is_here(one.offer)],
    ):
        if group:
            return group[0]
    return None


def _is_here(offer: Offer) -> bool:
    return offer.provider == LOCAL and offer.usd_per_hour == 0


def _by_cost(one: Weighed) -> tuple[float, float, str, str]:
    return (round(one.cost.usd_p90, 6), one.hours, one.offer.provider, one.offer.name)


def _by_share(one: Weighed) -> tuple[float, tuple[float, float, str, str]]:
    return (-one.choice.share, _by_cost(one))


def _stands_in(other: Offer, chosen: Offer) -> bool:
    same = all(getattr(other, name) == getattr(chosen, name) for name in SAME_KIND)
    return same and other.usd_per_hour <= chosen.usd_per_hour and other.memory_gib >= chosen.memory_gib and other.gpu_memory_gib >= chosen.gpu_memory_gib


def _excluded(offer: Offer, settings: PlanFitSettings) -> str:
    if not has_price(offer):
        return "no price is known: an unknown machine is never counted as free"
    if offer.spot and settings.spot == "never":
        return "a spot machine: --spot auto allows them"
    if not offer.spot and settings.spot == "only" and offer.usd_per_hour:
        return "not a spot machine: --spot only"
    if settings.max_hourly_usd and offer.usd_per_hour > settings.max_hourly_usd:
        return f"over --max-hourly {settings.max_hourly_usd:g}"
    return ""


def _too_dear(one: Weighed, spend: Spend, limits: Mapping[str, float]) -> str:
    if not one.offer.usd_per_hour:
        return ""
    cap, spent = spend.budget / MICRO, spend.committed / MICRO
    left = cap * (1 - limits["budget_headroom"]) - spent
    if one.cost.usd_p90 > left:
        return f"too dear: ${one.cost.usd_p90:.2f} at P90, ${max(0.0, left):.2f} is left for it"
    if one.worst_usd > cap - spent:
        return f"too dear: ${one.worst_usd:.2f} at worst, ${cap - spent:.2f} is left"
    return ""


def _too_slow(one: Weighed) -> str:
    share = one.choice.share
    return f"too slow: {share:.0%} of the training fits into its minutes" if share < LEAST_SHARE else ""


def _reason(found: Weighed, left: Sequence[Weighed]) -> str:
    good = [one for one in left if not one.fault]
    if found.fault:
        return found.why
    if _is_here(found.offer):
        return "this machine is enough, and free"
    if len(good) == 1:
        return "the only one that fits"
    quickest = min(good, key=lambda one: one.hours)
    faster = f"; the fastest, {quickest.offer.provider} {quickest.offer.name}, takes {told_hours(quickest.hours)} for ${quickest.cost.usd_p90:.2f}"
    return f"the cheapest at P90 of {len(good)} that fit{faster if quickest is not found else ', and the fastest'}"


def _unasked(wanted: str) -> str:
    return f"not asked for: plan_fit.provider is {wanted}"


def _told(error: ForgeError) -> str:
    return f"{error.fact}: {error.why}" if error.why else error.fact


def _nothing(
    weighed: Sequence[Weighed], answers: Sequence[Answer], wanted: str, refused: Sequence[tuple[Weighed, ForgeError]]
) -> ForgeError:
    """The provider's own words, where it is the only one asked for."""
    asked = [one for one in weighed if wanted in (AUTO, one.offer.provider)]
    told = {one.offer.name: _told(error) for one, error in refused}
    faults = [f"{one.offer.name}: {told.get(one.offer.name, one.why)}" for one in asked]
    notes = [answer.note for answer in answers if answer.provider == wanted and answer.note]
    known = f"providers: {', '.join(answer.provider for answer in answers) or 'none'}"
    return NoCapacity(
        f"the provider {wanted} offers no machine for this plan" if wanted != AUTO else "no provider offers a machine for this plan",
        why="; ".join([*notes, *faults[:4]]) or known,
        next=refused[0][1].next if refused and refused[0][1].next else "forge resume --provider local, or another base (shape.base)",
    )
