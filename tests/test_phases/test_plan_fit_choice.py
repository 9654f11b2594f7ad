"""The model that plan_fit chooses: its exact size, its name, its machine's needs, and the tables behind it."""

from __future__ import annotations

from pathlib import Path

import pytest

from forge.config import load_data
from forge.phases.plan_fit.choice import choose, count_parameters
from forge.phases.plan_fit.data import Data
from forge.phases.plan_fit.fit import judge_hyperparameters, needed_memory_gib
from forge.phases.plan_fit.forecast import deadline_seconds, forecast, total
from forge.phases.plan_fit.machines import memory_gib
from forge.phases.plan_fit.names import model_name, size_label, slug
from forge.phases.plan_fit.settings import PlanFitSettings
from forge.phases.plan_fit.speed import tokens_per_second
from forge.phases.plan_fit.tables import load_tables
from forge.protocols import Offer
from forge.records import DataContract, Example, Passage, ScratchBase, read_jsonl, read_record
from tests.test_phases.planned_world import World

LIMITS = {name: float(value) for name, value in load_data("gates").items()}
CPU = Offer(provider="local", name="cpu", usd_per_hour=0, device="cpu", cores=2, memory_gib=8)
GPU = CPU.model_copy(update={"name": "gpu-0", "device": "cuda", "gpu": "NVIDIA A10G", "gpu_memory_gib": 22.5, "bf16": True})


def data_of(folder: Path, **contract: object) -> Data:
    world = World(folder)
    world.contract = contract
    paths = world.write()
    rows: dict[str, tuple[Example, ...]] = {name: tuple(read_jsonl(paths[name], Example)) for name in world.splits}
    return Data(
        clean=tuple(world.clean), pairs=tuple(world.pairs), splits=rows, pretrain=tuple(read_jsonl(paths["pretrain"], Passage)),
        pretrain_val=(), contract=read_record(paths["shape"], DataContract), tokenizer=paths["tokenizer"],
    )


def test_a_machine_without_a_gpu_gets_the_small_size_and_one_with_a_gpu_the_base_size(tmp_path: Path) -> None:
    data = data_of(tmp_path)
    small = choose(data, CPU, PlanFitSettings(), dry_run=False)
    large = choose(data, GPU, PlanFitSettings(), dry_run=False)
    assert small.scratch is not None
    assert large.scratch is not None
    assert (small.scratch.layers, small.precision) == (2, "fp32")
    assert (large.scratch.layers, large.precision) == (8, "bf16")
    assert small.parameters == count_parameters(small.scratch)


def test_a_known_base_is_planned_from_the_table_with_its_licence_and_small_learning_rate(tmp_path: Path) -> None:
    choice = choose(data_of(tmp_path, base="Qwen/Qwen2.5-3B-Instruct"), GPU, PlanFitSettings(), dry_run=False)
    assert (choice.scratch, choice.license, choice.architecture) == (None, "qwen-research", "qwen2")
    assert choice.lora.learning_rate == pytest.approx(2e-4)
    assert needed_memory_gib(choice, GPU) > 5


def test_small_corpora_are_read_more_often_and_never_less_than_600_steps(tmp_path: Path) -> None:
    steps = {}
    for tokens in (10_000, 30_000, 60_000, 10_000_000):
        scratch = choose(data_of(tmp_path, pretrain_tokens=tokens), CPU, PlanFitSettings(train_minutes=4.5), dry_run=False).scratch
        assert scratch is not None
        steps[tokens] = scratch.steps
    most = steps[10_000_000]
    assert steps == {10_000: 600, 30_000: 997, 60_000: most, 10_000_000: most}
    assert 1200 <= most <= 1600


def test_settings_decide_size_epochs_and_caps(tmp_path: Path) -> None:
    choice = choose(data_of(tmp_path), CPU, PlanFitSettings(size="tiny", epochs=2, train_minutes=60), dry_run=False)
    assert choice.scratch is not None
    assert choice.scratch.layers == 1
    assert choice.lora.epochs == pytest.approx(2, abs=0.1)
    short = choose(data_of(tmp_path), CPU, PlanFitSettings(train_minutes=0.1), dry_run=False)
    assert short.scratch is not None
    assert short.scratch.steps < 60
    assert short.lora.epochs < 1


def test_an_extraction_reads_less_by_heart_and_takes_smaller_steps(tmp_path: Path) -> None:
    corpus = {"pretrain_tokens": 20_000}
    chat, extract = (choose(data_of(tmp_path / task, task=task, **corpus), CPU, PlanFitSettings(train_minutes=60), dry_run=False) for task in ("chat", "extract"))
    assert chat.scratch is not None
    assert extract.scratch is not None
    assert (chat.scratch.steps, extract.scratch.steps) == (665, 391)  # 17 and 10 times 20,000 tokens in steps of 512
    assert (chat.lora.examples_per_step, extract.lora.examples_per_step) == (8, 4)


