"""Leases the machine that the approved plan names, until the plan's deadline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import ClassVar, Literal

from forge.errors import GateFailed, NoCapacity
from forge.phase import Context, Estimate, Output, Requirement, Settings
from forge.protocols import Need, Offer
from forge.records import Plan, read_record, write_json

TOKEN_LENGTH = 24


class ProvisionSettings(Settings):
    """Nothing to set here: the machine is in the plan (plan_fit.provider), because it is part of what was approved."""


class Provision:
    """The phase."""

    name: ClassVar[str] = "provision"
    VERSION: ClassVar[int] = 1
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
        """Lease the plan's offer. Raises GateFailed without an approval of this plan, NoCapacity without the offer."""
        plan_sha256 = ctx.input_sha256("plan")
        plan = read_record(ctx.input("plan"), Plan)
        check_approval(json.loads(ctx.input("approval").read_text(encoding="utf-8")), plan_sha256)
        offer = find_offer(ctx, plan)
        lease = ctx.lease(offer, plan.deadline_seconds, lease_token(plan_sha256))
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


def find_offer(ctx: Context, plan: Plan) -> Offer:
    """The plan's offer as it is quoted now. Raises NoCapacity when it is gone, GateFailed when it costs more."""
    need = Need(parameters=plan.parameters, memory_gib=0.0, gpu=False, seconds=plan.deadline_seconds)
    offers: dict[str, Offer] = {offer.name: offer for offer in ctx.use("provider", plan.provider).quote(need)}
    if plan.offer not in offers:
        raise NoCapacity(
            f"the provider {plan.provider} does not offer {plan.offer} any more",
            why=f"it offers: {', '.join(sorted(offers)) or 'nothing'}", next="forge resume --from plan_fit",
        )
    offer = offers[plan.offer]
    if offer.usd_per_hour > plan.usd_per_hour:
        raise GateFailed(
            f"{plan.provider} {plan.offer} now costs ${offer.usd_per_hour:.2f}/h",
            why=f"${plan.usd_per_hour:.2f}/h was approved",
            next="forge resume --from plan_fit makes a plan at today's price",
        )
    return offer


def lease_token(plan_sha256: str) -> str:
    """One lease per plan: asking twice, or again after a crash, finds the same machine."""
    return f"lease-{plan_sha256[:TOKEN_LENGTH]}"


phase = Provision()
