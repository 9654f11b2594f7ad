"""A phase on leased machines: when one is lost, the next one goes on from the last checkpoint, within the budget."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge import remote
from forge.context import InputFile
from forge.errors import ArtifactDamaged, ForgeError, Interrupted, MachineLost
from forge.jobs import Placed
from forge.lease import KEPT_MACHINE, Machine
from forge.ledger import dollars, micro_usd
from forge.left import LeftBehind
from forge.parts import groups_of
from forge.remote import Detached, MachineRun, PastDeadline, Preempted
from forge.worker import Job, JobPhase

if TYPE_CHECKING:
    from forge.pipeline import AnyPhase, Pipeline

MAX_MACHINES = 5
"""How many machines may be lost under one phase before a person has to look."""
CHANCES = 2
"""How often a machine that its provider still lists may fail to answer before it is ended: a connection breaks, too."""
KEEP_MARGIN_SECONDS = 120.0


def run_on_machine(pipeline: Pipeline, phase: AnyPhase, files: dict[str, InputFile], fingerprint: str) -> tuple[dict[str, Any], Path]:
    """The phase's metrics and the folder with its outputs. Raises what the phase raises, and what leasing may raise."""
    token = str(json.loads(Path(files["machine"].path).read_text(encoding="utf-8"))["lease"])
    local = pipeline.run.folder / "work" / phase.name
    local.mkdir(parents=True, exist_ok=True)
    job, lost_at, damaged = _job(pipeline, phase, files, fingerprint), list[str](), False
    machine: Machine | None = None
    left = LeftBehind(pipeline, phase)
    if (metrics := left.take(fingerprint)) is not None:
        return metrics, local / "out"
    while True:
        if pipeline.stop_requested():
            raise Interrupted
        try:
            machine = pipeline.leases.machine(token)
            fresh = phase.name in pipeline.forced and not lost_at
            return _machine_run(pipeline, phase, machine, job, local, fresh=fresh).run(), local / "out"
        except MachineLost as lost:
            lost_at.append(machine.place if machine else "")
            if (metrics := left.take(fingerprint, of_live=True)) is not None:   # before anything that was made for the machine is removed
                return metrics, local / "out"
            _go_on(pipeline, phase, token, lost, lost_at)
        except PastDeadline:
            left.take(fingerprint, of_live=True)
            raise
        except ArtifactDamaged:   # what was made on the machine is not what it was: send it
            if damaged or machine is None:
                raise
            damaged = True
            Placed(pipeline.run.state, machine.place).drop()
        except Detached as stop:
            assert machine is not None
            raise Detached(_keep(pipeline, token, machine)) from stop


def close(pipeline: Pipeline, phase: AnyPhase, fingerprint: str) -> None:
    """After its outputs are published."""
    remote.close(pipeline.run.state, phase.name, fingerprint, pipeline.run.folder / "work" / phase.name)


def _job(pipeline: Pipeline, phase: AnyPhase, files: dict[str, InputFile], fingerprint: str) -> Job:
    settings = pipeline.config.section(phase.name).model_dump(mode="json")
    item = JobPhase(name=phase.name, fingerprint=fingerprint, folder="", settings=settings, inputs=files)
    return Job(
        run_id=pipeline.run.id, seed=pipeline.seed, dry_run=pipeline.run.dry_run, phases=(item,),
        plugin_dirs=tuple(map(str, pipeline.registry.plugin_dirs)),
    )


def _machine_run(pipeline: Pipeline, phase: AnyPhase, machine: Machine, job: Job, local: Path, *, fresh: bool) -> MachineRun:
    chosen = pipeline.config.section("run")
    return MachineRun(
        machine, job, pipeline.run.state, local, writes={output.name: output.path for output in phase.writes}, emit=pipeline.forward,
        stop_requested=pipeline.stop_requested, fresh=fresh, environment=chosen.send_environment, parts=_parts(pipeline, phase, job),
        detach=chosen.on_interrupt == "keep" and idle_seconds(machine) is not None, set_aside=partial(pipeline.leases.set_aside, machine.place.rpartition("/")[0]),
    )


def _parts(pipeline: Pipeline, phase: AnyPhase, job: Job) -> Sequence[Sequence[str]]:
    return groups_of(phase, pipeline.config.section(phase.name), {name: Path(file.path) for name, file in job.phases[0].inputs.items()})


def _go_on(pipeline: Pipeline, phase: AnyPhase, token: str, lost: MachineLost, lost_at: list[str]) -> None:
    """Decide about a machine that was lost: ask again, have it ended, or give up. Raises PastDeadline or ForgeError."""
    place, run_id = lost_at[-1], pipeline.run.id
    if pipeline.leases.is_past_deadline(token):
        raise PastDeadline(
            f"the machine's time was over before {phase.name} was done", why=f"{lost.fact}, after the plan's deadline",
            next=f"forge resume {run_id} leases one once more, or --from plan_fit for a plan with more time",
        ) from lost
    again = not isinstance(lost, Preempted) and lost_at.count(place) < CHANCES
    if len({*lost_at}) >= MAX_MACHINES:
        raise ForgeError(
            f"{phase.name} lost {MAX_MACHINES} machines", why=lost.fact,
            next=f"forge resume {run_id} goes on from its last checkpoint, --from plan_fit chooses another machine",
        ) from lost
    pipeline.run.events.emit("notice", phase=phase.name, text=f"{lost.fact}: {'asking it again' if again else 'another one goes on from the last checkpoint'}")
    if not again:
        pipeline.leases.end(token)


def idle_seconds(machine: Machine) -> float | None:
    """How long the machine goes on when nobody asks for its job; None when it would not end by itself."""
    found = getattr(machine.provider, "idle_seconds", None)
    return None if found is None else float(found)


def _keep(pipeline: Pipeline, token: str, machine: Machine) -> str:
    """Note that the machine is left up on purpose; returns what the user should know about it."""
    goes_on = bool(getattr(machine.provider, "goes_on", False))
    idle = pipeline.leases.seconds_left(token) if goes_on else idle_seconds(machine) or 0.0
    pipeline.run.state.put(KEPT_MACHINE, json.dumps({"lease": token, "until": time.time() + idle + KEEP_MARGIN_SECONDS}))
    cost = dollars(micro_usd(machine.usd_per_hour * idle / 3600))
    run_id = pipeline.run.id
    until = f"which ends when its work is done, in {idle / 60:.0f} min at the latest" if goes_on else f"which ends it when nobody has asked for {idle / 60:.0f} min"
    return (
        f"interrupted; its job goes on on {machine.name}, {until} ({cost}). "
        f"next: forge resume {run_id} goes on with it, forge teardown {run_id} ends it"
    )
