"""Evaluation of stage n after stage n+1: the table of models, scores by prompt, and a stage that was overwritten is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from forge.phases.eval import EvalSettings
from forge.phases.eval import phase as eval_phase
from forge.phases.eval.stages import measure_verdicts
from forge.phases.train import TrainSettings
from forge.phases.train import phase as train_phase
from forge.protocols import Prediction
from forge.records import Chat, Example, LoraPlan, Message, StagePlan, read_jsonl, write_jsonl
from forge.store import hash_path
from forge.testing import run_phase
from tests.test_phases.tiny_training import approve, make_inputs

LORA = LoraPlan(rank=4, alpha=8, target_modules="all-linear", learning_rate=4e-3, epochs=1, steps=20, examples_per_step=4, max_length=128)
STAGES = (StagePlan(name="tone", rows=12, lora=LORA), StagePlan(name="domain", rows=16, lora=LORA))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Everything that eval reads after a training in two stages: half of the facts are taught in each."""
    folder = tmp_path_factory.mktemp("stages")
    paths = make_inputs(folder / "in", steps=4)
    for name in ("train", "test_recall", "test_unseen"):
        rows = list(read_jsonl(paths[name], Example))
        half = len(rows) // 2
        write_jsonl(paths[name], [row.model_copy(update={"stage": "tone" if i < half else "domain"}) for i, row in enumerate(rows)])
    approve(folder / "in", paths, steps=4, lora_steps=40, stages=STAGES)
    out = run_phase(train_phase, folder / "train", settings=TrainSettings(checkpoint_steps=50, log_steps=5), inputs=paths).out
    return {**paths, "base_model": out / "base", "adapter": out / "adapter", "stage_adapters": out / "stages", "train_report": out / "train.json"}


@pytest.mark.local
def test_base_first_stage_and_final_model_stand_side_by_side(inputs: dict[str, Path], tmp_path: Path) -> None:
    settings = EvalSettings(max_generated=4, max_abstain=2, max_base=4, max_baseline=0, max_new_tokens=8, probes=False)
    given = {name: path for name, path in inputs.items() if name in eval_phase.reads}
    out = run_phase(eval_phase, tmp_path / "one", settings=settings, inputs=given).out
    report = json.loads((out / "eval.json").read_text())
    stages = report["stages"]
    assert stages["models"] == ["base", "after_tone", "final"]
    assert [row["stage"] for row in stages["table"]] == ["tone", "domain"]
    tone, domain = (row["nats_per_token"] for row in stages["table"])
    assert tone["after_tone"]["mean"] < tone["base"]["mean"]
    assert domain["final"]["mean"] < domain["after_tone"]["mean"]
    assert tone["final"]["low"] <= tone["final"]["mean"] <= tone["final"]["high"]
    prompt = stages["prompts"][0]
    assert set(prompt["nats_per_token"]) == {"base", "after_tone", "final"}
    assert "after_tone" in prompt["answers"]
    kept = next(one for one in report["verdicts"] if one["name"] == "kept_tone")
    assert kept["n"] == next(row["rows"] for row in stages["table"] if row["stage"] == "tone")
    again = run_phase(eval_phase, tmp_path / "two", settings=settings, inputs=given).out
    assert hash_path(again / "eval.json") == hash_path(out / "eval.json")
    shown = list(eval_phase.tables(lambda name: out / f"{name}.json", dropped=False))
    first = next(place for place, table in enumerate(shown) if table.head[0] == "questions of")
    assert shown[first].head == ("questions of", "rows", "base", "after_tone", "final")
    assert len(shown[first + 1].rows) == len(stages["prompts"])


def test_a_stage_that_a_later_one_overwrote_fails_and_one_that_was_kept_passes() -> None:
    rows = [row(i) for i in range(40)]
    told = {one.id: prediction(one.id) for one in rows}
    learnt = {one.id: 10.0 + i % 3 for i, one in enumerate(rows)}
    lost, kept = ({name: nats + change for name, nats in learnt.items()} for change in (4.0, -1.0))
    verdicts = [
        measure_verdicts(["tone", "domain"], rows, {"after_tone": learnt, "final": final}, told, 7)[0] for final in (lost, kept)
    ]
    assert [one.outcome for one in verdicts] == ["fail", "pass"]
    assert verdicts[0].estimate == 1.0     # 4 nats over 4 tokens
    assert verdicts[0].name == "kept_tone"


def row(number: int) -> Example:
    body = Chat(prompt=(Message(role="user", content="?"),), completion=(Message(role="assistant", content="!"),))
    return Example(id=f"r{number}", split="test_recall", group=f"g{number // 2}", stage="tone", body=body)


def prediction(name: str) -> Prediction:
    return Prediction(id=name, split="test_recall", group="g", prompt=(), gold="!", answerable=True, answer_tokens=4, nll_base=1, nll_tuned=1)
