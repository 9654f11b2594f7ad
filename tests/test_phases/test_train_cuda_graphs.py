"""Recorded passes: rows lengthened to a few sizes, gradients in buffers, the way back when a model cannot be recorded.

There is no GPU here: a recording is played by computing again. bench/gpu_train.py runs the same code on one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge.phases.train import tuner
from forge.phases.train.cuda_graphs import (
    MOST_SIZES,
    SIZE_STEP,
    GraphedDecoder,
    lengthened,
    padding_for,
)
from forge.phases.train.packing import pack_steps
from forge.phases.train.tuner import Numbers, ReadyRows, adapt, make_trainer, release, train_on, trial_step
from forge.phases.train.ways import GIB, Machine, Shape, Way, choose_way
from tests.test_phases.test_train_ways import LENGTHS, SEVEN, adapter, examples, tiny_model
from tests.test_phases.tiny_training import make_tokenizer

STEPS, ROW_TOKENS = 4, 400


def play_again(graphed: GraphedDecoder) -> None:
    """A recorder for a machine without a GPU."""
    import torch

    def recorder(call: Callable[[], None]) -> Callable[[], None]:
        call()
        replay: Callable[[], None] = torch.enable_grad()(call)
        return replay  # autograd plays it where nothing else is to be traced

    graphed.try_sizes()
    graphed.record(recorder)


def train(folder: Path, *, graphed: bool, told: list[str]) -> Any:
    from transformers import AutoTokenizer

    way = Way("cpu", "bf16", False, ROW_TOKENS, 0, {}, graphed=graphed)
    model, rows = adapt(tiny_model("bfloat16"), adapter(), way, seed=7), examples()
    lengths = [len(one.ids) for one in rows]
    packed = pack_steps(lengths, STEPS, 8, 7, ROW_TOKENS)
    tokenizer = AutoTokenizer.from_pretrained(make_tokenizer(folder / "tokenizer", ["a pump"]))
    trainer = make_trainer(model, tokenizer, rows, packed, Numbers(STEPS, 5e-3, 7, 10**6, 1), way, folder / "work", validation=rows[:4])
    assert trial_step(trainer, packed, lengths, told.append)
    train_on(trainer, None, None)
    return trainer


def losses(trainer: Any) -> list[float]:
    return [line[key] for line in trainer.state.log_history for key in ("loss", "eval_loss", "grad_norm") if key in line]


def test_rows_have_few_sizes_and_padding_is_an_example_of_its_own() -> None:
    packed = pack_steps(LENGTHS, 9, 8, 7, ROW_TOKENS)
    padding = padding_for(packed.rows, LENGTHS)
    assert len(padding.sizes) <= MOST_SIZES
    assert all(size % SIZE_STEP == 0 for size in padding.sizes)
    assert padding.slots == max(map(len, packed.rows)) + 1
    assert padding.longest >= max(LENGTHS)
    for row in packed.rows:
        added, bounds = lengthened([LENGTHS[one] for one in row], padding)
        assert 0 <= added < SIZE_STEP
        assert len(bounds) == padding.slots + 1
        assert bounds == sorted(bounds)
        assert bounds[-1] == sum(LENGTHS[one] for one in row) + added in padding.sizes


def test_rows_of_very_different_lengths_still_have_few_sizes() -> None:
    padding = padding_for([(0,), *((one,) for one in range(40))], [30 + 97 * one for one in range(40)])
    assert len(padding.sizes) <= MOST_SIZES
    assert padding.size_for(30 + 97 * 39) == padding.sizes[-1]


@pytest.mark.local
def test_a_lengthened_row_asks_for_the_same_answers() -> None:
    rows, packed = examples(), pack_steps([len(one.ids) for one in examples()], STEPS, 8, 7, ROW_TOKENS)
    plain, padded = ReadyRows(rows, packed.rows), ReadyRows(rows, packed.rows)
    padded.pad()
    for number in range(len(packed.rows)):
        one, other = plain[number], padded[number]
        tokens = one["input_ids"].shape[1]
        assert other["input_ids"].shape[1] % SIZE_STEP == 0
        assert other["input_ids"][:, :tokens].equal(one["input_ids"])
        assert other["position_ids"][:, :tokens].equal(one["position_ids"])
        assert other["label_positions"].equal(one["label_positions"])
        assert other["targets"].equal(one["targets"])


@pytest.mark.local
def test_recorded_passes_train_to_the_losses_and_gradients_of_plain_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner, "record_on_gpu", play_again)
    told: list[str] = []
    plain, recorded = train(tmp_path / "a", graphed=False, told=told), train(tmp_path / "b", graphed=True, told=told)
    assert told == []
    assert recorded.ready.padding is not None
    assert losses(recorded) == pytest.approx(losses(plain), rel=2e-3)
    assert "forward" in recorded.model.get_base_model().model.__dict__
    assert "forward" not in release(recorded.model).model.__dict__


@pytest.mark.local
def test_a_model_that_cannot_be_recorded_is_trained_without_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(graphed: GraphedDecoder) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(tuner, "record_on_gpu", refuse)
    told: list[str] = []
    plain, without = train(tmp_path / "a", graphed=False, told=told), train(tmp_path / "b", graphed=True, told=told)
    assert losses(without) == losses(plain)
    assert told == ["passes are not recorded as CUDA graphs: operation not permitted when stream is capturing"]


def doubled(graphed: GraphedDecoder, backward: Callable[[], None]) -> None:
    graphed.outer.mul_(2)
    backward()


@pytest.mark.local
def test_recordings_that_give_other_gradients_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damage(graphed: GraphedDecoder) -> None:
        play_again(graphed)
        for size, backward in list(graphed.backwards.items()):
            graphed.backwards[size] = functools.partial(doubled, graphed, backward)

    monkeypatch.setattr(tuner, "record_on_gpu", damage)
    told: list[str] = []
    plain, without = train(tmp_path / "a", graphed=False, told=told), train(tmp_path / "b", graphed=True, told=told)
    assert losses(without) == losses(plain)
    assert len(told) == 1
    assert "instead of" in told[0]


@pytest.mark.local
def test_weights_that_were_replaced_are_trained_without_their_recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(graphed: GraphedDecoder) -> None:
        play_again(graphed)
        graphed.places[-1] += 64

    monkeypatch.setattr(tuner, "record_on_gpu", replace)
    told: list[str] = []
    plain, without = train(tmp_path / "a", graphed=False, told=told), train(tmp_path / "b", graphed=True, told=told)
    assert losses(without) == pytest.approx(losses(plain), rel=2e-3)
    assert told == ["passes are no longer recorded as CUDA graphs: the adapter's weights have been replaced"]


@pytest.mark.local
@pytest.mark.parametrize("nested", [False, True])
def test_memory_that_runs_out_in_a_recording_leads_to_a_smaller_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nested: bool) -> None:
    import torch

    def run_out(graphed: GraphedDecoder) -> None:
        try:
            raise torch.OutOfMemoryError("2 GiB")
        finally:
            if nested:
                raise RuntimeError("capture was invalidated")  # what leaving a broken recording says

    monkeypatch.setattr(tuner, "record_on_gpu", run_out)
    with pytest.raises(AssertionError):
        train(tmp_path, graphed=True, told=[])


def test_only_passes_that_wait_for_the_processor_are_recorded() -> None:
    asked: dict[str, Any] = {"asked": "bf16", "step_tokens": 16_000, "longest": 512, "total_tokens": 3e6}
    hopper, slow = Machine("cuda", "NVIDIA H200", (9, 0), 138 * GIB, True, 7.9e14), Machine("cuda", "NVIDIA A10G", (8, 6), 22 * GIB, True, 7.0e13)
    assert choose_way(hopper, SEVEN, limit_bytes=22 * GIB, **asked)[0].graphed
    assert not choose_way(hopper, SEVEN, **asked)[0].graphed
    assert not choose_way(hopper._replace(peak_flops=0.0), SEVEN, limit_bytes=22 * GIB, **asked)[0].graphed
    assert not choose_way(slow, SEVEN, limit_bytes=22 * GIB, **asked)[0].graphed


def test_layers_that_are_computed_twice_and_models_that_are_split_or_trained_whole_are_not_recorded() -> None:
    hopper, small = Machine("cuda", "NVIDIA H200", (9, 0), 138 * GIB, True, 7.9e14), Shape(1_540_000_000, 1536, 28, 8960, 151936, True, 4_000_000)
    asked: dict[str, Any] = {"asked": "bf16", "step_tokens": 16_000, "longest": 512, "total_tokens": 3e6}
    for way in choose_way(hopper, SEVEN, limit_bytes=16 * GIB, **asked):
        assert not (way.graphed and way.checkpoint_every)
    assert not any(way.graphed for way in choose_way(hopper, small, shards=2, **asked))
    assert not any(way.graphed for way in choose_way(hopper, small, full=True, **asked))
