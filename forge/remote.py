"""Runs machine phases through a provider's channel: inputs out by hash, job, results back by hash.

A job that outlived its engine is gone on with, one that ended well meanwhile gives its result, and only then another one is
started. What the phase keeps (ctx.keep) comes here while it runs.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from forge import children, keeping
from forge.context import InputFile
from forge.errors import ArtifactDamaged, ForgeError, Interrupted, MachineLost, OverBudget
from forge.jobs import JobNote, JobNotes, Placed
from forge.keeping import Fetcher, KeptHere
from forge.lease import Machine
from forge.monitor import Silence
from forge.parts import ArrayChannel, PartRun
from forge.phase import Rehearsal
from forge.protocols import ABANDONED, PAST_DEADLINE, PREEMPTED
from forge.records import read_record, write_json
from forge.registry import Registry
from forge.state import State
from forge.store import hash_path
from forge.worker import KEPT, Job, JobPhase, JobResult, as_error

GRACE_SECONDS = 30.0
ASK_AGAIN_SECONDS = 10.0
"""How often a job that was asked to stop and goes on is asked again."""
LOG_BYTES = 256 * 1024
END_SECONDS = 60.0
"""How much longer than its grace a job may take to end."""
NEVER_STARTED = -1
DEADLINE_CODES = (PAST_DEADLINE, 124)   # 124: timeout(1) and the watcher of this machine say it so

Emit = Callable[[dict[str, Any]], None]


@runtime_checkable
class Newsy(Protocol):
    """A channel that may have something to tell the user between two looks at a job."""

    def news(self) -> list[str]:
        """Lines that were not told yet; cheap to ask at every look."""
        ...


class Preempted(MachineLost):
    """The provider has taken the machine back."""


class Detached(Interrupted):
    """The user stopped the run, and its job goes on without it."""


class PastDeadline(ForgeError):
    """The lease's time is over."""


class Unfetched(ForgeError):
    """What a machine that is gone has left elsewhere could not be brought here; its lease stays open, so that it is not removed."""


