"""What is done at the end of a run besides its reports: outcome, other runs' machines, history, registry. None of it undoes the run."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping

from forge import history, model_registry, sweep, tracking
from forge.errors import ForgeError
from forge.protocols import Provider
from forge.registry import Registry
from forge.run import Run

SWEEP_SECONDS = 20.0
"""How long a run waits for a machine of another run to go."""


def set_outcome(run: Run, outcome: str, failure: BaseException | None) -> None:
    """Keep how the run ended, and why. On a full disk the failure is what is told."""
    try:
        run.state.put("outcome", outcome)
        run.state.put("error", json.dumps(_error_fields(failure)))
    except sqlite3.Error as second:
        if failure is None:
            raise
        failure.add_note(f"the outcome could not be recorded: {second}")


def sweep_others(run: Run, providers: Mapping[str, Provider]) -> None:
    """End what other runs left behind, and say so; what cannot be ended or listed is told and stops nothing."""
    def tell(text: str) -> None:
        run.events.emit("notice", text=text)

    def cannot_list(name: str, why: str) -> None:
        tell(f"the machines of {name} cannot be listed: {why}")

    for one in sweep.sweep(providers, own=run.id, unlisted=cannot_list, patience=SWEEP_SECONDS):
        if one.done != "kept":
            tell(f"{one.provider} {one.id} of run {one.run or 'unknown'} is {one.done}: {one.why}")
        elif one.why.startswith("no run"):
            tell(f"{one.provider} {one.id} is up and {one.why}: forge sweep")


def keep_history(run: Run) -> None:
    """Forecast and fact of this run, for the forecasts of later ones."""
    try:
        history.keep(run)
    except OSError as error:   # a full or read-only disk: the run is done all the same
        run.events.emit("notice", text=f"what this run took could not be kept for later forecasts: {error}")


def register_model(run: Run, registry: Registry, track: str, track_to: str) -> None:
    """Put a finished model into the registry of this home, and tell the tracker, if any. The run is done, whatever comes of it."""
    try:
        model_registry.register(run)
    except (ForgeError, OSError) as error:
        run.events.emit("notice", text=f"the model is not in the registry: {error}; forge champion registers it again")
        return
    if not track:
        return
    try:
        where, changed = tracking.mirror(registry, track, [run.id], track_to)
        run.events.emit("notice", text=f"mirrored to {track} at {where}" if changed else f"{track} has it already")
    except (ForgeError, OSError) as error:
        run.events.emit("notice", text=f"not mirrored to {track}: {error}; forge track {run.id} does it again")


def _error_fields(failure: BaseException | None) -> dict[str, str] | None:
    if failure is None:
        return None
    if isinstance(failure, ForgeError):
        return {"fact": failure.fact, "why": failure.why, "next": failure.next}
    return {"fact": f"{type(failure).__name__}: {failure}", "why": "", "next": ""}
