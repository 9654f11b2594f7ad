"""train on a tiny world, for real: what it writes, what it refuses, and that a kill changes no byte."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from forge import timebox
from forge.context import FolderContext, InputFile
from forge.errors import ForgeError, GateFailed, Interrupted, OverBudget
from forge.phases.train import TrainSettings, phase
from forge.records import Example as Row
from forge.records import Extraction, KnownBase, Plan, Span, read_jsonl, read_record, write_json, write_jsonl
from forge.registry import Registry
from forge.store import hash_path
from forge.testing import CountingMoney, run_phase
from tests.test_phases.tiny_training import ENDLESS, approve, make_inputs

pytestmark = pytest.mark.local
SETTINGS = TrainSettings(checkpoint_steps=2, log_steps=1)
PRETRAIN_STEPS, LORA_STEPS = 5, 24
RESULTS = ("base", "adapter", "train.json")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_inputs(tmp_path_factory.mktemp("inputs"), steps=PRETRAIN_STEPS, lora_steps=LORA_STEPS)


@pytest.fixture(scope="module")
def straight(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of a run that nobody stopped."""
    return run_phase(phase, tmp_path_factory.mktemp("straight"), settings=SETTINGS, inputs=inputs).out


def hashes(out: Path) -> dict[str, str]:
    return {name: hash_path(out / name) for name in RESULTS}


def run_until(folder: Path, inputs: dict[str, Path], stop: Callable[[], bool]) -> Path:
    ctx = FolderContext(
        folder, run_id="test", seed=7, dry_run=False, writes=phase.writes, registry=Registry(), money=CountingMoney(),
        inputs={name: InputFile(path=str(path), sha256=hash_path(path)) for name, path in inputs.items()},
        emit=lambda kind, fields: None, stop_requested=stop,
    )  # fmt: skip
    try:
        phase.run(SETTINGS, ctx)
    finally:
        ctx.close()
    return ctx.out


def at_call(number: int) -> Callable[[], bool]:
    calls: Iterator[int] = count(1)
    return lambda: next(calls) == number


