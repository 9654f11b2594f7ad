"""Turns data into a plan that a person can approve: seven checks, a model, a machine, a price, a dress rehearsal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from forge.config import load_data
from forge.errors import ForgeError
from forge.ledger import MICRO
from forge.phase import Context, Estimate, Output, Requirement, Settings
from forge.phases.plan_fit.asked import World
from forge.phases.plan_fit.build import (
    Draft,
    build_plan,
    check_integrity,
    grade,
    note_rehearsal,
)
from forge.phases.plan_fit.choice import Choice, choose, wanted_parameters
from forge.phases.plan_fit.correct import correct, known_corrections
from forge.phases.plan_fit.data import HASHED, Data, read_data
from forge.phases.plan_fit.fit import needed_disk_gib
from forge.phases.plan_fit.forecast import Row, forecast_rows, total
from forge.phases.plan_fit.outlook import outlook_rows
from forge.phases.plan_fit.page import plan_page
from forge.phases.plan_fit.rehearse import rehearse
from forge.phases.plan_fit.settings import PlanFitSettings
from forge.phases.plan_fit.speed import NOTHING_KNOWN, Known, adapter_tokens_per_second, training_on
from forge.phases.plan_fit.synth_checks import read_synth_checks
from forge.phases.plan_fit.weigh import Weighed, find_fault, pick
from forge.protocols import Need, Offer
from forge.records import Document, Plan, read_jsonl, write_json

SMALLEST_GIB = 1.5
"""What the smallest training needs. Providers are asked for all that they have, so that the plan can say what was too small."""


class PlanFit:
    """The phase."""

    name: ClassVar[str] = "plan_fit"
    VERSION: ClassVar[int] = 5
    summary: ClassVar[str] = "checks the data, chooses model and machine, forecasts the cost, rehearses"
    reads: ClassVar[tuple[str, ...]] = ("documents", "audit", "clean", "pairs", "synth_checks", "review", *HASHED)
    optional: ClassVar[tuple[str, ...]] = ("review",)
    writes: ClassVar[tuple[Output, ...]] = (
        Output(name="plan", path="plan.json"),
        Output(name="plan_text", path="plan.md"),
        Output(name="forecast", path="forecast.json", telemetry=True),
    )
    settings: ClassVar[type[Settings]] = PlanFitSettings
    where: ClassVar[Literal["engine", "machine"]] = "engine"
    configs: ClassVar[tuple[str, ...]] = ("gates", "models", "prices")
    budgeted: ClassVar[bool] = True
    libraries: ClassVar[tuple[str, ...]] = ("tokenizers",)
    requires: ClassVar[tuple[Requirement, ...]] = (Requirement(module="tokenizers", extra="train"),)
    always: ClassVar[bool] = False

    def estimate(self, settings: PlanFitSettings, ctx: Context) -> Estimate:
        """Mostly the rehearsal: loading the training libraries once and a few steps."""
        rehearsal = 0.0 if ctx.dry_run or not settings.rehearse else 40.0
        return Estimate(seconds_p50=3 + rehearsal, seconds_p90=10 + 3 * rehearsal, basis="handbook corpus, 2 cores")

    def run(self, settings: PlanFitSettings, ctx: Context) -> Mapping[str, float | str]:
        """Choose, grade, rehearse, write. Raises GateFailed on leakage, format, rehearsal; OverBudget on the budget."""
        data = read_data(ctx)
        world = World(ctx, _need(data, settings, dry_run=ctx.dry_run), settings.provider)
        try:
            plan = self._made(settings, ctx, data, world)
        except ForgeError:
            world.forget()
            raise
        world.forget()
        return _metrics(plan)

    def undo(self, settings: PlanFitSettings, ctx: Context) -> None:
        """Nothing outside the run folder."""

    def _made(self, settings: PlanFitSettings, ctx: Context, data: Data, world: World) -> Plan:
        draft = self._draft(settings, ctx, data, world)
        verdicts = grade(draft, settings, ctx)
        draft = replace(draft, spend=ctx.money.totals())   # a grader has been paid
        check_integrity(verdicts)
        world.remember({f"{one.offer.provider}/{one.offer.name}": one.why for one in draft.chosen.refused})
        plan, seconds = self._rehearsed(settings, ctx, build_plan(draft, settings, ctx, verdicts), draft)
        write_json(ctx.output("plan"), plan)
        ctx.output("plan_text").write_text(plan_page(plan, draft), encoding="utf-8", newline="\n")
        rows = self._outlook(settings, ctx, draft) if ctx.dry_run else forecast_rows(draft.data, draft.choice, draft.offer, seconds)
        corrections = {} if ctx.dry_run else known_corrections(ctx, draft.offer, [row.phase for row in rows])
        write_json(ctx.output("forecast"), _forecast_file(draft, rows, correct(rows, corrections), seconds))
        return plan

    def _draft(self, settings: PlanFitSettings, ctx: Context, data: Data, world: World) -> Draft:
        """The thresholds are frozen here, before anything is graded."""
        thresholds = {name: float(value) for name, value in load_data("gates").items()}
        weighed = [
            find_fault(_weigh(data, offer, settings, world, dry_run=ctx.dry_run), settings, ctx.money.totals(), thresholds)
            for answer in world.asked.answers for offer in answer.offers
        ]
        chosen = pick(weighed, world.asked.answers, settings.provider, world.preflight)
        return Draft(data=data, chosen=chosen, spend=ctx.money.totals(), thresholds=thresholds, checks=read_synth_checks(ctx.input("synth_checks")))

    def _outlook(self, settings: PlanFitSettings, ctx: Context, draft: Draft) -> list[Row]:
        """What the run that is being rehearsed would take."""
        documents = list(read_jsonl(ctx.input("documents"), Document))
        return outlook_rows(draft.data, draft.offer, settings, documents)

    def _rehearsed(
        self, settings: PlanFitSettings, ctx: Context, plan: Plan, draft: Draft
    ) -> tuple[Plan, Mapping[str, float]]:
        """The plan with the rehearsal in its format verdict, and the measured seconds by phase."""
        if ctx.dry_run:
            return note_rehearsal(plan, done=True, note="the dry run itself is the rehearsal"), {}
        if not settings.rehearse:
            return note_rehearsal(plan, done=False, note="not rehearsed: plan_fit.rehearse is off"), {}
        found = rehearse(ctx, plan, draft.data, draft.offer)
        note = "rehearsed: trained, merged, exported, quantized and loaded on a few rows of each split"
        return note_rehearsal(plan, done=True, note=note), found.seconds


def _need(data: Data, settings: PlanFitSettings, *, dry_run: bool) -> Need:
    """What is asked for before a machine, and so a size, is chosen."""
    parameters = wanted_parameters(data.contract, dry_run=dry_run)
    disk = needed_disk_gib(parameters, settings.quantizations)
    return Need(parameters=parameters, memory_gib=SMALLEST_GIB, gpu=False, seconds=60 * settings.train_minutes, disk_gib=disk)


def _weigh(data: Data, offer: Offer, settings: PlanFitSettings, world: World, *, dry_run: bool) -> Weighed:
    """The model that this machine would get, and what that would take there."""
    known = world.speed(offer)
    choice = choose(data, offer, settings, dry_run=dry_run, known=known)
    corrections = {} if dry_run else world.corrections(offer)
    rows = forecast_rows(data, choice, offer, known=NOTHING_KNOWN if "train" in corrections else known)   # never corrected twice
    return Weighed(offer, choice, tuple(correct(rows, corrections)), round(_rate(choice, offer, known), 1))


def _rate(choice: Choice, offer: Offer, known: Known = NOTHING_KNOWN) -> float:
    """Tokens a second of the adapter: as the table has them, unless earlier runs are known."""
    used = training_on(offer, alone=bool(choice.scratch or choice.sweep))
    return adapter_tokens_per_second(choice.parameters, used, choice.precision, known)


def _forecast_file(draft: Draft, rows: Sequence[Row], corrected: Sequence[Row], seconds: Mapping[str, float]) -> dict[str, object]:
    return {
        "phases": [row.model_dump(mode="json") for row in corrected],
        "total": total(corrected).model_dump(mode="json"),
        "uncorrected": {row.phase: {"seconds_p50": row.seconds_p50, "usd_p50": row.usd_p50} for row in rows},
        "rehearsal_seconds": dict(sorted(seconds.items())),
        "speed": {
            "gpu": draft.offer.gpu if draft.offer.device == "cuda" else "", "gpus": draft.offer.gpus * draft.offer.nodes,
            "tokens_per_second": round(_rate(draft.choice, draft.offer), 1),
        },
        "spent_usd": draft.spend.committed / MICRO,
        "budget_usd": draft.spend.budget / MICRO,
    }


def _metrics(plan: Plan) -> dict[str, float | str]:
    outcomes = [verdict.outcome for verdict in plan.verdicts]
    checks = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in ("pass", "fail", "undecided") if outcome in outcomes)
    return {
        "summary": f"{plan.name} · {plan.parameters / 1e6:.1f} M parameters from {plan.base} · checks: {checks} ·"
        f" ${plan.cost_p50_usd:.2f} to come (P90 ${plan.cost_p90_usd:.2f})",
        "pass": outcomes.count("pass"), "fail": outcomes.count("fail"), "undecided": outcomes.count("undecided"),
        "model": plan.name, "parameters": plan.parameters, "cost_p50_usd": plan.cost_p50_usd,
        "cost_p90_usd": plan.cost_p90_usd,
    }


phase = PlanFit()
