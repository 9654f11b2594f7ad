"""A sweep in one process: the same numbers as one run after another, early stopping, and resume to the same bits."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from forge.errors import Interrupted
from forge.phases.train.multilora import Candidate
from forge.phases.train.packing import Encoded
from forge.phases.train.sweep import Hooks, Outcome, Sweep, train_batched, train_in_turn, with_adapter

pytestmark = pytest.mark.local

SWEEP = Sweep(target_modules="all-linear", steps=12, examples_per_step=4, seed=7, row_tokens=64, checkpoint_steps=4)
RANKS = [Candidate(f"r{rank}", rank, 2 * rank, 4e-3) for rank in (2, 4, 8)]


def make_base() -> Any:
    """A tiny random Llama, the same each time."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    torch.set_num_threads(1)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=60,
        max_position_embeddings=128, tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config)


def make_examples(number: int, seed: int) -> list[Encoded]:
    """Questions whose answer repeats their second token: something that can be learnt."""
    chance, found = random.Random(seed), []
    for _ in range(number):
        prompt = [chance.randrange(4, 60) for _ in range(chance.randrange(3, 9))]
        found.append(Encoded((*prompt, *[prompt[1]] * chance.randrange(2, 5), 2), len(prompt)))
    return found


TRAIN, VAL = make_examples(24, 1), make_examples(10, 2)


def close(first: list[Outcome], second: list[Outcome]) -> None:
    import torch

    for one, other in zip(first, second, strict=True):
        assert one.candidate == other.candidate
        assert one.loss == pytest.approx(other.loss, rel=1e-4)
        assert one.val == pytest.approx(other.val, rel=1e-3)
        for name, weight in one.adapter.items():
            assert torch.allclose(weight, other.adapter[name], atol=2e-4), name


def test_all_at_once_gives_what_one_after_another_gives() -> None:
    together = train_batched(make_base(), TRAIN, RANKS, SWEEP, validation=VAL)
    close(together, train_in_turn(make_base(), TRAIN, RANKS, SWEEP, validation=VAL))
    for one in together:
        assert len(one.loss) == SWEEP.steps
        assert sum(one.loss[-3:]) < sum(one.loss[:3])     # it learns
        assert one.adapter["model.layers.0.self_attn.q_proj.lora_A.weight"].shape == (one.candidate.rank, 32)
    assert together[0].loss != together[2].loss


def test_one_candidate_takes_the_steps_of_the_usual_trainer(tmp_path: Path) -> None:
    """The same losses as tuner.py's SFTTrainer on the same rows."""
    from forge.phases.train.packing import pack_steps
    from forge.phases.train.sweep import lora_config
    from forge.phases.train.tuner import Numbers, adapt, make_trainer, train_on
    from forge.phases.train.ways import Way
    from tests.test_phases.tiny_llama import write_tokenizer

    write_tokenizer(tmp_path / "tokenizer")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    way = Way("cpu", "fp32", False, 64, 0, {})
    model = adapt(make_base(), lora_config(RANKS[1], "all-linear"), way, seed=SWEEP.seed)
    packed = pack_steps([len(one.ids) for one in TRAIN], SWEEP.steps, SWEEP.examples_per_step, SWEEP.seed, SWEEP.row_tokens)
    numbers = Numbers(SWEEP.steps, RANKS[1].learning_rate, SWEEP.seed, 100, 1)
    trainer = make_trainer(model, tokenizer, TRAIN, packed, numbers, way, tmp_path / "out")
    from transformers import TrainerCallback

    train_on(trainer, TrainerCallback(), None)
    usual = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    (alone,) = train_batched(make_base(), TRAIN, [RANKS[1]], SWEEP)
    assert alone.loss == pytest.approx(usual, rel=1e-3)


def test_the_base_is_given_back_as_it_was() -> None:
    import torch

    base, ids = make_base(), torch.arange(4, 20)[None]
    names, before = [name for name, _ in base.named_modules()], base(ids).logits
    train_batched(base, TRAIN, RANKS, SWEEP._replace(steps=2))
    assert [name for name, _ in base.named_modules()] == names
    assert torch.equal(base(ids).logits, before)


def test_a_trained_candidate_becomes_a_peft_adapter_that_answers_as_measured(tmp_path: Path) -> None:
    """Saved, loaded and asked by peft on its own: the validation nats are those of the sweep."""
    import torch
    from peft import PeftModel

    outcome = train_batched(make_base(), TRAIN, RANKS, SWEEP, validation=VAL)[1]
    with_adapter(make_base(), outcome, "all-linear").save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(make_base(), tmp_path).eval()
    for example, nats in zip(VAL, outcome.val, strict=True):
        with torch.no_grad():
            scores = model(torch.tensor([example.ids])).logits[0, :-1].log_softmax(-1)
        alone = -sum(float(scores[at - 1, example.ids[at]]) for at in range(example.prompt_length, len(example.ids)))
        assert nats == pytest.approx(alone, rel=1e-4)


def test_the_weaker_half_stops_early_and_the_rest_is_not_disturbed() -> None:
    grid = [*RANKS, Candidate("hopeless", 4, 8, 1e-9)]
    found = {one.candidate.name: one for one in train_batched(make_base(), TRAIN, grid, SWEEP._replace(halving=True), validation=VAL)}
    assert found["hopeless"].stopped_at == 4
    assert len(found["hopeless"].loss) == 4
    assert sorted(one.stopped_at for one in found.values()) == [0, 4, 4, 8]
    winner = next(one for one in found.values() if not one.stopped_at)
    close([winner], [one for one in train_in_turn(make_base(), TRAIN, grid, SWEEP, validation=VAL) if one.candidate == winner.candidate])


def at_call(number: int) -> Callable[[], None]:
    calls = count(1)

    def check() -> None:
        if next(calls) == number:
            raise Interrupted

    return check


@pytest.mark.parametrize("call", [2, 7, 11])
def test_a_stopped_sweep_goes_on_to_the_same_bits(call: int, tmp_path: Path) -> None:
    import torch

    sweep = SWEEP._replace(halving=True)
    straight = train_batched(make_base(), TRAIN, RANKS, sweep, validation=VAL)
    with pytest.raises(Interrupted):
        train_batched(make_base(), TRAIN, RANKS, sweep, validation=VAL, folder=tmp_path, hooks=Hooks(check_stop=at_call(call)))
    resumed = train_batched(make_base(), TRAIN, RANKS, sweep, validation=VAL, folder=tmp_path)
    for one, other in zip(straight, resumed, strict=True):
        assert (one.loss, one.val, one.stopped_at) == (other.loss, other.val, other.stopped_at)
        for name, weight in one.adapter.items():
            assert torch.equal(weight, other.adapter[name]), name


def test_progress_counts_the_tokens_of_every_candidate() -> None:
    told: list[tuple[int, int]] = []
    train_batched(make_base(), TRAIN, RANKS, SWEEP._replace(steps=3), hooks=Hooks(tell=lambda step, loss, tokens, norm: told.append((step, tokens))))
    assert [step for step, _ in told] == [1, 2, 3]
    assert all(tokens % 3 == 0 and tokens > 0 for _, tokens in told)
