"""What the outputs of a phase depend on, as one hash: a phase whose hash is the one that it finished under is skipped."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from forge import gate
from forge.config import load_data
from forge.records import PLACE_AND_PRICE, canonical_json, digest
from forge.store import Artifact

if TYPE_CHECKING:
    from forge.pipeline import AnyPhase, Pipeline

MACHINE = "machine"
"""The artifact that names the lease on which phases with where = "machine" run."""
PLANNED_BUDGET = "planned_budget"


def fingerprint(pipeline: Pipeline, phase: AnyPhase, inputs: dict[str, Artifact]) -> str:
    """sha256 over name, VERSION, settings, input hashes, versions of libraries, and what the phase names besides."""
    libraries = {name: _version(name) for name in phase.libraries}
    section = pipeline.config.section(phase.name)
    settings = section.model_dump(mode="json", exclude=set(getattr(phase, "no_effect", ())))
    hashes = {name: _identity(pipeline, phase, artifact) for name, artifact in inputs.items() if not artifact.telemetry}
    named = getattr(phase, "named_files", None)
    if named and (files := named(section)):
        hashes["files named in settings"] = files
    return digest(
        phase.name, str(phase.VERSION), canonical_json(settings), canonical_json(hashes), canonical_json(libraries),
        str(pipeline.seed), str(pipeline.run.dry_run), pipeline.registry.sources(), *_task_if_other(pipeline), *_also(pipeline, phase),
    )


def _identity(pipeline: Pipeline, phase: AnyPhase, artifact: Artifact) -> str:
    """The hash of an input as far as the phase's outputs depend on it. Where a phase on a machine runs, and at what price,
    changes none of its bytes: it goes on from its checkpoint under a plan that only names another machine.
    """
    if phase.where != "machine" or artifact.name not in (gate.PLAN, gate.APPROVAL, MACHINE):
        return artifact.sha256
    if artifact.name != gate.PLAN:
        return ""
    try:
        plan = json.loads(pipeline.run.store.blob(artifact.sha256).read_text(encoding="utf-8"))
    except (OSError, ValueError):   # damaged: opening it says so
        return artifact.sha256
    return digest(canonical_json({name: value for name, value in plan.items() if name not in PLACE_AND_PRICE}))


def _also(pipeline: Pipeline, phase: AnyPhase) -> list[str]:
    """What a phase says that it depends on besides: tables of configs/, and the cap of the budget."""
    tables = [json.dumps(load_data(name), sort_keys=True, default=str) for name in getattr(phase, "configs", ())]
    return [*tables, *([_planned_budget(pipeline)] if getattr(phase, "budgeted", False) else [])]


def _planned_budget(pipeline: Pipeline) -> str:
    """The budget now; once a phase after the gate is done, the one that was planned with: a cap raised in the middle of a
    run must not throw away what was trained under the approved plan. The ledger holds the cap in either case.
    """
    state = pipeline.run.state
    done = {row["name"] for row in state.rows("SELECT name FROM phase WHERE status='done'")}
    passed = any(phase.name in done for phase in pipeline.phases if gate.APPROVAL in phase.reads)
    return (state.get(PLANNED_BUDGET) if passed else "") or f"{pipeline.config.budget_usd:.6f}"


def _task_if_other(pipeline: Pipeline) -> tuple[str, ...]:
    """The task, unless it is chat, which is what runs were about before they could name one."""
    return () if pipeline.task == "chat" else (pipeline.task,)


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
