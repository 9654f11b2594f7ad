"""Which models this home has forged, and which of them is the one to use: $FORGE_HOME/registry.json.

A finished run with a model is registered by the engine: hashes of everything that it is made of and of what it was measured
with, its numbers with intervals, its lineage. `champion` is the model in use; only promote() moves it, and only past the
gates and past the champion before. `challenger` is the newest other one. Models of one corpus and task stand for one place.

The file is read and written under a lock and replaced as a whole; it holds nothing that the runs do not hold, but for the aliases.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from forge.compare import Comparison, compare_runs
from forge.errors import ArtifactDamaged, GateFailed, UsageError
from forge.records import Plan, Record, Verdict, read_record
from forge.run import Run, home
from forge.store import write_durably

FILE = "registry.json"
CHAMPION, CHALLENGER = "champion", "challenger"
MADE_OF = ("base_model", "adapter", "model", "gguf", "modelfile")
TRAINED_ON = ("train", "val", "pretrain", "tokenizer")
MEASURED_ON = ("test_recall", "test_unseen", "test_abstain", "predictions", "eval", "ship_eval")


class Lineage(Record):
    """What a model comes from: sha256 by artifact name, the plan, and the run that it continues, if any."""

    plan: str
    base: str
    made_of: dict[str, str]
    trained_on: dict[str, str]
    measured_on: dict[str, str]
    continues: str = ""


class Model(Record):
    """One registered model. `place`: what it is for ("chat/handbook"). registered: seconds since 1970."""

    run: str
    name: str
    place: str
    task: str
    parameters: int
    quality: str
    integrity: str
    published: str
    registered: float
    spent_usd: float
    files: dict[str, str]
    metrics: tuple[Verdict, ...]
    lineage: Lineage


class Promotion(Record):
    """A change of champion: who took whose place, when, and why it was let through."""

    at: float
    place: str
    run: str
    before: str
    why: str


class Models(Record):
    """registry.json. models: run -> Model. aliases: place -> alias -> run."""

    version: int = 1
    models: dict[str, Model] = Field(default_factory=dict)
    aliases: dict[str, dict[str, str]] = Field(default_factory=dict)
    promotions: tuple[Promotion, ...] = ()

    def alias_of(self, run: str) -> str:
        """"champion", "challenger" or ""."""
        return next((name for names in self.aliases.values() for name, holder in names.items() if holder == run), "")


def read_models() -> Models:
    """The registry; empty where there is none. Raises ArtifactDamaged for a file that is none."""
    path = home() / FILE
    if not path.exists():
        return Models()
    try:
        return Models.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ArtifactDamaged(
            f"{path} is no registry of models", why=str(error.errors()[0]["msg"]).lower(),
            next=f"mv {path} {path}.damaged, then forge champion (runs are registered again; promote the champion again)",
        ) from error


def register(run: Run) -> Model | None:
    """Put a run's model into the registry as challenger; None for a rehearsal or a run without a published model. Idempotent."""
    described = None if run.dry_run else describe(run)
    if described is None:
        return None
    with _changing() as draft:
        known = draft["models"].get(run.id)
        if known is None or known["lineage"] != described.lineage.model_dump(mode="json"):
            draft["models"][run.id] = described.model_dump(mode="json")
            names = draft["aliases"].setdefault(described.place, {})
            if names.get(CHAMPION) == run.id:
                del names[CHAMPION]     # the run was forged anew: this model has not been through promotion
            names[CHALLENGER] = run.id
    return read_models().models[run.id]


def describe(run: Run) -> Model | None:
    """The registry's entry of a run as it is now; None when it has no published model."""
    publication, plan_file = _json(run, "publication"), run.store.get("plan")
    if publication is None or plan_file is None:
        return None
    plan = read_record(run.store.open(plan_file), Plan)
    verdicts = [*(_json(run, "eval") or {}).get("verdicts", []), *(_json(run, "ship_eval") or {}).get("verdicts", [])]
    return Model(
        run=run.id, name=plan.name, place=f"{plan.task}/{run.corpus.name or 'corpus'}", task=plan.task, parameters=plan.parameters,
        quality=str(publication["quality"]), integrity=str(publication["integrity"]),
        published=f"{publication['hub']}/{publication['name']}", registered=round(time.time(), 3),
        spent_usd=run.ledger.totals().settled / 1e6,
        files={row["path"]: row["sha256"] for row in publication["files"]},
        metrics=tuple(Verdict.model_validate(row) for row in verdicts),
        lineage=Lineage(
            plan=plan_file.sha256, base=plan.base, made_of=_hashes(run, MADE_OF), trained_on=_hashes(run, TRAINED_ON),
            measured_on=_hashes(run, MEASURED_ON), continues=getattr(plan, "continues", ""),
        ),
    )


