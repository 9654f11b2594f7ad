"""The parts of train: checkpoints that are whole or not there, row order, packing, guards against each bad row."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from forge.errors import ArtifactDamaged, GateFailed
from forge.phases.train.checkpoints import drop_damaged, latest_checkpoint, save_checkpoint
from forge.phases.train.encode import encode_rows
from forge.phases.train.guards import check_rows, check_training
from forge.phases.train.order import rows_of_step
from forge.phases.train.packing import Encoded
from forge.phases.train.recipes.scratch_base import (
    build_model,
    load_tokenizer,
    pack,
    parameter_groups,
    schedule,
)
from forge.phases.train.reporter import Reporter
from forge.phases.train.runtime import pick_precision
from forge.records import Passage, Source
from tests.test_phases.tiny_training import CHATML, ENDLESS, SHAPE, make_tokenizer


def write_weights(folder: Path) -> None:
    (folder / "weights").write_bytes(b"w" * 1000)
    (folder / "deep").mkdir()
    (folder / "deep" / "moments").write_bytes(b"m" * 1000)


def test_the_newest_of_the_last_two_checkpoints_is_used(tmp_path: Path) -> None:
    for step in (1, 9, 10):
        save_checkpoint(tmp_path, step, write_weights)
    assert latest_checkpoint(tmp_path) == (10, tmp_path / "checkpoint-10")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-9"]


@pytest.mark.parametrize("damage", ["truncated", "missing", "no manifest", "torn manifest"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, damage: str) -> None:
    for step in (4, 8):
        save_checkpoint(tmp_path, step, write_weights)
    newest = tmp_path / "checkpoint-8"
    if damage == "truncated":
        (newest / "weights").write_bytes(b"w" * 999)
    elif damage == "missing":
        (newest / "deep" / "moments").unlink()
    elif damage == "no manifest":
        (newest / "complete.json").unlink()
    else:
        (newest / "complete.json").write_text('{"step": 8, "fil')
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found[0] == 4
    assert drop_damaged(tmp_path) == ["checkpoint-8"]
    assert not newest.exists()


def test_a_kill_while_writing_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 4, write_weights)

    def die(folder: Path) -> None:
        (folder / "weights").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, 8, die)
    assert latest_checkpoint(tmp_path) == (4, tmp_path / "checkpoint-4")
    save_checkpoint(tmp_path, 8, write_weights)
    assert latest_checkpoint(tmp_path) == (8, tmp_path / "checkpoint-8")


def test_there_is_no_checkpoint_in_an_empty_folder(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "none") is None


@pytest.mark.local
def test_every_epoch_reads_every_row_once_in_its_own_order() -> None:
    rows = [row for step in range(1, 11) for row in rows_of_step(step, 3, 10, seed=7)]
    assert [sorted(rows[:10]), sorted(rows[10:20])] == [list(range(10))] * 2
    assert rows[:10] != rows[10:20]
    assert rows_of_step(5, 3, 10, seed=7) == rows[12:15]
    assert rows_of_step(5, 3, 10, seed=8) != rows[12:15]


@pytest.mark.local
def test_no_rows_are_an_error() -> None:
    with pytest.raises(ArtifactDamaged, match="no rows to train on"):
        rows_of_step(1, 4, 0, seed=7)


@pytest.mark.local
def test_each_passage_ends_with_the_end_of_turn_and_the_separator(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(make_tokenizer(tmp_path, ["The pump opens."]), SHAPE)
    passages = [Passage(id=f"p{i}", source=Source(path="a", sha256=""), group="g", text=f"The pump opens {i}.") for i in range(5)]
    rows = pack(tokenizer, passages, 16)
    stream = rows.flatten().tolist()
    text = "".join(f"The pump opens {i}.<|im_end|><|endoftext|>" for i in range(5))
    ids = tokenizer(text)["input_ids"]
    assert stream[: len(ids)] == ids
    assert stream[len(ids) :] == ids[: len(stream) - len(ids)]  # the last row is filled from the beginning
    assert pack(tokenizer, [], 16).shape == (0, 16)


@pytest.mark.local
def test_a_tokenizer_larger_than_the_planned_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactDamaged, match="the plan's model 100"):
        load_tokenizer(make_tokenizer(tmp_path, ["The pump opens."]), SHAPE.model_copy(update={"vocab_size": 100}))


@pytest.mark.local
def test_the_separators_embedding_is_trained_and_norms_do_not_decay(tmp_path: Path) -> None:
    """transformers freezes and zeroes the row of config.pad_token_id; ours is the document separator."""
    tokenizer = load_tokenizer(make_tokenizer(tmp_path, ["The pump opens."]), SHAPE)
    model = build_model(SHAPE, tokenizer)
    assert model.get_input_embeddings().padding_idx is None
    assert bool(model.get_input_embeddings().weight[tokenizer.pad_token_id].any())
    decayed, kept = parameter_groups(model)
    assert {weight.dim() for weight in kept["params"]} == {1}
    assert kept["weight_decay"] == 0.0
    assert {weight.dim() for weight in decayed["params"]} == {2}


def test_the_learning_rate_warms_up_and_falls_to_a_tenth() -> None:
    rates = [schedule(step, 100) for step in range(1, 101)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[4] == 1.0
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] == pytest.approx(0.1)


def rendered(folder: Path, template: str = CHATML) -> tuple[Any, list[dict[str, Any]], list[Encoded]]:
    """A tokenizer, one row, and the row in tokens."""
    tokenizer: Any = load_tokenizer(make_tokenizer(folder, ["When? At once."], template), SHAPE)
    rows = [{"prompt": [{"role": "user", "content": "When?"}], "completion": [{"role": "assistant", "content": "At once."}]}]
    return tokenizer, rows, encode_rows(rows, tokenizer)


@pytest.mark.local
def test_good_rows_pass_every_guard(tmp_path: Path) -> None:
    tokenizer, rows, examples = rendered(tmp_path)
    assert set(check_rows(examples, rows, tokenizer, 128).values()) == {True}


@pytest.mark.local
def test_each_bad_row_is_refused_by_its_guard(tmp_path: Path) -> None:
    tokenizer, rows, examples = rendered(tmp_path / "good")
    one = examples[0]
    with pytest.raises(GateFailed, match="no_row_lost"):
        check_rows(examples, rows * 2, tokenizer, 128)
    with pytest.raises(GateFailed, match="no_truncation"):
        check_rows(examples, rows, tokenizer, len(one.ids) - 1)
    with pytest.raises(GateFailed, match="prompt_masked"):
        check_rows([one._replace(prompt_length=2)], rows, tokenizer, 128)
    endless, bad_rows, bad = rendered(tmp_path / "endless", ENDLESS)
    with pytest.raises(GateFailed, match="eos_in_labels"):
        check_rows(bad, bad_rows, endless, 128)
    tokenizer.bos_token = "<|im_start|>"
    with pytest.raises(GateFailed, match="single_bos"):
        check_rows([Encoded((tokenizer.bos_token_id, *one.ids), one.prompt_length + 1)], rows, tokenizer, 128)


@pytest.mark.local
def test_what_came_out_of_training_is_checked() -> None:
    import torch

    weights, falling = {"lora_B": torch.ones(2, 2)}, [3.0 - 0.1 * step for step in range(20)]
    assert check_training(weights, falling, [2.0])["loss_fell"] is True
    assert check_training(weights, [3.0, 3.1], [])["loss_fell"] is None
    with pytest.raises(GateFailed, match="adapter_not_zero"):
        check_training({"lora_B": torch.zeros(2, 2)}, falling, [])
    with pytest.raises(GateFailed, match="losses_finite"):
        check_training(weights, falling, [math.nan])
    with pytest.raises(GateFailed, match="loss_fell"):
        check_training(weights, falling[::-1], [2.0])


@pytest.mark.local
def test_bf16_is_used_only_where_the_machine_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    for has_units, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has_units=has_units: has_units)
        assert pick_precision("bf16", "cpu")[0] == expected
    assert pick_precision("fp32", "cpu")[0] == "fp32"
    assert pick_precision("bf16", "cuda")[0] == "bf16"


class Silent:
    """As much of a Context as a Reporter needs."""

    def __init__(self, work: Path) -> None:
        self.work, self.seen = work, [0.0]

    def progress(self, done: float, total: float | None = None, note: str = "", **numbers: float) -> None:
        self.seen.append(done)


def test_a_resumed_stage_cuts_what_it_trains_again_from_the_log(tmp_path: Path) -> None:
    ctx: Any = Silent(tmp_path)
    for done, upto in ((0, 5), (3, 6)):
        reporter = Reporter(ctx, "lora", 6, before=10, total=16, every=1)
        reporter.start(done)
        for step in range(done + 1, upto + 1):
            reporter.step(step, 1.0, 100, 0.5)
        with (tmp_path / "progress.jsonl").open("a") as file:
            file.write('{"torn')
    reporter.start(6)
    reporter.publish(tmp_path / "out.jsonl")
    assert [json.loads(line)["step"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 5, 6]
    assert max(ctx.seen) == 16
