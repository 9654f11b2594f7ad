"""Makes the plan again after decisions: the normal engine, up to the phase that plans, in a thread of its own."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

from forge import gate
from forge.config import Config
from forge.errors import ForgeError, Interrupted, explain
from forge.events import Listener
from forge.pipeline import Pipeline
from forge.registry import Registry
from forge.run import Run

Progress = dict[str, Any]


def planner(registry: Registry) -> str:
    """The phase that makes the plan."""
    return next(name for name in registry.phase_names() if gate.PLAN in {output.name for output in registry.phase(name).writes})


def outdated(run: Run, registry: Registry, config: Config) -> str:
    """Why the plan would be made again before it could be approved; "" when it is up to date. Runs nothing."""
    last = planner(registry)
    for name, why in Pipeline(run, registry, config).preview():
        if why:
            return f"{name}: {why}"
        if name == last:
            break
    return ""


def remake(run: Run, registry: Registry, config: Config, *, stop_requested: Callable[[], bool] = lambda: False) -> None:
    """Run what has changed up to the plan, and leave the run waiting at the gate. Raises what the engine raises.

    Raises ForgeError when plan.json was edited by hand: the new plan would not be the one that lies there.
    """
    if run.store.get(gate.PLAN) and gate.current(run)[2]:
        raise ForgeError(
            "plan.json was edited by hand", why="the new plan would not be the one that lies there",
            next=f"forge plan {run.id} --restore, or forge approve {run.id} without further decisions",
        )
    with run.lock():
        run.remember(config)
        Pipeline(run, registry, config, stop_requested=stop_requested).execute(planner(registry))
        _wait(run)


def _wait(run: Run) -> None:
    """The run stands at the gate again, as before the decisions."""
    sha256 = gate.current(run)[1]
    told = gate.waiting(run, sha256, "its data was reviewed and the plan made again")
    run.state.put("outcome", "waiting")
    run.state.put("error", json.dumps({"fact": told.fact, "why": told.why, "next": told.next}))


class Remaking:
    """One remake in the background. `shown` is what a page needs to draw it."""

    def __init__(self, run_id: str, registry: Registry, config: Config, listener: Listener) -> None:
        self.shown: Progress = {"running": True, "phase": "", "text": "", "share": None, "error": None}
        self._listener, self._stop = listener, threading.Event()
        self._thread = threading.Thread(target=self._work, args=(run_id, registry, config), daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Ask it to stop at the next item, and wait until it has."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self, run_id: str, registry: Registry, config: Config) -> None:
        """A Run of its own: the page reads with another connection meanwhile."""
        run = Run.open(run_id, (self._listener, self._note))
        try:
            remake(run, registry, config, stop_requested=self._stop.is_set)
        except Interrupted:
            self.shown |= {"error": {"fact": "stopped", "why": "", "next": ""}}
        except Exception as error:  # noqa: BLE001 - a thread has no caller: the page tells it, and a bug of ours is not hidden
            told = explain(error) or ForgeError(f"{type(error).__name__}: {error}", why="a bug in slm-forge", next=f"forge resume {run.id}")
            self.shown |= {"error": {"fact": told.fact, "why": told.why, "next": told.next}}
        finally:
            run.close()
            self.shown |= {"running": False}

    def _note(self, event: dict[str, Any]) -> None:
        if event["event"] == "phase_started":
            self.shown |= {"phase": event["phase"], "text": event.get("summary", ""), "share": None}
        elif event["event"] == "progress":
            total = event.get("total")
            share = min(1.0, float(event["done"]) / float(total)) if total else None
            self.shown |= {"phase": event.get("phase", ""), "text": str(event.get("note") or self.shown["text"]), "share": share}
