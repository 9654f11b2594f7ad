"""The lines of `forge status` about the running phase: loss, speed, time, money, alarm. At most 80 columns where a terminal has them."""

from __future__ import annotations

import textwrap
from typing import Any

from forge import ui
from forge.cli.words import duration
from forge.ledger import dollars
from forge.monitor import sparkline

UNITS = {"memory_gib": ("memory", "GiB"), "share_of_limit": ("of the machine's limit", ""), "usd_projected": ("dollars in all", "")}
GRAPH_MOST = 40


def watch_lines(watched: dict[str, Any], run_id: str) -> list[str]:
    """What is known of a running phase (monitor.Watched as data); nothing for a phase that reports only how far it is."""
    rows = [
        *_curve("loss", watched["loss"], "{:.3f}", f"from {watched['loss'][0]:.3f}" if watched["loss"] else ""),
        *_curve("val loss", watched["val_loss"], "{:.3f}", ""),
        *_curve("tokens/s", watched["tokens_per_second"], "{:,.0f}", ""),
        *(f"  {told}" for told in (_numbers(watched["numbers"]), _time_and_money(watched)) if told),
    ]
    if watched["alarm"]:
        text = f"! {watched['alarm']}; look with: forge logs {run_id} {watched['phase']}"
        rows += [ui.paint(ui.RED, row) for row in textwrap.wrap(text, ui.width(), subsequent_indent="  ")]
    return rows


def _curve(name: str, values: list[float], form: str, aside: str) -> list[str]:
    if not values:
        return []
    start, end = f"  {name:<9} {form.format(values[-1]):>9} ", f" {aside}" if aside else ""
    graph = sparkline(values, min(GRAPH_MOST, ui.width() - len(start) - len(end)))
    return [(start + graph + end).rstrip()]


def _numbers(numbers: dict[str, float]) -> str:
    parts = []
    for name, value in numbers.items():
        word, unit = UNITS.get(name, (name.replace("_", " "), ""))
        parts.append(f"{word} {value:.3g}{' ' + unit if unit else ''}")
    return " · ".join(parts)


def _time_and_money(watched: dict[str, Any]) -> str:
    parts = []
    if watched["eta_seconds"] is not None:
        where = f" in {watched['stage']}" if watched["stage"] else ""
        parts.append(f"{duration(watched['eta_seconds'])} left{where}")
    if watched["usd_per_hour"]:
        parts.append(f"{dollars(round(watched['usd'] * 1e6))} for the machine so far, {dollars(round(watched['usd_per_hour'] * 1e6))} an hour")
    return " · ".join(parts)
