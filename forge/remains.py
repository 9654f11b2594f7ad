"""What a run that did not end well leaves for whoever looks into it: its last events, its worker's last words, what is half done."""

from __future__ import annotations

import json
import os
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from forge.run import Run

EVENTS, LOG_LINES, READ_BYTES = 40, 40, 256 * 1024
UNTOLD = {"at", "event", "phase", "metrics"}


def remains(run: Run) -> dict[str, Any]:
    """log_tail: lines of the events; worker_log: its place and last lines; partial: what the stopped phase has so far."""
    phase = _stopped_phase(run)
    return {"log_tail": event_lines(run.folder / "events.jsonl"), "worker_log": _worker_log(run, phase), "partial": _partial(run, phase)}


def event_lines(file: Path) -> list[str]:
    """The last events as lines of text; of the progress in between only what came last."""
    events = [found for line in _last_lines(file, READ_BYTES) if (found := _parsed(line))]
    told = [one for one, following in pairwise([*events, {}]) if one["event"] != "progress" or following.get("event") != "progress"]
    return [_line(event) for event in told[-EVENTS:]]


def _line(event: dict[str, Any]) -> str:
    stamp = time.strftime("%H:%M:%S", time.localtime(float(event.get("at", 0))))
    rest = event.get("text") or ", ".join(f"{key} {value}" for key, value in event.items() if key not in UNTOLD and value not in ("", None))
    return f"{stamp} {event.get('phase', '')} {event['event']} {rest}".replace("  ", " ").rstrip()[:400]


def _stopped_phase(run: Run) -> str:
    row = run.state.row("SELECT name FROM phase WHERE status IN ('failed','interrupted','running') ORDER BY started DESC")
    return str(row["name"]) if row else ""


def _worker_log(run: Run, phase: str) -> dict[str, Any]:
    places = ("machine/jobs", f"work/{phase}/jobs")   # of this machine, and brought here from a rented one
    logs = sorted((log for place in places for log in (run.folder / place).glob(f"{phase}-*/log")), key=lambda path: path.stat().st_mtime_ns) if phase else []
    if not logs:
        return {}
    return {"file": logs[-1].relative_to(run.folder).as_posix(), "lines": _last_lines(logs[-1], READ_BYTES)[-LOG_LINES:]}


def _partial(run: Run, phase: str) -> list[dict[str, Any]]:
    """Files and folders of the stopped phase that a resume goes on from, with their sizes; journals with their records."""
    root = run.folder / "work" / phase
    if not phase or not root.is_dir():
        return []
    entries = sorted(entry for part in ("work", "journal") if (root / part).is_dir() for entry in (root / part).iterdir())
    return [{"path": entry.relative_to(run.folder).as_posix(), "bytes": _size(entry), "records": _records(entry)} for entry in entries]


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())


def _records(path: Path) -> int:
    if path.suffix != ".journal":
        return 0
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _last_lines(file: Path, most: int) -> list[str]:
    if not file.is_file():
        return []
    with file.open("rb") as stream:
        start = max(0, stream.seek(0, os.SEEK_END) - most)
        stream.seek(start)
        lines = stream.read().decode("utf-8", "replace").splitlines()
    return lines[1:] if start else lines


def _parsed(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and "event" in found else {}
