"""`forge cost`: the money of a run by phase, the basis of each estimate, and every attempt in the ledger."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from forge import ui
from forge.cli.complete import run_names

if TYPE_CHECKING:
    from forge.costs import PhaseCost
    from forge.ledger import Attempt, Spend
    from forge.run import Run

KEY_CHARACTERS = 10


def cost(
    run_id: str = typer.Argument("", metavar="RUN", help="Run id; without one, the newest run.", show_default=False, autocompletion=run_names),
    attempts: bool = typer.Option(False, "--attempts", help="One line for each attempt: an HTTP request, an item of a batch, a lease."),
    as_json: bool = typer.Option(False, "--json", help="As JSON."),
) -> None:
    """Money by phase: estimated, reserved, spent and to come, and what each estimate is based on."""
    from forge.cli.snapshot import open_with_budget
    from forge.costs import phase_costs, to_come
    from forge.registry import Registry
    from forge.sections import ordered_phases

    opened = open_with_budget(run_id)
    if attempts:
        _show_attempts(opened, as_json=as_json)
        return
    rows = phase_costs(opened, [phase.name for phase in ordered_phases(Registry(opened.plugin_dirs))])
    totals, ahead = opened.ledger.totals(), to_come(opened, rows)
    if as_json:
        ui.out_json(_data(opened, rows, totals, ahead))
        return
    _show(rows, totals, ahead)
    ui.next_step(f"forge cost {opened.id} --attempts" if any(row.acts for row in rows) else f"forge status {opened.id}")


def _data(run: Run, rows: Sequence[PhaseCost], totals: Spend, ahead: tuple[int, int]) -> dict[str, Any]:
    lines = run.state.rows(
        "SELECT phase, what, COUNT(*) AS n, SUM(CASE WHEN actual IS NULL THEN reserved ELSE 0 END) AS open,"
        " COALESCE(SUM(actual), 0) AS paid FROM spend GROUP BY phase, what ORDER BY MIN(id)"
    )
    return {
        "run": run.id, "settled_micro_usd": totals.settled, "reserved_micro_usd": totals.reserved, "budget_micro_usd": totals.budget,
        "before_gate_micro_usd": totals.before_gate, "before_gate_cap_micro_usd": totals.before_gate_cap,
        "to_come_p50_micro_usd": ahead[0], "to_come_p90_micro_usd": ahead[1],
        "phases": [row.model_dump() for row in rows], "lines": [dict(row) for row in lines],
    }


def _show(rows: Sequence[PhaseCost], totals: Spend, ahead: tuple[int, int]) -> None:
    from forge.ledger import dollars

    cells = [
        (row.phase, _range(row.estimated_p50, row.estimated_p90), dollars(row.reserved), dollars(row.spent), _range(row.to_come_p50, row.to_come_p90), row.basis)
        for row in rows
    ]
    ui.table(cells, ("phase", "estimated", "reserved", "spent", "to come", "basis of the estimate"))
    left = totals.budget - totals.committed
    ui.out(
        f"spent {dollars(totals.settled)} · reserved {dollars(totals.reserved)} · to come {_range(*ahead)} ·"
        f" left {dollars(left)} of {dollars(totals.budget)}"
    )
    ui.out(f"before approval {dollars(totals.before_gate)} of {dollars(totals.before_gate_cap)}, the most that may be spent then")


def _range(p50: int | None, p90: int | None) -> str:
    """"$0.31 (P90 $0.80)"; one figure where both are the same, "-" where nobody knows."""
    from forge.ledger import dollars

    if p50 is None or p90 is None:
        return "-"
    return dollars(p50) if p50 == p90 else f"{dollars(p50)} (P90 {dollars(p90)})"


def _show_attempts(run: Run, *, as_json: bool) -> None:
    found = run.ledger.attempts()
    if as_json:
        for one in found:   # a line each: a ledger may have hundreds of thousands
            ui.out(json.dumps({"run": run.id, **one.model_dump()}, ensure_ascii=False))
        return
    if not found:
        ui.out("nothing was attempted that could cost anything")
    ui.table([_attempt(one) for one in found], ("line", "at", "phase", "key", "try", "reserved", "spent", "outcome"))
    ui.next_step(f"forge cost {run.id}")


def _attempt(one: Attempt) -> tuple[str, ...]:
    from forge.ledger import dollars

    tokens = ", ".join(f"{count:,} {kind.removesuffix('_tokens').replace('_', ' ')}" for kind, count in one.usage.items() if count)
    outcome = f"{one.what}: {one.outcome or 'under way'}" + (f" ({tokens} tokens)" if tokens else "")
    spent = dollars(one.settled) if one.settled is not None else "-"
    when = time.strftime("%m-%d %H:%M:%S", time.localtime(one.at))
    return (str(one.id), when, one.phase, one.key[:KEY_CHARACTERS], str(one.number), dollars(one.reserved), spent, outcome)
