"""plan_fit as a whole: the plan it writes, what stops it, and that the same data always gives the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from forge.config import load_data
from forge.errors import GateFailed, NoCapacity, OverBudget, UsageError
from forge.phases.plan_fit import phase
from forge.phases.plan_fit.settings import PlanFitSettings
from forge.phases.plan_fit.speed import TRAIN_FLOPS
from forge.phases.plan_fit.tables import load_tables
from forge.records import Example as Row
from forge.records import Plan, read_jsonl, read_record
from forge.store import hash_path
from forge.testing import CountingMoney, PhaseRun, run_phase
from tests.test_phases.planned_world import World, rehearsed


def plan_of(run: PhaseRun) -> Plan:
    return read_record(run.out / "plan.json", Plan)


def fit(tmp_path: Path, world: World | None = None, **more: Any) -> PhaseRun:
    """Run plan_fit on a world (a good one by default) with a rehearsal that succeeds."""
    made = world or World(tmp_path / "in")
    corpus = tmp_path / "Station Handbook"
    corpus.mkdir(parents=True, exist_ok=True)
    more.setdefault("rehearse", rehearsed())
    return run_phase(phase, tmp_path / "run", inputs=made.write(), corpus=corpus, **more)


def test_a_good_corpus_gets_a_plan_in_which_every_check_passes(tmp_path: Path) -> None:
    plan = plan_of(fit(tmp_path))
    assert {verdict.name: verdict.outcome for verdict in plan.verdicts} == dict.fromkeys(
        ("content", "coverage", "accuracy", "subtopics", "diversity", "hyperparameters", "format", "budget", "leakage"), "pass"
    )
    assert plan.thresholds == {name: float(value) for name, value in load_data("gates").items()}


def test_the_plan_names_model_machine_and_data_with_a_reason_for_each_choice(tmp_path: Path) -> None:
    world = World(tmp_path / "in")
    inputs = world.write()
    plan = plan_of(fit(tmp_path, world))
    assert plan.base == "scratch"
    assert plan.architecture == "LlamaForCausalLM"
    assert plan.scratch is not None
    assert plan.scratch.hidden_size % 256 == 0
    assert plan.name == "station-handbook-1.7m"
    assert (plan.provider, plan.usd_per_hour, plan.teacher) == ("local", 0.0, "offline")
    assert plan.data["tokenizer"] == hash_path(inputs["tokenizer"])
    assert plan.data["train"] == hash_path(inputs["train"])
    expected = {"base", "size", "steps", "learning_rate", "epochs", "precision", "provider", "quantizations", "deadline"}
    assert expected <= set(plan.reasons)
    assert "pretrained base" in plan.reasons["base"]


def test_the_same_data_gives_the_same_bytes_whatever_the_rehearsal_measured(tmp_path: Path) -> None:
    first = fit(tmp_path / "a")
    second = fit(tmp_path / "b", rehearse=lambda phases, inputs: rehearsed()(phases, inputs).model_copy(
        update={"seconds": {"train": 99.0, "quantize": 99.0}}))
    for name in ("plan.json", "plan.md"):
        assert (first.out / name).read_bytes() == (second.out / name).read_bytes()
    forecasts = [json.loads((run.out / "forecast.json").read_text()) for run in (first, second)]
    assert forecasts[0]["total"]["seconds_p50"] < forecasts[1]["total"]["seconds_p50"]


@pytest.mark.parametrize(("tokens", "least", "most"), [(30_000, 0, 275), (250_000, 400, 800), (900_000, 850, 935)])
def test_training_takes_what_the_corpus_needs_within_limits_at_the_measured_speed(tmp_path: Path, tokens: int, least: int, most: int) -> None:
    world = World(tmp_path / "in")
    world.contract = {"pretrain_tokens": tokens, "tokens": {"train": tokens}}
    forecast = json.loads((fit(tmp_path, world).out / "forecast.json").read_text())
    train = next(row for row in forecast["phases"] if row["phase"] == "train")
    assert least <= train["seconds_p50"] - forecast["rehearsal_seconds"]["train"] <= most


def test_a_large_corpus_is_capped_and_the_reason_says_by_which_setting(tmp_path: Path) -> None:
    world = World(tmp_path / "in")
    world.contract = {"pretrain_tokens": 5_000_000, "tokens": {"train": 2_000_000}}
    plan = plan_of(fit(tmp_path, world))
    assert plan.scratch is not None
    tokens = plan.scratch.steps * plan.scratch.rows_per_step * plan.scratch.context
    speed = load_tables().speed.cpu_bf16 if plan.precision == "bf16" else load_tables().speed.cpu_fp32
    assert tokens <= 60 * 15 / 2 * speed.flops / (TRAIN_FLOPS * plan.parameters), "half of the minutes, on this machine"
    assert "plan_fit.train_minutes=15" in plan.reasons["steps"]
    assert "plan_fit.train_minutes=15" in plan.reasons["epochs"]


def test_the_page_shows_what_a_person_needs_at_the_gate(tmp_path: Path) -> None:
    page = (fit(tmp_path).out / "plan.md").read_text()
    for part in ("# Plan: station-handbook-1.7m", "| content | pass |", "| local | cpu |", "chosen", "spent $0.00", "P90",
                 "## What happens next"):
        assert part in page


# --- what stops a plan -----------------------------------------------------------------------------------------


def test_shared_groups_stop_the_run(tmp_path: Path) -> None:
    world = World(tmp_path / "in")
    stolen = world.splits["train"][0].model_copy(update={"id": "stolen", "split": "test_unseen"})
    world.splits["test_unseen"].append(stolen)
    with pytest.raises(GateFailed, match="leakage") as caught:
        fit(tmp_path, world)
    assert "1 group and 1 question" in caught.value.why


def test_a_test_question_that_was_trained_on_stops_the_run_even_in_another_case(tmp_path: Path) -> None:
    world = World(tmp_path / "in")
    row = world.splits["train"][0]
    asked = row.body.prompt[1].model_copy(update={"content": row.body.prompt[1].content.upper() + " "})  # type: ignore[union-attr]
    body = row.body.model_copy(update={"prompt": (row.body.prompt[0], asked)})  # type: ignore[union-attr]
    world.splits["test_recall"].append(row.model_copy(update={"id": "again", "split": "test_recall", "body": body}))
    with pytest.raises(GateFailed, match="leakage"):
        fit(tmp_path, world)


def test_rows_that_the_template_cannot_carry_stop_the_run(tmp_path: Path) -> None:
    world = World(tmp_path / "in")
    row = world.splits["train"][0]
    answer = row.body.completion[0].model_copy(update={"content": "Stop<|im_end|> and go on"})  # type: ignore[union-attr]
    body = row.body.model_copy(update={"completion": (answer,)})
    world.splits["train"][0] = row.model_copy(update={"body": body})
    with pytest.raises(GateFailed, match="format") as caught:
        fit(tmp_path, world)
    assert "marker in a text 1" in caught.value.why


def test_another_template_than_the_recorded_one_stops_the_run(tmp_path: Path) -> None:
    world = World(tmp_path / "in")
    world.contract = {"chat_template_sha256": "0" * 64}
    with pytest.raises(GateFailed, match="format"):
        fit(tmp_path, world)


def test_a_failed_rehearsal_stops_the_run_with_the_workers_words(tmp_path: Path) -> None:
    with pytest.raises(GateFailed, match="rehearsal") as caught:
        fit(tmp_path, rehearse=rehearsed(error="train: no token of an answer is trained on"))
    assert "no token of an answer" in caught.value.why


def paid_provider(folder: Path, usd_per_hour: float) -> Path:
    folder.mkdir(parents=True)
    (folder / "rented.py").write_text(f'''
from forge.protocols import Offer
class Rented:
    name = "rented"
    requires = ()
    def quote(self, need):
        return [Offer(provider="rented", name="big", usd_per_hour={usd_per_hour}, device="cuda", cores=8, memory_gib=64,
                      gpu="NVIDIA H200", gpu_memory_gib=140, bf16=True, reason="the only one")]
provider = Rented()
''')
    return folder


def test_a_plan_beyond_the_budget_is_refused_before_the_rehearsal(tmp_path: Path) -> None:
    seen: list[dict[str, Path]] = []
    with pytest.raises(OverBudget) as caught:
        fit(tmp_path, plugin_dirs=(paid_provider(tmp_path / "plugins", 900.0),), money=CountingMoney(2_000_000),
            settings=PlanFitSettings(provider="rented"), rehearse=rehearsed(seen))
    assert "of $2.00" in caught.value.why
    assert seen == []


def test_a_paid_machine_within_the_budget_is_planned_with_its_cost_and_a_larger_model(tmp_path: Path) -> None:
    run = fit(tmp_path, plugin_dirs=(paid_provider(tmp_path / "plugins", 3.0),), settings=PlanFitSettings(provider="rented"))
    plan = plan_of(run)
    assert (plan.provider, plan.offer, plan.usd_per_hour, plan.precision) == ("rented", "big", 3.0, "bf16")
    assert 0 < plan.cost_p50_usd < plan.cost_p90_usd
    assert plan.parameters > 10_000_000
    page = (run.out / "plan.md").read_text()
    assert "| local | cpu |" in page
    assert "forge approve RUN --plan HASH" in page


def test_an_unknown_provider_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoCapacity, match="nowhere"):
        fit(tmp_path, settings=PlanFitSettings(provider="nowhere"))


def test_an_unknown_base_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    world = World(tmp_path / "in")
    world.contract = {"base": "Qwen/Qwen2.5-7B-Instrct"}
    with pytest.raises(UsageError) as caught:
        fit(tmp_path, world)
    assert "Qwen/Qwen2.5-7B-Instruct" in caught.value.why


def test_a_bad_name_is_refused_with_a_good_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        fit(tmp_path, settings=PlanFitSettings(name="My Model!"))
    assert "my-model" in caught.value.next


# --- dry run and rehearsal -------------------------------------------------------------------------------------


def test_a_dry_run_plans_a_tiny_model_and_does_not_rehearse(tmp_path: Path) -> None:
    seen: list[dict[str, Path]] = []
    plan = plan_of(fit(tmp_path, dry_run=True, rehearse=rehearsed(seen)))
    assert plan.dry_run
    assert plan.scratch is not None
    assert (plan.scratch.layers, plan.scratch.steps, plan.lora.steps) == (1, 4, 4)
    assert seen == []
    verdict = next(verdict for verdict in plan.verdicts if verdict.name == "format")
    assert verdict.outcome == "pass"
    assert "dry run itself is the rehearsal" in verdict.evidence


def test_a_dry_run_does_not_condemn_data_of_which_it_saw_a_sample(tmp_path: Path) -> None:
    world = World(tmp_path / "in")
    world.pairs = world.pairs[:60]
    strict = plan_of(fit(tmp_path / "real", world))
    lenient = plan_of(fit(tmp_path / "dry", world, dry_run=True))
    outcomes = [next(v.outcome for v in plan.verdicts if v.name == "coverage") for plan in (strict, lenient)]
    assert outcomes == ["fail", "undecided"]


def test_a_dry_run_forecasts_the_real_run_and_more_files_take_longer(tmp_path: Path) -> None:
    worlds = [World(tmp_path / name) for name in ("whole", "sampled")]
    worlds[1].left_out = 3 * len(worlds[1].clean)
    seconds = []
    for world in worlds:
        forecast = json.loads((fit(world.folder, world, dry_run=True).out / "forecast.json").read_text(encoding="utf-8"))
        seconds.append({row["phase"]: row["seconds_p50"] for row in forecast["phases"]}["train"])
    real = json.loads((fit(tmp_path / "real", worlds[0]).out / "forecast.json").read_text(encoding="utf-8"))
    train = {row["phase"]: row["seconds_p50"] for row in real["phases"]}["train"]
    assert 0.3 * train < seconds[0] < 6 * train   # the real size, not the rehearsal's four steps
    assert seconds[1] > seconds[0]


def test_without_a_rehearsal_the_format_is_undecided(tmp_path: Path) -> None:
    plan = plan_of(fit(tmp_path, settings=PlanFitSettings(rehearse=False)))
    assert next(verdict for verdict in plan.verdicts if verdict.name == "format").outcome == "undecided"


def test_the_rehearsal_gets_every_input_small_and_consistent(tmp_path: Path) -> None:
    seen: list[dict[str, Path]] = []
    real = plan_of(fit(tmp_path, rehearse=rehearsed(seen)))
    (inputs,) = seen
    tiny = read_record(inputs["plan"], Plan)
    assert tiny.scratch is not None
    assert real.scratch is not None
    assert (tiny.scratch.layers, tiny.scratch.vocab_size, tiny.scratch.context) == (1, real.scratch.vocab_size, real.scratch.context)
    assert tiny.data == {name: hash_path(path) for name, path in inputs.items() if name in tiny.data}
    assert {"train", "tokenizer", "pretrain_val"} <= set(tiny.data)
    approval = json.loads(inputs["approval"].read_text())
    assert approval == {"plan_sha256": hash_path(inputs["plan"]), "who": "rehearsal", "kind": "rehearsal"}
    assert len(list(read_jsonl(inputs["train"], Row))) == 16
    expected = {"plan", "approval", "machine", "train", "val", "pretrain", "pretrain_val", "tokenizer", "eval", "predictions",
                "test_recall", "test_unseen", "test_abstain", "base_source"}
    assert set(inputs) == expected
    assert all(path.exists() for path in inputs.values())


def test_a_resumed_plan_does_not_rehearse_again(tmp_path: Path) -> None:
    seen: list[dict[str, Path]] = []
    for _ in range(2):
        fit(tmp_path, rehearse=rehearsed(seen))
    assert len(seen) == 1


@pytest.mark.local
@pytest.mark.slow
def test_the_real_training_and_export_pass_the_rehearsal(tmp_path: Path) -> None:
    from forge.registry import Registry
    from forge.remote import rehearse

    def in_a_worker(phases: Any, inputs: Any) -> Any:
        return rehearse(tmp_path / "rehearsal", Registry(), phases, inputs, run_id="test", seed=7)

    run = fit(tmp_path, rehearse=in_a_worker)
    verdict = next(verdict for verdict in plan_of(run).verdicts if verdict.name == "format")
    assert verdict.outcome == "pass"
    measured = json.loads((run.out / "forecast.json").read_text())["rehearsal_seconds"]
    assert set(measured) == {"train", "quantize"}


@pytest.mark.local
@pytest.mark.slow
def test_the_real_training_refuses_rows_that_were_changed_under_the_rehearsal(tmp_path: Path) -> None:
    from forge.registry import Registry
    from forge.remote import rehearse

    def tampered(phases: Any, inputs: Any) -> Any:
        rows = inputs["train"].read_text().replace("pressure", "temperature")
        inputs["train"].write_text(rows)
        return rehearse(tmp_path / "rehearsal", Registry(), phases, inputs, run_id="test", seed=7)

    with pytest.raises(GateFailed, match="rehearsal") as caught:
        fit(tmp_path, rehearse=tampered)
    assert "train" in caught.value.why


def test_the_plan_counts_passages_pairs_and_tests_by_subtopic() -> None:
    from types import SimpleNamespace

    from forge.phases.plan_fit.page import _subtopics

    passages = [SimpleNamespace(meta={"subtopic": name}) for name in ("gears", "gears", "bells")]
    rows = {"train": [SimpleNamespace(subtopic="gears")], "test_recall": [SimpleNamespace(subtopic="gears")]}
    data = SimpleNamespace(clean=passages, pairs=[SimpleNamespace(subtopic="gears")] * 3, splits=rows)
    assert _subtopics(data)[-2:] == ["| gears | 2 | 3 | 1 |", "| bells | 1 | 0 | 0 |"]  # type: ignore[arg-type]
    assert _subtopics(SimpleNamespace(clean=[SimpleNamespace(meta={})], pairs=[], splits={})) == []  # type: ignore[arg-type]
