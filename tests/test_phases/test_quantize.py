"""The whole quantize phase on a model that was really trained, with the real peft, gguf and llama.cpp."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from forge.errors import ForgeError, GateFailed, Interrupted
from forge.phases.quantize import QuantizeSettings, gguf_tokenizer, phase
from forge.phases.quantize.gguf_facts import GgufFile
from forge.phases.quantize.llama import Llama
from forge.phases.quantize.ship import main_file
from forge.testing import PhaseRun, run_phase
from tests.test_phases.tiny_llama import ABSTENTION, SYSTEM, read_json, trained_run, write_rows

pytestmark = pytest.mark.local


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return trained_run(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def finished(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> PhaseRun:
    return run_phase(phase, tmp_path_factory.mktemp("finished"), inputs=inputs)


def tree(folder: Path) -> dict[str, str]:
    """Relative path -> sha256 of every file."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def verdicts(run_out: Path) -> dict[str, dict[str, Any]]:
    return {verdict["name"]: verdict for verdict in read_json(run_out / "ship-eval.json")["verdicts"]}


def test_the_files_that_ship_are_the_model_that_was_trained(finished: PhaseRun) -> None:
    report, found = read_json(finished.out / "ship-eval.json"), verdicts(finished.out)

    assert report["parity"] == "pass"
    assert {name for name, verdict in found.items() if verdict["kind"] == "integrity"} == {
        "merge_logit_diff", "token_ids", "markers", "logit_diff_f16", "argmax_f16", "greedy_f16", "modelfile",
    }
    assert found["greedy_f16"]["n"] >= 8
    assert "0 part at a tie" in found["greedy_f16"]["evidence"] or found["greedy_f16"]["estimate"] == 1.0
    assert int(found["token_ids"]["evidence"].split("(")[1].split(" ")[0].replace(",", "")) >= 50_000
    assert found["ppl_ratio_q8_0"]["outcome"] == "pass"
    assert found["stop_probability_q8_0"]["outcome"] == "pass"
    assert found["abstention_recall_q8_0"]["estimate"] == 1.0


def test_the_report_describes_every_file_and_puts_answers_side_by_side(finished: PhaseRun) -> None:
    report = read_json(finished.out / "ship-eval.json")
    files = {file["quantization"]: file for file in report["files"]}

    assert set(tree(finished.out / "gguf")) == {f"harbour-{kind}.gguf" for kind in ("F16", "Q8_0", "Q4_K_M")}
    for file in files.values():
        data = (finished.out / "gguf" / file["name"]).read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert len({file["parameters"] for file in files.values()}) == 1
    assert files["Q4_K_M"]["bits_per_weight"] < files["Q8_0"]["bits_per_weight"] < files["F16"]["bits_per_weight"]
    assert set(files["Q4_K_M"]["tensor_types"]) == {"F32", "Q4_K", "Q6_K"}
    assert len(report["answers"]) == 8
    assert set(report["answers"][0]) == {"prompt", "transformers", "f16", "q8_0", "q4_k_m"}
    assert sum(answer["q4_k_m"] == ABSTENTION for answer in report["answers"]) == 4


def test_every_file_answers_the_tests_and_only_the_named_one_counts_for_the_model(finished: PhaseRun) -> None:
    report = read_json(finished.out / "ship-eval.json")
    each = {one["quantization"]: one for one in report["each"]}

    assert set(each) == {"F16", "Q8_0", "Q4_K_M"}
    for kind, one in each.items():
        found = {verdict["name"] for verdict in one["verdicts"]}
        assert one["rows"] == 12
        assert {f"{name}_{kind.lower()}" for name in ("stop_share", "abstention_recall", "over_refusal", "name_fidelity", "loops")} <= found
        assert one["left_out"] == ""
    assert not any(name.endswith(("_q4_k_m", "_f16")) for name, one in verdicts(finished.out).items() if one["kind"] == "quality")


