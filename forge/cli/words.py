"""The events of a run in words: one line that stays for each, and one for what is under way."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from forge import ui
from forge.ledger import MICRO, dollars

NAME_WIDTH = 10
INDENT = " " * (NAME_WIDTH + 4)
HIDDEN = {"at", "event", "phase", "done", "total", "note", "share", "eta_seconds"}
REVIEWED = {"reject": "rejected", "edit": "edited", "keep": "taken back"}
UNITS = {"megabytes": "MB"}


def event_line(event: Mapping[str, Any]) -> str:
    """The line that stays for an event; "" for events that only the log keeps."""
    kind, phase = event["event"], str(event.get("phase", ""))
    if kind == "phase_done":
        spent = [dollars(event["spent_micro_usd"])] if event.get("spent_micro_usd") else []
        return _line("✓", ui.GREEN, phase, metrics_text(event["metrics"]), "  ".join([*spent, f"{duration(event['seconds']):>7}"]))
    if kind == "phase_skipped":
        return _line("=", ui.DIM, phase, metrics_text(event.get("metrics", {})) or "done before", "unchanged")
    if kind == "phase_failed":
        return _line("✗", ui.RED, phase, event["status"], "")
    if kind == "notice":
        return _line(" ", "", phase, event["text"], "")
    if kind == "estimated" and event["usd_p90"]:
        about, most = dollars(round(event["usd_p50"] * MICRO)), dollars(round(event["usd_p90"] * MICRO))
        return _line(" ", "", phase, f"will cost about {about}, at most {most} ({event['basis']})", "")
    if kind == "reviewed":
        told = [f"{event[action]:,} {word}" for action, word in REVIEWED.items() if event.get(action)]
        return _line("✓", ui.GREEN, "review", f"{', '.join(told)} by {event['who']}", "")
    if kind == "damaged":
        return _line("!", ui.RED, phase, f"{event['artifact']} is damaged and will be made again", "")
    if kind == "approved":
        how = "$0.00 to come, passes by itself" if event["how"] == "free" else f"approved by {event['who']}"
        return _line("✓", ui.GREEN, "gate", f"plan {event['plan'][:12]} · {how}", "")
    return ""


def progress_text(event: Mapping[str, Any], seconds: float, money: str = "") -> str:
    """Where a phase is: count, rate, time left, money, and its own numbers (loss, tokens per second).

    A phase whose items differ much in size tells the `share` of its work that is done; the time left follows it then. One
    that knows the time left of its present stage tells `eta_seconds`, and begins its note with the stage's name.
    """
    done, total = float(event.get("done") or 0), event.get("total")
    parts = [f"{_count(done)} of {_count(float(total))}" if total else _count(done)]
    if seconds > 1 and done > 0:
        parts.append(f"{done / seconds:,.1f}/s")
        if "eta_seconds" in event:
            parts.append(f"{duration(float(event['eta_seconds']))} left of {str(event.get('note') or 'this stage').split()[0]}")
        elif total and done < float(total):
            share = float(event.get("share") or done / float(total))
            parts.append(f"{duration(seconds * (1 - share) / share)} left")
    parts += [money] if money else []
    parts += [_named(name, value) for name, value in event.items() if name not in HIDDEN]
    parts += [str(event["note"])] if event.get("note") else []
    return " · ".join(parts)


def metrics_text(metrics: Mapping[str, Any]) -> str:
    """A phase's numbers on one line: its own `summary`, or the first few."""
    if metrics.get("summary"):
        return str(metrics["summary"])
    return " · ".join(f"{name.replace('_', ' ')} {_number(value)}" for name, value in list(metrics.items())[:6])


def duration(seconds: float) -> str:
    """Seconds as people say them: 0.4s, 41s, 2m 05s, 1h 03m, 3d 4h."""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 172800:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def _line(mark: str, colour: str, phase: str, text: str, aside: str) -> str:
    """` ✓ prep       what came of it                1m 12s`, wrapped under itself when it is long."""
    room = ui.width() - len(INDENT)
    rows = textwrap.wrap(text, room - len(aside) - 2 if aside else room, break_long_words=False) or [""]
    first = f"{rows[0]:<{room - len(aside)}}{aside}".rstrip() if aside else rows[0]
    painted = ui.paint(colour, mark, err=True) if colour else mark
    return "\n".join([f" {painted} {phase:<{NAME_WIDTH}} {first}".rstrip(), *[INDENT + row for row in rows[1:]]])


def _named(name: str, value: Any) -> str:
    """"loss 2.31", but "3.1 MB/s" and "900 tokens/s"."""
    unit = name.removesuffix("_per_second")
    return f"{_number(value)} {UNITS.get(unit, unit.replace('_', ' '))}/s" if unit != name else f"{name.replace('_', ' ')} {_number(value)}"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
