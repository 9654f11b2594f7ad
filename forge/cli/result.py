"""What a finished run says: where the model is, whether it is better, how to talk to it."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from forge import ui
from forge.cli.words import duration
from forge.ledger import dollars
from forge.run import Run


def result(run: Run) -> dict[str, Any]:
    """The outcome of a run as data: model folder, verdict, money, report."""
    totals = run.ledger.totals()
    publication = read_artifact(run, "publication")
    measured = read_artifact(run, "eval")
    folder = model_folder(run)
    report = run.store.get("report")
    return {
        "run": run.id,
        "outcome": run.state.get("outcome", "new"),
        "dry_run": run.dry_run,
        "model": str(folder) if folder else None,
        "verdict": (measured or {}).get("quality"),
        "headline": (measured or {}).get("headline"),
        "published": bool(publication),
        "spent_usd": totals.settled / 1e6,
        "reserved_usd": totals.reserved / 1e6,
        "budget_usd": totals.budget / 1e6,
        "forecast": read_artifact(run, "forecast"),
        "report": str(run.store.link(report)) if report else None,
    }


def show_result(run: Run, *, as_json: bool, seconds: float | None = None) -> None:
    """Print the outcome and the next command. seconds: how long it took; None when every phase was found done."""
    found = result(run)
    if as_json:
        ui.out(json.dumps({"event": "result", **found}, ensure_ascii=False, default=str))
        return
    spent = f"{dollars(round(found['spent_usd'] * 1e6))} of {dollars(round(found['budget_usd'] * 1e6))} spent"
    ui.out()
    if found["outcome"] == "stopped":
        ui.out(f"stopped where you asked · {spent}")
        ui.next_step(f"forge resume {run.id}")
        return
    how = "rehearsed" if run.dry_run else "done"
    ui.out(f"{how} in {duration(seconds)} · {spent}" if seconds is not None else f"nothing to do, every phase is up to date · {spent}")
    if run.dry_run:
        _say("this was a rehearsal on a sample: the model is too small and too little trained to be of use")
    elif found["headline"]:
        _say(found["headline"])
    for name in ("model", "report"):
        if found[name]:
            ui.out(f"  {name:<8}{found[name]}")
    if run.dry_run:
        _show_forecast(found["forecast"])
        ui.next_step(f"forge run {_as_typed(run.corpus)} --budget USD")
    else:
        ui.next_step(f'forge chat {run.id} "a question about your documents"' if found["model"] else f"forge status {run.id}")


def read_artifact(run: Run, name: str) -> dict[str, Any] | None:
    """A JSON artifact of the run, or None when it has not been written."""
    artifact = run.store.get(name)
    if artifact is None or not run.store.link(artifact).exists():
        return None
    found = json.loads(run.store.link(artifact).read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else None


def model_folder(run: Run) -> Path | None:
    """Where the published model lies."""
    publication = read_artifact(run, "publication")
    if not publication:
        return None
    folder = Path(str(publication["hub"])) / str(publication["name"])
    base = run.folder if run.dry_run else Path(run.state.get("cwd", "."))
    return folder if folder.is_absolute() else base / folder


def _say(text: str) -> None:
    ui.lines("  " + line for line in textwrap.wrap(text, ui.width() - 2))


def _as_typed(path: Path) -> Path:
    """The corpus as a person here would type it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _show_forecast(forecast: dict[str, Any] | None) -> None:
    if not forecast:
        return
    total = forecast.get("total", {})
    if "seconds_p50" in total:
        ui.out(
            f"  forecast of the real run: {duration(total['seconds_p50'])} (P90 {duration(total['seconds_p90'])}),"
            f" ${total.get('usd_p50', 0):.2f} (P90 ${total.get('usd_p90', 0):.2f})"
        )
