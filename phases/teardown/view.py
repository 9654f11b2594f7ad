"""What a run left, read without insisting on anything: a missing artifact is None, an unreadable one is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from forge.errors import ForgeError
from forge.file_answers import FileAnswers, read_each
from forge.ledger import MICRO
from forge.phase import Context
from forge.protocols import Prediction
from forge.records import DataContract, Document, Drop, Plan, Record, Verdict, read_jsonl, read_record

GONE = {"CONFIRMED_GONE", "SETTLED"}
"""Lease states in which the provider itself has said that nothing runs any more."""

Points = list[tuple[float, float]]
V = TypeVar("V")


class Row(BaseModel):
    """Base of the run record's parts: written by the engine, which may say more than we read."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class PhaseRow(Row):
    """How one phase went; `seconds` is None for a phase that did not run."""

    name: str
    status: str = ""
    attempt: int = 0
    seconds: float | None = None
    metrics: dict[str, Any] = Field(default_factory=dict)
    error: Any = None


class SpendRow(Row):
    """One paid act in micro-dollars; `actual_micro` is None while the reservation is open."""

    phase: str = ""
    what: str = ""
    reserved_micro: int = 0
    actual_micro: int | None = None

    @property
    def reserved_usd(self) -> float:
        """The worst case that was set aside."""
        return self.reserved_micro / MICRO

    @property
    def actual_usd(self) -> float | None:
        """The real cost, once known."""
        return None if self.actual_micro is None else self.actual_micro / MICRO


class LeaseRow(Row):
    """One lease as the engine's release left it."""

    token: str
    provider: str = ""
    state: str = ""
    resource: Any = ""
    deadline_seconds: int = 0
    seen_gone: tuple[str, ...] = ()
    why: str = ""
    command: str = ""

    @property
    def is_gone(self) -> bool:
        """True only when the provider confirmed it."""
        return self.state.upper() in GONE

    @property
    def evidence(self) -> str:
        """When the provider did not list it any more, or why it may still be up and what ends it."""
        if self.is_gone:
            return f"not listed at {self.seen_gone[0]} and {self.seen_gone[-1]}" if self.seen_gone else ""
        return f"{self.why}; {self.command}" if self.command else self.why


class ArtifactRow(Row):
    """One published artifact."""

    name: str
    phase: str = ""
    path: str = ""
    sha256: str = ""
    bytes: int = 0


class LogRow(Row):
    """The last lines of a worker's own log, and its place in the run's folder."""

    file: str = ""
    lines: tuple[str, ...] = ()


class PartialRow(Row):
    """What a phase that stopped has so far. records: finished items of a journal; 0 for other files."""

    path: str
    bytes: int = 0
    records: int = 0


class RunRecord(Row):
    """What the engine knows about the run when teardown begins."""

    run: str = ""
    corpus: str = ""
    totals: dict[str, int] = Field(default_factory=dict)
    dry_run: bool = False
    outcome: str = "unknown"
    error: dict[str, str | None] | None = None
    phases: tuple[PhaseRow, ...] = ()
    spend: tuple[SpendRow, ...] = ()
    leases: tuple[LeaseRow, ...] = ()
    artifacts: tuple[ArtifactRow, ...] = ()
    log_tail: tuple[str, ...] = ()
    worker_log: LogRow = LogRow()
    partial: tuple[PartialRow, ...] = ()

    @property
    def budget_usd(self) -> float:
        """The cap that the user set."""
        return self.totals.get("budget", 0) / MICRO

    @property
    def settled_usd(self) -> float:
        """Real costs so far."""
        return sum(row.actual_micro or 0 for row in self.spend) / MICRO

    @property
    def reserved_usd(self) -> float:
        """Worst case of acts that have not reported back; counted as spent."""
        return sum(row.reserved_micro for row in self.spend if row.actual_micro is None) / MICRO

    @property
    def seconds(self) -> float:
        """Time in all phases together."""
        return sum(row.seconds or 0.0 for row in self.phases)

    @property
    def failed_phase(self) -> PhaseRow | None:
        """The phase that ended the run, when one did."""
        return next((row for row in self.phases if row.status in ("failed", "interrupted")), None)


