"""Without llama.cpp: the files still come out, byte for byte as its quantizer makes them, and nothing is called measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from forge.phases.quantize import phase
from forge.phases.quantize.gguf_export import export_f16, export_q8_0
from forge.phases.quantize.llama import Llama
from forge.testing import run_phase
from tests.test_phases import tiny_llama

pytestmark = [pytest.mark.local, pytest.mark.slow]


@pytest.mark.parametrize("hidden", [256, 96])
def test_our_q8_0_is_llama_cpps(tmp_path: Path, hidden: int) -> None:
    import gguf

    model = tiny_llama.random_model(tmp_path / "m", hidden_size=hidden, intermediate_size=2 * hidden)
    export_f16(model, tmp_path / "f16.gguf", name="tiny", license="mit")
    export_q8_0(model, tmp_path / "ours.gguf", name="tiny", license="mit")
    with Llama(tmp_path / "log") as llama:
        llama.quantize(tmp_path / "f16.gguf", tmp_path / "theirs.gguf", "Q8_0")
    ours, theirs = ({t.name: t for t in gguf.GGUFReader(tmp_path / f"{who}.gguf").tensors} for who in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.tensor_type == theirs[name].tensor_type, name
        assert np.array_equal(tensor.data, theirs[name].data), name


def test_the_phase_makes_two_files_and_measures_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.phases.quantize.unmeasured.has_llama_cpp", lambda: False)
    made = tiny_llama.trained_run(tmp_path / "run")
    run = run_phase(phase, tmp_path / "q", inputs={name: made[name] for name in phase.reads if name in made})
    assert {path.name for path in (run.out / "gguf").iterdir()} == {"harbour-F16.gguf", "harbour-Q8_0.gguf"}
    report = json.loads((run.out / "ship-eval.json").read_text(encoding="utf-8"))
    assert report["parity"] == "undecided"
    outcomes = {verdict["name"]: verdict["outcome"] for verdict in report["verdicts"]}
    assert outcomes["merge_logit_diff"] == outcomes["modelfile"] == "pass"
    assert outcomes["token_ids"] == outcomes["ppl_ratio_q8_0"] == "undecided"
    assert run.metrics["quality"] == "undecided"
    assert "FROM ./gguf/harbour-Q8_0.gguf" in (run.out / "Modelfile").read_text(encoding="utf-8")
    notices = [data["text"] for kind, data in run.events if kind == "notice"]
    assert any("Q4_K_M cannot be made" in text and "pip install" in text for text in notices)
