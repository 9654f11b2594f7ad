"""Time and money to come, as P50 and P90 per phase.

The plan's own figures come from the table of speeds alone, so that the plan is the same every time it is made. forecast.json
also uses what the rehearsal measured; it is telemetry and not part of what is approved.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from forge.phases.plan_fit.choice import Choice
from forge.phases.plan_fit.data import TESTS, Data
from forge.phases.plan_fit.fit import FILE_BYTES
from forge.phases.plan_fit.speed import (
    FORWARD_FLOPS,
    NOTHING_KNOWN,
    TRAIN_FLOPS,
    Known,
    adapter_tokens_per_second,
    tokens_per_second,
    told_gpus,
    training_on,
)
from forge.phases.plan_fit.tables import load_tables, rented_from
from forge.phases.plan_fit.training import sweep_passes
from forge.protocols import Offer
from forge.records import Record

ON_MACHINE = ("train", "eval", "quantize")
LEASED = ("provision", *ON_MACHINE)
"""What a rented machine is paid for."""
MIN_DEADLINE_SECONDS = 1800
DEADLINE_FACTOR = 2.0


class Row(Record):
    """One phase's forecast."""

    phase: str
    seconds_p50: float
    seconds_p90: float
    usd_p50: float
    usd_p90: float
    basis: str


def forecast_rows(
    data: Data, choice: Choice, offer: Offer, rehearsed: Mapping[str, float] | None = None, known: Known = NOTHING_KNOWN
) -> list[Row]:
    """The forecast for this data; `rehearsed` puts measured seconds in place of the table's fixed ones."""
    return forecast(
        choice, offer, tuning_tokens=data.train_tokens * choice.lora.epochs * sweep_passes(choice.sweep), test_rows=data.test_rows,
        test_tokens=sum(data.contract.tokens.get(name, 0) for name in TESTS), rehearsed=rehearsed, known=known,
    )


def forecast(
    choice: Choice, offer: Offer, *, tuning_tokens: float, test_rows: int, test_tokens: int,
    rehearsed: Mapping[str, float] | None = None, known: Known = NOTHING_KNOWN,
) -> list[Row]:
    """P50 and P90 of every phase to come. `rehearsed`: measured seconds by phase, in place of the fixed times."""
    tables, (rate, source) = load_tables(), tokens_per_second(choice.parameters, offer, choice.precision, known)
    answers = _answer_seconds(choice.parameters, offer, test_rows)
    used = training_on(offer, alone=bool(choice.scratch or choice.sweep))
    tuning = tuning_tokens / adapter_tokens_per_second(choice.parameters, used, choice.precision, known)
    working = {
        "train": _pretrain_tokens(choice) / rate + tuning,
        "eval": answers + 2 * test_tokens * FORWARD_FLOPS / TRAIN_FLOPS / rate,
        "quantize": answers,
    }
    beside, rows = beside_work(choice, offer), []
    for phase, fixed in tables.fixed_seconds.items():
        measured = (rehearsed or {}).get(phase)
        basis = "; ".join(filter(None, (f"rehearsal {measured:.0f} s + {source}" if measured else f"table: {source}", told_gpus(used))))
        seconds = (measured or fixed) + working.get(phase, 0.0) + beside.get(phase, 0.0)
        spread = tables.spread.rehearsed if measured else tables.spread.table
        again = working.get(phase, 0.0) * tables.spot.repeated + sum(beside.values()) if offer.spot and phase == "train" else 0.0
        hourly = offer.usd_per_hour if phase in LEASED else 0.0
        rows.append(_row(phase, seconds, seconds * spread + again, hourly, basis if phase in working else "table"))
    return rows


def beside_work(choice: Choice, offer: Offer) -> dict[str, float]:
    """Seconds by phase that a rented machine takes besides the work: until it answers, until Python with torch is there, and what
    travels: a known base to it, the merged model and its files back. Nothing on this machine.
    """
    rented = rented_from(offer.provider)
    if not rented.mib_per_second:
        return {}
    each = choice.parameters / 2**20 / rented.mib_per_second
    base = 0.0 if choice.scratch else 2.0 * each
    return {"provision": rented.boot, "train": rented.environment + base, "quantize": (2.0 + sum(FILE_BYTES[name] for name in choice.quantizations)) * each}


def total(rows: Sequence[Row]) -> Row:
    """The sum, with the phases' overruns taken as independent: not everything goes badly at once."""
    seconds, usd = sum(row.seconds_p50 for row in rows), sum(row.usd_p50 for row in rows)
    return Row(
        phase="total", seconds_p50=round(seconds, 1),
        seconds_p90=round(seconds + math.hypot(*(row.seconds_p90 - row.seconds_p50 for row in rows)), 1),
        usd_p50=round(usd, 6), usd_p90=round(usd + math.hypot(*(row.usd_p90 - row.usd_p50 for row in rows)), 6),
        basis="sum of the phases, overruns independent",
    )


def deadline_seconds(rows: Sequence[Row]) -> int:
    """When the machine ends itself: twice the P90 of what it is leased for, in whole minutes, at least half an hour."""
    leased = sum(row.seconds_p90 for row in rows if row.phase in LEASED)
    return max(MIN_DEADLINE_SECONDS, 60 * -int(-(leased * DEADLINE_FACTOR) // 60))


def _answer_seconds(parameters: int, offer: Offer, test_rows: int) -> float:
    """Generating the answers to the tests. On a GPU small models are bound by calls: more parameters cost nothing yet."""
    table = load_tables().answers
    growth = 1.0 if offer.device == "cuda" else max(1.0, parameters / table.parameters)
    return min(test_rows, table.most) * table.seconds * growth


def _pretrain_tokens(choice: Choice) -> int:
    scratch = choice.scratch
    return scratch.steps * scratch.rows_per_step * scratch.context if scratch else 0


def _row(phase: str, p50: float, p90: float, usd_per_hour: float, basis: str) -> Row:
    return Row(
        phase=phase, seconds_p50=round(p50, 1), seconds_p90=round(p90, 1), usd_p50=round(p50 / 3600 * usd_per_hour, 6),
        usd_p90=round(p90 / 3600 * usd_per_hour, 6), basis=basis,
    )
