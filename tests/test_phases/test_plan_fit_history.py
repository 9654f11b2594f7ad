"""plan_fit learns from what earlier runs took: always in forecast.json, in the plan itself only where money is at stake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from forge import history
from forge.errors import Interrupted
from forge.history import Told
from forge.phase import Rehearsal
from forge.phases.plan_fit import phase
from forge.phases.plan_fit.settings import PlanFitSettings
from forge.records import Plan, canonical_json, read_record
from forge.run import home
from forge.testing import PhaseRun, run_phase
from tests.test_phases.planned_world import World, rehearsed
from tests.test_phases.test_plan_fit import paid_provider


def fit(tmp_path: Path, name: str, base: str = "scratch", **more: Any) -> PhaseRun:
    corpus, world = tmp_path / "corpus", World(tmp_path / "in")
    corpus.mkdir(exist_ok=True)
    world.contract = {"base": base}
    more.setdefault("rehearse", rehearsed())
    return run_phase(phase, tmp_path / name, inputs=world.write(), corpus=corpus, **more)


def forecast(run: PhaseRun) -> dict[str, Any]:
    return dict(json.loads((run.out / "forecast.json").read_text(encoding="utf-8")))


def earlier(where: str, factor: float, runs: int = 4) -> None:
    """Runs whose training took `factor` times its forecast."""
    home().mkdir(parents=True, exist_ok=True)
    told = [Told(run=f"r{n}", phase="train", where=where, seconds_forecast=60, seconds=60 * factor) for n in range(runs)]
    (home() / history.FILE).write_text("".join(canonical_json(one) + "\n" for one in told), encoding="utf-8")


def test_a_free_plan_stays_the_same_and_its_forecast_is_corrected_with_the_basis(tmp_path: Path) -> None:
    before = fit(tmp_path, "a")
    earlier("local/cpu", 1.5)
    after = fit(tmp_path, "b")
    for name in ("plan.json", "plan.md"):
        assert (before.out / name).read_bytes() == (after.out / name).read_bytes()
    was, now = (next(row for row in forecast(run)["phases"] if row["phase"] == "train") for run in (before, after))
    assert abs(now["seconds_p50"] - 1.5 * was["seconds_p50"]) < 0.1
    assert now["basis"].endswith("x1.5 from 4 earlier runs")
    assert forecast(after)["uncorrected"]["train"]["seconds_p50"] == was["seconds_p50"], "what the next correction is made from"


def test_a_paid_plan_is_corrected_itself_and_a_resumed_one_keeps_what_was_known(tmp_path: Path) -> None:
    rented: dict[str, Any] = {"plugin_dirs": (paid_provider(tmp_path / "plugins", 3.0),), "settings": PlanFitSettings(provider="rented")}
    before = read_record(fit(tmp_path, "a", **rented).out / "plan.json", Plan)
    earlier("rented/big", 2.0)
    with pytest.raises(Interrupted):
        fit(tmp_path, "b", rehearse=stopped, **rented)
    earlier("rented/big", 1.0)
    resumed = fit(tmp_path, "b", **rented)
    corrected = read_record(resumed.out / "plan.json", Plan)
    assert corrected.cost_p50_usd > before.cost_p50_usd
    assert corrected.deadline_seconds >= before.deadline_seconds
    assert "x2 from 4 earlier runs" in (resumed.out / "plan.md").read_text(encoding="utf-8")
    later = read_record(fit(tmp_path, "b", **rented).out / "plan.json", Plan)
    assert later.cost_p50_usd == before.cost_p50_usd, "a plan that is made anew asks anew"


def test_the_speed_of_earlier_runs_on_a_gpu_corrects_every_paid_machine_that_has_one(tmp_path: Path) -> None:
    rented: dict[str, Any] = {"plugin_dirs": (paid_provider(tmp_path / "plugins", 3.0),), "settings": PlanFitSettings(provider="rented")}
    rented |= {"base": "Qwen/Qwen2.5-7B-Instruct"}
    before = read_record(fit(tmp_path, "a", **rented).out / "plan.json", Plan)
    told = Told(run="r1", phase="train", where="another/machine", gpu="NVIDIA H200", rate_forecast=1000, rate=500)
    home().mkdir(parents=True, exist_ok=True)
    (home() / history.FILE).write_text(canonical_json(told) + "\n", encoding="utf-8")
    after = fit(tmp_path, "b", **rented)
    assert read_record(after.out / "plan.json", Plan).cost_p50_usd > before.cost_p50_usd
    assert "x0.5 from 1 earlier run on such a GPU" in (after.out / "plan.md").read_text(encoding="utf-8")


def test_a_machine_whose_own_seconds_are_known_is_not_corrected_by_its_speed_as_well(tmp_path: Path) -> None:
    rented: dict[str, Any] = {"plugin_dirs": (paid_provider(tmp_path / "plugins", 3.0),), "settings": PlanFitSettings(provider="rented")}
    home().mkdir(parents=True, exist_ok=True)
    told = Told(run="r", phase="train", where="rented/big", seconds_forecast=60, seconds=120, gpu="NVIDIA H200", rate_forecast=1000, rate=500)
    lines = [canonical_json(told.model_copy(update={"run": f"r{number}"})) for number in range(3)]
    (home() / history.FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    page = (fit(tmp_path, "a", base="Qwen/Qwen2.5-7B-Instruct", **rented).out / "plan.md").read_text(encoding="utf-8")
    train = next(line for line in page.splitlines() if line.startswith("- train"))
    assert "x2 from 3 earlier runs" in train
    assert "on such a GPU" not in train


def stopped(phases: Any, inputs: Any) -> Rehearsal:
    raise Interrupted
