"""Runs phases on the leased machine:  python -m forge.worker JOB.json

The job file names the phases, their settings and their inputs (path and hash). Each input is verified before use.
Events go to events.jsonl beside the job file, the outcome to result.json, written last by rename. SIGTERM asks the
phase to stop at the next item; it then saves its checkpoint and the worker exits 130.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import Field

from forge import errors, parts, timebox
from forge.context import FolderContext, InputFile
from forge.errors import ArtifactDamaged, ForgeError, Interrupted
from forge.events import EventLog
from forge.keeping import KeepBox, restore
from forge.ledger import Spend
from forge.records import Record, read_record
from forge.registry import Registry, require
from forge.store import hash_path, write_durably

BUG = "bug"
KEPT = "kept"
"""The event that says that a phase has something to be fetched; its number is that of forge.keeping."""


class JobPhase(Record):
    """One phase of a job. folder/work, folder/journal and folder/out are its own.

    kept: path in work -> where on this machine lies what an earlier machine kept. kept_after: the highest number it gave.
    part: the only one that is to be done. seeds: folders of parts that are done (forge.parts).
    """

    name: str
    fingerprint: str = ""
    folder: str
    settings: dict[str, Any]
    inputs: dict[str, InputFile]
    kept: dict[str, str] = Field(default_factory=dict)
    kept_after: int = 0
    part: str = ""
    seeds: tuple[str, ...] = ()


class Job(Record):
    """What a worker is asked to do. Outputs of an earlier phase are inputs of a later one by name."""

    run_id: str
    seed: int
    dry_run: bool
    plugin_dirs: tuple[str, ...] = ()
    phases: tuple[JobPhase, ...]


class Failure(Record):
    """An error as it crosses the process border. kind: the class name in forge.errors, or "bug"."""

    kind: str
    fact: str
    why: str = ""
    next: str = ""


class JobResult(Record):
    """How a job went; a phase is in `metrics` when it finished. outputs: by phase and artifact, with the hash they were made with."""

    metrics: dict[str, dict[str, Any]] = Field(default_factory=dict)
    seconds: dict[str, float] = Field(default_factory=dict)
    failure: Failure | None = None
    outputs: dict[str, dict[str, InputFile]] = Field(default_factory=dict)


class NoMoney:
    """Phases on a machine never spend by themselves: the lease is already reserved."""

    def reserve(self, key: str, micro: int, what: str, *, again: bool = False) -> int:
        """Refuse."""
        raise ForgeError(f"{what} cannot be paid for from a machine", why="money is only spent by the engine")

    def settle(self, reservation: int, micro: int) -> None:
        """Refuse."""
        raise ForgeError("nothing can be settled on a machine")

    def totals(self) -> Spend:
        """Nothing: the ledger is not on the machine."""
        return Spend(settled=0, reserved=0, before_gate=0, budget=0, before_gate_cap=0)


class StopFlag:
    """Set by SIGTERM or SIGINT; read between items."""

    def __init__(self) -> None:
        self.requested = False
        signal.signal(signal.SIGTERM, self._set)
        signal.signal(signal.SIGINT, self._set)

    def _set(self, number: int, frame: FrameType | None) -> None:
        self.requested = True


def main(argv: list[str]) -> int:
    """Run the job; returns the exit code."""
    job_file = Path(argv[1])
    timebox.begin()
    stop = StopFlag()
    events = EventLog(job_file.with_name("events.jsonl"))
    result, code = run_job(read_record(job_file, Job), events, stop)
    write_durably(job_file.with_name("result.json"), result.model_dump_json() + "\n")
    events.close()
    return code


def run_job(job: Job, events: EventLog, stop: StopFlag) -> tuple[JobResult, int]:
    """Run the job's phases in order, until one fails."""
    registry = Registry(tuple(Path(folder) for folder in job.plugin_dirs))
    made: dict[str, InputFile] = {}
    outputs: dict[str, dict[str, InputFile]] = {}
    metrics: dict[str, dict[str, Any]] = {}
    seconds: dict[str, float] = {}
    failure, code = None, 0
    for item in job.phases:
        started = time.monotonic()
        try:
            metrics[item.name], outputs[item.name] = _run_phase(job, item, made, registry, events, stop)
            made |= outputs[item.name]
        except ForgeError as error:
            failure, code = Failure(kind=type(error).__name__, fact=error.fact, why=error.why, next=error.next), error.exit_code
        except Interrupted:
            failure, code = Failure(kind="Interrupted", fact="stopped"), Interrupted.exit_code
        except Exception as error:  # noqa: BLE001 - the process border: everything is reported, with its traceback in the log
            traceback.print_exc(file=sys.stderr)
            failure, code = Failure(kind=BUG, fact=f"{type(error).__name__}: {error}", why=_where(error)), 1
        seconds[item.name] = round(time.monotonic() - started, 3)
        if failure:
            break
    return JobResult(metrics=metrics, seconds=seconds, failure=failure, outputs=outputs), code


