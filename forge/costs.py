"""Where the money of a run goes, phase by phase: what was expected and why, what is set aside, what is spent, what is to come."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from forge.config import BEFORE_GATE_SHARE
from forge.history import OWN_BASIS, OWN_P50, OWN_P90
from forge.ledger import micro_usd
from forge.records import Record
from forge.run import Run

FORECAST, DONE = "forecast", "done"


class PhaseCost(Record):
    """One phase's money in micro-dollars. `to_come`: what is still expected, 0 for a phase that is done.

    basis: where the estimate comes from; "" when there is none. acts: lines in the ledger.
    """

    phase: str
    status: str
    estimated_p50: int | None
    estimated_p90: int | None
    reserved: int
    spent: int
    to_come_p50: int
    to_come_p90: int
    acts: int
    basis: str


def bring_budget(run: Run) -> None:
    """Tell the ledger of a run that is only looked at the caps that the run was last started with."""
    layers = run.overrides()
    budget = float(layers["run.budget_usd"].value) if "run.budget_usd" in layers else 0.0
    early = layers["run.before_gate_usd"].value if "run.before_gate_usd" in layers else None
    run.ledger.budget = micro_usd(budget)
    run.ledger.before_gate = micro_usd(float(early) if early is not None else budget * BEFORE_GATE_SHARE)


def phase_costs(run: Run, order: Sequence[str]) -> list[PhaseCost]:
    """A row for each phase that costs, could cost or has an estimate, in the order of the run."""
    estimates = {row["phase"]: row for row in run.state.rows("SELECT * FROM estimate")}
    planned = {row["phase"]: row for row in _forecast(run)}
    planned = _own_forecasts(run) | planned
    status = {row["name"]: row["status"] for row in run.state.rows("SELECT name, status FROM phase")}
    spent = {row["phase"]: row for row in run.state.rows(
        "SELECT phase, COUNT(*) AS acts, COALESCE(SUM(actual), 0) AS paid,"
        " COALESCE(SUM(CASE WHEN actual IS NULL THEN reserved ELSE 0 END), 0) AS open FROM spend GROUP BY phase")}
    names = [*order, *(name for name in spend_order(run) if name not in order)]
    known = [name for name in names if name in estimates or name in planned or name in spent]
    return [_row(name, status.get(name, ""), estimates.get(name), planned.get(name), spent.get(name)) for name in known]


def spend_order(run: Run) -> list[str]:
    """The phases in the ledger, in the order in which they first spent."""
    return [row["phase"] for row in run.state.rows("SELECT phase FROM spend GROUP BY phase ORDER BY MIN(id)")]


def to_come(run: Run, rows: Sequence[PhaseCost]) -> tuple[int, int]:
    """P50 and P90 of what is still to come; after the plan its own total, whose overruns are independent."""
    total = _total(run)
    if total and not any(row.status for row in rows if row.phase in {one["phase"] for one in _forecast(run)}):
        return micro_usd(total.get("usd_p50", 0.0)), micro_usd(total.get("usd_p90", 0.0))
    return sum(row.to_come_p50 for row in rows), sum(row.to_come_p90 for row in rows)


def _row(name: str, status: str, estimate: Any, planned: Mapping[str, Any] | None, spent: Any) -> PhaseCost:
    """The plan's forecast comes before the phase's own estimate: it knows the machine's price."""
    found = planned or estimate
    p50, p90 = (micro_usd(found["usd_p50"]), micro_usd(found["usd_p90"])) if found else (None, None)
    paid, open_, acts = (spent["paid"], spent["open"], spent["acts"]) if spent else (0, 0, 0)
    left = (0, 0) if status == DONE else (max(0, (p50 or 0) - paid), max(0, (p90 or 0) - paid))
    return PhaseCost(
        phase=name, status=status, estimated_p50=p50, estimated_p90=p90, reserved=open_, spent=paid, to_come_p50=left[0], to_come_p90=left[1],
        acts=acts, basis=found["basis"] if found else "",
    )


def _own_forecasts(run: Run) -> dict[str, dict[str, Any]]:
    """Of phases that forecast their own bill from a part of it, as synth does by its pilot."""
    found = {}
    for row in run.state.rows("SELECT name, metrics FROM phase WHERE status='done'"):
        numbers = json.loads(row["metrics"])
        if OWN_P50 in numbers:
            found[row["name"]] = {"usd_p50": numbers[OWN_P50], "usd_p90": numbers[OWN_P90], "basis": numbers[OWN_BASIS]}
    return found


def _forecast(run: Run) -> list[dict[str, Any]]:
    return [row for row in _forecast_file(run).get("phases", []) if isinstance(row, dict) and "usd_p50" in row]


def _total(run: Run) -> dict[str, Any]:
    return dict(_forecast_file(run).get("total", {}))


def _forecast_file(run: Run) -> dict[str, Any]:
    """forecast.json as the plan left it; of a rehearsal it is about another run and says nothing here."""
    artifact = run.store.get(FORECAST)
    if artifact is None or run.dry_run or not run.store.link(artifact).exists():
        return {}
    found = json.loads(run.store.link(artifact).read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}
