"""The machines that were compared, as the plan records them and as people read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from forge.phases.plan_fit.weigh import Chosen, Weighed, told_hours
from forge.records import MachineRow, Plan

MOST_ROWS = 12
"""Of one provider; the rest is told in one line by what speaks against it."""


def machine_rows(chosen: Chosen) -> tuple[MachineRow, ...]:
    """The chosen machine, its alternates, the others by provider from the cheapest on, and providers without any."""
    alternates, rows = chosen.alternates, list[MachineRow]()
    for answer in chosen.answers:
        ours = [one for one in chosen.weighed if one.offer.provider == answer.provider]
        known = sorted(ours, key=lambda one: (one is not chosen.machine, one not in alternates, bool(one.fault), one.cost.usd_p90, one.offer.name))
        rows += [_row(one, chosen, alternates) for one in known[:MOST_ROWS]]
        if left := known[MOST_ROWS:]:
            rows.append(MachineRow(provider=answer.provider, verdict="rejected", reason=f"{len(left)} more: {_kinds(left)}"))
        if not ours:
            rows.append(MachineRow(provider=answer.provider, verdict="rejected", reason=answer.note or "offers nothing"))
    return tuple(rows)


def machine_lines(plan: Plan) -> list[str]:
    """The table in Markdown."""
    lines = ["| provider | machine | GPU | memory | $/h | tokens/s | lease P50 | cost P50 | P90 | at worst | |", "|---|---|---|---:|---:|---:|---:|---:|---:|---:|---|"]
    without: dict[str, list[str]] = {}
    for row in plan.machines:
        if not row.offer:
            without.setdefault(row.reason, []).append(row.provider)
            continue
        costs = " | ".join(f"${usd:.2f}" for usd in (row.usd_p50, row.usd_p90, row.worst_usd))
        verdict = row.reason if row.verdict in ("possible", "rejected") else f"**{row.verdict}**: {row.reason}"
        lines.append(f"| {row.provider} | {_name(row)} | {_gpus(row)} | {row.memory_gib:g} GiB | {row.usd_per_hour:.2f} | {row.tokens_per_second:,.0f} | {told_hours(row.hours_p50)} | {costs} | {verdict} |")
    return lines + [f"| {', '.join(names)} | - | - | - | - | - | - | - | - | - | {reason} |" for reason, names in without.items()]


def _row(one: Weighed, chosen: Chosen, alternates: Sequence[Weighed]) -> MachineRow:
    offer, cost = one.offer, one.cost
    verdict, reason = ("rejected", one.why) if one.fault else ("possible", _beaten(one, chosen.machine))
    if one is chosen.machine:
        verdict, reason = "chosen", chosen.reason
    elif one in alternates:
        verdict, reason = "alternate", "of the same kind, and not dearer"
    return MachineRow(
        provider=offer.provider, verdict=verdict, reason=reason, offer=offer.name, gpu=offer.gpu, gpus=offer.gpus, nodes=offer.nodes,
        gpu_memory_gib=offer.gpu_memory_gib, cores=offer.cores, memory_gib=offer.memory_gib, region=offer.region, spot=offer.spot,
        usd_per_hour=offer.usd_per_hour, price_source=offer.price_source, tokens_per_second=one.tokens_per_second, hours_p50=round(one.hours, 3), usd_p50=cost.usd_p50,
        usd_p90=cost.usd_p90, worst_usd=round(one.worst_usd, 6),
    )


def _beaten(one: Weighed, by: Weighed) -> str:
    if not by.offer.usd_per_hour and one.offer.usd_per_hour:
        return "not needed: what is free is enough"
    if (more := one.cost.usd_p90 - by.cost.usd_p90) >= 0.005:
        return f"${more:.2f} dearer at P90"
    return "not faster for the same money"


def _kinds(left: Iterable[Weighed]) -> str:
    counts = Counter({"small": "too small", "dear": "too dear", "slow": "too slow", "excluded": "not asked for", "": "dearer"}[one.fault] for one in left)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))


def _name(row: MachineRow) -> str:
    return row.offer + (f" ({row.nodes} nodes)" if row.nodes > 1 else "")


def _gpus(row: MachineRow) -> str:
    if not row.gpu:
        return "-"
    return f"{f'{row.gpus} x ' if row.gpus > 1 else ''}{row.gpu}" + (f", {row.gpu_memory_gib:g} GiB" if row.gpu_memory_gib else "")