def test_the_base_loads_with_its_own_tokenizer_and_tied_embeddings(straight: Path, inputs: dict[str, Path]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(straight / "base")
    assert model.get_input_embeddings().weight.data_ptr() == model.get_output_embeddings().weight.data_ptr()
    tokenizer = AutoTokenizer.from_pretrained(straight / "base")
    assert model.config.eos_token_id == model.generation_config.eos_token_id == tokenizer.eos_token_id
    for file in inputs["tokenizer"].iterdir():
        assert (straight / "base" / file.name).read_bytes() == file.read_bytes()


def test_the_merged_adapter_computes_what_base_and_adapter_compute(straight: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    ids = torch.arange(3, 60).unsqueeze(0)
    base = AutoModelForCausalLM.from_pretrained(straight / "base")
    plain = base(ids).logits
    tuned = PeftModel.from_pretrained(base, straight / "adapter")
    before = tuned(ids).logits
    merged = tuned.merge_and_unload(safe_merge=True)
    assert not torch.allclose(plain, before)
    assert torch.allclose(before, merged(ids).logits, atol=1e-4)
    assert merged.get_input_embeddings().weight.data_ptr() == merged.get_output_embeddings().weight.data_ptr()


def test_the_report_has_a_loss_for_every_step_and_every_guard(straight: Path) -> None:
    report = json.loads((straight / "train.json").read_text())
    assert [step for step, _ in report["pretrain"]["loss"]] == list(range(1, PRETRAIN_STEPS + 1))
    assert [step for step, _ in report["lora"]["loss"]] == list(range(1, LORA_STEPS + 1))
    assert report["pretrain"]["val_loss"][-1][0] == PRETRAIN_STEPS
    assert report["lora"]["val_loss"][-1][0] == LORA_STEPS
    assert report["pretrain"]["tokens"] == PRETRAIN_STEPS * 4 * 128
    assert report["guards"] == dict.fromkeys(
        ("no_row_lost", "eos_in_labels", "single_bos", "prompt_masked", "no_truncation", "adapter_not_zero", "losses_finite", "loss_fell"),
        True,
    )
    assert report["precision"] == "fp32"


def test_the_log_has_a_line_for_every_step_of_both_stages(straight: Path) -> None:
    lines = [json.loads(line) for line in (straight / "progress.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in lines] == [
        *(("pretrain", step) for step in range(1, PRETRAIN_STEPS + 1)), *(("lora", step) for step in range(1, LORA_STEPS + 1)),
    ]
    assert {"loss", "grad_norm", "tokens_per_second", "seconds", "eta_seconds", "steps"} <= set(lines[0])


def test_nothing_written_tells_where_or_when(straight: Path) -> None:
    for file in (path for name in RESULTS for path in [straight / name, *(straight / name).rglob("*")] if path.is_file()):
        assert str(straight.parent).encode() not in file.read_bytes()


@pytest.mark.parametrize("call", [3, PRETRAIN_STEPS + 1, PRETRAIN_STEPS + 13], ids=["pretraining", "first tuning step", "tuning"])
def test_a_stopped_run_goes_on_to_the_same_bytes(call: int, straight: Path, inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run_until(tmp_path, inputs, at_call(call))
    assert not (tmp_path / "out" / "train.json").exists()
    assert hashes(run_until(tmp_path, inputs, lambda: False)) == hashes(straight)


def test_a_stopped_extraction_goes_on_with_the_right_letters(tmp_path: Path) -> None:
    """Its epochs read examples with and without capitals: 24 steps of 4 of 30 examples are more than three of them."""
    inputs = make_inputs(tmp_path / "inputs")
    for name, words in (("train", [f"w{number}rd" for number in range(30)]), ("val", ["valve"])):
        bodies = [Extraction(text=f"The {word} opens.", entities=(Span(type="Part", text=word, start=4, end=4 + len(word)),)) for word in words]
        write_jsonl(inputs[name], [Row(id=f"{name}{number}", split=name, group=f"g{number}", body=body) for number, body in enumerate(bodies)])
    approve(tmp_path / "inputs", inputs, task="extract", steps=PRETRAIN_STEPS, lora_steps=LORA_STEPS)
    straight = run_phase(phase, tmp_path / "straight", settings=SETTINGS, inputs=inputs).out
    with pytest.raises(Interrupted):
        run_until(tmp_path / "stopped", inputs, at_call(PRETRAIN_STEPS + 13))
    assert hashes(run_until(tmp_path / "stopped", inputs, lambda: False)) == hashes(straight)


def test_a_truncated_checkpoint_is_not_used(straight: Path, inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run_until(tmp_path, inputs, at_call(PRETRAIN_STEPS + 9))
    newest = tmp_path / "work/lora/checkpoint-9"
    weights = newest / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert hashes(run_until(tmp_path, inputs, lambda: False)) == hashes(straight)


def test_data_that_changed_after_approval_are_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    rows = list(read_jsonl(inputs["train"], Row))
    write_jsonl(tmp_path / "train.jsonl", rows[:-1])
    with pytest.raises(GateFailed, match="the data changed after approval") as error:
        run_phase(phase, tmp_path / "run", inputs={**inputs, "train": tmp_path / "train.jsonl"})
    assert error.value.why.startswith("train has sha256")


@pytest.mark.usefixtures("quick_retries")
def test_weights_that_cannot_be_fetched_are_an_error_with_the_command_that_helps(inputs: dict[str, Path], tmp_path: Path) -> None:
    plan, paths = read_record(inputs["plan"], Plan), dict(inputs)
    paths["base_source"] = tmp_path / "base-source"
    paths["base_source"].mkdir()
    write_json(paths["base_source"] / "base.json", KnownBase(kind="hub", name="nobody/no-such-model", revision="0" * 40))
    approve(tmp_path, paths, scratch=None, base="nobody/no-such-model", data=plan.data | {"base_source": hash_path(paths["base_source"])})
    with pytest.raises(ForgeError, match="weights of nobody/no-such-model cannot be fetched") as error:
        run_phase(phase, tmp_path / "run", inputs=paths)
    assert "hf download nobody/no-such-model" in error.value.next


def test_a_template_that_ends_no_turn_is_refused(tmp_path: Path) -> None:
    paths = make_inputs(tmp_path / "inputs", template=ENDLESS, steps=1, lora_steps=1)
    with pytest.raises(GateFailed, match="eos_in_labels") as error:
        run_phase(phase, tmp_path / "run", inputs=paths)
    assert "does not end the answer with <|im_end|>" in error.value.why


def test_the_estimate_follows_the_plan(inputs: dict[str, Path], tmp_path: Path) -> None:
    ctx = FolderContext(
        tmp_path, run_id="test", seed=7, dry_run=False, writes=phase.writes, registry=Registry(), money=CountingMoney(),
        inputs={"plan": InputFile(path=str(inputs["plan"]), sha256="")}, emit=lambda kind, fields: None,
    )  # fmt: skip
    found = phase.estimate(SETTINGS, ctx)
    assert 20 < found.seconds_p50 < found.seconds_p90 < 60


# --- the machine's time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pretrain_steps", "lora_steps", "checkpoints"), [(5, 60, "lora"), (60, 6, "pretrain")])
def test_a_training_of_which_less_than_half_would_be_made_before_the_machine_ends_is_stopped_for_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pretrain_steps: int, lora_steps: int, checkpoints: str
) -> None:
    monkeypatch.setenv(timebox.ENDS_AT, f"{time.monotonic() - 1}")
    late = make_inputs(tmp_path / "inputs", steps=pretrain_steps, lora_steps=lora_steps)
    with pytest.raises(OverBudget, match=f"of {max(pretrain_steps, lora_steps)} steps fit") as caught:
        run_phase(phase, tmp_path / "run", settings=SETTINGS, inputs=late)
    assert "plan_fit.train_minutes" in caught.value.next
    assert list((tmp_path / "run" / "work" / checkpoints).glob("*")), "what was trained is kept for a plan with more time"
