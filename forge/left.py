"""What a job has brought out of a machine that may be gone (Provider.left): its result is taken instead of working again, else its
checkpoint, before the lease that holds it is closed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from forge.errors import ArtifactDamaged, ForgeError, Interrupted
from forge.jobs import JobNote, JobNotes
from forge.lease import Machine
from forge.remote import MachineRun, Unfetched
from forge.store import hash_path
from forge.worker import Job, JobPhase

if TYPE_CHECKING:
    from forge.pipeline import AnyPhase, Pipeline


class LeftBehind:
    """Of one phase. Outputs come to work/<phase>/out, checkpoints to where those from machines come (forge.keeping)."""

    def __init__(self, pipeline: Pipeline, phase: AnyPhase) -> None:
        """What an earlier job left is of no use to a phase that was asked to run again."""
        self.pipeline, self.phase, self.state = pipeline, phase, pipeline.run.state
        self.local = pipeline.run.folder / "work" / phase.name
        self.notes, self.key = JobNotes(self.state, phase.name), f"left {phase.name}"
        last = self.notes.last()
        self.unwanted = last.name if last is not None and phase.name in pipeline.forced else ""

    def take(self, fingerprint: str, *, of_live: bool = False) -> dict[str, Any] | None:
        """The metrics of the phase's last job, its outputs being in out; None when it did not end well, and what it kept is here.

        of_live: also while the provider lists the machine, which does not answer. Raises Unfetched.
        """
        note = self._note()
        if note is None or note.fingerprint != fingerprint:
            return None
        metrics = self._brought(note)
        if metrics is None:
            metrics = self._bring(note, of_live=of_live)
        if metrics is not None:
            self._tell(f"the result of {self.phase.name} was brought out of its machine before that was gone, and is taken from there")
        return metrics

    def save(self, token: str) -> None:
        """Bring what lies at any other lease than this one, which is about to be closed; take() finds it later. Raises Unfetched."""
        note = self._note()
        if note is None or note.place.rpartition("/")[0] == token or self._brought(note) is not None:
            return
        if (metrics := self._bring(note, of_live=True)) is not None:
            made = {output.path: hash_path(self.local / "out" / output.path) for output in self.phase.writes if (self.local / "out" / output.path).exists()}
            self.state.put(self.key, json.dumps({"job": note.name, "metrics": metrics, "made": made}, sort_keys=True))

    def _note(self) -> JobNote | None:
        note = self.notes.last()
        return None if note is None or note.name == self.unwanted else note

    def _brought(self, note: JobNote) -> dict[str, Any] | None:
        """What save() brought of this job, when it is still whole."""
        told = json.loads(self.state.get(self.key) or "{}")
        if told.get("job") != note.name:
            return None
        out = self.local / "out"
        whole = all((out / path).exists() and hash_path(out / path) == sha256 for path, sha256 in told["made"].items())
        return dict(told["metrics"]) if whole else None

    def _bring(self, note: JobNote, *, of_live: bool) -> dict[str, Any] | None:
        token = note.place.rpartition("/")[0]
        provider = self.pipeline.leases.provider_of(token)
        look = getattr(provider, "left", None)
        if provider is None or look is None:
            return None
        try:
            channel = None if not of_live and self.pipeline.leases.is_listed(token) else look(token)
            return None if channel is None else self._run(note, Machine(provider, channel, note.place, f"what {provider.name} has of {token}", 0.0))
        except Interrupted:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the provider or the disk here says: judged there
            self._decide(token, error)
            return None

    def _run(self, note: JobNote, machine: Machine) -> dict[str, Any] | None:
        item = JobPhase(name=self.phase.name, fingerprint=note.fingerprint, folder="", settings={}, inputs={})
        job = Job(run_id=self.pipeline.run.id, seed=self.pipeline.seed, dry_run=self.pipeline.run.dry_run, phases=(item,))
        self.local.mkdir(parents=True, exist_ok=True)
        writes = {output.name: output.path for output in self.phase.writes}
        return MachineRun(machine, job, self.state, self.local, writes=writes, emit=self.pipeline.forward).left_behind()

    def _decide(self, token: str, error: Exception) -> None:
        """Damaged things are never whole again, and those of a machine that is up can be had from it; else raise Unfetched."""
        fact = error.fact if isinstance(error, ForgeError) else f"{type(error).__name__}: {error}"
        if not isinstance(error, ArtifactDamaged) and not self._is_up(token):
            raise Unfetched(
                f"what {self.phase.name} has left of {token} could not be fetched", why=fact,
                next=f"forge resume {self.pipeline.run.id} tries again; forge teardown {self.pipeline.run.id} removes it",
            ) from error
        self._tell(f"what was brought out of the machine is not used: {fact}")

    def _is_up(self, token: str) -> bool:
        try:
            return self.pipeline.leases.is_listed(token)
        except Exception:  # noqa: BLE001 - not known: what was left must not be removed then, and the machine ends at its deadline
            return False

    def _tell(self, text: str) -> None:
        self.pipeline.run.events.emit("notice", phase=self.phase.name, text=text)


def save_all(pipeline: Pipeline, token: str) -> None:
    """Before the leases other than this one are closed: what phases have left there is brought here."""
    for phase in pipeline.phases:
        if phase.where == "machine":
            LeftBehind(pipeline, phase).save(token)
