"""A run at one moment, for `forge status`: as data, and as lines."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from forge import ui
from forge.cli.watching import watch_lines
from forge.cli.words import duration, metrics_text, progress_text
from forge.costs import bring_budget
from forge.ledger import dollars
from forge.registry import Registry
from forge.run import Run
from forge.sections import ordered_phases

TAIL_BYTES = 65536
TO_COME = "to come"


def open_with_budget(run_id: str) -> Run:
    """A run whose ledger knows its budget."""
    opened = Run.open(run_id)
    bring_budget(opened)
    return opened


def snapshot(run: Run) -> dict[str, Any]:
    """Phases in run order (also those to come), progress, money and the last error of a run."""
    bring_budget(run)
    totals, busy = run.ledger.totals(), run.is_busy()
    return {
        **run.info().model_dump(), "busy": busy, "phases": _phases(run), "progress": last_progress(run) if busy else {},
        "error": json.loads(run.state.get("error", "null")),
        "spent_usd": totals.settled / 1e6, "reserved_usd": totals.reserved / 1e6, "budget_usd": totals.budget / 1e6,
    }


def snapshot_lines(found: dict[str, Any]) -> list[str]:
    """What a person sees of a snapshot, `next:` last."""
    rows = [
        f"run {found['id']} · {Path(found['corpus']).name} · {state_text(found)} ·"
        f" {_usd(found['spent_usd'])} spent, {_usd(found['reserved_usd'])} reserved of {_usd(found['budget_usd'])}"
    ]
    rows += ui.table_lines([_cells(phase, found["busy"]) for phase in found["phases"]], ("phase", "state", "time", "spent", ""))
    progress, watched = found["progress"], found.get("watched")
    if progress:
        curves = {"loss", "tokens_per_second", "eta_seconds"} if watched else set()
        told = {name: value for name, value in progress.items() if name not in curves}
        rows.append(f"{progress.get('phase', '')}: {progress_text(told, _running_seconds(found, progress))}")
    if watched:
        rows += watch_lines(watched, found["id"])
    error = found["error"]
    if error and not found["busy"]:
        rows += [f"error: {error['fact']}", *([f"  why: {error['why']}"] if error["why"] else [])]
    return [*rows, f"{ui.paint(ui.DIM, 'next:')} {following(found)}"]


def state_text(found: dict[str, Any]) -> str:
    """"running", "done", "done (rehearsal)", or where a run stopped that was killed."""
    killed = found["phase"] and not found["busy"]
    state = "running" if found["busy"] else f"stopped in {found['phase']}" if killed else found["outcome"]
    return f"{state}{' (rehearsal)' if found['dry_run'] else ''}"


def following(found: dict[str, Any]) -> str:
    """The next command for a run in this state."""
    if found["busy"]:
        return f"forge logs {found['id']} -f"
    if found["outcome"] == "done":
        return f"forge report {found['id']}"
    if found["outcome"] == "waiting":
        error = found["error"] or {}
        return error.get("next") or f"forge plan {found['id']}"
    return f"forge resume {found['id']}"


def _phases(run: Run) -> list[dict[str, Any]]:
    rows = {row["name"]: row for row in run.state.rows("SELECT * FROM phase ORDER BY rowid")}
    order = [phase.name for phase in ordered_phases(Registry())]
    names = [*order, *(name for name in rows if name not in order)]
    return [_phase(run, name, rows[name]) if name in rows else {"name": name, "status": TO_COME} for name in names]


def _phase(run: Run, name: str, row: Any) -> dict[str, Any]:
    return {
        "name": name, "status": row["status"], "seconds": _seconds(row), "metrics": json.loads(row["metrics"]),
        "spent_usd": run.ledger.spent_by(name) / 1e6, "error": row["error"],
    }


def last_progress(run: Run) -> dict[str, Any]:
    """The newest progress event of the phase that is running, from the end of the log."""
    path = run.folder / "events.jsonl"
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        tail = file.read().decode("utf-8", "replace").splitlines()
    for line in reversed(tail):
        if '"event": "phase_done"' in line:
            return {}
        if '"event": "progress"' in line and line.startswith("{"):
            found = json.loads(line)
            return found if isinstance(found, dict) else {}
    return {}


def _cells(phase: dict[str, Any], busy: bool) -> tuple[str, ...]:
    if phase["status"] == TO_COME:
        return (phase["name"], TO_COME, "", "", "")
    spent = _usd(phase["spent_usd"]) if phase["spent_usd"] else ""
    return (phase["name"], _status(phase, busy), duration(phase["seconds"]), spent, metrics_text(phase["metrics"]))


def _status(phase: dict[str, Any], busy: bool) -> str:
    """A phase that is "running" in a run that nobody holds was killed."""
    return "stopped" if phase["status"] == "running" and not busy else str(phase["status"])


def _running_seconds(found: dict[str, Any], progress: dict[str, Any]) -> float:
    return next((float(p.get("seconds", 0)) for p in found["phases"] if p["name"] == progress.get("phase")), 0.0)


def _seconds(row: Any) -> float:
    if not row["started"]:
        return 0.0
    return max(0.0, float((row["ended"] or time.time()) - row["started"]))


def _usd(usd: float) -> str:
    return dollars(round(usd * 1e6))
