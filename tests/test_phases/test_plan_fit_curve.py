"""The learning-curve probe and the capacity rule: what they say of good data, and what they refuse or propose."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from forge.config import load_data
from forge.phases.plan_fit.capacity import per_rank, weigh_capacity
from forge.phases.plan_fit.choice import Choice
from forge.phases.plan_fit.curve import Curve, probe, with_curve
from forge.phases.plan_fit.data import Data
from forge.records import Chat, DataContract, Example, LoraPlan, Verdict, read_record
from tests.test_phases.gate_world import GateWorld
from tests.test_phases.planned_world import MAKERS, World, example

LIMITS = {name: float(value) for name, value in load_data("gates").items()}
FINE = Verdict(name="hyperparameters", estimate=1.0, outcome="pass", evidence="3 epochs")


@cache
def rows(seed: int = 1) -> tuple[list[Example], list[Example]]:
    """Training rows, and the held-out forms of the same facts."""
    pairs = GateWorld(seed).pairs
    return [example(pair, "train") for pair in pairs if not pair.form], [example(pair, "test_recall") for pair in pairs if pair.form]


def curve(train: list[Example], test: list[Example], seed: int = 7) -> Curve | str:
    splits = {"train": tuple(train), "test_recall": tuple(test)}
    made = GateWorld(1)
    return probe(Data(tuple(made.clean), (), splits, tuple(made.clean), (), None, Path()), seed)  # type: ignore[arg-type]


def test_pairs_that_teach_their_other_forms_pass_and_the_gain_of_twice_as_many_is_told() -> None:
    found = curve(*rows())
    assert isinstance(found, Curve)
    losses = list(found.losses.values())
    assert losses == sorted(losses, reverse=True)
    assert found.teaches is True
    verdict = with_curve(FINE, found)
    assert verdict.outcome == "pass"
    assert "twice as many would gain" in verdict.evidence


@pytest.mark.parametrize("seed", range(5))
def test_answers_of_other_questions_are_no_pass(seed: int) -> None:
    train, test = rows()
    answers = [row.body.completion for row in train if isinstance(row.body, Chat)]
    foreign = [tuple(turn.model_copy(update={"content": " ".join(reversed(turn.content.split()))}) for turn in answer) for answer in answers]
    random.Random(seed).shuffle(foreign)
    bad = [row.model_copy(update={"body": row.body.model_copy(update={"completion": answer})}) for row, answer in zip(train, foreign, strict=True)]
    found = curve(bad, test, seed)
    assert isinstance(found, Curve)
    assert found.teaches is False
    assert with_curve(FINE, found).outcome == "undecided"


def test_the_curve_is_the_same_every_time_and_missing_for_a_handful_of_rows() -> None:
    train, test = rows()
    assert curve(train, test) == curve(train, test)
    few = curve(train, test[:5])
    assert isinstance(few, str)
    assert with_curve(FINE, few).outcome == "pass", "a probe that was not made says nothing against the data"


# --- capacity -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    world = World(tmp_path_factory.mktemp("planned"), makers=MAKERS[:3])
    paths = world.write()
    splits: dict[str, tuple[Example, ...]] = {name: tuple(found) for name, found in world.splits.items()}
    return Data((), (), splits, (), (), read_record(paths["shape"], DataContract), paths["tokenizer"])


def weighed(data: Data, tokens: int, parameters: int, rank: int) -> str:
    contract = data.contract.model_copy(update={"tokens": {"train": tokens}, "base": "some/base"})
    lora = LoraPlan(
        rank=rank, alpha=2 * rank, target_modules="all-linear", learning_rate=1e-4, epochs=3, steps=9, examples_per_step=8, max_length=512
    )
    choice = Choice("some/base", "mit", "LlamaForCausalLM", parameters, None, lora, "bf16", (), {}, None, ())
    return weigh_capacity(replace(data, contract=contract), choice, LIMITS)


def test_trainable_parameters_are_those_of_known_adapters() -> None:
    for parameters, known in ((7.6e9, 40.4e6), (1.54e9, 18.5e6), (0.494e9, 8.8e6)):
        assert 16 * per_rank(int(parameters), None) == pytest.approx(known, rel=0.15)


def test_five_thousand_pairs_on_a_7b_at_rank_16_are_in_proportion(data: Data) -> None:
    assert "within" in weighed(data, 300_000, 7_615_000_000, 16)


def test_few_pairs_get_a_smaller_rank_proposed_and_very_few_a_smaller_base_or_more_pairs(data: Data) -> None:
    assert "proposed: plan_fit.rank=4" in weighed(data, 30_000, 7_615_000_000, 16)
    assert "proposed: the smaller base Qwen/Qwen3-1.7B (shape.base)" in weighed(data, 10_000, 7_615_000_000, 2)
    assert "or more pairs" in weighed(data, 500, 7_615_000_000, 16)


def test_more_tokens_than_an_adapter_holds_get_a_larger_rank_proposed(data: Data) -> None:
    assert "proposed: plan_fit.rank=32" in weighed(data, 60_000_000, 1_540_000_000, 16)
    assert "a larger base" in weighed(data, 10**9, 1_540_000_000, 16)
