"""What a tracker (MLflow) gets of a finished run: parameters, numbers with intervals, curves and lineage. Never texts of the corpus."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from forge.errors import UsageError
from forge.model_registry import Model, read_models
from forge.protocols import Tracked
from forge.records import Plan, canonical_json, digest, read_record
from forge.registry import Registry
from forge.run import Run, home, run_ids

STAGES = ("pretrain", "lora")
CURVES = ("loss", "val_loss")


def mirror(registry: Registry, tracker: str, runs: Sequence[str], where: str) -> tuple[str, tuple[str, ...]]:
    """Mirror registered models, all unless named, to a tracker; returns where, and which were new or changed. Idempotent."""
    known = read_models().models
    for run_id in runs:
        if run_id not in known:
            raise UsageError(f"run {run_id} has no registered model", why="rehearsals and unfinished runs are not mirrored", next="forge champion")
    plugin = registry.plugin("tracker", tracker)
    place = where or str(plugin.default).format(home=home().resolve())
    order = [run_id for run_id in reversed(run_ids()) if run_id in known and (not runs or run_id in runs)]
    return place, plugin.mirror([tracked(known[run_id]) for run_id in order], place)


def tracked(model: Model) -> Tracked:
    """A registered model as trackers get it."""
    run = Run.open(model.run)
    try:
        plan_file = run.store.get("plan")
        plan = read_record(run.store.open(plan_file), Plan) if plan_file else None
        report, started, ended = _json(run, "train_report"), *_times(run)
    finally:
        run.close()
    metrics = {"spent_usd": model.spent_usd, "parameters": float(model.parameters), **_numbers(model)}
    params = _params(plan) if plan else {}
    tags = {
        "forge.place": model.place, "forge.quality": model.quality, "forge.integrity": model.integrity, "forge.published": model.published,
        "forge.plan": model.lineage.plan, "forge.base": model.lineage.base,
        **{f"forge.sha256.{name}": sha256 for name, sha256 in sorted({**model.lineage.made_of, **model.lineage.trained_on}.items())},
    }
    curves = _curves(report)
    content = digest(canonical_json([model.name, model.place, params, metrics, tags, {name: list(curve) for name, curve in curves.items()}]))
    return Tracked(
        run=model.run, name=f"{model.name} ({model.run})", place=model.place, params=params, metrics=metrics, curves=curves, tags=tags,
        started=started, ended=ended, sha256=content,
    )


def _numbers(model: Model) -> dict[str, float]:
    """Each measured number, and the ends of its interval as NAME.low and NAME.high."""
    found: dict[str, float] = {}
    for one in model.metrics:
        if one.estimate is not None:
            found[one.name] = one.estimate
        if one.ci is not None:
            found |= {f"{one.name}.low": one.ci[0], f"{one.name}.high": one.ci[1]}
    return found


def _params(plan: Plan) -> dict[str, str]:
    """Every number that the trainer used, by dotted name."""
    tree = {name: getattr(plan, name) for name in ("base", "precision", "seed", "teacher", "task", "architecture")}
    parts = {"lora": plan.lora, "scratch": plan.scratch}
    nested = {f"{name}.{key}": value for name, part in parts.items() if part for key, value in part.model_dump(mode="json").items()}
    return {key: str(value) for key, value in {**tree, **nested}.items()}


def _curves(report: dict[str, Any]) -> dict[str, tuple[tuple[int, float], ...]]:
    found = {}
    for stage, value in report.items():
        for name in CURVES if isinstance(value, dict) else ():
            if points := _points(value.get(name)):
                found[f"{stage}.{name}"] = points
    return found


def _points(value: Any) -> tuple[tuple[int, float], ...]:
    return tuple((int(step), float(loss)) for step, loss in value) if isinstance(value, list) else ()


def _times(run: Run) -> tuple[float, float]:
    rows: Iterable[Any] = run.state.rows("SELECT started, ended FROM phase WHERE started IS NOT NULL")
    created = float(run.state.get("created", "0"))
    return created, max((float(row["ended"]) for row in rows if row["ended"]), default=created)


def _json(run: Run, name: str) -> dict[str, Any]:
    artifact = run.store.get(name)
    found = json.loads(run.store.open(artifact).read_text(encoding="utf-8")) if artifact else {}
    return found if isinstance(found, dict) else {}
