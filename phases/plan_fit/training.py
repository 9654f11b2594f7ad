"""Sweeps and stages in the plan: which adapters are tried, or in which order one adapter is taught, within the same minutes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

from pydantic import Field

from forge.errors import UsageError
from forge.phase import Settings
from forge.records import Candidate, LoraPlan, StageData, StagePlan, SweepPlan

MOST_CANDIDATES = 64
HALVED_SHARE = (1 + 1 / 2 + 1 / 4) / 3
"""Of the steps of a whole sweep when half of the candidates stop after a third, and half of the rest after two thirds."""


class SweepSettings(Settings):
    """A grid: every rank with every learning rate. Alpha keeps its proportion to the rank."""

    rank: tuple[int, ...] = Field((), description="adapter ranks to try")
    learning_rate: tuple[float, ...] = Field((), description="learning rates to try")
    halving: bool = Field(False, description="stop the weaker half early, by validation loss, after a third and two thirds of the steps")


def plan_sweep(lora: LoraPlan, settings: SweepSettings | None, reasons: dict[str, str], *, dry_run: bool) -> SweepPlan | None:
    """Every candidate of the grid; two in a rehearsal. Raises UsageError for an empty or senseless grid."""
    if settings is None:
        return None
    ranks, rates = settings.rank or (lora.rank,), settings.learning_rate or (lora.learning_rate,)
    if any(rank < 1 for rank in ranks) or any(not 0 < rate < 1 for rate in rates):
        raise UsageError("plan_fit.sweep needs ranks from 1 and learning rates between 0 and 1", next="mend plan_fit.sweep")
    grid = [_candidate(rank, rate, lora, many_rates=len(rates) > 1) for rank, rate in product(dict.fromkeys(ranks), dict.fromkeys(rates))]
    if not 2 <= len(grid) <= MOST_CANDIDATES:
        raise UsageError(f"plan_fit.sweep has {len(grid)} candidate{'s' if len(grid) != 1 else ''}", why=f"2 to {MOST_CANDIDATES} can be compared", next="mend plan_fit.sweep")
    if dry_run:
        grid = [one.model_copy(update={"rank": rank, "alpha": 2 * rank}) for one, rank in zip(grid[:2], (2, 4), strict=True)]
    reasons["sweep"] = (
        f"{len(grid)} adapters over one base{', the weaker half stopping early' if settings.halving else ''}; the choice is made on validation rows,"
        " and without a significant difference the smallest is taken"
    )
    return SweepPlan(candidates=tuple(grid), halving=settings.halving)


def plan_stages(lora: LoraPlan, stages: Sequence[StageData], usual_epochs: float, reasons: dict[str, str], *, dry_run: bool) -> tuple[StagePlan, ...]:
    """Steps and rate of each stage. usual_epochs: what was wanted for all rows; when the minutes allow less, every stage gets less."""
    if not stages:
        return ()
    allowed = min(1.0, lora.epochs / usual_epochs) if usual_epochs and not dry_run else 1.0
    found = []
    for stage in stages:
        wanted = (stage.epochs or usual_epochs) * allowed
        steps = max(1, lora.steps // len(stages)) if dry_run else max(1, math.ceil(wanted * stage.rows / lora.examples_per_step))
        epochs = round(steps * lora.examples_per_step / stage.rows, 2)
        found.append(StagePlan(name=stage.name, rows=stage.rows, lora=lora.model_copy(update={
            "steps": steps, "epochs": epochs, "learning_rate": lora.learning_rate * stage.rate,
        })))
    told = ", then ".join(f"{one.name} ({one.rows:,} rows, {one.lora.epochs:g} epochs at {one.lora.learning_rate:g})" for one in found)
    reasons["stages"] = f"one adapter: {told}; every stage's adapter is kept and measured"
    return tuple(found)


def in_all(lora: LoraPlan, stages: Sequence[StagePlan], rows: int) -> LoraPlan:
    """The whole of training as one line: the steps of all stages."""
    if not stages:
        return lora
    steps = sum(stage.lora.steps for stage in stages)
    return lora.model_copy(update={"steps": steps, "epochs": round(steps * lora.examples_per_step / max(rows, 1), 2)})


def adapters_trained(settings: SweepSettings | None) -> float:
    """How many adapters' steps a sweep costs; 1 without one."""
    if settings is None:
        return 1.0
    grid = max(1, len(set(settings.rank))) * max(1, len(set(settings.learning_rate)))
    return grid * (HALVED_SHARE if settings.halving else 1.0)


def sweep_passes(sweep: SweepPlan | None) -> float:
    """The same of a planned sweep."""
    return 1.0 if sweep is None else len(sweep.candidates) * (HALVED_SHARE if sweep.halving else 1.0)


def _candidate(rank: int, rate: float, lora: LoraPlan, *, many_rates: bool) -> Candidate:
    name = f"r{rank}-lr{rate:g}" if many_rates else f"r{rank}"
    return Candidate(name=name, rank=rank, alpha=max(1, round(rank * lora.alpha / lora.rank)), learning_rate=rate)
