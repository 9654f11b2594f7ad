"""`forge champion`: the registry of models as tables."""

from __future__ import annotations

import time
from typing import Any

from forge import model_registry, ui
from forge.cli.words import duration
from forge.errors import ForgeError
from forge.model_registry import CHALLENGER, CHAMPION, Model, Models
from forge.run import Run, run_ids


def show_all(*, as_json: bool) -> None:
    """Every place with its champion and challenger. Runs that finished before there was a registry are registered now."""
    found = registered()
    if as_json:
        ui.out_json(found.model_dump(mode="json"))
        return
    if not found.models:
        ui.out("no models yet")
        ui.next_step("forge run CORPUS --budget USD")
        return
    rows = [(model.place, model.run, found.alias_of(model.run), model.quality, _lead(model), model.name) for model in _newest_first(found)]
    ui.table(rows, ("for", "run", "", "quality", "first measure", "model"))
    ui.next_step(_following(found))


def show_model(run_id: str, *, as_json: bool) -> None:
    """One model: numbers with intervals, what it is made of and was trained on, what is against its promotion."""
    model = _one(run_id)
    found = model_registry.read_models()
    before = found.aliases.get(model.place, {}).get(CHAMPION, "")
    reasons: list[str] = [] if before == model.run else model_registry.objections(model, before)[0]
    if as_json:
        ui.out_json({**model.model_dump(mode="json"), "alias": found.alias_of(model.run), "against_promotion": reasons})
        return
    age = duration(max(0.0, time.time() - model.registered))
    ui.out(f"{model.name} · run {model.run} · {found.alias_of(model.run) or 'registered'} for {model.place} · {age} old")
    measured = [(v.name, _number(v.estimate), f"{v.ci[0]:.3f} to {v.ci[1]:.3f}" if v.ci else "-", str(v.n), "-" if v.kind == "info" else v.outcome) for v in model.metrics]
    ui.table(measured, ("measure", "value", "95 % interval", "n", "gate"))
    ui.out()
    ui.table(_lineage(model), ("", "sha256"))
    ui.lines(f"  against promotion: {reason}" for reason in reasons)
    if before == model.run:
        ui.next_step(f"forge chat {model.run}")
    else:
        ui.next_step(f"forge compare {before or model.run + ':base'} {model.run}" if reasons else f"forge champion --promote {model.run}")


def promote(run_id: str, *, as_json: bool) -> None:
    """Make a run's model the champion, and say why."""
    registered()
    model, compared = model_registry.promote(run_id)
    if as_json:
        ui.out_json({"champion": model.run, "place": model.place, "comparison": compared.model_dump(mode="json") if compared else None})
        return
    ui.out(f"{model.run} ({model.name}) is champion of {model.place}: {compared.sentence if compared else 'the first, and every gate passed'}")
    ui.next_step(f"forge chat {model.run}")


def registered() -> Models:
    """The registry with every run of this home that has a model; runs whose state is damaged are left out."""
    known = model_registry.read_models().models
    for run_id in reversed(run_ids()):
        if run_id in known:
            continue
        try:
            run = Run.open(run_id)
        except ForgeError:
            continue
        model_registry.register(run)
        run.close()
    return model_registry.read_models()


def _one(run_id: str) -> Model:
    run = Run.open(run_id)
    try:
        registered()
        return model_registry.find(run)
    finally:
        run.close()


def _newest_first(found: Models) -> list[Model]:
    return sorted(found.models.values(), key=lambda model: (model.place, -model.registered))


def _lead(model: Model) -> str:
    lead = next((one for one in model.metrics if one.kind == "quality" and one.estimate is not None), None)
    if lead is None:
        return "-"
    interval = f" ({lead.ci[0]:.2f} to {lead.ci[1]:.2f})" if lead.ci else ""
    return f"{lead.name} {_number(lead.estimate)}{interval}"


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}"


def _lineage(model: Model) -> list[tuple[str, str]]:
    line = model.lineage
    groups = (("made of", line.made_of), ("trained on", line.trained_on), ("measured on", line.measured_on))
    rows = [("plan", line.plan[:16]), *((f"{group}: {name}", sha256[:16]) for group, hashes in groups for name, sha256 in hashes.items())]
    return [("base", line.base), *([("continues", f"run {line.continues}")] if line.continues else []), *rows]


def _following(found: Models) -> str:
    for names in found.aliases.values():
        if CHALLENGER in names:
            return f"forge champion --promote {names[CHALLENGER]}"
    return f"forge chat {next(iter(found.aliases.values()))[CHAMPION]}" if found.aliases else "forge runs"
