"""Runs machine phases through a provider's channel: inputs out by hash, job, results back by hash."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from forge import children
from forge.context import InputFile
from forge.errors import ForgeError
from forge.monitor import Silence
from forge.phase import Rehearsal
from forge.protocols import Channel
from forge.records import read_record, write_json
from forge.registry import Registry
from forge.store import hash_path
from forge.worker import Job, JobPhase, JobResult, as_error

POLL_SECONDS = 0.1
GRACE_SECONDS = 30.0

Emit = Callable[[dict[str, Any]], None]


class MachineRun:
    """One attempt of one phase on a machine."""

    def __init__(self, channel: Channel, job: Job, name: str, local: Path) -> None:
        """name: unique per attempt (phase, fingerprint, epoch). local: the run's folder for this phase."""
        self.channel, self.job, self.name, self.local = channel, job, name, local
        self._read = 0

    def run(self, emit: Emit, stop_requested: Callable[[], bool]) -> dict[str, Any]:
        """Send, start, follow, fetch; returns the phase's metrics. Outputs are then in local/out."""
        phase = self.job.phases[0]
        folder = f"phases/{phase.name}"
        sent = {name: self._send(name, file) for name, file in phase.inputs.items()}
        remote = phase.model_copy(update={"folder": self.channel.path(folder), "inputs": sent})
        draft = self.local / "job.json"
        write_json(draft, self.job.model_copy(update={"phases": (remote,)}))
        self.channel.put(draft, f"jobs/{self.name}/job.json")
        self.channel.spawn(
            self.name, [sys.executable, "-m", "forge.worker", self.channel.path(f"jobs/{self.name}/job.json")],
            children.WORKER_ENVIRONMENT,
        )
        code = self._follow(emit, stop_requested)
        result = self._result(code)
        if result.failure:
            raise as_error(result.failure, self.channel.path(f"jobs/{self.name}/log"))
        out = self.local / "out"
        shutil.rmtree(out, ignore_errors=True)
        self.channel.get(f"{folder}/out", out)
        return result.metrics[phase.name]

    def _send(self, name: str, file: InputFile) -> InputFile:
        source = Path(file.path)
        remote = f"inputs/{file.sha256}/{source.name}"
        self.channel.put(source, remote)
        return InputFile(path=self.channel.path(remote), sha256=file.sha256)

    def _follow(self, emit: Emit, stop_requested: Callable[[], bool]) -> int:
        silence, warned = Silence(time.time()), False
        while (code := self.channel.poll(self.name)) is None:
            if self._forward(emit):
                silence.heard(time.time())
                warned = False
            phase = self.job.phases[0].name
            if not warned and (alarm := silence.alarm(phase, time.time())):
                warned = True
                emit({"event": "notice", "phase": phase, "text": f"{alarm}; Ctrl-C saves a checkpoint, then forge resume goes on from it"})
            if stop_requested():
                self.channel.stop(self.name, grace_seconds=GRACE_SECONDS)
            time.sleep(POLL_SECONDS)
        self._forward(emit)
        return code

    def _forward(self, emit: Emit) -> int:
        """Pass on whole new lines of the worker's events; returns how many."""
        text = self.channel.read(f"jobs/{self.name}/events.jsonl", self._read)
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        lines = whole.splitlines()
        for line in lines:
            emit(json.loads(line))
        return len(lines)

    def _result(self, code: int) -> JobResult:
        data = self.channel.read(f"jobs/{self.name}/result.json", 0)
        if data:
            return JobResult.model_validate_json(data)
        raise ForgeError(
            f"the worker for {self.job.phases[0].name} died without a result (exit code {code})",
            why="out of memory, killed, or past its deadline; its log is " + self.channel.path(f"jobs/{self.name}/log"),
            next=f"forge resume {self.job.run_id}",
        )


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
