"""The round trip and the judge: asked only of teachers that write freely, tested with planted defects, paid like all else."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from forge.context import FolderContext, InputFile
from forge.errors import UsageError
from forge.phases.synth import SynthSettings, phase
from forge.phases.synth.agree import agree
from forge.phases.synth.planted import plant
from forge.records import Pair, Passage, Rejected, read_jsonl
from forge.registry import Registry
from forge.testing import CountingMoney, PhaseRun, run_phase
from tests.servers.claude import ClaudeServer

from .clock_world import clock_passages, write_clean

pytest.importorskip("anthropic")


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "test-key")


def passages() -> list[Passage]:
    """Enough facts with names and numbers in their first sentence to plant ten defects of each kind."""
    found = []
    for number, passage in enumerate(clock_passages(48)):
        name = f"{'ABCDEFGH'[number % 8]}{'aeiou'[number % 5]}{'klmnrst'[number % 7]}Gear"
        found.append(passage.model_copy(update={"text": f"The {name} of tower {number + 200} has {number + 300} teeth made by Harlow. {passage.text}"}))
    return found


def run(folder: Path, server: ClaudeServer, money: CountingMoney | None = None, **settings: Any) -> PhaseRun:
    clean = write_clean(folder / "clean.jsonl", passages())
    chosen = SynthSettings.model_validate({"teacher": "anthropic", "endpoint": server.url, "mode": "live", "max_failed_share": 1.0, "question_similarity": 1, **settings})
    return run_phase(phase, folder, settings=chosen, inputs={"clean": clean}, money=money)


def checks(result: PhaseRun) -> dict[str, Any]:
    return dict(json.loads((result.out / "checks.json").read_text(encoding="utf-8")))


def answerable(result: PhaseRun) -> list[Pair]:
    return [pair for pair in read_jsonl(result.out / "pairs.jsonl", Pair) if pair.passage]


def notices(result: PhaseRun) -> str:
    return " ".join(str(fields.get("text")) for kind, fields in result.events if kind == "notice")


def reasons(result: PhaseRun) -> Counter[str]:
    return Counter(entry.reason for entry in read_jsonl(result.out / "rejected.jsonl", Rejected))


def test_an_honest_judge_finds_the_planted_defects_and_every_call_is_paid_for(tmp_path: Path) -> None:
    money = CountingMoney()
    with ClaudeServer() as server:
        result = run(tmp_path, server, money)
    judge = checks(result)["judge"]
    assert judge["state"] == "on"
    assert judge["planted"] >= 30
    assert judge["recall"] == 1.0
    assert judge["recall_ci"][0] > 0.85
    assert set(judge["kinds"]) == {"number", "name", "claim"}
    assert answerable(result)
    assert money.settled == server.books.micro_usd > 0
    kinds = Counter(body["output_config"]["format"]["schema"]["required"][0] for body in server.books.bodies)
    assert kinds["r"] > kinds["facts"] > 10
    trip = checks(result)["round_trip"]
    assert abs(trip["facts"] - judge["facts"]) <= 0.1 * judge["facts"], "every second fact is answered again, the others are judged"
    assert checks(result)["checked"]["widened"] is False
    assert result.metrics["judge"] == "on"


@pytest.mark.parametrize(("manner", "why"), [("yes", "0 of"), ("blind", "of the kind number"), ("no", "refuses")])
def test_a_judge_that_is_no_judge_is_found_out_and_refuses_nothing(tmp_path: Path, manner: str, why: str) -> None:
    with ClaudeServer(manner=manner) as server:
        result = run(tmp_path, server)
    judge = checks(result)["judge"]
    assert judge["state"] == "undecided"
    assert why in judge["why"]
    assert not [reason for reason in reasons(result) if reason.startswith("judge_")]
    assert answerable(result)
    assert "the judge is undecided" in notices(result)
    assert result.metrics["judge"] == "undecided"


def test_a_teacher_that_cannot_answer_its_own_questions_loses_them_and_a_sample_becomes_a_check_of_all(tmp_path: Path) -> None:
    with ClaudeServer(manner="forgetful") as server:
        result = run(tmp_path, server, check_share=0.1)
    found = checks(result)
    assert found["checked"]["widened"] is True
    assert found["checked"]["packs"] == found["checked"]["of_packs"]
    assert found["round_trip"]["refused"] == {"round_trip_unanswered": found["round_trip"]["facts"]}
    assert reasons(result)["round_trip_unanswered"] >= found["round_trip"]["facts"]
    assert answerable(result), "what was judged instead is left"


def test_a_sample_without_faults_leaves_the_rest_unchecked_and_says_how_sure_that_is(tmp_path: Path) -> None:
    with ClaudeServer() as whole, ClaudeServer() as part:
        run(tmp_path / "whole", whole, check_share=1)
        sampled = checks(run(tmp_path / "part", part, check_share=0.3))["checked"]
    assert sampled["packs"] < sampled["of_packs"]
    assert sampled["facts"] >= 100
    assert sampled["refused_ci"][0] < 0.05
    assert part.books.micro_usd < whole.books.micro_usd


def test_both_can_be_left_out_and_cost_nothing_then(tmp_path: Path) -> None:
    with ClaudeServer() as server:
        result = run(tmp_path, server, round_trip=False, judge="off")
    assert {body["output_config"]["format"]["schema"]["required"][0] for body in server.books.bodies} <= {"facts", "pairs"}
    assert checks(result)["judge"] == {"state": "off", "why": "synth.judge is off"}
    assert checks(result)["round_trip"]["state"] == "off"


def test_the_offline_teacher_is_not_asked_and_says_why(tmp_path: Path) -> None:
    clean = write_clean(tmp_path / "clean.jsonl", clock_passages())
    result = run_phase(phase, tmp_path / "a", inputs={"clean": clean})
    assert "copies its answers" in checks(result)["judge"]["why"]
    with pytest.raises(UsageError, match="answers no such question"):
        run_phase(phase, tmp_path / "b", settings=SynthSettings(judge="on"), inputs={"clean": clean})


def test_a_second_run_buys_no_verdict_again(tmp_path: Path) -> None:
    with ClaudeServer() as server:
        run(tmp_path, server)
        bill = server.books.micro_usd
        again = run(tmp_path, server)
    assert server.books.micro_usd == bill
    assert checks(again)["judge"]["state"] == "on"


def test_the_forecast_has_the_checks_in_it_and_stays_above_the_bill(tmp_path: Path) -> None:
    clean = write_clean(tmp_path / "clean.jsonl", passages())
    ctx = FolderContext(
        tmp_path, run_id="t", seed=7, dry_run=False, inputs={"clean": InputFile(path=str(clean), sha256="")}, writes=phase.writes,
        registry=Registry(), money=CountingMoney(), emit=lambda kind, fields: None,
    )
    whole, bare = (phase.estimate(SynthSettings(teacher="anthropic", mode="live", round_trip=on, judge=on), ctx) for on in ("auto", "off"))
    assert whole.usd_p90 > 1.2 * bare.usd_p90
    with ClaudeServer() as server:
        run(tmp_path / "run", server, abstention_share=0)
    assert server.books.micro_usd / 1e6 < whole.usd_p90


def test_planted_defects_are_wrong_one_each_and_always_the_same() -> None:
    by_id = {passage.id: passage for passage in passages()}
    pairs = [
        Pair(id=f"x{n}", bucket="b", question="What has teeth?", answer=text.split(". ")[0] + ".", evidence=text.split(". ")[0], passage=key, group=by_id[key].group, fact=f"f{n}")
        for n, (key, text) in enumerate((key, passage.text) for key, passage in by_id.items())
    ]
    planted = plant(pairs, by_id, 7)
    assert planted == plant(list(reversed(pairs)), by_id, 7)
    assert {kind for kind, _, _ in planted} == {"number", "name", "claim"}
    assert len({one.origin.fact for one in planted}) == len(planted)
    for one in planted:
        assert one.pair.answer != one.origin.answer
        assert one.pair.answer not in by_id[one.pair.passage].text


@pytest.mark.parametrize(
    ("answer", "reply", "same"),
    [
        ("The Harlow gauge has 14 teeth.", "14", True),
        ("The Harlow gauge has 14 teeth.", "It has 15 teeth.", False),
        ("It has 1,400 teeth.", "1400", True),
        ("The MeshNet decides.", "MeshNet", True),
        ("The MeshNet decides.", "The BoxNet decides.", False),
        ("Yes, the valve opens by itself.", "No, the valve opens by hand.", False),
        ("The valve is opened by the spring.", "The spring opens it.", True),
        ("Brass and ruby.", "Made of steel.", False),
        ("The mainspring stores the force that drives the train.", "It stores the force which drives the gear train.", True),
    ],
)
def test_answers_agree_by_numbers_names_and_words(answer: str, reply: str, same: bool) -> None:
    assert agree(answer, reply, "What does the clock have?") is same
