"""A phase's view of the run inside the engine."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge import left
from forge.context import FolderContext, InputFile
from forge.errors import UsageError
from forge.executor import LocalExecutor
from forge.protocols import Lease, Offer
from forge.remote import rehearse
from forge.run import cache_folder

if TYPE_CHECKING:
    from forge.pipeline import AnyPhase, Pipeline


class EngineContext(FolderContext):
    """Adds leases, rehearsals and shards to a folder's context."""

    def __init__(
        self, pipeline: Pipeline, phase: AnyPhase, folder: Path, inputs: dict[str, InputFile], fingerprint: str
    ) -> None:
        run, registry = pipeline.run, pipeline.registry
        self._pipeline = pipeline
        super().__init__(
            folder, run_id=run.id, seed=pipeline.seed, dry_run=run.dry_run, task=pipeline.task, inputs=inputs, writes=phase.writes,
            registry=registry, money=run.ledger, fingerprint=fingerprint, cache=cache_folder(),
            corpus_root=pipeline.snapshots.root if pipeline.snapshots else run.corpus,
            stop_requested=pipeline.stop_requested,
            emit=lambda kind, fields: run.events.emit(kind, phase=phase.name, **fields),
            rehearse=lambda phases, files: rehearse(
                folder / "rehearsal", registry, phases, files, run_id=run.id, seed=pipeline.seed
            ),
            shards=int(getattr(pipeline.config.section("run"), "shards", 0)), executor=self._make_executor,
        )

    def _make_executor(self, folder: Path, tick: Callable[[], None]) -> Any:
        """The run's executor. Raises UsageError for a provider that has none."""
        name, shards = str(self._pipeline.config.section("run").executor), self.shards
        if name == "local":
            return LocalExecutor(folder, min(shards, os.cpu_count() or 1), tick)
        make = getattr(self._pipeline.leases.providers.get(name), "executor", None)
        if make is None:
            able = ["local", *(one for one, provider in self._pipeline.leases.providers.items() if hasattr(provider, "executor"))]
            raise UsageError(f"run.executor={name} cannot do parts of the work", why=f"known: {', '.join(able)}", next="--set run.executor=local")
        return make(folder, self.run_id, shards, tick, self._pipeline.leases)

    def lease(self, offer: Offer, deadline_seconds: int, token: str) -> Lease:
        """A machine, reserved and started. Raises OverBudget before anything is requested."""
        left.save_all(self._pipeline, token)
        self._pipeline.leases.end_others(token)
        return self._pipeline.leases.acquire(offer, deadline_seconds, token)