class MachineRun:
    """One phase on one machine."""

    def __init__(
        self, machine: Machine, job: Job, state: State, local: Path, *, writes: Mapping[str, str], emit: Emit,
        stop_requested: Callable[[], bool] = lambda: False, fresh: bool = False, detach: bool = False, environment: Sequence[str] = (),
        parts: Sequence[Sequence[str]] = (), set_aside: Callable[[str, float, str], None] | None = None,
    ) -> None:
        """job: its one phase with inputs as they lie here. local: the run's folder for the phase. writes: artifact -> path in out/.

        fresh: go on with no earlier job. detach: a wish to stop leaves the job to itself. environment: names of variables to pass on.
        parts: groups of parts of the phase, done beside each other before it where the channel can. set_aside(job, usd, what): reserves
        the worst case of what they cost; without it they must cost nothing.
        """
        self.machine, self.channel, self.job, self.state, self.local = machine, machine.channel, job, state, local
        self.phase = job.phases[0]
        self.writes, self.emit, self.stop_requested = writes, emit, stop_requested
        self.fresh, self.detach, self.environment = fresh, detach, environment
        self.parts, self.set_aside = parts, set_aside
        self.folder = f"phases/{self.phase.name}"
        self.notes, self.placed = JobNotes(state, self.phase.name), Placed(state, machine.place)
        self.kept = KeptHere(state, self.phase.name, self.phase.fingerprint, local)
        self.fetcher = Fetcher(self.channel, self.folder, self.kept)

    def run(self) -> dict[str, Any]:
        """Go on with the job that is there, or start one; follow it, and fetch. Outputs are then in local/out.

        Raises MachineLost when another machine has to go on, PastDeadline, Detached, and what the phase raised.
        """
        try:
            note = self._adopted()
            if note is not None:
                note, code = self._follow(note)
                if self._ended_well(note) or code in (PREEMPTED, *DEADLINE_CODES) or self.stop_requested():
                    return self._conclude(note, code)
                self._save()   # the job was ended with its engine, or failed while nobody looked
            note, code = self._follow(self._begin())
            return self._conclude(note, code)
        finally:
            self.fetcher.leave()

    def left_behind(self) -> dict[str, Any] | None:
        """With what the last job left elsewhere as the channel: its metrics, its outputs being in local/out, or None when it did not
        end well; what it kept is then here, for the next one to go on from."""
        note = self.notes.last()
        if note is None or note.fingerprint != self.phase.fingerprint or self.fresh:
            return None
        try:
            result = self._result(note)
        except ValueError as error:
            raise ArtifactDamaged(f"the result of {note.name} cannot be read", why=str(error)) from error
        if result is not None and result.failure is None:
            self.fetcher.leave()
            self._forward(note)
            return self._fetch(result)
        if note.kept > max((one.number for one in self.kept.all()), default=0):
            self.fetcher.want(note.kept)
        self._forward(note)
        self.fetcher.finish()
        self._tell_notes()
        return None

    # --- start --------------------------------------------------------------------------------------------------

    def _adopted(self) -> JobNote | None:
        """The earlier job on this machine that is still to be followed or whose result is to be fetched; one for other inputs is ended."""
        last = self.notes.last()
        if last is None or last.place != self.machine.place:
            return None
        code = self.channel.poll(last.name)
        if last.fingerprint != self.phase.fingerprint or self.fresh:
            if code is None:
                self._end(last)
            return None
        if code == NEVER_STARTED:   # or it is about to: asked for a moment ago by an engine that is gone. Its id decides
            self._start(last)
        if last.kept > max((one.number for one in self.kept.all()), default=0):
            self.fetcher.want(last.kept)
        return last

    def _end(self, note: JobNote) -> None:
        """End a job whose result nobody wants, and wait for it: no second one while the first lives."""
        self.channel.stop(note.name, grace_seconds=GRACE_SECONDS)
        until = time.monotonic() + GRACE_SECONDS + END_SECONDS
        while self.channel.poll(note.name) is None:
            if time.monotonic() > until:
                raise ForgeError(f"the earlier job {note.name} does not end", why="it is for other settings", next=f"forge teardown {self.job.run_id}, then forge resume")
            if self.stop_requested():
                raise Interrupted
            time.sleep(self.channel.poll_seconds)

    def _begin(self) -> JobNote:
        note = self.notes.begin(self.phase.fingerprint, self.machine.place)
        self._start(note)
        return note

    def _start(self, note: JobNote) -> None:
        """Idempotent: what is there is not sent again, and a job id starts once."""
        python = self.channel.prepare(self._tell)
        self.placed.drop(self.phase.name)
        sent = {name: self._send(file) for name, file in self.phase.inputs.items()}
        remote = self.phase.model_copy(update={
            "folder": self.channel.path(self.folder), "inputs": sent, "kept": keeping.send(self.channel, self.phase.name, self.kept),
            "kept_after": max((one.number for one in self.kept.all()), default=0),
        })
        seeds = self._run_parts(note, python, remote)
        argv = self._job_file(note.name, python, remote.model_copy(update={"seeds": tuple(seeds)}))
        self.channel.spawn(note.name, argv, self._environment())

    def _job_file(self, name: str, python: str, phase: JobPhase) -> list[str]:
        """Send the file that says what a worker is to do; returns how to start it."""
        draft = self.local / "job.json"
        write_json(draft, self.job.model_copy(update={"phases": (phase,), "plugin_dirs": tuple(self._send_plugins())}))
        self.channel.put(draft, f"jobs/{name}/job.json", hash_path(draft))
        return [python, "-m", "forge.worker", self.channel.path(f"jobs/{name}/job.json")]

    def _run_parts(self, note: JobNote, python: str, phase: JobPhase) -> list[str]:
        """The folders of parts that are done; none where the channel cannot start many jobs or the phase has no parts."""
        if not (self.parts and isinstance(self.channel, ArrayChannel) and self.channel.arrays):
            return []
        run = PartRun(
            self.channel, self.folder, phase.fingerprint, tell=self._tell, progress=self._tell_parts, check=self._check_parts, afford=self._afford_parts
        )

        def argv(job: str, part: str, seeds: Sequence[str]) -> list[str]:
            changed = {"folder": self.channel.path(run.part_folder(part)), "part": part, "seeds": tuple(seeds), "kept": {}}
            return self._job_file(job, python, phase.model_copy(update=changed))

        return run.run(self.parts, note.name, argv, self._environment())

    def _afford_parts(self, job: str, tasks: int) -> str:
        usd = self.channel.array_usd(tasks) if isinstance(self.channel, ArrayChannel) else 0.0
        if not usd:
            return ""
        if self.set_aside is None:
            return "their cost is not accounted for here"
        try:
            self.set_aside(job, usd, f"{tasks} tasks beside each other")
        except OverBudget as error:
            return error.fact
        return ""

    def _tell_parts(self, done: int, total: int) -> None:
        self.emit({"event": "progress", "phase": self.phase.name, "done": done, "total": total, "note": "parts"})

    def _check_parts(self, job: str) -> None:
        if not self.stop_requested():
            return
        if self.detach:
            raise Detached
        self.channel.stop(job, grace_seconds=GRACE_SECONDS)
        raise Interrupted

    def _send(self, file: InputFile) -> InputFile:
        if there := self.placed.path(file.sha256):
            return InputFile(path=there, sha256=file.sha256)
        source = Path(file.path)
        remote = f"inputs/{file.sha256}/{source.name}"
        self.channel.put(source, remote, file.sha256)
        return InputFile(path=self.channel.path(remote), sha256=file.sha256)

    def _send_plugins(self) -> list[str]:
        """The user's own plugins, each folder under the hash of what it holds."""
        sent = []
        for number, folder in enumerate(self.job.plugin_dirs):
            draft = self.local / "plugins" / str(number)
            shutil.rmtree(draft, ignore_errors=True)
            shutil.copytree(folder, draft, ignore=shutil.ignore_patterns("__pycache__", ".*"))
            sha256 = hash_path(draft)
            self.channel.put(draft, f"plugins/{sha256}", sha256)
            sent.append(self.channel.path(f"plugins/{sha256}"))
        return sent

    def _environment(self) -> dict[str, str]:
        """Nothing of ours but what a worker needs and what was named. A rented machine fetches its base itself."""
        own = {} if self.channel.durable else {"HF_HUB_OFFLINE": "0"}
        return {**children.WORKER_ENVIRONMENT, **own, **{name: os.environ[name] for name in self.environment if name in os.environ}}

    # --- follow -------------------------------------------------------------------------------------------------

    def _follow(self, note: JobNote) -> tuple[JobNote, int]:
        silence, warned, asked = Silence(time.time()), False, float("-inf")
        while (code := self.channel.poll(note.name)) is None:
            offset = note.offset
            note = self._forward(note)
            if note.offset != offset:
                silence.heard(time.time())
                warned = False
            if not warned and (alarm := silence.alarm(self.phase.name, time.time())):
                warned = True
                self._tell(f"{alarm}; Ctrl-C saves a checkpoint, then forge resume goes on from it")
            if self.stop_requested():
                if self.detach:
                    raise Detached
                if time.monotonic() - asked >= ASK_AGAIN_SECONDS:
                    asked = time.monotonic()
                    self.channel.stop(note.name, grace_seconds=GRACE_SECONDS)
            time.sleep(self.channel.poll_seconds)
        return self._forward(note), code

    def _forward(self, note: JobNote) -> JobNote:
        """Pass on whole new lines of the worker's events, each once."""
        text = self.channel.read(f"jobs/{note.name}/events.jsonl", note.offset)
        whole = text[: text.rfind(b"\n") + 1]
        events = [json.loads(line) for line in whole.splitlines()]
        kept = [int(event["number"]) for event in events if event["event"] == KEPT]
        for number in kept:
            self.fetcher.want(number)
        if whole:
            note = self.notes.told(note, note.offset + len(whole), max(note.kept, *kept, 0))
        for event in events:
            if event["event"] != KEPT:
                self.emit(event)
        self._tell_notes()
        for line in self.channel.news() if isinstance(self.channel, Newsy) else ():
            self._tell(line)
        return note

    def _tell_notes(self) -> None:
        while self.fetcher.notes:
            self._tell(self.fetcher.notes.pop(0))

    def _tell(self, text: str) -> None:
        self.emit({"event": "notice", "phase": self.phase.name, "text": text})

    # --- end ----------------------------------------------------------------------------------------------------

    def _ended_well(self, note: JobNote) -> bool:
        result = self._result(note)
        return result is not None and result.failure is None

    def _conclude(self, note: JobNote, code: int) -> dict[str, Any]:
        """Fetch the result, or raise what became of the job after its last checkpoint is here."""
        result = self._result(note)
        if result is not None and result.failure is None:
            return self._fetch(result)
        self._save()
        log = self._log(note)
        if code == PREEMPTED:
            raise Preempted("the provider takes the machine back")
        if code in DEADLINE_CODES:
            raise PastDeadline(
                f"the machine's time was over before {self.phase.name} was done", why="the plan's deadline came; what was kept goes on from there",
                next=f"forge resume {self.job.run_id} leases it once more, or --from plan_fit for a plan with more time",
            )
        if code == ABANDONED:
            raise MachineLost("the job was ended because nobody asked for it for too long")
        if result is not None and result.failure:
            raise as_error(result.failure, log)
        if self.stop_requested():
            raise Interrupted
        raise ForgeError(
            f"the worker for {self.phase.name} died without a result (exit code {code})",
            why=f"out of memory, killed, or past its deadline; its log is {log}", next=f"forge resume {self.job.run_id}",
        )

    def _result(self, note: JobNote) -> JobResult | None:
        data = self.channel.read(f"jobs/{note.name}/result.json", 0)
        return JobResult.model_validate_json(data) if data else None

    def _save(self) -> None:
        """Bring what was kept last; a machine that is gone by now costs only that."""
        try:
            self.fetcher.finish()
            self._tell_notes()
        except MachineLost as lost:
            self._tell(f"the last checkpoint of {self.phase.name} could not be fetched: {lost.fact}; an earlier one is used")

    def _log(self, note: JobNote) -> str:
        """Where the end of what the worker printed can be read when the machine is gone."""
        there = f"jobs/{note.name}/log"
        if self.channel.durable:
            return self.channel.path(there)
        here = self.local / "jobs" / note.name / "log"
        here.parent.mkdir(parents=True, exist_ok=True)
        try:
            here.write_bytes(self.channel.read(there, 0)[-LOG_BYTES:])
        except MachineLost as lost:
            here.write_text(f"{lost.fact}; what it printed is lost with it\n", encoding="utf-8")
        return str(here)

    def _fetch(self, result: JobResult) -> dict[str, Any]:
        outputs, out = result.outputs.get(self.phase.name, {}), self.local / "out"
        for tries_left in (1, 0):
            shutil.rmtree(out, ignore_errors=True)
            self.channel.get(f"{self.folder}/out", out)
            damaged = [] if self.channel.durable else [name for name, file in outputs.items() if hash_path(out / self.writes[name]) != file.sha256]
            if not damaged:
                break
            if not tries_left:
                raise ArtifactDamaged(f"{', '.join(damaged)} of {self.phase.name} arrived damaged twice", next=f"forge resume {self.job.run_id}")
        self.placed.add(self.phase.name, outputs)
        return result.metrics[self.phase.name]


