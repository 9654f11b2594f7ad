"""Commands that look: runs, status, logs, show, trace, cost, report. Each has --json."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from forge import ui
from forge.cli.complete import phase_names, run_names
from forge.cli.following import trace
from forge.cli.spending import cost

if TYPE_CHECKING:
    from forge.run import Run

PANEL = "Look"
RunId = typer.Argument("", metavar="RUN", help="Run id; without one, the newest run.", show_default=False, autocompletion=run_names)
Json = typer.Option(False, "--json", help="As JSON.")

WATCH_SECONDS = 1.0


def add(app: typer.Typer) -> None:
    """Put the commands on the application."""
    for function in (runs, status, logs, show, trace, cost, report):
        app.command(rich_help_panel=PANEL)(function)


def runs(as_json: bool = Json) -> None:
    """List runs: state, corpus, money, age."""
    from forge.cli.snapshot import state_text
    from forge.ledger import dollars
    from forge.model_registry import read_models

    rows, damaged = _all_runs()
    models = read_models()
    rows = [{**row, "alias": models.alias_of(row["id"])} for row in rows]
    if as_json:
        ui.out_json([*rows, *({"id": run_id, "outcome": "damaged", "error": why} for run_id, why in damaged)])
        return
    if not rows and not damaged:
        ui.out("no runs yet")
        ui.next_step("forge run CORPUS --budget USD")
        return
    cells = [(r["id"], state_text(r) + (f", {r['alias']}" if r["alias"] else ""), _age(r["created"]), dollars(round(r["spent_usd"] * 1e6)), Path(r["corpus"]).name) for r in rows]
    ui.table([*cells, *((run_id, "damaged", "", "", why) for run_id, why in damaged)], ("run", "state", "age", "spent", "corpus"))
    ui.next_step(f"forge status {rows[0]['id']}" if rows else "forge run CORPUS --new")


def status(
    run_id: str = RunId, watch: bool = typer.Option(False, "--watch", "-w", help="Keep showing it until the run ends."), as_json: bool = Json
) -> None:
    """One run: phases, progress with its loss and speed, money, time left; an alarm when it has fallen silent."""
    from forge.cli.snapshot import snapshot, snapshot_lines
    from forge.monitor import Monitor
    from forge.run import Run

    opened, screen = Run.open(run_id), ui.Repainted()
    monitor = Monitor(opened)
    while True:
        found = snapshot(opened)
        watched = monitor.look() if found["busy"] else None
        found["watched"] = watched.model_dump(mode="json") if watched else None
        changed = f"{found['outcome']}{found['busy']}{[(p['name'], p['status']) for p in found['phases']]}"
        if as_json:
            ui.out(json.dumps(found, ensure_ascii=False, default=str))
        else:
            screen.show(snapshot_lines(found), changed)
        if not watch or not found["busy"]:
            return
        time.sleep(WATCH_SECONDS)


def logs(
    words: list[str] = typer.Argument(None, metavar="[RUN] [PHASE]", help="A run, a phase, or both; without RUN, the newest run.", show_default=False, autocompletion=phase_names),
    phase: str = typer.Option("", "--phase", help="Only this phase's events.", show_default=False, autocompletion=phase_names),
    follow: bool = typer.Option(False, "--follow", "-f", help="Keep printing new events until the run ends."), as_json: bool = Json,
) -> None:
    """The events of a run or of one phase, and where each worker's own log lies."""
    from forge.cli.showing import run_and_phase

    opened, phase = run_and_phase([*(words or []), *([phase] if phase else [])])
    for event in _events(opened, follow):
        if not phase or event.get("phase") == phase:
            _show_event(event, as_json)
    if as_json:
        return
    for log in sorted(opened.folder.glob("machine/jobs/*/log")):
        if phase in log.parent.name:
            ui.out(f"worker log: {log}")
    ui.next_step(f"forge status {opened.id}")


