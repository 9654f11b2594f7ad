"""One of several processes that train together:  torchrun -m forge.phases.train.ranks JOB.json     (launch.py starts it)

Everything that one process does alone is done by all of them in step; the first of each machine writes what is written. A wish to stop
(SIGTERM, or the file `stop` beside the job) is agreed on at the end of a step. A failure is left as failure-RANK.json.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from forge.children import PR_SET_PDEATHSIG
from forge.context import FolderContext, InputFile
from forge.errors import ForgeError, Interrupted
from forge.phases.train.distributed import join, leave, local_rank, rank, wait_for_all
from forge.phases.train.distributed import told as told_by_all
from forge.phases.train.launch import OUT_OF_MEMORY, RankJob
from forge.records import Plan, canonical_json, read_record
from forge.registry import Registry
from forge.store import write_durably
from forge.worker import BUG, Failure, NoMoney


class RankContext(FolderContext):
    """The phase's own folders, seen from one of its processes: nothing is emptied, and only the first of a machine speaks."""

    def _prepare(self, marker: Path, fingerprint: str) -> None:
        """They are as the phase left them."""


def main(argv: list[str]) -> int:
    """Train; 0 also when it was stopped."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # torchrun killed: no one is left to end us
    folder = Path(argv[1]).parent
    held = (folder / "lock").open("r")
    fcntl.flock(held, fcntl.LOCK_SH)  # the next attempt waits until we are gone
    stop = _stop_flag()
    try:
        _train(read_record(Path(argv[1]), RankJob), folder, stop)
    except Interrupted:
        if local_rank() == 0:
            write_durably(folder / "result.json", canonical_json({"stopped": True}) + "\n")
    except ForgeError as error:
        return _fail(folder, Failure(kind=type(error).__name__, fact=error.fact, why=error.why, next=error.next))
    except Exception as error:  # noqa: BLE001 - the process border: everything is reported, with its traceback in the log
        traceback.print_exc(file=sys.stderr)
        kind = OUT_OF_MEMORY if type(error).__name__ == OUT_OF_MEMORY else BUG
        return _fail(folder, Failure(kind=kind, fact=f"{type(error).__name__}: {' '.join(str(error).split())[:800]}"))
    return 0


def _train(job: RankJob, folder: Path, stop: dict[str, bool]) -> None:
    from forge.phases.train import TrainSettings, phase
    from forge.phases.train.runtime import pick_device, prepare_libraries
    from forge.phases.train.several import tune_plan
    from forge.phases.train.ways import look_at_machine

    settings = TrainSettings(**job.settings)
    ctx = _context(job, folder, phase, stop)
    plan = read_record(ctx.input("plan"), Plan)
    prepare_libraries(settings.threads, plan.seed, ctx.work / f"datasets-{rank()}")
    join(pick_device())
    machine = look_at_machine(measure=True)  # what all have: the way is chosen from it, and has to be the same for all
    machine = machine._replace(memory=min(told_by_all(machine.memory)), peak_flops=float(min(told_by_all(int(machine.peak_flops)))))
    tuned, told = tune_plan(plan, settings, ctx, machine, 0, how=job.how, smaller=job.smaller)
    wait_for_all()
    if local_rank() == 0:
        write_durably(folder / "result.json", canonical_json({"tuned": tuned._asdict(), "told": told}) + "\n")
    leave()


def _context(job: RankJob, folder: Path, phase: Any, stop: dict[str, bool]) -> RankContext:
    events = (folder / "events.jsonl").open("a", encoding="utf-8", buffering=1) if local_rank() == 0 else None

    def emit(kind: str, fields: dict[str, Any]) -> None:
        if events is not None:
            events.write(json.dumps({"kind": kind, **fields}) + "\n")

    return RankContext(
        Path(job.folder), run_id=job.run_id, seed=job.seed, dry_run=job.dry_run, task=job.task,
        inputs={name: InputFile(path=path, sha256=sha256) for name, (path, sha256) in job.inputs.items()}, writes=phase.writes,
        registry=Registry(tuple(map(Path, job.plugin_dirs))), money=NoMoney(), emit=emit,
        stop_requested=lambda: stop["asked"] or (folder / "stop").exists(), keep=lambda path: emit("keep", {"path": str(path)}),
    )


def _stop_flag() -> dict[str, bool]:
    """Set by SIGTERM, which a cluster sends to every process of a job."""
    flag = {"asked": False}

    def ask(number: int, frame: Any) -> None:
        flag["asked"] = True

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the phase hears it and leaves the file `stop`
    return flag


def _fail(folder: Path, failure: Failure) -> int:
    write_durably(folder / f"failure-{rank()}.json", failure.model_dump_json() + "\n")
    return 1


if __name__ == "__main__":
    exit_code = main(sys.argv)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)  # as in forge.worker: interpreter teardown of torch can crash
