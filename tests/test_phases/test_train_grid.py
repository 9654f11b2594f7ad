"""A sweep through the phase: every candidate is told, the choice is made on validation rows, and the winner's adapter ships."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from forge.phases.train import TrainSettings, phase
from forge.phases.train.grid import choose
from forge.phases.train.multilora import Candidate
from forge.phases.train.sweep import Outcome
from forge.records import Candidate as Planned
from forge.records import KnownBase, SweepPlan, write_json
from forge.store import hash_path
from forge.testing import run_phase
from tests.test_phases.tiny_training import approve, make_inputs

pytestmark = pytest.mark.local
SETTINGS = TrainSettings(checkpoint_steps=3, log_steps=1)
GRID = SweepPlan(candidates=(
    Planned(name="r2", rank=2, alpha=4, learning_rate=4e-3), Planned(name="r8", rank=8, alpha=16, learning_rate=4e-3),
))


def outcome(rank: int, nats: list[float], *, stopped_at: int = 0) -> Outcome:
    return Outcome(Candidate(f"r{rank}", rank, 2 * rank, 1e-3), [2.0, 1.0], nats, stopped_at, {})


def test_without_a_significant_difference_the_smallest_is_chosen() -> None:
    chance = random.Random(1)
    hard = [chance.uniform(4, 40) for _ in range(80)]
    groups, tokens = [f"g{i // 2}" for i in range(80)], [10] * 80
    equal = [outcome(4, [x + chance.gauss(0, 1) for x in hard]), outcome(16, [x - 0.01 + chance.gauss(0, 1) for x in hard])]
    table, chosen, why = choose(equal, groups, tokens, 7)
    assert equal[chosen].candidate.rank == 4
    assert "smallest of 2 without a significant difference" in why
    assert table[1].low < table[1].val_loss < table[1].high
    clear = [outcome(4, [x + 1.0 for x in hard]), outcome(16, hard), outcome(64, [x + 0.5 for x in hard])]
    table, chosen, why = choose(clear, groups, tokens, 7)
    assert clear[chosen].candidate.rank == 16
    assert "every other is significantly worse" in why
    assert table[0].behind == pytest.approx(0.1)
    assert table[0].behind_low > 0


def test_a_candidate_that_was_stopped_early_is_never_chosen() -> None:
    rows = [outcome(4, [1.0] * 40, stopped_at=3), outcome(16, [5.0] * 40)]
    _, chosen, _ = choose(rows, [f"g{i}" for i in range(40)], [10] * 40, 7)
    assert rows[chosen].candidate.rank == 16


def test_the_choice_looks_at_nothing_but_validation() -> None:
    """The training loss is far better for the first; validation says the second."""
    first = outcome(4, [9.0] * 40)._replace(loss=[0.01, 0.01])
    _, chosen, _ = choose([first, outcome(16, [5.0] * 40)], [f"g{i}" for i in range(40)], [10] * 40, 7)
    assert chosen == 1


def test_a_sweep_on_a_scratch_base_trains_each_with_its_embeddings(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", steps=2, lora_steps=4, sweep=GRID)
    out = run_phase(phase, tmp_path / "run", settings=SETTINGS, inputs=inputs).out
    report = json.loads((out / "train.json").read_text())
    assert [one["name"] for one in report["sweep"]["candidates"]] == ["r2", "r8"]
    assert report["sweep"]["how"] == "one after another"
    chosen = next(one for one in report["sweep"]["candidates"] if one["name"] == report["sweep"]["chosen"])
    assert json.loads((out / "adapter" / "adapter_config.json").read_text())["r"] == chosen["rank"]
    assert report["lora"]["steps"] == 4
    lines = [json.loads(line)["stage"] for line in (out / "progress.jsonl").read_text().splitlines()]
    assert {"pretrain", "sweep-r2", "sweep-r8"} == set(lines)


@pytest.fixture
def known(tmp_path: Path) -> dict[str, Path]:
    """Inputs over a base that exists: a tiny random Llama in a folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path / "in"
    paths = make_inputs(folder)
    torch.manual_seed(1)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, vocab_size=400,
        max_position_embeddings=128, eos_token_id=0, tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(paths["base_source"])
    write_json(paths["base_source"] / "base.json", KnownBase(kind="folder", name="tiny-base"))
    approve(folder, paths, lora_steps=4, sweep=GRID, scratch=None, base="tiny-base")
    return paths


def test_a_sweep_over_a_known_base_loads_it_once_and_repeats_to_the_byte(known: dict[str, Path], tmp_path: Path) -> None:
    out = run_phase(phase, tmp_path / "run", settings=SETTINGS, inputs=known).out
    report = json.loads((out / "train.json").read_text())
    assert report["sweep"]["how"] == "one after another over one loaded base"
    assert report["sweep"]["validation_rows"] == 4
    assert len(report["sweep"]["candidates"]) == 2
    assert report["guards"]["prompt_masked"]
    again = run_phase(phase, tmp_path / "again", settings=SETTINGS, inputs=known).out
    for name in ("adapter", "train.json"):
        assert hash_path(out / name) == hash_path(again / name), name
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    assert PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(out / "base"), out / "adapter")
