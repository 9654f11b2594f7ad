"""Every axis of the plan over 20 seeds: the spoiled twin fails, the clean twin passes."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from forge.config import load_data
from forge.ledger import MICRO, Spend
from forge.phases.plan_fit.accuracy import all_defects, judge_accuracy
from forge.phases.plan_fit.budget import judge_budget
from forge.phases.plan_fit.content import judge_content
from forge.phases.plan_fit.coverage import judge_coverage
from forge.phases.plan_fit.data import Data
from forge.phases.plan_fit.diversity import judge_diversity
from forge.phases.plan_fit.fit import judge_leakage
from forge.phases.plan_fit.forecast import Row
from forge.phases.plan_fit.format import judge_format
from forge.phases.plan_fit.grader import Grades, declared_looks
from forge.phases.plan_fit.groups import judge_subtopics
from forge.phases.plan_fit.synth_checks import Judge
from forge.protocols import Offer
from forge.records import Chat, DataContract, Example, Message, Pair, Verdict, read_record
from tests.test_phases.gate_world import ABSTENTION, GateWorld
from tests.test_phases.planned_world import MAKERS, TEMPLATE, World, documents, pairs_of

SEEDS = range(20)
LIMITS = {name: float(value) for name, value in load_data("gates").items()}


@cache
def world(seed: int) -> GateWorld:
    return GateWorld(seed)


def accuracy(seed: int, pairs: list[Pair] | None = None, **more: object) -> Verdict:
    made = world(seed)
    return judge_accuracy(pairs or made.pairs, made.passages, ABSTENTION, LIMITS, seed, **more)  # type: ignore[arg-type]


def subtopics(seed: int, pairs: list[Pair]) -> Verdict:
    found = all_defects(pairs, world(seed).passages, ABSTENTION)
    return judge_subtopics(pairs, world(seed).passages, found, LIMITS)


# --- content, accuracy, subtopics -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_content_fails_when_a_tenth_of_the_passages_is_off_topic(seed: int) -> None:
    assert judge_content(world(seed).clean, LIMITS, seed).outcome == "pass"
    spoiled = judge_content(world(seed).off_topic(0.10), LIMITS, seed)
    assert spoiled.outcome == "fail"
    assert spoiled.estimate == pytest.approx(0.90, abs=0.02)


@pytest.mark.parametrize("seed", SEEDS)
def test_accuracy_fails_when_8_percent_of_the_pairs_have_swapped_numbers(seed: int) -> None:
    assert accuracy(seed).outcome == "pass"
    spoiled = accuracy(seed, world(seed).with_swapped_numbers(0.08))
    assert spoiled.outcome == "fail"
    assert f"number {round(0.08 * len(world(seed).pairs))}" in spoiled.evidence


@pytest.mark.parametrize("seed", SEEDS)
def test_one_ruined_subtopic_fails_although_the_whole_is_accurate_enough(seed: int) -> None:
    assert subtopics(seed, world(seed).pairs).outcome == "pass"
    ruined = world(seed).with_ruined(lambda pair: pair.subtopic == "rare")
    assert accuracy(seed, ruined).outcome == "pass"
    verdict = subtopics(seed, ruined)
    assert verdict.outcome == "fail"
    assert "surely over the limit: rare" in verdict.evidence


@pytest.mark.parametrize("seed", SEEDS)
def test_a_third_of_one_subtopic_is_enough_to_fail_it(seed: int) -> None:
    pick = random.Random(seed).sample(sorted(pair.id for pair in world(seed).pairs if pair.subtopic == "queens"), 64)
    verdict = subtopics(seed, world(seed).with_ruined(lambda pair: pair.id in pick))
    assert (verdict.outcome, "queens" in verdict.evidence) == ("fail", True)


def test_a_subtopic_that_seems_bad_with_few_pairs_is_undecided() -> None:
    few = [pair for pair in world(1).pairs if pair.subtopic != "rare"] + [pair for pair in world(1).pairs if pair.subtopic == "rare"][:6]
    bad = few[-1].model_copy(update={"answer": few[-1].answer.replace("minutes", "Zephyr-9 minutes")})
    verdict = subtopics(1, [*few[:-1], bad])
    assert verdict.outcome == "undecided"
    assert "too few pairs to be sure: rare" in verdict.evidence


def test_without_subtopics_the_folders_or_documents_are_the_groups() -> None:
    pairs = [pair.model_copy(update={"subtopic": ""}) for pair in world(1).pairs]
    assert "40 subtopics" in subtopics(1, pairs).evidence


# --- leakage, format, budget ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """The rows, the contract and the tokenizer of a small world."""
    small = World(tmp_path_factory.mktemp("planned"), makers=MAKERS[:5])
    paths = small.write()
    return data_of(small, paths)


def data_of(small: World, paths: dict[str, Path]) -> Data:
    return Data(
        clean=tuple(small.clean), pairs=tuple(small.pairs), splits={name: tuple(rows) for name, rows in small.splits.items()},
        pretrain=tuple(small.pretrain), pretrain_val=tuple(small.pretrain_val), contract=read_record(paths["shape"], DataContract),
        tokenizer=paths["tokenizer"],
    )


def asked(row: Example, change: Callable[[str], str]) -> Example:
    assert isinstance(row.body, Chat)
    turns = tuple(turn.model_copy(update={"content": change(turn.content)}) if turn.role == "user" else turn for turn in row.body.prompt)
    return row.model_copy(update={"body": row.body.model_copy(update={"prompt": turns})})


@pytest.mark.parametrize("seed", SEEDS)
def test_leakage_fails_when_a_test_question_is_planted_in_train(seed: int, planned: Data) -> None:
    assert judge_leakage(planned).outcome == "pass"
    split = ("test_recall", "test_unseen", "test_abstain")[seed % 3]
    stolen = random.Random(seed).choice(planned.splits[split])
    disguise = (str, str.upper, lambda text: f"  {text.rstrip('?.')} ?", lambda text: text.replace(" the ", " "))[seed % 4]
    train = (*planned.splits["train"], asked(stolen.model_copy(update={"id": "planted", "split": "train", "group": "planted"}), disguise))
    verdict = judge_leakage(replace(planned, splits={**planned.splits, "train": train}))
    assert (verdict.outcome, verdict.kind) == ("fail", "integrity")
    assert stolen.id in verdict.evidence


@pytest.mark.parametrize("seed", SEEDS)
def test_format_fails_when_the_template_drops_the_system_prompt(seed: int, planned: Data, tmp_path: Path) -> None:
    some = {name: tuple(random.Random(seed).sample(rows, min(6, len(rows)))) for name, rows in planned.splits.items()}
    sample = replace(planned, splits=some)
    assert judge_format(sample, 512).outcome == "pass"
    lossy = TEMPLATE.replace("for message in messages %}", "for message in messages if message['role'] != 'system' %}")
    assert lossy != TEMPLATE
    small = World(tmp_path, makers=MAKERS[:1])
    small.template = lossy
    paths = small.write()
    verdict = judge_format(replace(sample, tokenizer=paths["tokenizer"], contract=read_record(paths["shape"], DataContract)), 512)
    assert (verdict.outcome, verdict.kind, verdict.estimate) == ("fail", "integrity", 1.0)
    assert "turn lost" in verdict.evidence


def test_format_fails_for_rows_without_the_promised_system_prompt(planned: Data) -> None:
    row = planned.splits["train"][0]
    assert isinstance(row.body, Chat)
    bare = row.model_copy(update={"body": row.body.model_copy(update={"prompt": tuple(t for t in row.body.prompt if t.role != "system")})})
    verdict = judge_format(replace(planned, splits={**dict.fromkeys(planned.splits, ()), "train": (bare,)}), 512)
    assert (verdict.outcome, "another system prompt 1" in verdict.evidence) == ("fail", True)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_budget_fails_when_the_price_is_doubled(seed: int) -> None:
    draw = random.Random(seed)
    cap, spent = draw.uniform(20, 400), draw.uniform(0, 0.1)
    hours = draw.uniform(0.5, 20)
    rate = (draw.uniform(0.5, 0.85) - spent) * cap / hours / 1.5

    def verdict(price: float) -> Verdict:
        row = Row(phase="total", seconds_p50=1, seconds_p90=1, usd_p50=hours * price, usd_p90=1.5 * hours * price, basis="")
        offer = Offer(provider="x", name="y", usd_per_hour=price, device="cuda", cores=1, memory_gib=8)
        spend = Spend(settled=int(spent * cap * MICRO), reserved=0, before_gate=0, budget=int(cap * MICRO), before_gate_cap=0)
        return judge_budget(spend, row, offer, int(1.2 * hours * 3600), LIMITS)

    assert verdict(rate).outcome == "pass"
    assert verdict(2 * rate).outcome == "fail"


@pytest.mark.parametrize("seed", SEEDS)
def test_coverage_fails_for_one_document_of_over_two_percent_without_a_pair(seed: int) -> None:
    made = world(seed)
    assert judge_coverage(made.clean, made.pairs, LIMITS).outcome == "pass"
    left = f"d{random.Random(seed).randrange(40)}"
    verdict = judge_coverage(made.clean, [pair for pair in made.pairs if pair.group != left], LIMITS)
    assert (verdict.outcome, "over 2%" in verdict.evidence) == ("fail", True), "one of 40 equal documents is 2.5 % of the tokens"


@pytest.mark.parametrize("seed", SEEDS)
def test_diversity_fails_when_yes_and_no_are_out_of_balance(seed: int) -> None:
    good, draw = pairs_of(documents()), random.Random(seed)
    told = set(draw.sample([pair.id for pair in good], 60))
    balanced, biased = (
        [p.model_copy(update={"answer": f"{draw.choices(('Yes', 'No'), (yes, 1 - yes))[0]}, {p.answer}"}) if p.id in told else p for p in good]
        for yes in (0.5, 0.95)
    )
    assert judge_diversity(balanced, LIMITS).outcome == "pass"
    verdict = judge_diversity(biased, LIMITS)
    assert (verdict.outcome, "of yes and no say the same" in verdict.evidence) == ("fail", True)


def test_buckets_far_below_their_share_are_told() -> None:
    evidence = judge_diversity(pairs_of(documents()), LIMITS, {"comparison": (60, 4), "factual": (200, 190)}).evidence
    assert "less than half of what was wanted: comparison 4 of 60" in evidence


# --- who graded, and is the grader proven ---------------------------------------------------------------------------

PROVEN = Judge("on", "", 1.0, (0.9404, 1.0), 60, 900, 0, 12)


def test_a_proven_judge_leaves_the_verdict_to_the_pairs_and_is_told() -> None:
    verdict = accuracy(1, judge=PROVEN)
    assert verdict.outcome == "pass"
    assert "synth's judge read 900 facts and refused 12; of 60 planted defects it found 100% (94%-100%)" in verdict.evidence
    assert "looked at 100% of the text and left 0.0% defects" in verdict.evidence


@pytest.mark.parametrize(
    ("judge", "why"),
    [
        (PROVEN._replace(recall=0.95, recall_ci=(0.861, 0.99)), "surely only 86%"),
        (PROVEN._replace(state="undecided", why="it refuses 9 of 12 pairs that nobody touched"), "refuses 9 of 12"),
        (PROVEN._replace(unchecked=40), "gave no answer on 40 of 900 facts"),
        (PROVEN._replace(share=0.4, refused_share=0.045, refused_ci=(0.025, 0.085)), "may have a defect that synth's checks did not see"),
    ],
)
def test_an_unproven_judge_makes_accuracy_undecided_however_good_the_pairs_look(judge: Judge, why: str) -> None:
    verdict = accuracy(1, judge=judge)
    assert verdict.outcome == "undecided"
    assert why in verdict.evidence


def test_what_the_checks_left_counts_what_the_judge_misses_and_where_nobody_looked() -> None:
    whole = PROVEN._replace(recall=0.9, recall_ci=(0.9, 0.9), refused_share=0.09, refused_ci=(0.09, 0.09))
    assert whole.left[0] == pytest.approx(0.01)
    assert whole._replace(share=0.5).left[0] == pytest.approx(0.055)
    assert accuracy(1, judge=PROVEN._replace(refused_share=0.3, refused_ci=(0.27, 0.33))).outcome == "pass", "it looked at everything"


def test_a_stronger_grader_that_proves_itself_decides_where_the_cheap_judge_cannot() -> None:
    unproven = PROVEN._replace(state="undecided", why="?")
    assert accuracy(1, judge=unproven, grades=Grades("strong", 3, graded=100, planted=45, found=45)).outcome == "pass"
    assert accuracy(1, judge=unproven, grades=Grades("strong", 3, graded=100, planted=45, found=42)).outcome == "undecided"


def test_an_unproven_judge_does_not_save_pairs_that_the_exact_checks_condemn() -> None:
    assert accuracy(1, world(1).with_swapped_numbers(0.08), judge=PROVEN._replace(state="undecided", why="?")).outcome == "fail"


def test_without_a_judge_the_exact_checks_grade_and_the_verdict_says_so() -> None:
    verdict = accuracy(1, judge=Judge("off", "the teacher offline copies its answers"))
    assert verdict.outcome == "pass"
    assert "graded by exact checks only (the teacher offline copies its answers)" in verdict.evidence


@pytest.mark.parametrize(
    ("grades", "outcome", "why"),
    [
        (Grades("strong", 3, graded=100, bad=0, planted=45, found=45), "pass", "found 0 bad"),
        (Grades("strong", 3, graded=400, bad=10, planted=45, found=45), "pass", "found 10 bad"),
        (Grades("strong", 3, graded=400, bad=14, planted=45, found=45), "undecided", "found 14 bad"),
        (Grades("strong", 3, graded=100, bad=14, planted=45, found=45), "fail", "found 14 bad"),
        (Grades("strong", 3, graded=100, bad=0, missing=3, planted=45, found=45), "undecided", "3 grades are missing"),
        (Grades("strong", 3, graded=0, bad=0, missing=100, planted=45, found=0), "undecided", "missing"),
        (Grades("strong", 3, graded=100, bad=0, planted=45, found=42), "undecided", "42 of 45 planted"),
    ],
)
def test_a_stronger_graders_sample_decides_by_its_bounds_and_missing_grades_are_not_good(grades: Grades, outcome: str, why: str) -> None:
    verdict = accuracy(1, grades=grades)
    assert (verdict.outcome, verdict.n) == (outcome, grades.graded)
    assert why in verdict.evidence


def test_looks_double_up_to_the_declared_maximum_and_never_past_the_pairs() -> None:
    assert declared_looks(5000, LIMITS) == [100, 200, 400]
    assert declared_looks(250, LIMITS) == [100, 200, 250]
    assert declared_looks(30, LIMITS) == [30]


def message(role: str, content: str) -> Message:
    return Message.model_validate({"role": role, "content": content})


def test_questions_of_a_conversation_are_compared_with_the_turns_before_them(planned: Data) -> None:
    first, second = planned.splits["train"][0], planned.splits["test_recall"][0]

    def conversation(row: Example, opening: str) -> Example:
        assert isinstance(row.body, Chat)
        turns = (row.body.prompt[0], message("user", opening), message("assistant", "It does."), message("user", "And why?"))
        return row.model_copy(update={"body": row.body.model_copy(update={"prompt": turns})})

    def leak(one: str, other: str) -> str:
        splits = {**planned.splits, "train": (conversation(first, one),), "test_recall": (conversation(second, other),)}
        return judge_leakage(replace(planned, splits=splits)).outcome

    assert leak("Does the pump stop?", "Does the valve stop?") == "pass"
    assert leak("Does the pump stop?", "Does the pump stop?") == "fail"
