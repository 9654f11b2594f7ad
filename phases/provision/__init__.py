"""Leases the machine that the approved plan names, until the plan's deadline."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from forge.errors import GateFailed, NoCapacity
from forge.machines import has_price
from forge.phase import Context, Estimate, Output, Requirement, Settings
from forge.protocols import Lease, Need, Offer
from forge.records import Plan, read_record, write_json

TOKEN_LENGTH = 24


class ProvisionSettings(Settings):
    """Nothing to set here: the machine is in the plan (plan_fit.provider), because it is part of what was approved."""


class Provision:
    """The phase."""

    name: ClassVar[str] = "provision"
    VERSION: ClassVar[int] = 2
    summary: ClassVar[str] = "leases the machine of the approved plan, with a deadline"
    reads: ClassVar[tuple[str, ...]] = ("plan", "approval")
    writes: ClassVar[tuple[Output, ...]] = (Output(name="machine", path="machine.json"),)
    settings: ClassVar[type[Settings]] = ProvisionSettings
    where: ClassVar[Literal["engine", "machine"]] = "engine"
    libraries: ClassVar[tuple[str, ...]] = ()
    requires: ClassVar[tuple[Requirement, ...]] = ()
    always: ClassVar[bool] = False

    def estimate(self, settings: ProvisionSettings, ctx: Context) -> Estimate:
        """Here at once; a cloud machine boots for a few minutes (its lease is in the plan's cost)."""
        return Estimate(seconds_p50=1, seconds_p90=300, basis="this machine at P50, a cloud machine at P90")

    def run(self, settings: ProvisionSettings, ctx: Context) -> Mapping[str, float | str]:
        """Lease the plan's offer, or one of its alternates. Raises GateFailed without an approval of this plan, NoCapacity without them."""
        plan_sha256 = ctx.input_sha256("plan")
        plan = read_record(ctx.input("plan"), Plan)
        check_approval(json.loads(ctx.input("approval").read_text(encoding="utf-8")), plan_sha256)
        lease = lease_first(ctx, find_offers(ctx, plan), plan.deadline_seconds, lease_token(plan_sha256))
        offer = lease.offer
        write_json(ctx.output("machine"), {"offer": offer.model_dump(mode="json"), "lease": lease.token})
        machine = f"{offer.provider} {offer.name}"
        summary = f"{machine} at ${offer.usd_per_hour:.2f}/h for at most {plan.deadline_seconds // 60} min"
        return {"summary": summary, "machine": machine, "usd_per_hour": offer.usd_per_hour, "deadline_seconds": plan.deadline_seconds}

    def undo(self, settings: ProvisionSettings, ctx: Context) -> None:
        """The engine releases leases itself, after every ending of a run."""


def check_approval(approval: Mapping[str, str], plan_sha256: str) -> None:
    """Raise GateFailed when the approval is of another plan than the one that would run."""
    if approval.get("plan_sha256") != plan_sha256:
        raise GateFailed(
            "the approval is of another plan",
            why=f"approved {approval.get('plan_sha256', '')[:12] or 'nothing'}, the plan is {plan_sha256[:12]}",
            next="forge plan RUN, then forge approve RUN --plan HASH",
        )


def find_offers(ctx: Context, plan: Plan) -> list[Offer]:
    """The plan's offer and its alternates as they are quoted now, those that cost no more than was approved. Raises NoCapacity when
    none is offered any more, GateFailed when all cost more or nobody says what they cost.
    """
    need = Need(
        parameters=plan.parameters, memory_gib=plan.memory_gib, gpu=bool(plan.gpu), seconds=plan.deadline_seconds,
        gpu_memory_gib=plan.gpu_memory_gib, disk_gib=plan.disk_gib,
    )
    offers: dict[str, Offer] = {offer.name: offer for offer in ctx.use("provider", plan.provider).quote(need)}
    approved = [offers[name] for name in (plan.offer, *plan.alternates) if name in offers]
    if not approved:
        raise NoCapacity(
            f"the provider {plan.provider} does not offer {plan.offer} any more",
            why=f"it offers: {', '.join(sorted(offers)) or 'nothing'}", next="forge resume --from plan_fit",
        )
    fitting = [_as_approved(offer, plan) for offer in approved if has_price(offer) and offer.usd_per_hour <= plan.usd_per_hour]
    if not fitting:
        costs = f"now costs ${approved[0].usd_per_hour:.2f}/h" if has_price(approved[0]) else "has no price any more"
        raise GateFailed(
            f"{plan.provider} {approved[0].name} {costs}", why=f"${plan.usd_per_hour:.2f}/h was approved",
            next="forge resume --from plan_fit makes a plan at today's price",
        )
    return fitting


def lease_first(ctx: Context, offers: Sequence[Offer], deadline_seconds: int, token: str) -> Lease:
    """The first that can be had. One that was leased before a crash is found again, whichever it is. Raises NoCapacity after the last."""
    refused = []
    for offer in offers:
        ctx.check_stop()
        try:
            lease: Lease = ctx.lease(offer, deadline_seconds, token)
            return lease
        except NoCapacity as error:
            refused.append(f"{offer.name}: {error.fact}{f' ({error.why})' if error.why else ''}")
            ctx.notice(f"{offer.provider} {refused[-1]}")
    raise NoCapacity(
        f"{offers[0].provider} has none of the approved machines now", why="; ".join(refused) + "; nothing was leased",
        next="forge resume tries again; forge resume --from plan_fit chooses another machine",
    )


def _as_approved(offer: Offer, plan: Plan) -> Offer:
    """With the machine image that was resolved when the plan was made."""
    return offer.model_copy(update={"image": plan.image}) if plan.image and offer.name == plan.offer else offer


def lease_token(plan_sha256: str) -> str:
    """One lease per plan: asking twice, or again after a crash, finds the same machine."""
    return f"lease-{plan_sha256[:TOKEN_LENGTH]}"


phase = Provision()
