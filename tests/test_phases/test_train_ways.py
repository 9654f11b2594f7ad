"""How a step is computed: packed rows, the choice for a machine, falling back, the lean loss and optimizer, rounded bases, pace."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from forge import timebox
from forge.errors import ForgeError, OverBudget, UsageError
from forge.phases.train.pace import CALIBRATION_STEPS, Hold, Limits, Pace, Watchdog, seconds_for
from forge.phases.train.packing import Encoded, flat_rows, labels_of, pack_rows, pack_steps
from forge.phases.train.schedule import Schedule
from forge.phases.train.tuner import (
    Numbers,
    adapt,
    first_that_fits,
    make_trainer,
    release,
    steps_between_logs,
    train_on,
    train_that_fits,
    trial_step,
)
from forge.phases.train.watcher import make_watcher
from forge.phases.train.ways import GIB, Machine, Shape, Way, choose_way, needed_bytes
from tests.test_phases.tiny_training import make_tokenizer

H200 = Machine("cuda", "NVIDIA H200", (9, 0), 138 * GIB, True, 7.9e14)
A10G = Machine("cuda", "NVIDIA A10G", (8, 6), 22 * GIB, True, 7.0e13)
SEVEN = Shape(7_615_616_512, 3584, 28, 18944, 152064, False, 20_185_088)
LENGTHS = [24 + (37 * number) % 170 for number in range(60)]


def test_a_step_always_has_the_planned_examples_whatever_the_rows_hold() -> None:
    for row_tokens in (200, 500, 10_000):
        packed = pack_steps(LENGTHS, 9, 8, 7, row_tokens)
        steps = [packed.rows[at : at + packed.rows_per_step] for at in range(0, len(packed.rows), packed.rows_per_step)]
        drawn = [sorted(example for row in step for example in row) for step in steps]
        assert [len(step) for step in drawn] == [8] * 9
        assert drawn == [sorted(row) for row in ([e for r in s for e in r] for s in steps)]
        assert all(sum(LENGTHS[e] for e in row) <= max(row_tokens, max(LENGTHS)) for row in packed.rows)
        assert sum(packed.tokens) == sum(LENGTHS[e] for row in packed.rows for e in row)
    whole, small = pack_steps(LENGTHS, 9, 8, 7, 10_000), pack_steps(LENGTHS, 9, 8, 7, 300)
    assert [sorted(row) for row in whole.rows] == [
        sorted(e for row in small.rows[at : at + small.rows_per_step] for e in row) for at in range(0, len(small.rows), small.rows_per_step)
    ]


def test_rows_of_a_step_are_shared_by_all_processes() -> None:
    packed = pack_steps(LENGTHS, 5, 8, 7, 10_000, multiple=4)
    assert packed.rows_per_step == 4
    assert all(packed.rows)


def test_validation_rows_hold_every_example_once_within_the_limit() -> None:
    rows = pack_rows(LENGTHS, 256)
    assert sorted(example for row in rows for example in row) == list(range(len(LENGTHS)))
    assert max(sum(LENGTHS[example] for example in row) for row in rows) <= 256
    assert len(rows) < len(LENGTHS) / 1.5


def test_only_answers_carry_labels() -> None:
    one, two = Encoded((5, 6, 7, 8), 2), Encoded((9, 3), 1)
    columns = flat_rows([one, two], [(0, 1)])
    assert columns == {"input_ids": [[5, 6, 7, 8, 9, 3]], "labels": [[-100, -100, 7, 8, -100, 3]], "seq_lengths": [[4, 2]]}
    assert labels_of(one)[2:] == [7, 8]


@pytest.mark.parametrize(("row_tokens", "every", "compiled", "measured"), [
    (1645, 0, True, 21.0), (2207, 0, True, 23.1), (17400, 0, True, 73.7), (25967, 0, True, 102.1), (2048, 2, True, 19.6), (8192, 0, False, 57.7),
])  # fmt: skip
def test_the_memory_model_is_within_four_percent_of_what_an_h200_took(row_tokens: int, every: int, compiled: bool, measured: float) -> None:
    found = needed_bytes(SEVEN, "bf16", row_tokens=row_tokens, checkpoint_every=every, compiled=compiled) / GIB
    assert found == pytest.approx(measured, rel=0.04)


def choose(machine: Machine, **more: Any) -> list[Way]:
    asked: dict[str, Any] = {"asked": "auto", "step_tokens": 16_000, "longest": 512, "total_tokens": 3e6, **more}
    return choose_way(machine, SEVEN, **asked)


def test_a_long_run_on_a_hopper_gpu_uses_fp8_with_compile_and_a_short_one_plain_bfloat16() -> None:
    way = choose(H200)[0]
    assert (way.precision, way.compile, way.row_tokens, way.checkpoint_every) == ("fp8", True, 16_000, 0)
    assert set(way.reasons) == {"compile", "precision", "memory"}
    short = choose(H200, total_tokens=1e5)[0]
    assert (short.precision, short.compile) == ("bf16", False)
    assert "would save" in short.reasons["compile"]


def test_a_smaller_gpu_gets_shorter_rows_then_checkpointing_then_four_bits() -> None:
    assert choose(A10G)[0].precision == "bf16"
    assert choose(H200, asked="bf16", limit_bytes=22 * GIB)[0].row_tokens < 2_000
    assert choose(H200, asked="bf16", limit_bytes=int(15.9 * GIB), longest=400)[0].checkpoint_every > 0
    assert choose(H200, limit_bytes=12 * GIB)[0].precision == "nf4"
    falling = [needed_bytes(SEVEN, way.precision, row_tokens=way.row_tokens, checkpoint_every=way.checkpoint_every, compiled=way.compile, one_copy=way.one_copy) for way in choose(H200)]
    assert falling == sorted(falling, reverse=True)
    assert len(falling) > 2


def test_an_fp8_base_keeps_one_copy_where_two_leave_only_short_rows() -> None:
    tight, roomy = choose(H200._replace(peak_flops=0.0), limit_bytes=23 * GIB)[0], choose(H200)[0]
    assert (tight.precision, tight.one_copy, tight.row_tokens > 3_000) == ("fp8", True, True)
    assert (roomy.precision, roomy.one_copy) == ("fp8", False)
    assert "one copy of the base" in tight.reasons["memory"]
    recorded = choose(H200, limit_bytes=23 * GIB)[0]  # nothing waits for the processor: short rows cost less than turning the base
    assert (recorded.one_copy, recorded.graphed) == (False, True)
    assert "CUDA graphs" in recorded.reasons["memory"]


@pytest.mark.local
def test_one_copy_of_an_fp8_base_gives_the_products_of_two_within_their_rounding() -> None:
    import torch

    from forge.phases.train.fp8 import freeze_in_fp8

    model = tiny_model("bfloat16").requires_grad_(False)
    asked, gradient = torch.randn(32, 64).to(torch.bfloat16), torch.randn(32, 128).to(torch.bfloat16)
    weight = model.model.layers[0].mlp.up_proj.weight.float().clone()
    for one_copy in (False, True):
        model = tiny_model("bfloat16").requires_grad_(False)
        freeze_in_fp8(model, one_copy=one_copy)
        values = asked.clone().requires_grad_(True)
        out = model.model.layers[0].mlp.up_proj(values)
        out.backward(gradient)
        assert values.grad is not None
        for ours, exact in ((out, asked.float() @ weight.T), (values.grad, gradient.float() @ weight)):
            assert float((ours.float() - exact).norm().detach() / exact.norm()) < 0.05


def test_a_precision_that_the_machine_lacks_is_refused_with_the_way_out() -> None:
    with pytest.raises(UsageError, match="needs a GPU with FP8 units") as error:
        choose(A10G, asked="fp8")
    assert "8.6" in error.value.why
    with pytest.raises(UsageError, match="needs a GPU"):
        choose(Machine("cpu", "this CPU", (0, 0), 0, True), asked="nf4")
    assert choose(Machine("cpu", "this CPU", (0, 0), 0, True), asked="auto")[0].precision == "fp32"


def test_running_out_of_memory_goes_on_with_the_next_way_and_ends_with_a_reason() -> None:
    ways, tried, told = choose(H200), [], list[str]()

    def build(way: Way) -> Any:
        tried.append(way)
        return way if len(tried) == 3 else None

    assert first_that_fits(ways, build, told.append) is ways[2]
    assert tried == ways[:3]
    assert [line.split(" tokens")[0] for line in told] == [f"out of memory with {way.row_tokens:,}" for way in ways[:2]]
    with pytest.raises(ForgeError, match="does not fit this machine"):
        first_that_fits(ways[:1], lambda way: None, told.append)


@pytest.mark.local
def test_memory_that_runs_out_in_the_middle_goes_on_with_a_smaller_way() -> None:
    import torch

    ways, trained, told = choose(H200), [], list[str]()

    def train(built: Any) -> None:
        trained.append(built[1])
        if len(trained) < 3:
            raise torch.OutOfMemoryError("no memory")

    assert train_that_fits(ways, lambda way: ("trainer", way), told.append, train) == ("trainer", ways[2])
    assert trained == ways[:3]
    assert all("from the last checkpoint" in line for line in told)
    trained.clear()
    with pytest.raises(ForgeError, match="does not fit this machine"):
        train_that_fits(ways[:2], lambda way: ("trainer", way), told.append, train)


# --- real training on tiny models -------------------------------------------------------------------------------------


def tiny_model(dtype: str = "float32") -> Any:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(3)
    config = Qwen2Config(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=400,
        max_position_embeddings=256, tie_word_embeddings=False, bos_token_id=None, eos_token_id=2, pad_token_id=0,
    )
    return Qwen2ForCausalLM(config).to(getattr(torch, dtype))


def examples(number: int = 40) -> list[Encoded]:
    return [Encoded(tuple(3 + (11 * at + 7 * one) % 390 for at in range(LENGTHS[one])), LENGTHS[one] // 2) for one in range(number)]


def losses(folder: Path, precision: str, row_tokens: int, *, steps: int = 4, checkpoint_every: int = 0, save_steps: int = 10**6, after: int = 0) -> list[float]:
    """after: goes on from the checkpoint of that step."""
    from transformers import AutoTokenizer

    way = Way("cpu", precision, False, row_tokens, checkpoint_every, {})  # type: ignore[arg-type]
    model = adapt(tiny_model("float32" if precision == "fp32" else "bfloat16"), adapter(), way, seed=7)
    rows, work = examples(), folder / f"{precision}-{row_tokens}"
    packed = pack_steps([len(one.ids) for one in rows], steps, 8, 7, row_tokens)
    tokenizer = AutoTokenizer.from_pretrained(make_tokenizer(folder / "tokenizer", ["a pump"]))
    trainer = make_trainer(model, tokenizer, rows, packed, Numbers(steps, 5e-3, 7, save_steps, 1), way, work)
    assert trial_step(trainer, packed, [len(one.ids) for one in rows])
    train_on(trainer, None, work / f"checkpoint-{after}" if after else None)
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def adapter() -> Any:
    from peft import LoraConfig

    return LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, lora_dropout=0.0, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])


@pytest.mark.local
def test_packed_rows_have_the_loss_of_separate_ones_and_plain_trl(tmp_path: Path) -> None:
    import datasets
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from forge.phases.train.order import rows_of_step

    packed, split = losses(tmp_path / "a", "fp32", 10_000), losses(tmp_path / "b", "fp32", 200)
    assert packed == pytest.approx(split, rel=1e-4)
    rows = [examples()[at] for step in range(1, 5) for at in rows_of_step(step, 8, 40, 7)]
    arguments = SFTConfig(
        output_dir=str(tmp_path / "trl"), max_steps=4, per_device_train_batch_size=4, gradient_accumulation_steps=2, bf16=False, use_cpu=True,
        train_sampling_strategy="sequential", learning_rate=5e-3, lr_scheduler_type="cosine", warmup_steps=0.03, max_length=None, seed=7,
        gradient_checkpointing=False, logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, optim="adamw_torch",
    )  # fmt: skip
    plain = SFTTrainer(
        model=tiny_model(), args=arguments, peft_config=adapter(), processing_class=AutoTokenizer.from_pretrained(tmp_path / "a/tokenizer"),
        train_dataset=datasets.Dataset.from_dict({"input_ids": [list(one.ids) for one in rows], "labels": [labels_of(one) for one in rows]}),
    )
    train_on(plain, None, None)
    assert packed == pytest.approx([line["loss"] for line in plain.state.log_history if "loss" in line], rel=1e-4)
    assert packed[-1] < packed[0]


@pytest.mark.local
def test_rounded_bases_and_the_lean_loss_train_to_the_same_losses_within_half_a_percent(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    wanted = losses(tmp_path / "fp32", "fp32", 400)
    for precision, limit in (("bf16", 0.005), ("fp8", 0.005), ("nf4", 0.02)):
        assert losses(tmp_path / precision, precision, 400) == pytest.approx(wanted, rel=limit)
    assert losses(tmp_path / "again", "bf16", 400, checkpoint_every=1) == pytest.approx(losses(tmp_path / "bf16b", "bf16", 400), rel=1e-3)


@pytest.mark.local
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8", "nf4"])
def test_a_run_that_goes_on_from_a_checkpoint_has_the_losses_of_one_that_was_not_stopped(precision: str, tmp_path: Path) -> None:
    whole = losses(tmp_path, precision, 400, save_steps=2)
    assert losses(tmp_path, precision, 400, after=2) == whole


def test_a_short_training_on_a_gpu_has_losses_too() -> None:
    numbers = Numbers(600, 1e-4, 7, 50, 10)
    assert [steps_between_logs(numbers._replace(steps=steps), "cuda") for steps in (4, 100, 600)] == [1, 5, 10]
    assert steps_between_logs(numbers, "cpu") == 1


@pytest.mark.local
def test_the_last_step_is_logged_wherever_it_falls(tmp_path: Path) -> None:
    watcher = make_watcher(SimpleNamespace(notice=print, check_stop=lambda: None), None, [100] * 7, Pace(Limits(0.0, 0.0, 0.0, 0.0), 7, 0))  # type: ignore[arg-type]
    asked = [SimpleNamespace(should_log=False, should_save=False, should_training_stop=False) for _ in range(7)]
    for step, control in enumerate(asked, start=1):
        watcher.on_step_end(None, SimpleNamespace(global_step=step, max_steps=7), control)
    watcher.watchdog.stop()
    assert [control.should_log for control in asked] == [False] * 6 + [True]


@pytest.mark.local
def test_an_example_does_not_see_the_one_before_it_in_its_row(tmp_path: Path) -> None:
    import torch

    from forge.phases.train.attention import register_varlen

    model = tiny_model().eval()
    model.set_attn_implementation(register_varlen())
    first, second = torch.arange(3, 33), torch.arange(40, 90)
    starts = torch.tensor([0, 30, 80], dtype=torch.int32)
    places = torch.cat([torch.arange(30), torch.arange(50)])[None]
    both = model(
        input_ids=torch.cat([first, second])[None], position_ids=places, cu_seq_lens_q=starts, cu_seq_lens_k=starts, max_length_q=50, max_length_k=50
    ).logits[0, 30:]
    contaminated = model(input_ids=torch.cat([first, second])[None]).logits[0, 30:]
    model.set_attn_implementation("sdpa")
    alone = model(input_ids=second[None]).logits[0]
    assert torch.allclose(both, alone, atol=1e-5)
    assert not torch.allclose(contaminated, alone, atol=1e-2)


@pytest.mark.local
def test_bfloat16_adapters_learn_what_is_too_small_for_bfloat16() -> None:
    import torch

    from forge.phases.train.masters import master_adamw

    weight = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = master_adamw([weight], learning_rate=1e-4, max_norm=1.0)
    for _ in range(100):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert float(weight[0]) == pytest.approx(0.99, abs=0.004)   # a step of 1e-4 is a fortieth of what bfloat16 resolves at 1
    saved = optimizer.state_dict()
    again = master_adamw([torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))], learning_rate=1e-4, max_norm=1.0)
    again.load_state_dict(saved)
    assert torch.equal(again.masters[0], optimizer.masters[0])
    assert torch.equal(again.weights()[0], weight)


@pytest.mark.local
def test_the_adapter_of_a_four_bit_base_is_right_on_the_rounded_weights_and_wrong_on_the_original_ones(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    import torch
    from peft import PeftModel

    from forge.phases.train.nf4 import restore_rounded

    original = {name: weight.clone() for name, weight in tiny_model("bfloat16").state_dict().items()}
    model = adapt(tiny_model("bfloat16"), adapter(), Way("cpu", "nf4", False, 400, 0, {}), seed=7)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.02)
    ids = torch.arange(3, 60)[None]
    tuned = model(input_ids=ids).logits.float()
    model.save_pretrained(tmp_path)
    base = model.unload()
    assert restore_rounded(base) == 14
    right = PeftModel.from_pretrained(base, tmp_path).merge_and_unload(safe_merge=True)(input_ids=ids).logits.float()
    trap = tiny_model("bfloat16")
    trap.load_state_dict(original)
    wrong = PeftModel.from_pretrained(trap, tmp_path).merge_and_unload(safe_merge=True)(input_ids=ids).logits.float()
    distance = [float((one - tuned).norm() / tuned.norm()) for one in (right, wrong)]
    assert distance[0] < 0.02
    assert distance[1] > 3 * distance[0]


@pytest.mark.local
def test_a_released_base_computes_what_it_did_before(tmp_path: Path) -> None:
    import torch

    base, ids = tiny_model(), torch.arange(3, 40)[None]
    before = base(input_ids=ids).logits
    model = adapt(base, adapter(), Way("cpu", "fp32", False, 400, 2, {}), seed=7)
    assert torch.allclose(release(model)(input_ids=ids).logits, before, atol=1e-5)


# --- pace ------------------------------------------------------------------------------------------------------------


def paced(seconds_per_step: float, steps: int, limits: Limits, seen: int = CALIBRATION_STEPS) -> Pace:
    ticks = count(0)
    pace = Pace(limits, steps, 0, clock=lambda: next(ticks) * seconds_per_step)
    for _ in range(seen):
        pace.step(1000)
    return pace


def test_speed_share_of_the_limit_end_and_cost_are_known_after_twenty_steps() -> None:
    pace = paced(0.5, 100, Limits(0, 3.6, flops_per_token=1e9, peak_flops=8e12))
    assert pace.calibrated
    found = pace.project()
    assert (found.tokens_per_second, found.seconds, found.share) == pytest.approx((2000, 50, 0.25))
    assert found.usd == pytest.approx(0.05)
    assert pace.affordable_steps() == 100


def test_a_run_that_will_not_end_in_time_makes_the_steps_that_fit() -> None:
    assert paced(1.0, 100, Limits(seconds=70)).affordable_steps() == 70
    assert paced(1.0, 100, Limits(seconds=1000)).affordable_steps() == 100


def test_the_time_for_training_is_what_the_machine_has_left_less_what_comes_after(monkeypatch: pytest.MonkeyPatch) -> None:
    ctx: Any = SimpleNamespace(seconds_left=lambda: 2000.0)
    assert seconds_for(ctx, 4000, 100) == pytest.approx(2000 - 0.3 * 4000)
    assert seconds_for(ctx, 4000, 50, earlier=50, in_all=100) == pytest.approx(800), "the last of two stages gets all of it"
    assert seconds_for(ctx, 4000, 50, in_all=100) == pytest.approx(400), "the first gets half"
    ctx.seconds_left = lambda: 10.0
    assert 0 < seconds_for(ctx, 4000, 100) < 0.01, "and never none at all, which would stand for no limit"
    ctx.seconds_left = lambda: None
    assert seconds_for(ctx, 4000, 100) == pytest.approx(0.7 * 4000), "where nobody says it, what the plan says"


def test_a_worker_knows_how_long_its_machine_will_be_there_by_a_clock_that_nobody_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(timebox.ENDS_AT, "")
    assert timebox.seconds_left() is None
    monkeypatch.setenv(timebox.SECONDS_LEFT, "600")
    timebox.begin()
    assert timebox.seconds_left() == pytest.approx(600, abs=10)
    assert timebox.SECONDS_LEFT not in os.environ, "a child that is started later must not begin anew"


def held(seconds_per_step: float, limit: float, steps: int = 100) -> tuple[Told, Hold]:
    told, now = Told(), [0.0]
    hold = Hold(told, limit, steps, clock=lambda: now[0])  # type: ignore[arg-type]
    for step in range(1, CALIBRATION_STEPS + 2):
        now[0] += seconds_per_step
        hold.step(step)
    return told, hold


def test_a_training_that_cannot_be_shortened_is_stopped_when_less_than_half_of_it_fits() -> None:
    with pytest.raises(OverBudget, match="40 of 100 steps fit into 40 s"):
        held(1.0, 40)
    assert "it may have to go on on a machine that is leased anew" in held(1.0, 60)[0].notices[0]
    assert held(1.0, 100)[0].notices == held(1.0, 1e9)[0].notices == []


def test_steps_that_are_told_in_bursts_are_held_to_their_mean() -> None:
    now = [0.0]
    hold = Hold(Told(), 40, 100, clock=lambda: now[0])  # type: ignore[arg-type]

    def tell(burst: int) -> None:
        now[0] += 10.0
        for step in range(10 * burst + 1, 10 * burst + 11):
            hold.step(step)

    for burst in range(5):
        tell(burst)
    with pytest.raises(OverBudget, match="40 of 100 steps fit"):
        tell(5)


def test_the_learning_rate_reaches_zero_at_the_end_also_of_a_shortened_run() -> None:
    schedule = Schedule(100)
    assert schedule(0) == 0.0
    assert max(schedule(step) for step in range(100)) == 1.0
    assert schedule(100) == pytest.approx(0.0)
    schedule.steps = 60
    assert schedule(60) == pytest.approx(0.0)
    assert schedule(59) > 0


class Told:
    """As much of a Context as a watcher needs."""

    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def check_stop(self) -> None:
        pass


def watched(limit: float, tmp_path: Path) -> tuple[Told, Any, Any, Any]:
    """A watcher after twenty steps of a second each in a run of 100, with a fake Trainer state."""

    from forge.phases.train.watcher import make_watcher

    told, ticks = Told(), count(0)
    pace = Pace(Limits(seconds=limit), 100, 0, clock=lambda: float(next(ticks)))
    reporter: Any = SimpleNamespace(steps=100, step=lambda *a, **k: None)
    watcher = make_watcher(told, reporter, [500] * 100, pace, tmp_path / "steps")  # type: ignore[arg-type]
    state = SimpleNamespace(global_step=0, max_steps=100, is_world_process_zero=True)
    args, scheduler = SimpleNamespace(max_steps=100), SimpleNamespace(lr_lambdas=[Schedule(100)])
    for step in range(1, CALIBRATION_STEPS + 1):
        state.global_step = step
        watcher.on_log(args, state, None, logs={"loss": 1.0}, lr_scheduler=scheduler)
    return told, state, scheduler, tmp_path / "steps"


@pytest.mark.local
def test_too_slow_a_run_is_planned_anew_with_fewer_steps_and_stays_so_when_resumed(tmp_path: Path) -> None:
    told, state, scheduler, note = watched(75, tmp_path)
    assert state.max_steps == 75
    assert scheduler.lr_lambdas[0].steps == 75
    assert note.read_text() == "75\n"
    assert any("real tokens a second" in line for line in told.notices)
    assert any("75 of 100 steps fit" in line for line in told.notices)


@pytest.mark.local
def test_a_run_of_which_less_than_half_would_fit_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(OverBudget, match="training would not end in time: 40 of 100 steps"):
        watched(40, tmp_path)


@pytest.mark.local
def test_a_run_that_is_fast_enough_is_left_alone(tmp_path: Path) -> None:
    told, state, _, note = watched(1000, tmp_path)
    assert state.max_steps == 100
    assert not note.exists()
    assert sum("real tokens a second" in line for line in told.notices) == 1


def test_silence_is_told() -> None:
    import threading

    heard = threading.Event()
    watchdog = Watchdog(lambda text: heard.set(), first_seconds=0.01)
    watchdog._arm(0.01)
    assert heard.wait(20)
    watchdog.stop()


@pytest.mark.local
def test_rows_made_ahead_are_the_batches_that_trls_collator_makes(tmp_path: Path) -> None:
    import torch
    from transformers import AutoTokenizer

    rows = [Encoded(tuple(range(3 + number, 3 + number + 4 + number % 7)), number % 4) for number in range(24)]
    packed = pack_steps([len(one.ids) for one in rows], 3, 8, 7, 30)
    way = Way("cpu", "bf16", False, 30, 0, {})
    tokenizer = AutoTokenizer.from_pretrained(make_tokenizer(tmp_path / "tokenizer", ["a pump"]))
    trainer = make_trainer(adapt(tiny_model("bfloat16"), adapter(), way, seed=7), tokenizer, rows, packed, Numbers(3, 1e-3, 7, 10**6, 1), way, tmp_path / "out")
    for number in range(len(packed.rows)):
        ours, trls = trainer.ready[number], trainer.data_collator([trainer.train_dataset[number]])
        assert ours.keys() == trls.keys()
        for name, value in trls.items():
            assert torch.equal(value, ours[name]) if torch.is_tensor(value) else value == ours[name], name
    assert [batch["max_length_q"] for batch in trainer.get_train_dataloader()] == [trainer.ready[number]["max_length_q"] for number in range(len(packed.rows))]
