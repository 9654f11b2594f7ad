"""What would stop a run after its money is spent, looked at before: phases that need access elsewhere say so in `access`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from forge import gate
from forge.config import Config
from forge.records import Plan, read_record
from forge.registry import Registry
from forge.run import Run


def check_access(run: Run, phases: Iterable[Any], config: Config, registry: Registry) -> None:
    """Ask every phase that has `access`; each answer becomes a notice. Raises what the phase raises, before anything is spent.

    Nothing in a rehearsal, and nothing once the plan is approved: then the work goes on to where the access is needed.
    """
    if run.dry_run or run.store.get(gate.APPROVAL) is not None:
        return
    planned = run.store.get(gate.PLAN)
    plan = read_record(run.store.open(planned), Plan) if planned is not None and run.store.intact(planned) else None
    for phase in phases:
        look = getattr(phase, "access", None)
        told = look(config.section, registry.plugin, plan) if look else ""
        if told:
            run.events.emit("notice", phase=phase.name, text=told)
