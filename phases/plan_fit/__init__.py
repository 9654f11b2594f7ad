"""Turns data into a plan that a person can approve: seven checks, a model, a machine, a price, a dress rehearsal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from forge.config import load_data
from forge.ledger import MICRO
from forge.phase import Context, Estimate, Output, Requirement, Settings
from forge.phases.plan_fit.build import (
    Draft,
    build_plan,
    check_integrity,
    forecast_rows,
    grade,
    note_rehearsal,
)
from forge.phases.plan_fit.choice import choose
from forge.phases.plan_fit.correct import correct, known_corrections
from forge.phases.plan_fit.data import HASHED, read_data
from forge.phases.plan_fit.forecast import Row, total
from forge.phases.plan_fit.machines import consider, pick
from forge.phases.plan_fit.outlook import outlook_rows
from forge.phases.plan_fit.page import plan_page
from forge.phases.plan_fit.rehearse import rehearse
from forge.phases.plan_fit.settings import PlanFitSettings
from forge.phases.plan_fit.synth_checks import read_synth_checks
from forge.protocols import Need
from forge.records import Document, Plan, read_jsonl, write_json

SMALLEST_GIB = 1.5
"""What the smallest training needs; the real need is checked once the size is chosen for the machine."""


class PlanFit:
    """The phase."""

    name: ClassVar[str] = "plan_fit"
    VERSION: ClassVar[int] = 2
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
        draft = self._draft(settings, ctx)
        verdicts = grade(draft, settings, ctx)
        draft = replace(draft, spend=ctx.money.totals())   # a grader has been paid
        check_integrity(verdicts)
        plan, seconds = self._rehearsed(settings, ctx, build_plan(draft, settings, ctx, verdicts), draft)
        write_json(ctx.output("plan"), plan)
        ctx.output("plan_text").write_text(plan_page(plan, draft), encoding="utf-8", newline="\n")
        rows = self._outlook(settings, ctx, draft) if ctx.dry_run else forecast_rows(draft.data, draft.choice, draft.offer, seconds)
        corrections = {} if ctx.dry_run else known_corrections(ctx, draft.offer, [row.phase for row in rows])
        write_json(ctx.output("forecast"), _forecast_file(draft, rows, correct(rows, corrections), seconds))
        return _metrics(plan)

    def undo(self, settings: PlanFitSettings, ctx: Context) -> None:
        """Nothing outside the run folder."""

    def _draft(self, settings: PlanFitSettings, ctx: Context) -> Draft:
        """The thresholds are frozen here, before anything is graded."""
        thresholds = {name: float(value) for name, value in load_data("gates").items()}
        data = read_data(ctx)
        considered = consider(ctx, Need(parameters=1, memory_gib=SMALLEST_GIB, gpu=False, seconds=0))
        offer = pick(considered, settings.provider)
        choice = choose(data, offer, settings, dry_run=ctx.dry_run)
        rows = forecast_rows(data, choice, offer)
        if offer.usd_per_hour and not ctx.dry_run:
            rows = correct(rows, known_corrections(ctx, offer, [row.phase for row in rows]))
        return Draft(
            data=data, choice=choice, offer=offer, considered=tuple(considered), spend=ctx.money.totals(),
            rows=tuple(rows), thresholds=thresholds, checks=read_synth_checks(ctx.input("synth_checks")),
        )

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


def _forecast_file(draft: Draft, rows: Sequence[Row], corrected: Sequence[Row], seconds: Mapping[str, float]) -> dict[str, object]:
    return {
        "phases": [row.model_dump(mode="json") for row in corrected],
        "total": total(corrected).model_dump(mode="json"),
        "uncorrected": {row.phase: {"seconds_p50": row.seconds_p50, "usd_p50": row.usd_p50} for row in rows},
        "rehearsal_seconds": dict(sorted(seconds.items())),
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
