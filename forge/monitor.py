"""How the running phase of another process is doing, from what that process leaves on disk: its loss and speed so far, the time
and money left, and an alarm when it has been silent for longer than it ever is.

Two files: events.jsonl (every phase) and training's own progress.jsonl (finer, and kept over kills). Nothing is locked or written.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from forge.records import Record
from forge.run import Run
from forge.state import State

BARS = "▁▂▃▄▅▆▇█"
SILENT_TIMES = 10.0
"""A phase is silent when nothing came for so many of its usual gaps (their median) ..."""
SILENT_AT_LEAST = 60.0
"""... and for at least so many seconds: a validation or a checkpoint takes longer than a step."""
SILENT_AT_START = 600.0
"""Before the first progress: loading a large model is silent for minutes."""
GAPS = 50


class Watched(Record):
    """A running phase at one moment. Lists are oldest first; seconds are of wall clock; None = not known.

    alarm: one sentence when the phase has been silent for too long, else "".
    """

    phase: str
    stage: str = ""
    step: int | None = None
    steps: int | None = None
    loss: tuple[float, ...] = ()
    val_loss: tuple[float, ...] = ()
    tokens_per_second: tuple[float, ...] = ()
    numbers: dict[str, float] = Field(default_factory=dict)
    eta_seconds: float | None = None
    usd: float | None = None
    usd_per_hour: float | None = None
    silent_seconds: float = 0.0
    silent_limit_seconds: float = SILENT_AT_START
    alarm: str = ""


class Silence:
    """Knows how often a phase speaks, and when it has been quiet for too long."""

    def __init__(self, started: float) -> None:
        self.last, self._gaps = started, list[float]()
        self.spoke = False

    def heard(self, at: float) -> None:
        """Something came at `at` (seconds of the same clock as everywhere here)."""
        if self.spoke:
            self._gaps = [*self._gaps[1 - GAPS :], max(0.0, at - self.last)]
        self.last, self.spoke = max(self.last, at), True

    @property
    def usual_seconds(self) -> float | None:
        """The median gap between two signs of life; None before there are two."""
        return statistics.median(self._gaps) if self._gaps else None

    @property
    def limit_seconds(self) -> float:
        """Longer than this is an alarm."""
        usual = self.usual_seconds
        return SILENT_AT_START if usual is None else max(SILENT_AT_LEAST, SILENT_TIMES * usual)

    def alarm(self, phase: str, now: float) -> str:
        """One sentence when the phase is silent for too long, else ""."""
        silent, usual = now - self.last, self.usual_seconds
        if silent <= self.limit_seconds:
            return ""
        often = f"usually one every {usual:.3g} s" if usual is not None else "none since it started"
        return f"{phase} has made no progress for {silent:,.0f} s ({often}): it may hang"


class Monitor:
    """Follows one run. Each look() reads only what was written since the last."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._offset, self._phase, self._silence = 0, "", Silence(0.0)
        self._events: list[dict[str, Any]] = []

    def look(self, now: float | None = None) -> Watched | None:
        """The phase that is running, or None between phases. now: seconds since 1970; default: the clock."""
        for event in self._new_events():
            self._take(event)
        if not self._phase:
            return None
        now = time.time() if now is None else now
        lines = progress_lines(self.run, self._phase) or [event for event in self._events if event["event"] == "progress"]
        last, stage = (lines[-1] if lines else {}), str(lines[-1].get("stage", "")) if lines else ""
        same = [line for line in lines if str(line.get("stage", "")) == stage]
        per_hour, usd = machine_money(self.run.state, now)
        return Watched(
            phase=self._phase, stage=stage, step=last.get("step"), steps=last.get("steps"),
            loss=_series(same, "loss"), val_loss=_series(same, "val_loss"), tokens_per_second=_series(same, "tokens_per_second"),
            numbers={name: float(value) for name, value in last.items() if name in SHOWN and isinstance(value, (int, float))},
            eta_seconds=last.get("eta_seconds"), usd=usd, usd_per_hour=per_hour,
            silent_seconds=round(max(0.0, now - self._silence.last), 1), silent_limit_seconds=round(self._silence.limit_seconds, 1),
            alarm=self._silence.alarm(self._phase, now),
        )

    def _new_events(self) -> list[dict[str, Any]]:
        with (self.run.folder / "events.jsonl").open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [json.loads(line) for line in whole.splitlines()]

    def _take(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "phase_started":
            self._phase, self._events, self._silence = str(event["phase"]), [], Silence(float(event["at"]))
        elif kind in ("phase_done", "phase_failed"):
            self._phase = ""
        elif kind in ("progress", "notice") and event.get("phase") == self._phase:
            self._events.append(event)
            self._silence.heard(float(event["at"]))


SHOWN = ("grad_norm", "memory_gib", "share_of_limit", "usd_projected")
"""Numbers of a progress line that are shown as they are, where a trainer reports them."""


def progress_lines(run: Run, phase: str) -> list[dict[str, Any]]:
    """The lines of a phase's own progress log: the published artifact of a finished phase, or the file it is writing on this machine."""
    if phase != "train":
        return []
    live = run.folder / "machine" / "phases" / phase / "work" / "progress.jsonl"
    row = run.state.row("SELECT status FROM phase WHERE name=?", phase)
    if row is not None and row["status"] == "done" and (artifact := run.store.get("progress")):
        live = run.store.link(artifact)
    return read_lines(live)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Whole JSON lines of a file that another process may be writing; none where there is no file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.split("\n")[:-1] if line]


def machine_money(state: State, now: float) -> tuple[float | None, float | None]:
    """(dollars an hour, dollars so far) of the machine that the run holds; (None, None) without one."""
    row = state.row("SELECT * FROM lease WHERE state IN ('REQUESTED', 'LIVE') ORDER BY created DESC")
    if row is None:
        return None, None
    per_hour = float(json.loads(row["offer"]).get("usd_per_hour", 0.0))
    return per_hour, round(per_hour * max(0.0, now - float(row["created"])) / 3600, 4)


def sparkline(values: Sequence[float], width: int) -> str:
    """The course of values in at most `width` characters, each the mean of its stretch; "" for fewer than two."""
    if len(values) < 2 or width < 2:
        return ""
    cells = min(width, len(values))
    stretches = [values[len(values) * i // cells : len(values) * (i + 1) // cells] for i in range(cells)]
    means = [sum(stretch) / len(stretch) for stretch in stretches]
    low, high = min(means), max(means)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((mean - low) * scale)] for mean in means)


def _series(lines: Sequence[dict[str, Any]], name: str) -> tuple[float, ...]:
    return tuple(float(line[name]) for line in lines if isinstance(line.get(name), (int, float)))