def show(
    words: list[str] = typer.Argument(
        ..., metavar="[RUN] PHASE", help="A phase (prep, audit, ...); without RUN, of the newest run.", show_default=False, autocompletion=phase_names
    ),
    dropped: bool = typer.Option(False, "--dropped", help="What the phase let go: every file or passage, with the reason."),
    rows: int = typer.Option(3, "--rows", help="Sample rows of each artifact."), as_json: bool = Json,
) -> None:
    """What a phase produced: its numbers, its tables, its artifacts, sample rows."""
    from forge.cli.showing import open_phase, show_phase

    opened, phase = open_phase(words)
    show_phase(opened, phase, dropped=dropped, rows=rows, as_json=as_json)


def report(run_id: str = RunId, as_json: bool = Json) -> None:
    """Where the reports of a run are: HTML, QA, after-action."""
    from forge.errors import UsageError
    from forge.run import Run

    opened = Run.open(run_id)
    ended_badly = opened.state.get("outcome") in ("failed", "interrupted")
    wanted = (*(("failure_report",) if ended_badly else ()), "report", "qa_report", "after_action", "card")
    found = {name: str(opened.store.link(artifact)) for name in wanted if (artifact := opened.store.get(name))}
    if not found:
        raise UsageError(f"run {opened.id} has no report yet", next=f"forge resume {opened.id}")
    if as_json:
        ui.out_json(found)
        return
    ui.table(list(found.items()), ("report", "file"))
    ui.next_step(f"{'open' if sys.platform == 'darwin' else 'xdg-open'} {next(iter(found.values()))}")


def _all_runs() -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Every run as data, and (id, reason) of those whose state cannot be read."""
    from forge.errors import ForgeError
    from forge.run import Run, run_ids

    rows: list[dict[str, Any]] = []
    damaged = []
    for run_id in run_ids():
        try:
            opened = Run.open(run_id)
            rows.append({**opened.info().model_dump(), "busy": opened.is_busy(), **_money(opened), **_made(opened)})
            opened.close()
        except ForgeError as error:
            damaged.append((run_id, error.why))
    return rows, damaged


def _money(run: Run) -> dict[str, float]:
    totals = run.ledger.totals()
    return {"spent_usd": totals.settled / 1e6, "reserved_usd": totals.reserved / 1e6}


def _made(run: Run) -> dict[str, Any]:
    """What a run has come to, as far as it got: its plan's model, and what was published of it. None for what is not there yet."""
    from forge.cli.result import model_folder, read_artifact

    plan, publication = read_artifact(run, "plan") or {}, read_artifact(run, "publication") or {}
    remote, folder = publication.get("remote") or {}, model_folder(run)
    told = {name: plan.get(name) for name in ("name", "task", "base", "parameters", "teacher", "provider", "offer", "budget_usd")}
    return {**told, "quality": publication.get("quality"), "published": remote.get("url") or (str(folder) if folder else None), "main_file": publication.get("main_file")}


def _events(run: Run, follow: bool) -> Iterator[dict[str, Any]]:
    """The events so far; with `follow` also those to come, until the run has ended."""
    with (run.folder / "events.jsonl").open(encoding="utf-8") as file:
        ended, partial = not follow, ""
        while True:
            partial += file.readline()
            if partial.endswith("\n"):
                yield json.loads(partial)
                partial = ""
            elif ended:
                return
            else:
                ended = not run.is_busy()   # and read once more: events may lie between the last read and the end
                time.sleep(0 if ended else WATCH_SECONDS / 4)


def _show_event(event: dict[str, Any], as_json: bool) -> None:
    from forge.cli.words import event_line, progress_text

    if as_json:
        ui.out(json.dumps(event, ensure_ascii=False))
        return
    stamp = time.strftime("%H:%M:%S", time.localtime(event["at"]))
    name = f"{event.get('phase', ''):10}"
    if event["event"] == "progress":
        ui.out(f"{stamp}    {name} {progress_text(event, 0)}")
    elif event["event"] == "phase_started":
        ui.out(f"{stamp}  > {name} {event['why']}")
    elif event["event"] == "lease":
        ui.out(f"{stamp}    {name} lease {event['token']} {event['state'].lower().replace('_', ' ')}")
    elif line := event_line(event):
        ui.out(f"{stamp} {line}")


def _age(created: float) -> str:
    from forge.cli.words import duration

    return duration(max(0.0, time.time() - created))
