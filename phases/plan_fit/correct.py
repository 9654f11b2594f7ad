"""The forecast, corrected by what earlier runs on the same machine took (forge/history.py).

Of a plan that costs nothing only forecast.json is corrected, which is telemetry: the plan of the same data stays the same. Where
a machine is paid the plan's own figures are corrected too, and what was known then is journalled, so that a resumed plan_fit
writes the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from forge import history
from forge.history import Correction
from forge.phase import Context
from forge.phases.plan_fit.forecast import Row
from forge.protocols import Offer

KEY = "corrections"


def known_corrections(ctx: Context, offer: Offer, phases: Sequence[str]) -> dict[str, Correction]:
    """Phase -> factor for its seconds on this machine, as far as earlier runs tell."""
    journal = ctx.journal("history")
    kept = journal.get(KEY)
    if kept is None:
        told, where = history.read(), history.machine_name(offer.provider, offer.name)
        found = {phase: history.seconds_correction(phase, where, told) for phase in phases}
        kept = {phase: list(one) for phase, one in found.items() if one.runs}
        journal.put(KEY, kept)
    return {phase: Correction(float(factor), int(runs)) for phase, (factor, runs) in kept.items()}


def correct(rows: Sequence[Row], corrections: Mapping[str, Correction]) -> list[Row]:
    """The rows with seconds and dollars multiplied, and the basis saying so."""
    return [_corrected(row, corrections[row.phase]) if row.phase in corrections else row for row in rows]


def _corrected(row: Row, correction: Correction) -> Row:
    values = {name: round(getattr(row, name) * correction.factor, 6) for name in ("seconds_p50", "seconds_p90", "usd_p50", "usd_p90")}
    return row.model_copy(update={**values, "basis": f"{row.basis}; {correction}"})
