"""Labels and extractions from a data file to a verdict: shape, train and eval for real, on data that a tiny model can learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from forge.phases.eval import EvalSettings
from forge.phases.eval import phase as evaluation
from forge.phases.shape import ShapeSettings
from forge.phases.shape import phase as shaping
from forge.phases.train import phase as training
from forge.protocols import Prediction
from forge.records import DataContract, LoraPlan, read_jsonl, read_record, write_jsonl
from forge.testing import run_phase, tiny_corpus
from tests.test_phases.tiny_training import SHAPE, approve

pytestmark = [pytest.mark.local, pytest.mark.slow]
PLACES = ["north hall", "south yard", "old mill", "deep pit", "wide dock", "low barn", "west gate", "dry well"]
TOOLS = ["valve", "pump", "filter", "motor", "gasket", "rotor", "clamp", "gauge"]
STATES = {"OPEN": ("opened", "lifted"), "SHUT": ("closed", "sealed"), "STUCK": ("jammed", "frozen")}


def label_data() -> str:
    rows = []
    for number in range(360):
        label = list(STATES)[number % 3]
        word, tool, place = STATES[label][number % 2], TOOLS[(number * 5) % 8], PLACES[(number * 3 + number // 8) % 8]
        rows.append({"text": f"In the {place} the {tool} {number % 13} was {word} today.", "label": label, "doc": f"d{number // 4}"})
    return "".join(json.dumps(row) + "\n" for row in rows)


def extract_data() -> str:
    rows = []
    for number in range(360):
        tool = ("", *TOOLS[:3])[number % 4]
        text = f"The {tool or 'room'} {number % 13} was seen {number // 13} times."
        start = text.find(tool) if tool else -1
        rows.append({"text": text, "entities": [{"type": "Tool", "start": start, "end": start + len(tool)}] if tool else [], "doc": f"d{number // 4}"})
    return "".join(json.dumps(row) + "\n" for row in rows)


def run_chain(folder: Path, task: str, data: str, lora_steps: int) -> tuple[dict[str, Any], list[Prediction]]:
    """eval.json and the predictions of a model that was trained on a data file."""
    corpus = tiny_corpus(folder / "corpus", {"data.jsonl": data})
    write_jsonl(folder / "none.jsonl", [])
    inputs = {"clean": folder / "none.jsonl", "pairs": folder / "none.jsonl"}
    shaped = run_phase(shaping, folder / "shape", settings=ShapeSettings(base="scratch", vocab_size=400), inputs=inputs, corpus=corpus, task=task).out
    names = ("train", "val", "test_recall", "test_unseen", "test_abstain", "pretrain", "pretrain_val")
    paths = {name: shaped / f"{name}.jsonl" for name in names} | {"tokenizer": shaped / "tokenizer", "base_source": shaped / "base-source"}
    contract = read_record(shaped / "shape.json", DataContract)
    lora = LoraPlan(rank=16, alpha=32, target_modules="all-linear", learning_rate=5e-3, epochs=1, steps=lora_steps, examples_per_step=8, max_length=128)
    scratch = SHAPE.model_copy(update={"layers": 2, "hidden_size": 128, "intermediate_size": 256, "steps": 60, "vocab_size": max(SHAPE.vocab_size, contract.vocab_size)})
    (folder / "plan").mkdir()
    approve(folder / "plan", paths, task=task, system_prompt=contract.system_prompt, abstention="", lora=lora, scratch=scratch)
    trained = run_phase(training, folder / "train", inputs=paths).out
    made = {**paths, "base_model": trained / "base", "adapter": trained / "adapter"}
    settings = EvalSettings(max_new_tokens=24, max_baseline=16, max_base=4)
    out = run_phase(evaluation, folder / "eval", settings=settings, inputs=made).out
    return json.loads((out / "eval.json").read_text()), list(read_jsonl(out / "predictions.jsonl", Prediction))


def estimates(report: dict[str, Any]) -> dict[str, Any]:
    return {verdict["name"]: verdict for verdict in report["verdicts"]}


def test_labels_are_learnt_from_a_data_file_and_judged_beside_the_baselines(tmp_path: Path) -> None:
    report, rows = run_chain(tmp_path, "label", label_data(), lora_steps=80)
    found = estimates(report)
    assert found["accuracy"]["estimate"] > 0.8
    assert found["accuracy_majority"]["estimate"] < 0.5
    assert {"majority", "tfidf", "base_labels", "base_few_shot", "bm25_base", "bm25_tuned"} <= {row["name"] for row in report["rivals"]}
    assert report["quality"] == "undecided"   # 108 answers are fewer than the 150 that a gate asks for
    assert all(set(row.label_scores) == set(STATES) for row in rows if row.generated)
    assert {"forgetting", "memorised_train", "memorised_unseen"} <= set(found)
    assert "etrieval" in report["retrieval"]


def test_extraction_is_learnt_from_a_data_file_and_judged_beside_the_gazetteer(tmp_path: Path) -> None:
    report, rows = run_chain(tmp_path, "extract", extract_data(), lora_steps=90)
    found = estimates(report)
    # The form and when to be silent are learnt in so few steps, which name it was is not: bench/eval goes on to 0.85 and more.
    assert found["parsed"]["estimate"] > 0.9
    assert found["entity_f1"]["estimate"] > 0.2
    assert not any(row.base.startswith("### Entities") for row in rows)   # the untrained base: 0.0
    assert found["entity_f1_gazetteer"]["estimate"] == 1.0   # a closed vocabulary is a dictionary's home ground
    assert found["relation_f1"]["kind"] == "info"
    assert found["gain_over_gazetteer"]["outcome"] != "pass"
    assert {row.seen for row in rows} > {()}