def test_a_gpu_reads_more_in_the_same_time_and_takes_larger_steps(tmp_path: Path) -> None:
    large = choose(data_of(tmp_path, pretrain_tokens=10_000_000), GPU, PlanFitSettings(), dry_run=False).scratch
    assert large is not None
    assert large.rows_per_step * large.context == 8192
    assert large.steps * 8192 > 5_000_000


def test_a_small_corpus_is_read_in_as_many_steps_on_a_gpu_as_on_a_cpu(tmp_path: Path) -> None:
    small, middle = (choose(data_of(tmp_path / str(tokens), pretrain_tokens=tokens), GPU, PlanFitSettings(), dry_run=False).scratch for tokens in (40_000, 300_000))
    assert small is not None
    assert middle is not None
    assert (small.rows_per_step * small.context, small.steps) == (512, 1329)  # 17 passes; steps of 8,192 went through it 120 times
    assert middle.rows_per_step * middle.context == 1536
    assert middle.steps * 1536 == pytest.approx(8 * 300_000, rel=0.01)


def test_the_context_grows_to_the_longest_row_within_what_shape_allows(tmp_path: Path) -> None:
    for longest, context in ((100, 256), (300, 320), (900, 512)):
        choice = choose(data_of(tmp_path, longest=longest), CPU, PlanFitSettings(), dry_run=False)
        assert choice.scratch is not None
        assert (choice.scratch.context, choice.lora.max_length) == (context, context)


# --- hyperparameters as a check --------------------------------------------------------------------------------


def checked(tmp_path: Path, offer: Offer = CPU, settings: PlanFitSettings | None = None, **contract: object) -> str:
    data = data_of(tmp_path, **contract)
    choice = choose(data, offer, settings or PlanFitSettings(), dry_run=False)
    verdict = judge_hyperparameters(data, choice, offer, LIMITS, dry_run=False)
    return f"{verdict.outcome}: {verdict.evidence}"


def test_hyperparameters_fail_for_epochs_outside_rows_too_long_and_memory_too_small(tmp_path: Path) -> None:
    assert checked(tmp_path).startswith("pass")
    assert "epochs are outside" in checked(tmp_path, settings=PlanFitSettings(epochs=30, train_minutes=600))
    assert "rows are too long" in checked(tmp_path, too_long=40)
    assert "longest row has 900" in checked(tmp_path, longest=900)
    assert "GiB" in checked(tmp_path, offer=CPU.model_copy(update={"memory_gib": 1.0})).split("over the limit")[1]


def test_hyperparameters_are_undecided_for_few_rows(tmp_path: Path) -> None:
    data = data_of(tmp_path)
    few = Data(**{**{key: getattr(data, key) for key in data.__dataclass_fields__},
                  "splits": {**data.splits, "train": data.splits["train"][:49]}})
    choice = choose(few, CPU, PlanFitSettings(), dry_run=False)
    assert judge_hyperparameters(few, choice, CPU, LIMITS, dry_run=False).outcome == "undecided"


# --- forecast --------------------------------------------------------------------------------------------------


def test_the_forecast_costs_only_leased_time_and_its_p90_is_less_than_the_sum_of_p90s(tmp_path: Path) -> None:
    paid = GPU.model_copy(update={"usd_per_hour": 2.0})
    choice = choose(data_of(tmp_path), paid, PlanFitSettings(), dry_run=False)
    rows = forecast(choice, paid, tuning_tokens=10_000, test_rows=50, test_tokens=5_000)
    cost = {row.phase: row.usd_p50 for row in rows}
    assert cost["publish"] == 0 < cost["train"]
    assert total(rows).seconds_p50 == pytest.approx(sum(row.seconds_p50 for row in rows))
    assert total(rows).seconds_p90 < sum(row.seconds_p90 for row in rows)
    assert deadline_seconds(rows) >= 1800
    assert deadline_seconds(rows) % 60 == 0


def test_a_measured_rehearsal_replaces_the_fixed_times_and_narrows_the_spread(tmp_path: Path) -> None:
    choice = choose(data_of(tmp_path), CPU, PlanFitSettings(), dry_run=False)
    table, measured = (
        forecast(choice, CPU, tuning_tokens=10_000, test_rows=50, test_tokens=5_000, rehearsed=seconds)[0]
        for seconds in (None, {"train": 60.0})
    )
    assert measured.seconds_p50 == pytest.approx(table.seconds_p50 + 45)
    assert measured.seconds_p90 / measured.seconds_p50 < table.seconds_p90 / table.seconds_p50
    assert "rehearsal 60 s" in measured.basis