def promote(run_id: str) -> tuple[Model, Comparison | None]:
    """Make a run's model the champion of its place. Raises GateFailed with every reason against it; then nothing changes.

    Asked for: every gate passed, the shipped file still the one that was measured, and, against a champion, better with a
    paired interval on the same test rows and in nothing worse.
    """
    run = Run.open(run_id)
    model = find(run)
    run.close()
    before = read_models().aliases.get(model.place, {}).get(CHAMPION, "")
    if before == model.run:
        raise UsageError(f"{model.run} is the champion of {model.place} already", next="forge champion")
    reasons, compared = objections(model, before)
    if reasons:
        raise GateFailed(f"{model.run} does not become champion of {model.place}", why="; ".join(reasons), next=_after_refusal(model, before))
    why = compared.sentence if compared else "the first champion: every gate passed"
    with _changing() as draft:
        names = draft["aliases"].setdefault(model.place, {})
        if names.get(CHAMPION, "") != before:
            raise UsageError(f"another process changed the champion of {model.place}", next=f"forge champion --promote {model.run}")
        names[CHAMPION] = model.run
        if names.get(CHALLENGER) == model.run:
            del names[CHALLENGER]
        entry = Promotion(at=round(time.time(), 3), place=model.place, run=model.run, before=before, why=why)
        draft["promotions"].append(entry.model_dump(mode="json"))
    return model, compared


def objections(model: Model, champion: str) -> tuple[list[str], Comparison | None]:
    """Everything that speaks against a promotion, and the comparison with the champion ("" = there is none)."""
    reasons = [f"{name} is {outcome}, not pass" for name, outcome in (("quality", model.quality), ("integrity", model.integrity)) if outcome != "pass"]
    reasons += [
        f"gate {one.name} is {one.outcome}" for one in model.metrics if one.kind != "info" and one.outcome != "pass"
    ]
    reasons += _changed_since(model)
    if not champion:
        return reasons, None
    compared = compare_runs(champion, model.run)
    if compared.better != "second":
        reasons.append(compared.sentence)
    reasons += [f"it is worse in {one.name}: {one.first:.3f} before, {one.second:.3f} now" for one in compared.differences if one.better == "first"]
    return reasons, compared


def _changed_since(model: Model) -> list[str]:
    run = Run.open(model.run)
    try:
        now = {name: run.store.get(name) for name in (*model.lineage.made_of, *model.lineage.measured_on)}
        told = {**model.lineage.made_of, **model.lineage.measured_on}
        return [
            f"{name} is not what was registered" for name, artifact in now.items()
            if artifact is None or artifact.sha256 != told[name] or not run.store.intact(artifact)
        ]
    finally:
        run.close()


def _after_refusal(model: Model, champion: str) -> str:
    return f"forge compare {champion} {model.run}" if champion else f"forge show {model.run} eval"


def find(run: Run) -> Model:
    """The entry of a run, registered now if that was left out. Raises UsageError for a run without a model."""
    model = register(run)
    if model is None:
        why = "it is a rehearsal" if run.dry_run else f"it has published none; its state is {run.state.get('outcome', 'new')}"
        raise UsageError(f"run {run.id} has no model to register", why=why, next=f"forge status {run.id}")
    return model


@contextmanager
def _changing() -> Iterator[dict[str, Any]]:
    """The registry as plain data to change in place, under the lock; written, checked, when the block ends without an error."""
    folder = home()
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / f"{FILE}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        draft = read_models().model_dump(mode="json")
        yield draft
        text = Models.model_validate(draft).model_dump(mode="json")
        write_durably(folder / FILE, json.dumps(text, sort_keys=True, indent=2, ensure_ascii=False) + "\n")
    finally:
        os.close(handle)


def _hashes(run: Run, names: tuple[str, ...]) -> Mapping[str, str]:
    return {name: artifact.sha256 for name in names if (artifact := run.store.get(name))}


def _json(run: Run, name: str) -> dict[str, Any] | None:
    artifact = run.store.get(name)
    if artifact is None:
        return None
    found = json.loads(Path(run.store.open(artifact)).read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else None
