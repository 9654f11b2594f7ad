"""`base: run:ID`: the earlier run's merged model is the base, and nothing that it was taught is taught or tested again."""

from __future__ import annotations

from pathlib import Path

import pytest

from forge.errors import UsageError
from forge.phases.shape import ShapeSettings, phase
from forge.phases.shape.leakage import near_identical, question
from forge.phases.synth import phase as synth
from forge.records import DataContract, Example, Pair, read_jsonl, read_record, write_jsonl
from forge.run import Run
from forge.testing import PhaseRun, run_phase
from tests.test_phases.clock_world import clock_passages, write_clean
from tests.test_phases.finished_run import made_plan
from tests.test_phases.test_known_base import base_folder

pytestmark = pytest.mark.local
TESTS = ("test_recall", "test_unseen", "test_abstain")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of the clock corpus; an earlier run "one" that was taught the first two thirds of them, with its model."""
    folder = tmp_path_factory.mktemp("continuing")
    clean = write_clean(folder / "clean.jsonl", clock_passages())
    run_phase(synth, folder / "synth", inputs={"clean": clean})
    pairs = list(read_jsonl(folder / "synth" / "out" / "pairs.jsonl", Pair))
    write_jsonl(folder / "all.jsonl", pairs)
    facts = sorted({pair.fact for pair in pairs if pair.passage})
    first = set(facts[: 2 * len(facts) // 3])
    write_jsonl(folder / "first.jsonl", [pair for pair in pairs if not pair.passage or pair.fact in first])
    earlier = run_phase(phase, folder / "earlier", settings=ShapeSettings(base="scratch"), inputs={"clean": clean, "pairs": folder / "first.jsonl"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORGE_HOME", str(folder / "home"))
        run = Run.create(folder, dry_run=False, run_id="one")
        plan = folder / "plan.json"
        plan.write_text(made_plan(run="one", name="clocks-2m", base_license="cc-by-sa-4.0").model_dump_json(), encoding="utf-8")
        for name, source in (("model", base_folder(folder / "model", "llama")), ("train", earlier.out / "train.jsonl"), ("plan", plan)):
            sql, values = run.store.record(run.store.publish(name, "made", source, name))
            run.state.execute(sql, *values)
        run.close()
        Run.create(folder, dry_run=True, run_id="dry").close()
    return folder


@pytest.fixture
def home(world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FORGE_HOME", str(world / "home"))
    return world


def shaped(home: Path, folder: Path, pairs: str = "all.jsonl", base: str = "run:one") -> PhaseRun:
    return run_phase(phase, folder, settings=ShapeSettings(base=base), inputs={"clean": home / "clean.jsonl", "pairs": home / pairs})


def rows(result: PhaseRun, name: str) -> list[Example]:
    return list(read_jsonl(result.out / f"{name}.jsonl", Example))


def test_only_what_is_new_is_taught_and_nothing_taught_before_is_tested(home: Path, tmp_path: Path) -> None:
    result = shaped(home, tmp_path)
    taught = list(read_jsonl(home / "earlier" / "out" / "train.jsonl", Example))
    assert rows(result, "train")
    assert not {row.id for row in rows(result, "train")} & {row.id for row in taught}
    for split in TESTS:
        asked = [question(row) for row in rows(result, split)]
        assert not near_identical(asked, [question(row) for row in taught]), split
    assert not {row.group for row in rows(result, "test_unseen")} & {row.group for row in taught}


def test_the_base_is_the_earlier_runs_merged_model_with_its_licence(home: Path, tmp_path: Path) -> None:
    result = shaped(home, tmp_path)
    model = read_record(result.out / "shape.json", DataContract).model
    assert model is not None
    assert (model.kind, model.name, model.license, model.continues) == ("folder", "clocks-2m", "cc-by-sa-4.0", "one")
    assert (result.out / "base-source" / "model.safetensors").read_bytes() == (home / "model" / "model.safetensors").read_bytes()


def test_the_plan_halves_the_rate_and_names_the_run(home: Path, tmp_path: Path) -> None:
    from forge.phases.plan_fit.choice import CONTINUED_RATE, choose
    from forge.phases.plan_fit.settings import PlanFitSettings
    from tests.test_phases.test_plan_fit_choice import CPU, data_of

    contract = read_record(shaped(home, tmp_path / "shape").out / "shape.json", DataContract)
    assert contract.model is not None
    again = data_of(tmp_path / "again", base=contract.base, model=contract.model)
    first = data_of(tmp_path / "first", base=contract.base, model=contract.model.model_copy(update={"continues": ""}))
    rates = [choose(data, CPU, PlanFitSettings(), dry_run=False) for data in (again, first)]
    assert rates[0].lora.learning_rate == CONTINUED_RATE * rates[1].lora.learning_rate
    assert "run one" in rates[0].reasons["continues"]


def test_nothing_new_is_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing new to teach") as error:
        shaped(home, tmp_path, pairs="first.jsonl")
    assert "buckets" in error.value.next


@pytest.mark.parametrize(("word", "fact"), [("run:dry", "no model to go on from"), ("run:nobody", "there is no run")])
def test_a_run_without_a_model_is_refused(home: Path, tmp_path: Path, word: str, fact: str) -> None:
    with pytest.raises(UsageError, match=fact):
        shaped(home, tmp_path, base=word)
