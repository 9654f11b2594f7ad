"""Forecast and fact of earlier runs, a line for each phase in FORGE_HOME/forecasts.jsonl: what corrects the next forecast.

Telemetry and nothing else: deleting the file loses the corrections, and no artifact of a run that costs nothing depends on it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from pydantic import ValidationError

from forge.records import Plan, Record, canonical_json, read_record
from forge.run import Run, home

FILE = "forecasts.jsonl"
FEWEST, NEWEST = 3, 20
"""Earlier runs from which a correction is made, and how many of the newest count."""
MOST = 5.0
"""A correction is at most this factor, up or down: beyond it the forecast was about something else."""
SHORTEST_SECONDS = 1.0
OWN_P50, OWN_P90, OWN_BASIS = "forecast_usd_p50", "forecast_usd_p90", "forecast_basis"
"""A phase that forecast its own bill (synth's pilot) says so under these names in its numbers."""


class Told(Record):
    """One phase of one run: forecast (P50, as it was before any correction) and what came. where: machine, or teacher.

    gpu, rate_forecast, rate: of a training, the GPU's name and the tokens a second of its adapter.
    """

    run: str
    phase: str
    where: str = ""
    seconds_forecast: float = 0.0
    seconds: float = 0.0
    usd_forecast: float = 0.0
    usd: float = 0.0
    gpu: str = ""
    rate_forecast: float = 0.0
    rate: float = 0.0


class Correction(NamedTuple):
    """What to multiply a forecast by, and from how many runs that is known; (1, 0) when too few are."""

    factor: float = 1.0
    runs: int = 0

    def __str__(self) -> str:
        return f"x{self.factor:.2g} from {self.runs} earlier runs" if self.runs else ""


def keep(run: Run) -> int:
    """Add the phases of a finished run, each once; returns how many lines were added. Rehearsals tell nothing about real runs."""
    if run.dry_run:
        return 0
    known = {(told.run, told.phase) for told in read()}
    fresh = [told for told in _phases(run) if (told.run, told.phase) not in known]
    if fresh:
        _path().parent.mkdir(parents=True, exist_ok=True)
        with _path().open("a", encoding="utf-8", newline="\n") as file:
            file.write("".join(canonical_json(told) + "\n" for told in fresh))
    return len(fresh)


def read() -> list[Told]:
    """Everything that was kept, oldest first; a line that cannot be read is left out."""
    if not _path().exists():
        return []
    return list(_lines(_path().read_text(encoding="utf-8", errors="replace")))


def seconds_correction(phase: str, where: str, kept: list[Told] | None = None) -> Correction:
    """How much longer a phase took there than was forecast: the median of the newest runs."""
    told = read() if kept is None else kept
    return _correction([one.seconds / one.seconds_forecast for one in told if _same(one, phase, where) and one.seconds_forecast >= SHORTEST_SECONDS])


def usd_correction(phase: str, where: str, kept: list[Told] | None = None) -> Correction:
    """How much dearer a phase was than was forecast."""
    told = read() if kept is None else kept
    return _correction([one.usd / one.usd_forecast for one in told if _same(one, phase, where) and one.usd_forecast > 0])


def speed_correction(gpu: str, kept: list[Told] | None = None) -> Correction:
    """How much faster adapters were trained on that kind of GPU, wherever it was, than was forecast. One run tells already: the
    same work was measured.
    """
    told = read() if kept is None else kept
    return _correction([one.rate / one.rate_forecast for one in told if gpu and one.gpu == gpu and one.rate > 0 and one.rate_forecast > 0], fewest=1)


def _correction(ratios: list[float], *, fewest: int = FEWEST) -> Correction:
    newest = ratios[-NEWEST:]
    if len(newest) < fewest:
        return Correction()
    return Correction(round(min(MOST, max(1 / MOST, median(newest))), 3), len(newest))


def _same(told: Told, phase: str, where: str) -> bool:
    return (told.phase, told.where) == (phase, where)


def _path() -> Path:
    return home() / FILE


def _lines(text: str) -> Iterator[Told]:
    for line in text.splitlines():
        try:
            yield Told.model_validate_json(line)
        except ValidationError:   # a torn line of a killed process, or one of another version
            continue


def _phases(run: Run) -> Iterator[Told]:
    planned = _uncorrected(run)
    estimates = {row["phase"]: row for row in run.state.rows("SELECT * FROM estimate")}
    machine, teacher = _where(run)
    for row in run.state.rows("SELECT name, started, ended, metrics FROM phase WHERE status='done' AND attempt=1 ORDER BY started"):
        name = row["name"]
        forecast, own = planned.get(name), estimates.get(name)
        seconds = float(forecast["seconds_p50"]) if forecast else float(own["seconds_p50"]) if own else 0.0
        usd = float(forecast["usd_p50"]) if forecast else float(json.loads(row["metrics"]).get(OWN_P50, 0.0))
        if seconds or usd:
            yield Told(
                run=run.id, phase=name, where=machine if forecast else teacher if usd else "", seconds_forecast=round(seconds, 3),
                seconds=round(row["ended"] - row["started"], 3), usd_forecast=round(usd, 6), usd=run.ledger.spent_by(name) / 1e6,
                **(_rates(run) if name == "train" else {}),
            )


def _uncorrected(run: Run) -> Mapping[str, Any]:
    return dict(_forecast(run).get("uncorrected", {}))


def _forecast(run: Run) -> Mapping[str, Any]:
    artifact = run.store.get("forecast")
    if artifact is None or not run.store.link(artifact).exists():
        return {}
    return dict(json.loads(run.store.link(artifact).read_text(encoding="utf-8")))


def _rates(run: Run) -> dict[str, Any]:
    """The GPU, and the adapter's tokens a second as they were forecast and as training told them last; {} without a GPU."""
    speed, progress = _forecast(run).get("speed", {}), run.store.get("progress")
    if not speed.get("gpu") or progress is None or not run.store.link(progress).exists():
        return {}
    lines = [json.loads(line) for line in run.store.link(progress).read_text(encoding="utf-8").splitlines()]
    rates = [float(line["tokens_per_second"]) for line in lines if line.get("stage") != "pretrain" and line.get("tokens_per_second")]
    return {"gpu": speed["gpu"], "rate_forecast": speed["tokens_per_second"], "rate": rates[-1] if rates else 0.0}


def _where(run: Run) -> tuple[str, str]:
    artifact = run.store.get("plan")
    if artifact is None:
        return "", ""
    plan = read_record(run.store.link(artifact), Plan)
    return machine_name(plan.provider, plan.offer), plan.teacher


def machine_name(provider: str, offer: str) -> str:
    """What machine phases are compared by."""
    return f"{provider}/{offer}"