def test_speeds_are_those_that_were_measured() -> None:
    assert tokens_per_second(2_100_000, CPU, "fp32")[0] == pytest.approx(4600, rel=0.1)
    h200 = GPU.model_copy(update={"gpu": "NVIDIA H200"})
    assert tokens_per_second(7_615_000_000, h200, "bf16")[0] > tokens_per_second(7_615_000_000, GPU, "bf16")[0] * 5


# --- names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "label"),
    [(850, "850"), (850_000, "850k"), (999_600, "1m"), (2_098_432, "2m"), (1_444_096, "1.4m"), (25_500_000, "26m"), (1_720_000_000, "1.7b"),
     (7_615_000_000, "7.6b"), (70_000_000_000, "70b")],
)
def test_the_size_in_the_name_is_the_real_one(parameters: int, label: str) -> None:
    assert size_label(parameters) == label


def test_names_are_legal_whatever_the_folder_is_called() -> None:
    assert model_name("", "Ärzte & Normen (2026)", 2_098_432) == "rzte-normen-2026-2m"
    assert model_name("", "", 2_098_432) == "model-2m"
    assert model_name("dental-qa", "x", 1) == "dental-qa"
    assert slug("--a__B--") == "a-b"


# --- tables ----------------------------------------------------------------------------------------------------


def test_every_width_in_the_ladder_can_be_a_k_quant_and_every_head_count_divides() -> None:
    for size in load_tables().scratch.values():
        assert size.hidden_size % 256 == size.intermediate_size % 256 == 0
        assert size.hidden_size % size.heads == size.heads % size.kv_heads == 0


def test_every_known_base_has_a_licence_and_a_source() -> None:
    assert all(base.license and base.source for base in load_tables().bases.values())


def test_every_price_says_where_it_was_read_and_unpaid_ones_have_none() -> None:
    prices = load_data("prices")
    for name, teacher in prices["teachers"].items():
        assert teacher["source"], name
        assert bool(teacher.get("tiers")) == teacher["paid"], name


def test_the_table_of_machines_is_dated_and_every_machine_in_it_is_whole_and_has_a_price() -> None:
    table = load_data("prices")["machines"]["aws"]
    assert table["as_of"].year >= 2026
    assert table["source"]
    assert table["disk_usd_per_gib_month"] > 0 < table["address_usd_per_hour"]
    for name, kind in table["types"].items():
        assert set(kind) == {"usd_per_hour", "gpu", "gpus", "gpu_memory_gib", "cores", "memory_gib", "bf16"}, name
        assert kind["usd_per_hour"] > 0.1, name
        assert kind["gpus"] in (1, 4, 8), name
        assert kind["bf16"] == (not name.startswith("g4dn.")), name


def test_the_speed_of_a_gpu_is_not_that_of_another_with_a_similar_name() -> None:
    rates = {name: tokens_per_second(7_615_000_000, GPU.model_copy(update={"gpu": f"NVIDIA {name}"}), "bf16")[0] for name in ("T4", "L4", "A10G", "L40S", "A100", "H100", "H200")}
    assert list(rates) == sorted(rates, key=lambda name: rates[name])
    assert tokens_per_second(7_615_000_000, GPU.model_copy(update={"gpu": "a100"}), "bf16")[0] == rates["A100"]
    assert len(set(rates.values())) == len(rates)


@pytest.mark.local
@pytest.mark.parametrize("name", ["tiny", "small", "base"])
def test_parameters_are_counted_as_a_real_llama_has_them(name: str) -> None:
    torch = pytest.importorskip("torch")
    from transformers import LlamaConfig, LlamaForCausalLM

    size = load_tables().scratch[name]
    planned = ScratchBase(
        hidden_size=size.hidden_size, layers=size.layers, heads=size.heads, kv_heads=size.kv_heads,
        intermediate_size=size.intermediate_size, vocab_size=2048, context=size.context, steps=1, rows_per_step=1, learning_rate=1,
    )
    config = LlamaConfig(
        hidden_size=size.hidden_size, num_hidden_layers=size.layers, num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads, intermediate_size=size.intermediate_size, vocab_size=2048,
        tie_word_embeddings=True, max_position_embeddings=size.context,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == count_parameters(planned)


def test_the_memory_estimate_grows_with_everything_that_takes_memory() -> None:
    least = memory_gib(2_000_000, 2048, 256, 2, 2048)
    assert 1.2 < least < 1.6
    assert all(memory_gib(*values) > least for values in (
        (40_000_000, 2048, 256, 2, 2048), (2_000_000, 8192, 256, 2, 2048), (2_000_000, 2048, 1024, 2, 2048),
        (2_000_000, 2048, 256, 12, 2048), (2_000_000, 2048, 256, 2, 32768)))
