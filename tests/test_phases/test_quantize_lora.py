"""The adapter alone: on its base in llama.cpp it computes what the merged model computes, and a wrong one is caught."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from forge.errors import ForgeError, GateFailed
from forge.phases.quantize import QuantizeSettings, phase
from forge.phases.quantize.lora_gguf import export_lora
from forge.testing import PhaseRun, run_phase
from tests.test_phases import tiny_llama

pytestmark = [pytest.mark.local, pytest.mark.slow]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("known")
    found = tiny_llama.trained_run(folder)
    return found | tiny_llama.write_rows(folder, base="harbour/base", base_license="apache-2.0")


def quantize(made: dict[str, Path], folder: Path, **settings: Any) -> PhaseRun:
    given = {name: made[name] for name in phase.reads if name in made}
    return run_phase(phase, folder, settings=QuantizeSettings(lora_gguf=True, **settings), inputs=given)


def test_base_and_adapter_compute_what_the_merged_file_computes(made: dict[str, Path], tmp_path: Path) -> None:
    run = quantize(made, tmp_path)
    report = tiny_llama.read_json(run.out / "ship-eval.json")
    verdict = next(verdict for verdict in report["verdicts"] if verdict["name"] == "lora_logit_diff")
    assert verdict["outcome"] == "pass"
    assert report["lora"]["name"] == "harbour-lora-F16.gguf"
    assert (run.out / "gguf" / "harbour-lora-F16.gguf").stat().st_size == report["lora"]["bytes"] < 200_000
    assert not (run.out / "gguf" / "base-F16.gguf").exists()


def test_an_adapter_whose_rotations_are_not_permuted_stops_the_run(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forge.phases.quantize.lora_gguf.permute_for_rope", lambda values, heads: values)
    with pytest.raises(GateFailed, match="lora_logit_diff"):
        quantize(made, tmp_path)


def test_a_wrong_scale_stops_the_run(made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.phases.quantize.lora_gguf.math.sqrt", lambda rank: 1.0)
    config = made["adapter"] / "adapter_config.json"
    stabilised = tmp_path / "adapter"
    shutil.copytree(made["adapter"], stabilised)
    told = json.loads(config.read_text(encoding="utf-8")) | {"use_rslora": True}
    (stabilised / "adapter_config.json").write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(GateFailed, match="lora_logit_diff"):
        quantize(made | {"adapter": stabilised}, tmp_path / "q")


@pytest.mark.parametrize("change", [{"use_dora": True}, {"bias": "all"}, {"rank_pattern": {"q_proj": 4}}])
def test_what_llama_cpp_cannot_apply_is_refused(made: dict[str, Path], tmp_path: Path, change: dict[str, Any]) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(made["adapter"], adapter)
    told = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    (adapter / "adapter_config.json").write_text(json.dumps(told | change), encoding="utf-8")
    with pytest.raises(ForgeError, match="not a plain LoRA"):
        export_lora(adapter, made["base_model"], tmp_path / "x.gguf", name="x")


def test_a_base_from_scratch_has_no_adapter_file(tmp_path: Path) -> None:
    scratch = tiny_llama.trained_run(tmp_path / "run")
    run = quantize(scratch, tmp_path / "q")
    assert not list((run.out / "gguf").glob("*lora*"))
