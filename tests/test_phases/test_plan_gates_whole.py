"""The whole phase on spoiled data: what the person at the gate reads; and the stronger grader over real HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from forge.phases.plan_fit import phase
from forge.phases.plan_fit.settings import PlanFitSettings
from forge.records import Plan, Verdict, read_record
from forge.testing import CountingMoney, PhaseRun, run_phase
from tests.servers.claude import ClaudeServer, Storm
from tests.test_phases.planned_world import MAKERS, World, rehearsed


def fit(tmp_path: Path, world: World, **more: Any) -> PhaseRun:
    corpus = tmp_path / "corpus"
    corpus.mkdir(exist_ok=True)
    return run_phase(phase, tmp_path / "run", inputs=world.write(), corpus=corpus, rehearse=rehearsed(), **more)


def verdict_of(run: PhaseRun, name: str) -> Verdict:
    return next(verdict for verdict in read_record(run.out / "plan.json", Plan).verdicts if verdict.name == name)


def test_swapped_numbers_reach_the_page_with_their_ids_and_how_to_mend_them(tmp_path: Path) -> None:
    world = World(tmp_path / "in")
    spoiled = [index for index, pair in enumerate(world.pairs) if pair.bucket == "factual"][: round(0.08 * len(world.pairs))]
    for index in spoiled:
        answer = world.pairs[index].answer
        number = next(word for word in answer.split() if word.isdigit())
        world.pairs[index] = world.pairs[index].model_copy(update={"answer": answer.replace(number, "7777")})
    run = fit(tmp_path, world)
    assert verdict_of(run, "accuracy").outcome == "fail"
    page = (run.out / "plan.md").read_text(encoding="utf-8")
    assert f"| accuracy | **FAIL** | {len(world.pairs)} | 0.0" in page
    assert f"number {len(spoiled)} ({min(world.pairs[index].id for index in spoiled)}" in page
    assert "  - to mend: read the pairs it names with `forge review RUN`" in page


def test_an_undecided_judge_of_synth_makes_the_plan_undecided_on_accuracy(tmp_path: Path) -> None:
    world = World(tmp_path / "in")
    world.checks["judge"] = {"state": "undecided", "why": "only 4 defects could be planted as a test", "recall": 1.0, "recall_ci": [0.4, 1.0]}
    run = fit(tmp_path, world)
    assert verdict_of(run, "accuracy").outcome == "undecided"
    assert "synth's judge is undecided: only 4 defects" in (run.out / "plan.md").read_text(encoding="utf-8")


# --- the stronger grader --------------------------------------------------------------------------------------------


def graded(tmp_path: Path, server: ClaudeServer, money: CountingMoney | None = None) -> PhaseRun:
    pytest.importorskip("anthropic")
    settings = PlanFitSettings(grader="anthropic", grader_endpoint=server.url)
    return fit(tmp_path, World(tmp_path / "in", makers=MAKERS[:6]), settings=settings, money=money)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "test-key")


def test_a_stronger_grader_reads_a_random_hundred_and_is_paid_once(tmp_path: Path) -> None:
    money = CountingMoney()
    with ClaudeServer() as server:
        first = graded(tmp_path, server, money)
        bill = server.books.micro_usd
        second = graded(tmp_path, server, money)
        assert server.books.micro_usd == bill == money.settled > 0, "the journal answers the second time"
    verdict = verdict_of(first, "accuracy")
    assert (verdict.outcome, verdict.n, verdict.estimate) == ("pass", 100, 0.0)
    assert "graded a random 100 and found 0 bad; of 45 planted defects it found 45" in verdict.evidence
    assert verdict_of(first, "budget").estimate == pytest.approx(bill / 1e6), "what the grader cost is spent"
    assert (first.out / "plan.json").read_bytes() == (second.out / "plan.json").read_bytes()


@pytest.mark.parametrize(("manner", "outcome"), [("yes", "undecided"), ("no", "fail")])
def test_a_grader_that_sees_no_defects_proves_nothing_and_one_that_refuses_all_fails_the_plan(tmp_path: Path, manner: str, outcome: str) -> None:
    with ClaudeServer(manner=manner) as server:
        verdict = verdict_of(graded(tmp_path, server), "accuracy")
    assert verdict.outcome == outcome


def test_grades_that_never_came_are_missing(tmp_path: Path) -> None:
    with ClaudeServer(Storm(refused=0.3)) as server:
        verdict = verdict_of(graded(tmp_path, server), "accuracy")
    assert verdict.outcome == "undecided"
    assert "grades are missing, which may all be bad" in verdict.evidence