class View(Record):
    """The run as the reports see it. `unreadable` lists artifacts that exist and could not be read, with the reason."""

    record: RunRecord
    unreadable: dict[str, str]
    plan: Plan | None
    shape: DataContract | None
    audit: dict[str, Any]
    train: dict[str, Any]
    eval: dict[str, Any]
    ship: dict[str, Any]
    publication: dict[str, Any]
    forecast: dict[str, Any]
    approval: dict[str, Any]
    progress: tuple[dict[str, Any], ...]
    predictions: tuple[Prediction, ...]
    documents: int | None
    lost_documents: tuple[Document, ...]
    drops: tuple[Drop, ...]
    counts: dict[str, int]

    @property
    def name(self) -> str:
        """The model's name, or the run's before there is one."""
        return self.plan.name if self.plan else f"run {self.record.run}"

    @property
    def verdicts(self) -> list[tuple[str, Verdict]]:
        """Every verdict with the gate that gave it: data, evaluation, shipped files."""
        found = [("data", verdict) for verdict in (self.plan.verdicts if self.plan else ())]
        for gate, report in (("evaluation", self.eval), ("shipped files", self.ship)):
            found += [(gate, Verdict.model_validate(row)) for row in report.get("verdicts") or []]
        return found

    @property
    def each_file(self) -> list[FileAnswers]:
        """What each file answered on the tests."""
        return read_each(self.ship)

    @property
    def quality(self) -> str:
        """pass, fail or undecided, as published; undecided when nothing was measured."""
        return str(self.publication.get("quality") or self.eval.get("quality") or "undecided")

    def curve(self, stage: str, kind: str) -> Points:
        """(step, loss) of a training stage; kind is "loss" or "val_loss"."""
        report = self.train.get(stage) or {}
        return [(float(step), float(loss)) for step, loss in report.get(kind) or []]


def read_view(ctx: Context) -> View:
    """Read what exists. Never raises for a missing or damaged artifact."""
    files = _Files(ctx)
    record = files.read("run_record", lambda path: RunRecord.model_validate_json(path.read_bytes()))
    documents = files.read("documents", _documents)
    counts = {name: files.read(name, _count_lines) for name in ("passages", "clean", "pairs", "train")}
    return View(
        record=record or RunRecord(run=ctx.run_id), unreadable=files.unreadable,
        plan=files.read("plan", lambda path: read_record(path, Plan)),
        shape=files.read("shape", lambda path: read_record(path, DataContract)),
        eval=files.read("eval", _report) or {}, ship=files.read("ship_eval", _report) or {},
        audit=files.read("audit", _object) or {}, train=files.read("train_report", _object) or {},
        publication=files.read("publication", _object) or {}, forecast=files.read("forecast", _object) or {},
        approval=files.read("approval", _object) or {}, progress=files.read("progress", _rows) or (),
        predictions=files.read("predictions", lambda path: tuple(read_jsonl(path, Prediction))) or (),
        documents=documents[0] if documents else None, lost_documents=documents[1] if documents else (),
        drops=files.read("drops", lambda path: tuple(read_jsonl(path, Drop))) or (),
        counts={name: count for name, count in counts.items() if count is not None},
    )


class _Files:
    """Reads inputs by name; remembers which exist and could not be read."""

    def __init__(self, ctx: Context) -> None:
        self.ctx, self.unreadable = ctx, dict[str, str]()

    def read(self, name: str, reader: Callable[[Path], V]) -> V | None:
        """What the reader makes of the artifact, or None when it is missing or unreadable."""
        try:
            return reader(self.ctx.input(name))
        except KeyError:
            return None
        except (OSError, ValueError, ForgeError) as error:   # pydantic's ValidationError is a ValueError
            self.unreadable[name] = str(error).splitlines()[0]
            return None


def _object(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _report(path: Path) -> dict[str, Any]:
    """A report whose verdicts are well-formed."""
    report = _object(path)
    for row in report.get("verdicts") or []:
        Verdict.model_validate(row)
    read_each(report)
    return report


def _rows(path: Path) -> tuple[dict[str, Any], ...]:
    """Rows of progress.jsonl; a last line that a kill cut in half is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.endswith("}"):
            rows.append(json.loads(line))
    return tuple(rows)


def _documents(path: Path) -> tuple[int, tuple[Document, ...]]:
    """How many files there were, and those of which nothing was used, with their reasons. The others are not looked into:
    there may be a million."""
    lost = []
    with path.open(encoding="utf-8") as file:
        count = 0
        for count, line in enumerate(file, 1):  # noqa: B007 - told below
            if '"status":"ok"' not in line:
                lost.append(Document.model_validate_json(line))
    return count, tuple(lost)


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)
