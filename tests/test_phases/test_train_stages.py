"""One adapter through two data sets: order, rates, kept adapters, and a kill between and inside stages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from forge.context import FolderContext, InputFile
from forge.errors import Interrupted, UsageError
from forge.phases.train import TrainSettings, phase
from forge.records import Example, LoraPlan, StagePlan, read_jsonl, write_jsonl
from forge.registry import Registry
from forge.store import hash_path
from forge.testing import CountingMoney, run_phase
from tests.test_phases.tiny_training import approve, make_inputs

pytestmark = pytest.mark.local
SETTINGS = TrainSettings(checkpoint_steps=2, log_steps=1)
LORA = LoraPlan(
    rank=4, alpha=8, target_modules="all-linear", learning_rate=4e-3, epochs=1, steps=11, examples_per_step=4, max_length=128
)
STAGES = (
    StagePlan(name="tone", rows=12, lora=LORA.model_copy(update={"steps": 5})),
    StagePlan(name="domain", rows=16, lora=LORA.model_copy(update={"steps": 6, "learning_rate": 2e-3})),
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Half of the training rows teach "tone", the rest "domain"; the plan has both stages."""
    folder = tmp_path_factory.mktemp("inputs")
    paths = make_inputs(folder, steps=2, lora_steps=11)
    rows = list(read_jsonl(paths["train"], Example))
    write_jsonl(paths["train"], [row.model_copy(update={"stage": "tone" if i < 12 else "domain"}) for i, row in enumerate(rows)])
    approve(folder, paths, steps=2, lora_steps=11, stages=STAGES)
    return paths


@pytest.fixture(scope="module")
def straight(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_phase(phase, tmp_path_factory.mktemp("straight"), settings=SETTINGS, inputs=inputs).out


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "adapter_model.safetensors"))


def test_every_stage_leaves_its_adapter_and_the_last_one_ships(straight: Path) -> None:
    assert json.loads((straight / "stages" / "index.json").read_text()) == [
        {"folder": "1-tone", "name": "tone"}, {"folder": "2-domain", "name": "domain"},
    ]
    assert hash_path(straight / "stages" / "2-domain") == hash_path(straight / "adapter")
    assert hash_path(straight / "stages" / "1-tone") != hash_path(straight / "adapter")
    report = json.loads((straight / "train.json").read_text())
    assert [(stage["name"], stage["steps"]) for stage in report["stages"]] == [("tone", 5), ("domain", 6)]
    assert [step for step, _ in report["lora"]["loss"]] == list(range(1, 12))
    assert report["guards"]["adapter_not_zero"]


def test_the_second_stage_goes_on_from_the_first(inputs: dict[str, Path], straight: Path, tmp_path: Path) -> None:
    """A second stage that hardly learns ends where the first one ended."""
    still = (STAGES[0], STAGES[1].model_copy(update={"lora": STAGES[1].lora.model_copy(update={"learning_rate": 1e-12})}))
    paths = dict(inputs)
    approve(tmp_path, paths, steps=2, lora_steps=11, stages=still)
    out = run_phase(phase, tmp_path / "run", settings=SETTINGS, inputs=paths).out
    import torch

    first, last = weights(out / "stages" / "1-tone"), weights(out / "adapter")
    assert set(first) == set(last)
    for name, weight in first.items():
        assert torch.allclose(weight, last[name], atol=1e-6), name
    assert weights(straight / "stages" / "1-tone").keys() == first.keys()
    assert hash_path(straight / "stages" / "1-tone") == hash_path(out / "stages" / "1-tone")


def at_call(number: int) -> Callable[[], bool]:
    calls: Iterator[int] = count(1)
    return lambda: next(calls) == number


@pytest.mark.parametrize("call", [5, 8, 12], ids=["first stage", "between", "second stage"])
def test_a_stopped_run_goes_on_to_the_same_bytes(call: int, straight: Path, inputs: dict[str, Path], tmp_path: Path) -> None:
    def run(stop: Callable[[], bool]) -> Path:
        ctx = FolderContext(
            tmp_path, run_id="test", seed=7, dry_run=False, writes=phase.writes, registry=Registry(), money=CountingMoney(),
            inputs={name: InputFile(path=str(path), sha256=hash_path(path)) for name, path in inputs.items()},
            emit=lambda kind, fields: None, stop_requested=stop,
        )
        try:
            phase.run(SETTINGS, ctx)
        finally:
            ctx.close()
        return ctx.out

    with pytest.raises(Interrupted):
        run(at_call(call))
    again = run(lambda: False)
    for name in ("base", "adapter", "stages", "train.json"):
        assert hash_path(again / name) == hash_path(straight / name), name


def test_a_run_without_stages_says_so(tmp_path: Path) -> None:
    out = run_phase(phase, tmp_path / "run", settings=SETTINGS, inputs=make_inputs(tmp_path / "in", steps=2, lora_steps=2)).out
    assert json.loads((out / "stages" / "index.json").read_text()) == []


def test_the_trainer_reports_where_it_is_told_to_and_trains_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "tiny")
    inputs = make_inputs(tmp_path / "in", steps=2, lora_steps=3)
    told = run_phase(phase, tmp_path / "told", settings=SETTINGS.model_copy(update={"report_to": ("mlflow",)}), inputs=inputs).out
    quiet = run_phase(phase, tmp_path / "quiet", settings=SETTINGS, inputs=inputs).out
    assert hash_path(told / "adapter") == hash_path(quiet / "adapter")
    client = mlflow.tracking.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 3
    with pytest.raises(UsageError, match=r"train\.report_to=nowhere"):
        run_phase(phase, tmp_path / "odd", settings=SETTINGS.model_copy(update={"report_to": ("nowhere",)}), inputs=inputs)