def as_error(failure: Failure, log: str) -> Exception:
    """The exception that a failure stands for, on this side of the process border."""
    if failure.kind == "Interrupted":
        return Interrupted()
    if failure.kind == BUG:
        return ForgeError(failure.fact, why=f"a bug in slm-forge at {failure.why}; the traceback is in {log}", next=failure.next)
    kind = getattr(errors, failure.kind, ForgeError)
    error = kind(failure.fact, why=failure.why, next=failure.next)
    assert isinstance(error, Exception)
    return error


def _run_phase(
    job: Job, item: JobPhase, made: dict[str, InputFile], registry: Registry, events: EventLog, stop: StopFlag
) -> tuple[dict[str, Any], dict[str, InputFile]]:
    with alone_in(Path(item.folder)):
        return _run_locked(job, item, made, registry, events, stop)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other worker is in a phase's folder: the worker of an engine that was killed may need seconds to end."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _run_locked(
    job: Job, item: JobPhase, made: dict[str, InputFile], registry: Registry, events: EventLog, stop: StopFlag
) -> tuple[dict[str, Any], dict[str, InputFile]]:
    phase = registry.phase(item.name)
    require(phase.requires, f"phase {item.name}")
    inputs = {**item.inputs, **{name: file for name, file in made.items() if name in phase.reads}}
    for name, file in inputs.items():
        if hash_path(Path(file.path)) != file.sha256:
            raise ArtifactDamaged(f"the input {name} of {item.name} arrived damaged", next=f"forge resume {job.run_id}")
    box = KeepBox(Path(item.folder), item.kept_after)
    ctx = FolderContext(
        Path(item.folder), run_id=job.run_id, seed=job.seed, dry_run=job.dry_run, inputs=inputs, writes=phase.writes,
        fingerprint=item.fingerprint, registry=registry, money=NoMoney(), stop_requested=lambda: stop.requested,
        emit=lambda kind, fields: events.emit(kind, phase=item.name, **fields),
        keep=lambda path: events.emit(KEPT, phase=item.name, number=box.put(path)), part=item.part,
    )
    restore(item.kept, ctx.work)
    parts.take_over(item.seeds, ctx.work)
    try:
        metrics = dict(phase.run(phase.settings(**item.settings), ctx))
    finally:
        ctx.close()
    if item.part:
        write_durably(Path(item.folder) / parts.DONE, item.fingerprint)
        return metrics, {}
    return metrics, {output.name: _made(ctx.out / output.path) for output in phase.writes if (ctx.out / output.path).exists()}


def _made(path: Path) -> InputFile:
    return InputFile(path=str(path), sha256=hash_path(path))


def _where(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"


if __name__ == "__main__":
    sys.stdout.flush()
    exit_code = main(sys.argv)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)   # everything is synced; interpreter teardown of torch costs a second and can crash
