"""Runs the phases in the order of their reads and writes; skips what is unchanged, repairs what is damaged.

A phase is skipped iff sha256(name, VERSION, its settings, input hashes, versions of output-affecting libraries) is the
one it finished under and its outputs still verify. Downstream phases depend on hashes, not on time: a re-run that
gives the same bytes re-runs nothing after it.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from forge import closing, gate, machines, onmachine, record, reuse
from forge.config import Config
from forge.context import InputFile
from forge.corpus import walk_corpus
from forge.engine_context import EngineContext
from forge.errors import (
    ArtifactDamaged,
    ForgeError,
    Interrupted,
    StillBilling,
    UsageError,
    WaitingAtGate,
    explain,
    nearest,
)
from forge.fingerprint import PLANNED_BUDGET, fingerprint
from forge.lease import KEPT_MACHINE, Leases, still_billing
from forge.phase import Phase
from forge.preflight import check_access
from forge.records import CorpusEntry, digest, stream_jsonl
from forge.registry import Registry, require
from forge.remote import Detached, Unfetched
from forge.review import decisions
from forge.run import Run, cache_folder, home, run_folders
from forge.snapshots import Snapshots
from forge.sources import is_source_list, read_sources
from forge.store import Artifact

CORPUS = "corpus"
MAX_REPAIRS = 5
CHANGED = "its inputs, settings or version changed"

AnyPhase = Phase[Any]
Confirm = Callable[[str], bool]


class _Repair(Exception):
    """An input turned out damaged: its producer has to run again."""

    def __init__(self, producer: str) -> None:
        super().__init__(producer)
        self.producer = producer


class Pipeline:
    """The phases of one run. Call execute() while holding the run's lock."""

    def __init__(
        self,
        run: Run,
        registry: Registry,
        config: Config,
        *,
        ask: gate.Ask | None = None,
        confirm: Confirm | None = None,
        stop_requested: Callable[[], bool] = lambda: False,
        rerun_from: str = "",
        refetch: bool = False,
    ) -> None:
        """ask: shows the plan to a person. confirm: asks before a paid phase runs again. rerun_from: a phase to force.

        refetch: bring the sources of a source list again, even where a snapshot is there.
        """
        self.run, self.registry, self.config = run, registry, config
        self.ask, self.confirm, self.stop_requested = ask, confirm, stop_requested
        phases = [registry.phase(name) for name in registry.phase_names()]
        self.phases: list[AnyPhase] = in_order([phase for phase in phases if not phase.always])
        self.closing: list[AnyPhase] = [phase for phase in phases if phase.always]
        self.leases = Leases(run, machines.providers(registry, config), stop_requested)
        self.seed = int(config.section("run").seed)
        self.task = str(getattr(config.section("run"), "task", "chat"))
        self.forced = self._forced(rerun_from)
        self.refetch = refetch
        self.snapshots = self._snapshots()
        self.did_work = False
        self._reuse_key = ""

    def execute(self, until: str = "") -> None:
        """Run what has to be run, up to and including `until`. Always closes the run's leases at the end."""
        self._check_name(until)
        for phase in self._up_to(until):
            require(phase.requires, f"phase {phase.name}")
        failure: BaseException | None = None
        outcome = "done"
        self.run.state.put(KEPT_MACHINE, "")
        closing.sweep_others(self.run, self.leases.providers)
        try:
            check_access(self.run, self._up_to(until), self.config, self.registry)
            if self.snapshots:
                self.snapshots.bring(refetch=self.refetch)
            self._publish_corpus()
            decisions.publish(self.run)
            self._run_all(until)
            outcome = "stopped" if until else "done"
        except WaitingAtGate as error:
            failure, outcome = error, "waiting"
        except (Interrupted, KeyboardInterrupt) as error:
            failure, outcome = Interrupted() if isinstance(error, KeyboardInterrupt) else error, "interrupted"
        except BaseException as error:   # noqa: BLE001 - re-raised below, after the leases are closed
            failure, outcome = explain(error) or error, "failed"
        self._close(outcome, failure)
        if failure is not None:
            raise failure

    def preview(self) -> list[tuple[str, str]]:
        """For each phase whether it would run now and why, as far as that is known without running."""
        rows, dirty = [], False
        for phase in self.phases:
            inputs = self._available(phase)
            why = "an earlier phase runs again" if dirty else self._why_run(phase, inputs)
            dirty = dirty or bool(why)
            rows.append((phase.name, why))
        return rows

    # --- one pass over the phases -------------------------------------------------------------------------------

    def _run_all(self, until: str) -> None:
        index, repairs = 0, 0
        names = [phase.name for phase in self.phases]
        while index < len(self.phases):
            try:
                self._step(self.phases[index])
            except _Repair as repair:
                repairs += 1
                if repairs > MAX_REPAIRS:
                    raise ForgeError(
                        f"an artifact of {repair.producer} keeps getting damaged", why="the disk may be failing",
                        next=f"check the disk, then forge resume {self.run.id}",
                    ) from repair
                index = names.index(repair.producer)
                continue
            if names[index] == until:
                return
            index += 1

    def _step(self, phase: AnyPhase) -> None:
        self._check_stop()
        after_gate = gate.APPROVAL in phase.reads
        self.run.ledger.phase, self.run.ledger.gate_open = phase.name, after_gate
        if after_gate:
            self._pass_gate()
        inputs = self._inputs(phase)
        why = self._why_run(phase, inputs)
        if not why:
            self.run.events.emit("phase_skipped", phase=phase.name, metrics=self._metrics(phase.name))
            return
        self._ask_before_paying_again(phase, why)
        self._run_phase(phase, inputs, why)
        if gate.PLAN in {output.name for output in phase.writes}:
            gate.present(self.run)

    def _pass_gate(self) -> None:
        check_access(self.run, self.phases, self.config, self.registry)   # now with the model's name
        always_ask = bool(self.config.section("gate").always_ask) and not self.run.dry_run
        gate.pass_gate(self.run, always_ask=always_ask, ask=self.ask)

    def _why_run(self, phase: AnyPhase, inputs: dict[str, Artifact]) -> str:
        """Why the phase has to run, or "" when it can be skipped."""
        row = self.run.state.row("SELECT * FROM phase WHERE name=?", phase.name)
        if phase.name in self.forced:
            return "asked for"
        if row is None or row["status"] != "done":
            return "not finished" if row else "new"
        if row["fingerprint"] != fingerprint(self, phase, inputs):
            return CHANGED
        outputs = [self.run.store.get(output.name) for output in phase.writes]
        if any(output is None or not self.run.store.intact(output) for output in outputs):
            return "an output is missing or damaged"
        return ""

    def _run_phase(self, phase: AnyPhase, inputs: dict[str, Artifact], why: str) -> None:
        if getattr(phase, "budgeted", False):
            self.run.state.put(PLANNED_BUDGET, f"{self.config.budget_usd:.6f}")
        identity = fingerprint(self, phase, inputs)
        files = self._open(inputs, leave_out_damaged=phase.always)
        self._mark_running(phase, identity, why)
        started = time.monotonic()
        try:
            if phase.where == "machine":
                metrics, out = onmachine.run_on_machine(self, phase, files, identity)
            else:
                metrics, out = self._in_engine(phase, files, identity)
            self._finish(phase, out, metrics)
            if phase.where == "machine":
                onmachine.close(self, phase, identity)
            self._offer_to_other_runs(phase, metrics)
        except BaseException as error:
            self._mark_failed(phase, error)
            raise
        self.forced.discard(phase.name)
        self.did_work = True
        seconds = round(time.monotonic() - started, 2)
        self.run.events.emit(
            "phase_done", phase=phase.name, seconds=seconds, metrics=metrics, spent_micro_usd=self.run.ledger.spent_by(phase.name)
        )

    def _in_engine(self, phase: AnyPhase, files: dict[str, InputFile], identity: str) -> tuple[dict[str, Any], Path]:
        folder = self.run.folder / "work" / phase.name
        ctx, settings = EngineContext(self, phase, folder, files, identity), self.config.section(phase.name)
        try:
            self._estimate(phase, settings, ctx)
            besides = getattr(phase, "identity", None)
            key = digest(identity, besides(settings, ctx)) if besides and phase.name not in self.forced else ""
            taken = reuse.take_over(ctx.cache, key, {one.name: ctx.output(one.name) for one in phase.writes}) if key else None
            metrics = dict(phase.run(settings, ctx)) if taken is None else taken
            ctx.forget_shards()
            self._reuse_key = key if taken is None else ""
        finally:
            ctx.close()
        return metrics, ctx.out

    def _estimate(self, phase: AnyPhase, settings: Any, ctx: EngineContext) -> None:
        """What the phase will probably take and cost, told and kept before it begins."""
        if phase.always:
            return
        with ctx.quietly():
            found = phase.estimate(settings, ctx)
        self.run.state.execute(
            "INSERT OR REPLACE INTO estimate VALUES(?,?,?,?,?,?,?)", phase.name, found.seconds_p50, found.seconds_p90,
            found.usd_p50, found.usd_p90, found.basis, time.time(),
        )
        self.run.events.emit("estimated", phase=phase.name, **found.model_dump())

    def _offer_to_other_runs(self, phase: AnyPhase, metrics: dict[str, Any]) -> None:
        reusable = getattr(phase, "reusable", None)
        if self._reuse_key and reusable and (told := reusable(metrics)) is not None:
            reuse.keep(cache_folder(), self._reuse_key, self.run.store, phase.writes, told)
        self._reuse_key = ""

    def _finish(self, phase: AnyPhase, out: Path, metrics: dict[str, Any]) -> None:
        """Publish the outputs, then mark the phase done in one transaction."""
        made = []
        for output in phase.writes:
            source = out / output.path
            if not source.exists():
                raise ForgeError(f"phase {phase.name} did not write {output.path}", why="a bug in the phase")
            made.append(self.run.store.publish(output.name, phase.name, source, output.path, telemetry=output.telemetry))
        with self.run.state.transaction() as db:
            for artifact in made:
                sql, values = self.run.store.record(artifact)
                db.execute(sql, values)
            db.execute(
                "UPDATE phase SET status='done', ended=?, metrics=?, error='' WHERE name=?",
                (time.time(), json.dumps(metrics, default=str, sort_keys=True), phase.name),
            )

    # --- inputs -------------------------------------------------------------------------------------------------

    def _inputs(self, phase: AnyPhase) -> dict[str, Artifact]:
        inputs = self._available(phase)
        absent = set(phase.reads) - set(inputs) - set(getattr(phase, "optional", ()))
        if absent:
            raise ForgeError(f"phase {phase.name} needs {', '.join(sorted(absent))}", why="no phase has written it")
        return inputs

    def _available(self, phase: AnyPhase) -> dict[str, Artifact]:
        found = {name: self.run.store.get(name) for name in phase.reads}
        return {name: artifact for name, artifact in found.items() if artifact is not None}

    def _open(self, inputs: dict[str, Artifact], *, leave_out_damaged: bool) -> dict[str, InputFile]:
        files = {}
        for name, artifact in inputs.items():
            try:
                path = self.run.store.open(artifact)
            except ArtifactDamaged as damage:
                self.run.events.emit("damaged", artifact=name, phase=artifact.phase, why=str(damage))
                if leave_out_damaged:
                    continue
                self._rebuild(artifact)
                raise _Repair(artifact.phase) from damage
            files[name] = InputFile(path=str(path.resolve()), sha256=artifact.sha256)
        return files

    def _rebuild(self, artifact: Artifact) -> None:
        """Mark the producer of a damaged artifact; the engine's own artifacts are simply made again."""
        if artifact.phase in {phase.name for phase in self.phases}:
            self.run.state.execute("UPDATE phase SET status='damaged' WHERE name=?", artifact.phase)
            return
        self.run.state.execute("DELETE FROM artifact WHERE name=?", artifact.name)
        self._publish_corpus()
        decisions.publish(self.run)
        first_reader = next(phase for phase in self.phases if artifact.name in phase.reads)
        raise _Repair(first_reader.name)

    def _publish_corpus(self) -> None:
        """List the corpus; a changed file changes this artifact and, through it, what has to run."""
        draft = self.run.folder / ".corpus.jsonl"
        stream_jsonl(draft, self._entries())
        artifact = self.run.store.publish(CORPUS, CORPUS, draft, "corpus.jsonl")
        draft.unlink()
        stored = self.run.store.get(CORPUS)
        if stored is None or stored.sha256 != artifact.sha256:
            sql, values = self.run.store.record(artifact)
            self.run.state.execute(sql, *values)

    def _entries(self) -> Iterator[CorpusEntry]:
        if self.snapshots:
            return self.snapshots.entries(cache_folder(), leave_out=home())
        return walk_corpus(self.run.corpus, cache_folder(), leave_out=home())

    def _snapshots(self) -> Snapshots | None:
        if not is_source_list(self.run.corpus):
            return None
        return Snapshots(
            self.run.folder, self.run.corpus, read_sources(self.run.corpus, self.registry), check_stop=self._check_stop,
            donors=run_folders(self.run.corpus),
            progress=lambda name, done, total: self.run.events.emit("progress", phase="sources", done=done, total=total, note=name),
            tell=lambda text: self.run.events.emit("notice", text=text),
        )

    def _check_stop(self) -> None:
        if self.stop_requested():
            raise Interrupted

    # --- bookkeeping --------------------------------------------------------------------------------------------

    def _mark_running(self, phase: AnyPhase, identity: str, why: str) -> None:
        self.run.state.execute(
            "INSERT INTO phase(name, fingerprint, status, attempt, started) VALUES(?,?,'running',1,?)"
            " ON CONFLICT(name) DO UPDATE SET fingerprint=excluded.fingerprint, status='running',"
            " attempt=attempt+1, started=excluded.started, ended=NULL, error=''",
            phase.name, identity, time.time(),
        )
        self.run.events.emit("phase_started", phase=phase.name, why=why, summary=phase.summary)

    def _mark_failed(self, phase: AnyPhase, error: BaseException) -> None:
        status = "interrupted" if isinstance(error, (Interrupted, KeyboardInterrupt)) else "failed"
        try:
            self.run.state.execute(
                "UPDATE phase SET status=?, ended=?, error=? WHERE name=?", status, time.time(), str(error), phase.name
            )
            self.run.events.emit("phase_failed", phase=phase.name, status=status, error=str(error))
        except (sqlite3.Error, OSError) as second:   # a full disk: the first error is the one to tell
            error.add_note(f"the failure could not be recorded: {second}")

    def _metrics(self, name: str) -> dict[str, Any]:
        row = self.run.state.row("SELECT metrics FROM phase WHERE name=?", name)
        return dict(json.loads(row["metrics"])) if row else {}

    def _ask_before_paying_again(self, phase: AnyPhase, why: str) -> None:
        row = self.run.state.row("SELECT status FROM phase WHERE name=?", phase.name)
        spent = self.run.state.row(
            "SELECT COALESCE(SUM(actual), 0) AS micro FROM spend WHERE phase=? AND key NOT LIKE 'lease %'", phase.name
        )
        if why != CHANGED or row is None or row["status"] != "done" or not spent or not spent["micro"]:
            return   # nothing was spent, or its journal already holds every paid item
        if self.confirm is None or not self.confirm(f"{phase.name} cost money before and would run again ({why})"):
            raise WaitingAtGate(
                f"{phase.name} would run again and cost money again", why=why, next=f"forge resume {self.run.id} --yes"
            )

    def forward(self, event: dict[str, Any]) -> None:
        """An event of a job, as one of the run's."""
        fields = {key: value for key, value in event.items() if key not in ("at", "event")}
        self.run.events.emit(event["event"], **fields)

    def _up_to(self, until: str) -> list[AnyPhase]:
        """The phases that would run: what a later one needs is not missed by a run that stops before it."""
        names = [phase.name for phase in self.phases]
        return self.phases[: names.index(until) + 1] if until else self.phases

    def _forced(self, rerun_from: str) -> set[str]:
        self._check_name(rerun_from)
        return {rerun_from} if rerun_from else set()

    def _check_name(self, name: str) -> None:
        known = [phase.name for phase in self.phases]
        if name and name not in known:
            raise UsageError(f'there is no phase "{name}"', why=nearest(name, known), next="forge phases")

    # --- the end of a run ---------------------------------------------------------------------------------------

    def _close(self, outcome: str, failure: BaseException | None) -> None:
        """Release the machines, and leave the report, whatever happened. What still bills outranks every error."""
        closing.set_outcome(self.run, outcome, failure)
        if isinstance(failure, (Detached, Unfetched)):
            return
        unconfirmed = self.leases.release_all()   # also at the gate: an earlier plan's machine does not wait for a person
        if outcome == "waiting" and not unconfirmed:
            return
        closing.sweep_others(self.run, self.leases.providers)
        if self.did_work or failure is not None:
            try:
                self._report(failure)
            except StillBilling:
                if not unconfirmed:   # below it is told with the command that ends the machine
                    raise
        if self.did_work and outcome == "done":
            closing.keep_history(self.run)
        if unconfirmed:
            raise still_billing(self.run, unconfirmed) from failure
        if outcome == "done":
            chosen = self.config.section("run")
            track = chosen.track if self.did_work and not self.run.dry_run else ""
            closing.register_model(self.run, self.registry, track, chosen.track_to)

    def _report(self, failure: BaseException | None) -> None:
        for phase in self.closing:
            try:
                record.publish(self.run, failure)
                self._run_phase(phase, self._available(phase), "the run ends")
            except StillBilling as error:
                self._finish(phase, self.run.folder / "work" / phase.name / "out", {"summary": error.fact})
                raise
            except (ForgeError, OSError, sqlite3.Error) as error:
                if failure is None:
                    raise
                failure.add_note(f"the report could not be written: {error}")


def in_order(phases: Iterable[AnyPhase]) -> list[AnyPhase]:
    """The phases so that each comes after those whose outputs it reads; ties by name."""
    pending = sorted(phases, key=lambda phase: phase.name)
    makers = {output.name: phase.name for phase in pending for output in phase.writes}
    makers[gate.APPROVAL] = makers.get(gate.PLAN, "")
    done: list[AnyPhase] = []
    while pending:
        finished = {phase.name for phase in done}
        ready = [p for p in pending if all(makers.get(name, "") in finished | {"", p.name} for name in p.reads)]
        if not ready:
            raise ForgeError("the phases wait for each other", why=", ".join(phase.name for phase in pending))
        done.append(ready[0])
        pending.remove(ready[0])
    return done


__all__ = ["CORPUS", "Pipeline", "in_order"]