def close(state: State, phase: str, fingerprint: str, local: Path) -> None:
    """The phase's outputs are published: its job and what it kept are not needed any more."""
    JobNotes(state, phase).close()
    KeptHere(state, phase, fingerprint, local).forget()


def rehearse(
    folder: Path, registry: Registry, phases: Sequence[str], inputs: Mapping[str, Path], *, run_id: str, seed: int
) -> Rehearsal:
    """Run machine phases on small inputs in one worker on this machine. Faults are in the result, never raised."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files = {name: InputFile(path=str(path), sha256=hash_path(path)) for name, path in inputs.items()}
    items = tuple(_rehearsal_phase(folder, registry, name, files) for name in phases)
    job = Job(run_id=run_id, seed=seed, dry_run=True, plugin_dirs=tuple(map(str, registry.plugin_dirs)), phases=items)
    write_json(folder / "job.json", job)
    child = children.spawn(
        [sys.executable, "-m", "forge.worker", str(folder / "job.json")], folder / "log", children.worker_environment()
    )
    code = child.wait()
    if not (folder / "result.json").exists():
        return Rehearsal(error=f"the worker died (exit code {code}); its log is {folder / 'log'}")
    result = read_record(folder / "result.json", JobResult)
    outputs = {
        output.name: str(folder / item.name / "out" / output.path)
        for item in items if item.name in result.metrics for output in registry.phase(item.name).writes
    }
    error = f"{result.failure.fact} ({result.failure.why})" if result.failure else ""
    return Rehearsal(outputs=outputs, seconds=result.seconds, metrics=result.metrics, error=error)


def _rehearsal_phase(folder: Path, registry: Registry, name: str, files: Mapping[str, InputFile]) -> JobPhase:
    phase = registry.phase(name)
    own = {key: file for key, file in files.items() if key in phase.reads}
    return JobPhase(name=name, folder=str(folder / name), settings={}, inputs=own)
