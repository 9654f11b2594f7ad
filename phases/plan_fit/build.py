"""Grades the data and puts the plan together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from forge.errors import GateFailed, OverBudget
from forge.ledger import MICRO, Spend
from forge.phase import Context
from forge.phases.plan_fit.accuracy import all_defects, judge_accuracy
from forge.phases.plan_fit.budget import judge_budget
from forge.phases.plan_fit.capacity import weigh_capacity
from forge.phases.plan_fit.choice import Choice
from forge.phases.plan_fit.compared import machine_rows
from forge.phases.plan_fit.content import judge_content
from forge.phases.plan_fit.coverage import judge_coverage
from forge.phases.plan_fit.curve import probe, with_curve
from forge.phases.plan_fit.data import Data, data_hashes
from forge.phases.plan_fit.diversity import judge_diversity
from forge.phases.plan_fit.fit import (
    judge_hyperparameters,
    judge_leakage,
    needed_disk_gib,
    needed_host_gib,
    needed_memory_gib,
)
from forge.phases.plan_fit.forecast import LEASED, Row, deadline_seconds, total
from forge.phases.plan_fit.format import judge_format, with_rehearsal
from forge.phases.plan_fit.grader import grade_sample
from forge.phases.plan_fit.groups import judge_subtopics
from forge.phases.plan_fit.names import model_name
from forge.phases.plan_fit.ready import judge_ready
from forge.phases.plan_fit.settings import PlanFitSettings
from forge.phases.plan_fit.synth_checks import NO_CHECKS, SynthChecks
from forge.phases.plan_fit.verdicts import changed
from forge.phases.plan_fit.weigh import Chosen
from forge.protocols import Offer
from forge.records import Plan, Verdict


@dataclass(frozen=True)
class Draft:
    """What the plan will be made of: data, model, machine, forecast, money and the frozen thresholds."""

    data: Data
    chosen: Chosen
    spend: Spend
    thresholds: dict[str, float]
    checks: SynthChecks = NO_CHECKS

    @property
    def choice(self) -> Choice:
        """The model and its training."""
        return self.chosen.machine.choice

    @property
    def offer(self) -> Offer:
        """The machine."""
        return self.chosen.machine.offer

    @property
    def rows(self) -> tuple[Row, ...]:
        """The forecast."""
        return self.chosen.machine.rows


def grade(draft: Draft, settings: PlanFitSettings, ctx: Context) -> list[Verdict]:
    """The seven axes, accuracy by subtopic and the leakage re-check, in the order in which people read them."""
    data, limits = draft.data, draft.thresholds

    def tick(done: int) -> None:
        ctx.check_stop()
        ctx.progress(done, len(data.pairs), "checking pairs")

    found = all_defects(data.pairs, data.passages, data.contract.abstention, tick)
    to_come, deadline = total(draft.rows), deadline_seconds(draft.rows)
    about_pairs: tuple[Callable[[], Verdict], ...] = (
        lambda: judge_content(data.clean, limits, ctx.seed),
        lambda: judge_coverage(data.clean, data.pairs, limits),
        lambda: judge_accuracy(
            data.pairs, data.passages, data.contract.abstention, limits, ctx.seed, judge=draft.checks.judge, found=found,
            grades=grade_sample(data.pairs, data.passages, limits, settings, ctx),
        ),
        lambda: judge_subtopics(data.pairs, data.passages, found, limits),
        lambda: judge_diversity(data.pairs, limits, draft.checks.targets),
    )
    about_rows: tuple[Callable[[], Verdict], ...] = (
        lambda: _hyperparameters(draft, settings, ctx),
        lambda: judge_format(data, draft.choice.lora.max_length),
        lambda: judge_budget(ctx.money.totals(), to_come, draft.offer, deadline, limits),
        lambda: judge_leakage(data),
    )
    judges, verdicts = (*about_pairs, *about_rows), list[Verdict]()
    if data.contract.task != "chat":   # ready-made data: no pairs to judge, but classes and sources
        judges, verdicts = about_rows, judge_ready(data, ctx.use("task", data.contract.task), limits)
        verdicts = [_lenient(verdict) for verdict in verdicts] if ctx.dry_run else verdicts
    for judge in judges:
        ctx.check_stop()
        verdicts.append(_lenient(judge()) if ctx.dry_run else judge())
        ctx.progress(len(verdicts), len(judges), verdicts[-1].name)
    return verdicts


def _hyperparameters(draft: Draft, settings: PlanFitSettings, ctx: Context) -> Verdict:
    """The chosen numbers, whether the adapter is in proportion to the data, and what the learning curve says."""
    verdict = judge_hyperparameters(draft.data, draft.choice, draft.offer, draft.thresholds, dry_run=ctx.dry_run)
    if ctx.dry_run or draft.data.contract.task != "chat":
        return verdict
    verdict = changed(verdict, verdict.outcome, weigh_capacity(draft.data, draft.choice, draft.thresholds))
    return with_curve(verdict, probe(draft.data, ctx.seed)) if settings.curve else verdict


def check_integrity(verdicts: Sequence[Verdict]) -> None:
    """Raise for a failed integrity check: OverBudget for the budget, GateFailed for the others."""
    for verdict in verdicts:
        if verdict.kind != "integrity" or verdict.outcome != "fail":
            continue
        if verdict.name == "budget":
            raise OverBudget(
                "the plan does not fit the budget", why=verdict.evidence,
                next="forge resume --budget USD with a larger budget, or --provider local",
            )
        raise GateFailed(
            f"the {verdict.name} check failed", why=verdict.evidence,
            next="mend what it names, then forge resume --from shape",
        )


def build_plan(draft: Draft, settings: PlanFitSettings, ctx: Context, verdicts: Sequence[Verdict]) -> Plan:
    """Everything that is approved, in one record."""
    choice, offer, contract, to_come, machine = draft.choice, draft.offer, draft.data.contract, total(draft.rows), draft.chosen.machine
    on_gpu, memory = offer.device == "cuda", needed_memory_gib(choice, offer)
    return Plan(
        run=ctx.run_id, name=model_name(settings.name, _corpus_name(ctx.corpus_root), choice.parameters),
        task=contract.task, base=choice.base, base_license=choice.license, architecture=choice.architecture,
        parameters=choice.parameters, scratch=choice.scratch, lora=choice.lora, precision=choice.precision, seed=ctx.seed,
        dry_run=ctx.dry_run, system_prompt=contract.system_prompt, abstention=contract.abstention,
        teacher=", ".join(_teachers(draft.data)), provider=offer.provider, offer=offer.name, usd_per_hour=offer.usd_per_hour,
        deadline_seconds=machine.deadline_seconds, cost_p50_usd=to_come.usd_p50, cost_p90_usd=to_come.usd_p90,
        budget_usd=draft.spend.budget / MICRO, quantizations=choice.quantizations, hub=settings.hub,
        visibility=settings.visibility, verdicts=tuple(verdicts), thresholds=draft.thresholds, data=data_hashes(ctx),
        reasons={**choice.reasons, **_reasons(draft, settings)},
        sweep=choice.sweep, stages=choice.stages, tuning=choice.tuning, continues=contract.model.continues if contract.model else "",
        gpu=offer.gpu, gpus=offer.gpus, nodes=offer.nodes, spot=offer.spot, region=offer.region, image=offer.image,
        price_source=offer.price_source, worst_usd=round(machine.worst_usd, 6),
        memory_gib=needed_host_gib(choice.parameters, choice.scratch is None) if on_gpu else memory,
        gpu_memory_gib=memory if on_gpu else 0.0, disk_gib=needed_disk_gib(choice.parameters, settings.quantizations),
        alternates=tuple(one.offer.name for one in draft.chosen.alternates), preflight=draft.chosen.preflight, machines=machine_rows(draft.chosen),
    )


def note_rehearsal(plan: Plan, *, done: bool, note: str) -> Plan:
    """The plan with what the rehearsal showed in its format verdict and its reasons."""
    verdicts = [with_rehearsal(v, done=done, note=note) if v.name == "format" else v for v in plan.verdicts]
    return plan.model_copy(update={"verdicts": tuple(verdicts), "reasons": {**plan.reasons, "rehearsal": note}})


def _lenient(verdict: Verdict) -> Verdict:
    """A dry run looks at a sample: too little to condemn the data, so a failed quality check is only undecided."""
    if verdict.kind == "integrity" or verdict.outcome != "fail":
        return verdict
    return changed(verdict, "undecided", "a dry run looks at a sample only")


def _reasons(draft: Draft, settings: PlanFitSettings) -> dict[str, str]:
    offer, teachers = draft.offer, _teachers(draft.data)
    leased = sum(row.seconds_p50 for row in draft.rows if row.phase in LEASED)
    unlock = "; a GPU here, or another provider (--provider), trains a larger model" if offer.device == "cpu" else ""
    told = f"{offer.reason}; {draft.chosen.reason}" if offer.reason else draft.chosen.reason
    freer = "; set synth.teacher and a key for freer questions" if teachers == ["offline"] else ""
    return {
        "provider": f"{offer.provider} {offer.name} at ${offer.usd_per_hour:.2f}/h: {told};"
        f" the plan needs {needed_memory_gib(draft.choice, draft.offer):g} GiB{unlock}",
        "deadline": f"{deadline_seconds(draft.rows)} s: twice the P90 of what the machine is leased for (P50 {leased:.0f} s),"
        " at least half an hour",
        "teacher": f"{', '.join(teachers) or 'nobody'} wrote the pairs{freer}",
        "hub": "a local folder; plan_fit.hub and a token upload" if settings.hub == "local" else "plan_fit.hub asks for it",
    }


def _teachers(data: Data) -> list[str]:
    return sorted({pair.teacher for pair in data.pairs if pair.teacher})


def _corpus_name(root: Path) -> str:
    return root.stem if root.is_file() else root.name