def test_a_file_that_its_rounding_damaged_is_left_out_and_the_model_still_ships(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize = Llama.quantize

    def damaging(self: Llama, source: Path, target: Path, kind: str, **more: Any) -> None:
        quantize(self, source, target, kind, **more)
        if kind == "Q4_K_M":
            data = bytearray(target.read_bytes())
            data[-60_000:] = random.Random(1).randbytes(60_000)
            target.write_bytes(data)

    monkeypatch.setattr(Llama, "quantize", damaging)
    run = run_phase(phase, tmp_path, inputs=inputs, settings=QuantizeSettings())
    report = read_json(run.out / "ship-eval.json")
    left = {one["quantization"]: one["left_out"] for one in report["each"] if one["left_out"]}

    assert list(left) == ["Q4_K_M"]
    assert "ppl_ratio_q4_k_m is" in left["Q4_K_M"]
    assert set(tree(run.out / "gguf")) == {"harbour-F16.gguf", "harbour-Q8_0.gguf"} == {file["name"] for file in report["files"]}
    assert run.metrics["parity"] == "pass"
    assert run.metrics["file"] == "harbour-Q8_0.gguf"
    assert any("harbour-Q4_K_M.gguf is left out" in notice for notice in [data["text"] for kind, data in run.events if kind == "notice"])


def test_the_merged_folder_loads_by_itself_and_answers_as_base_and_adapter(finished: PhaseRun, inputs: dict[str, Path]) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    merged = AutoModelForCausalLM.from_pretrained(finished.out / "model", dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(inputs["base_model"], dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(finished.out / "model")("Where is the crane?", return_tensors="pt").input_ids
    plain = base(ids).logits
    tuned = PeftModel.from_pretrained(base, inputs["adapter"])(ids).logits

    assert torch.allclose(merged(ids).logits, tuned, atol=1e-4)
    assert not torch.allclose(plain, tuned, atol=1e-2)
    assert GenerationConfig.from_pretrained(finished.out / "model").eos_token_id == [0, 2]
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (finished.out / "model" / name).read_bytes() == (inputs["base_model"] / name).read_bytes()


def test_the_modelfile_names_the_true_file_of_a_small_model_and_the_trained_system_prompt(finished: PhaseRun) -> None:
    text = (finished.out / "Modelfile").read_text(encoding="utf-8")

    assert "FROM ./gguf/harbour-Q8_0.gguf\n" in text
    assert f'SYSTEM """{SYSTEM}"""' in text
    assert 'PARAMETER stop "<|im_end|>"' in text


def test_outputs_are_the_same_bytes_anywhere_and_name_no_path(finished: PhaseRun, inputs: dict[str, Path], tmp_path: Path) -> None:
    again = run_phase(phase, tmp_path / "elsewhere", inputs=inputs)

    assert tree(again.out) == tree(finished.out)
    for file in (file for file in again.out.rglob("*") if file.is_file()):
        assert str(inputs["base_model"].parent).encode() not in file.read_bytes(), file.name


def test_a_phase_killed_at_any_file_resumes_to_the_same_bytes(finished: PhaseRun, inputs: dict[str, Path], tmp_path: Path) -> None:
    script = (
        "import sys, json; from pathlib import Path; from forge.testing import run_phase; from forge.phases.quantize import phase\n"
        "run_phase(phase, Path(sys.argv[1]), inputs={k: Path(v) for k, v in json.loads(sys.argv[2]).items()})"
    )
    argv = [sys.executable, "-c", script, str(tmp_path), json.dumps({name: str(path) for name, path in inputs.items()})]
    for landmark in ("work/model", "work/gguf/harbour-Q8_0.gguf"):
        child = subprocess.Popen(argv)
        while not (tmp_path / landmark).exists() and child.poll() is None:
            time.sleep(0.01)
        child.kill()
        child.wait()
    kept = (tmp_path / "work/gguf/harbour-Q8_0.gguf").stat().st_mtime_ns
    resumed = run_phase(phase, tmp_path, inputs=inputs)

    assert tree(resumed.out) == tree(finished.out)
    assert (tmp_path / "work/gguf/harbour-Q8_0.gguf").stat().st_mtime_ns == kept, "a finished file is not made again"


def test_a_merge_that_was_complete_but_not_yet_noted_is_made_again(finished: PhaseRun, inputs: dict[str, Path], tmp_path: Path) -> None:
    run_phase(phase, tmp_path, inputs=inputs)
    for journal in (tmp_path / "work").glob("*.journal"):
        journal.unlink()   # killed between the folder's rename and its note

    assert tree(run_phase(phase, tmp_path, inputs=inputs).out) == tree(finished.out)


def test_an_interrupted_evaluation_repeats_no_row(inputs: dict[str, Path], finished: PhaseRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from forge.phases.quantize.llama import Llama, Score

    real, allowed = Llama.score, 15
    calls: list[list[int]] = []

    def score(self: Llama, prompt: list[int], answer: list[int]) -> Score:
        if len(calls) == allowed:
            raise Interrupted
        calls.append(prompt)
        return real(self, prompt, answer)

    monkeypatch.setattr(Llama, "score", score)
    with pytest.raises(Interrupted):
        run_phase(phase, tmp_path, inputs=inputs)
    calls.clear()
    allowed = 1000
    resumed = run_phase(phase, tmp_path, inputs=inputs)

    assert len(calls) == 3 * 12 - 15
    assert tree(resumed.out) == tree(finished.out)


@pytest.mark.parametrize(("value", "fact"), [(0.0, "the adapter is all zeros"), (float("nan"), "is not finite")])
def test_an_adapter_that_learned_nothing_is_refused(inputs: dict[str, Path], tmp_path: Path, value: float, fact: str) -> None:
    from safetensors.numpy import load_file, save_file

    shutil.copytree(inputs["adapter"], tmp_path / "adapter")
    weights = load_file(tmp_path / "adapter/adapter_model.safetensors")
    for name in weights:
        if "lora_B" in name:
            weights[name] = weights[name] * 0 + value
    save_file(weights, tmp_path / "adapter/adapter_model.safetensors", metadata={"format": "pt"})

    with pytest.raises(ForgeError, match=fact) as caught:
        run_phase(phase, tmp_path / "run", inputs={**inputs, "adapter": tmp_path / "adapter"})
    assert caught.value.next.startswith("forge ")


def test_a_wrong_export_stops_the_run_after_writing_down_what_was_measured(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_tokenizer, "marker_type", lambda token: gguf_tokenizer.NORMAL)

    with pytest.raises(GateFailed, match="token_ids, markers") as caught:
        run_phase(phase, tmp_path, inputs=inputs, dry_run=True)
    assert caught.value.exit_code == 6
    assert read_json(tmp_path / "out/ship-eval.json")["parity"] == "fail"


def test_a_merge_that_changed_the_model_stops_the_run(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from forge.phases.quantize import merge

    real = merge._merged

    def spoiled(*args: Any) -> Any:
        model, expected = real(*args)
        model.model.norm.weight.data *= 1.05
        return model, expected

    monkeypatch.setattr(merge, "_merged", spoiled)
    with pytest.raises(GateFailed, match="merge_logit_diff"):
        run_phase(phase, tmp_path, inputs=inputs, dry_run=True)


def test_a_plan_without_the_parity_threshold_leaves_parity_undecided(inputs: dict[str, Path], tmp_path: Path) -> None:
    paths = {**inputs, **write_rows(tmp_path, thresholds={})}
    run = run_phase(phase, tmp_path / "run", inputs=paths, dry_run=True)

    assert read_json(run.out / "ship-eval.json")["parity"] == "undecided"
    assert run.metrics["quality"] == "undecided"


def test_the_plan_decides_which_files_are_made(inputs: dict[str, Path], tmp_path: Path) -> None:
    paths = {**inputs, **write_rows(tmp_path, quantizations=("F16",), name="plain")}
    run = run_phase(phase, tmp_path / "run", inputs=paths, dry_run=True)

    assert set(tree(run.out / "gguf")) == {"plain-F16.gguf"}
    assert "FROM ./gguf/plain-F16.gguf" in (run.out / "Modelfile").read_text(encoding="utf-8")
    assert verdicts(run.out)["stop_probability_f16"]["estimate"] > 0.5


def test_a_large_model_ships_as_its_small_file() -> None:
    def files(parameters: int) -> list[GgufFile]:
        told = {"bytes": 1, "sha256": "", "bits_per_weight": 1.0, "tensor_types": {}, "parameters": parameters}
        return [GgufFile.model_validate({"name": kind, "quantization": kind, **told}) for kind in ("F16", "Q8_0", "Q4_K_M")]

    assert main_file(files(7_000_000_000)).quantization == "Q4_K_M"
    assert main_file(files(2_000_000)).quantization == "Q8_0"


def test_settings_cap_the_rows_and_unknown_ones_are_errors(inputs: dict[str, Path], tmp_path: Path) -> None:
    run = run_phase(phase, tmp_path, inputs=inputs, settings=QuantizeSettings(likelihood_rows=4, generated_rows=2))

    assert verdicts(run.out)["ppl_ratio_q8_0"]["n"] == 8
    assert verdicts(run.out)["abstention_recall_q8_0"]["n"] == 2
    with pytest.raises(ValueError, match="likelihood"):
        QuantizeSettings(likelihood=4)   # type: ignore[call-arg]


def test_a_dry_run_is_quick_once_torch_is_loaded(inputs: dict[str, Path], tmp_path: Path) -> None:
    started = time.process_time()
    run_phase(phase, tmp_path, inputs=inputs, dry_run=True)

    assert time.process_time() - started < 8




def test_a_model_that_was_never_told_to_stop_fails_and_its_twin_passes(inputs: dict[str, Path], tmp_path: Path) -> None:
    bad = trained_run(tmp_path / "bad", never_told_to_stop=True)
    told = {}
    for name, made in (("good", inputs), ("bad", bad)):
        run = run_phase(phase, tmp_path / name, inputs={key: made[key] for key in phase.reads if key in made})
        told[name] = {v["name"]: v for v in read_json(run.out / "ship-eval.json")["verdicts"]}
        assert run.metrics["parity"] == "pass", "the export is not to blame"
    for measure in ("stop_probability_q8_0", "stop_share_q8_0"):
        assert told["good"][measure]["estimate"] > 0.9
        assert told["bad"][measure]["outcome"] == "fail"
        assert told["bad"][measure]["estimate"] < 0.2
    for measure in ("control_tokens_q8_0", "leaked_headers_q8_0", "loops_q8_0"):
        assert (told["good"][measure]["outcome"], told["bad"][measure]["outcome"]) == ("pass", "fail"), measure
