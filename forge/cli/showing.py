"""`forge show`: a phase's numbers, the tables that it makes of its artifacts, and the artifacts themselves."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from forge import ui
from forge.errors import UsageError, nearest
from forge.phase import Table
from forge.registry import Registry
from forge.run import Run, run_ids

LINE_CHARACTERS = 300


def open_phase(words: list[str]) -> tuple[Run, str]:
    """The run and the phase that `[RUN] PHASE` names, in either order. Raises UsageError for words that name neither."""
    if len(words) > 2:
        raise UsageError(f"forge show takes a run and a phase, not {len(words)} words", next="forge show RUN PHASE")
    run_id, phase = ("", words[0]) if len(words) == 1 else (words[0], words[1])
    if len(words) == 2 and (run_id in Registry().phase_names() or not _names_a_run(run_id)):
        run_id, phase = phase, run_id
    opened = Run.open(run_id)
    known = [row["name"] for row in opened.state.rows("SELECT name FROM phase ORDER BY rowid")]
    if phase not in known:
        raise UsageError(f'run {opened.id} has no phase "{phase}"', why=nearest(phase, known), next=f"forge status {opened.id}")
    return opened, phase


def run_and_phase(words: list[str]) -> tuple[Run, str]:
    """The run (without a word for it the newest) and the phase ("" = all) of `[RUN] [PHASE]`. Raises UsageError."""
    known = Registry().phase_names()
    phases = [word for word in words if word in known]
    runs = [word for word in words if word not in known]
    if len(phases) > 1 or len(runs) > 1:
        odd = runs[1] if len(runs) > 1 else phases[1]
        raise UsageError(f'there is no phase "{odd}"', why=nearest(odd, known), next="forge phases")
    if runs and run_ids() and not _names_a_run(runs[0]) and not phases:
        raise UsageError(f'there is no run or phase "{runs[0]}"', why=nearest(runs[0], [*run_ids(), *known]), next="forge runs")
    return Run.open(runs[0] if runs else ""), phases[0] if phases else ""


def _names_a_run(word: str) -> bool:
    return any(name.startswith(word) for name in run_ids())


def show_phase(run: Run, phase: str, *, dropped: bool, rows: int, as_json: bool) -> None:
    """Print what a phase of a run produced; with `dropped` only what it let go."""
    tables = _tables(run, phase, dropped=dropped)
    if as_json:
        ui.out_json(_data(run, phase, tables))
        return
    row = run.state.row("SELECT * FROM phase WHERE name=?", phase)
    assert row is not None
    ui.out(f"{phase} · {row['status']} · attempt {row['attempt']}")
    if not dropped:
        ui.lines(f"  {name}: {value}" for name, value in json.loads(row["metrics"]).items())
    for table in tables:
        ui.out(f"\n{table.name.replace('_', ' ')}" + ("" if table.rows else ": none"))
        ui.table([[_cell(value) for value in cells] for cells in table.rows], table.head)
    if not dropped:
        _show_artifacts(run, phase, rows)
    ui.next_step(f"forge show {run.id} {phase} --dropped" if tables and not dropped else f"forge status {run.id}")


def _tables(run: Run, phase: str, *, dropped: bool) -> list[Table]:
    """What the phase makes of its artifacts; none while it has not finished. Raises UsageError where nothing is let go."""
    make = getattr(Registry(run.plugin_dirs).phase(phase), "tables", None)
    if make is None:
        if dropped:
            raise UsageError(f"{phase} keeps no list of what it let go", next=f"forge show {run.id} {phase}")
        return []
    paths = {artifact.name: run.store.link(artifact) for artifact in run.store.all() if artifact.phase == phase}
    done = run.state.row("SELECT 1 FROM phase WHERE name=? AND status='done'", phase)
    if done is None or not all(path.exists() for path in paths.values()):
        if dropped:
            raise UsageError(f"{phase} has not finished in run {run.id}", next=f"forge resume {run.id}")
        return []
    found: Iterable[Table] = make(paths.__getitem__, dropped=dropped)
    return list(found)


def _data(run: Run, phase: str, tables: list[Table]) -> dict[str, Any]:
    row = run.state.row("SELECT * FROM phase WHERE name=?", phase)
    assert row is not None
    artifacts = [artifact for artifact in run.store.all() if artifact.phase == phase]
    return {
        "run": run.id, "phase": phase, "status": row["status"], "metrics": json.loads(row["metrics"]),
        "artifacts": [{**one.model_dump(exclude={"files"}), "file": str(run.store.link(one))} for one in artifacts],
        "tables": {table.name: [dict(zip(table.head, cells, strict=True)) for cells in table.rows] for table in tables},
    }


def _show_artifacts(run: Run, phase: str, rows: int) -> None:
    for artifact in (one for one in run.store.all() if one.phase == phase):
        path: Path = run.store.link(artifact)
        ui.out(f"\n{path}  {artifact.bytes:,} bytes  sha256 {artifact.sha256[:12]}")
        if artifact.path.endswith(".jsonl"):
            with path.open(encoding="utf-8") as file:
                ui.lines("  " + line.strip()[:LINE_CHARACTERS] for line, _ in zip(file, range(rows), strict=False))


def _cell(value: str | int | float) -> str:
    if isinstance(value, str):
        return " ".join(value.split())   # a name with a line break must not break the table
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
