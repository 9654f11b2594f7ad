"""Facts first through the real client: every bucket in one call for several passages, at a price that is shown."""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bench.teacher.cost import PASSAGE_CHARS, REFERENCE_PASSAGES, REFERENCE_TOKENS, passages_of, served_cost
from forge.phases.synth import SynthSettings, abstaining, doubt, packs, phase
from forge.phases.synth.buckets import SHARES
from forge.phases.synth.packs import PACK_PASSAGES, PACK_TOKENS, pack, request_facts
from forge.records import Pair, Passage, Source, read_jsonl
from forge.testing import PhaseRun, run_phase
from tests.servers.claude import BATCH_SHARE, PRICE, ClaudeServer
from tests.servers.claude_facts import count_tokens, facts_answer

from .clock_world import write_clean

pytest.importorskip("anthropic")
HANDBOOK = Path(__file__).parents[2] / "examples" / "handbook"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "test-key")


def run(folder: Path, server: ClaudeServer, passages: list[Passage], **settings: Any) -> PhaseRun:
    clean = write_clean(folder / "clean.jsonl", passages)
    chosen = SynthSettings.model_validate({"teacher": "anthropic", "endpoint": server.url, "mode": "live", "max_failed_share": 1.0, **settings})
    return run_phase(phase, folder, settings=chosen, inputs={"clean": clean})


def handbook(most: int = 24) -> list[Passage]:
    return passages_of(HANDBOOK, most)


def pairs_of(result: PhaseRun) -> list[Pair]:
    return list(read_jsonl(result.out / "pairs.jsonl", Pair))


def passage(number: int, group: str, text: str = "The valve opens at dawn and closes at dusk. ") -> Passage:
    return Passage(id=f"{group}-{number:03}", source=Source(path=f"{group}.md", sha256="0" * 64), group=group, text=text)


def test_every_bucket_is_made_and_every_shape_is_whole(tmp_path: Path) -> None:
    passages = handbook()
    with ClaudeServer() as server:
        result = run(tmp_path, server, passages)
    made = Counter(pair.bucket for pair in pairs_of(result))
    assert set(made) == set(SHARES)
    texts = {one.id: one.text for one in passages}
    for pair in pairs_of(result):
        assert bool(pair.passage) == (not pair.bucket.startswith("abstain"))
        assert not pair.passage or pair.evidence in texts[pair.passage]
        assert all(quote.evidence in texts[quote.passage] for quote in pair.also)
        assert bool(pair.also) >= (pair.bucket == "comparison")
        assert bool(pair.earlier) == (pair.bucket == "multi_turn")
    answers = [pair.answer for pair in pairs_of(result) if not pair.passage]
    assert set(answers) == {SynthSettings().abstention}


def test_the_facts_of_several_passages_come_in_one_request_with_questions_to_abstain_from(tmp_path: Path) -> None:
    passages = handbook(12)
    with ClaudeServer() as server:
        run(tmp_path, server, passages, round_trip="off", judge="off")
    asked = [body for body in server.books.bodies if "facts" in body["output_config"]["format"]["schema"]["required"]]
    assert len(asked) < len(passages) / 2
    assert all("abstain_near" in body["messages"][0]["content"] for body in asked)
    assert {body["output_config"]["format"]["schema"]["required"][0] for body in server.books.bodies} <= {"facts", "pairs"}


def test_packs_hold_neighbours_and_neither_too_much_text_nor_too_many() -> None:
    passages = [passage(number, f"d{number % 3}", "word " * (400 * (1 + number % 4))) for number in range(40)]
    made = pack(passages)
    assert sorted(one.id for found in made for one in found) == sorted(one.id for one in passages)
    assert all(len(found) == 1 or sum(len(one.text) / 4 for one in found) <= PACK_TOKENS for found in made)
    assert all(len(found) <= PACK_PASSAGES for found in made)
    assert pack(passages) == pack(list(reversed(passages)))
    assert sum(len({one.group for one in found}) > 1 for found in made) <= 2


def test_a_comparison_is_asked_only_where_two_passages_are_related() -> None:
    settings = SynthSettings(buckets={"comparison": 0.5})
    texts = ("Granite quarries export polished kitchen worktops abroad.", "Violin strings resonate because bowing excites harmonics.")
    alone = [(passage(0, "a", text),) for text in texts] * 5
    foreign = [(passage(0, "a", texts[0]), passage(0, "b", texts[1]))] * 5
    same = [(passage(0, "a", texts[0]), passage(1, "a", texts[1]))] * 5
    asked = [sum(one.quota.get("comparison", 0) for one in request_facts(found, settings, "t")) for found in (alone, foreign, same)]
    assert asked[:2] == [0, 0]
    assert asked[2] > 0


def test_quotas_grow_with_the_text_and_not_with_the_documents() -> None:
    settings = SynthSettings()
    wanted = []
    for count, size in ((4, 4000), (16, 1000)):
        made = pack([passage(number, f"d{number}", "x" * size) for number in range(count)])
        wanted.append(sum(count for one in request_facts(made, settings, "t") for name, count in one.quota.items() if not name.startswith("abstain")))
    assert abs(wanted[0] - 4 * settings.pairs_per_1000_tokens) <= 3
    assert wanted[1] >= wanted[0]
    assert wanted[1] == pytest.approx(32, abs=3), "two for each passage, however short"


def test_2370_passages_cost_at_most_half_a_dollar_by_what_the_server_billed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passages = handbook(200)
    share = sum(len(one.text) for one in passages) / 4 / REFERENCE_TOKENS
    for module, name in ((packs, "TEST_ABSTENTIONS"), (abstaining, "TEST_ABSTENTIONS"), (doubt, "CHECKED_MIN")):
        monkeypatch.setattr(module, name, round(share * getattr(module, name)))  # what is asked once for a corpus, in proportion
    cost = served_cost(passages, tmp_path)
    assert cost.passages >= 50
    assert cost.tokens / cost.passages > 0.8 * PASSAGE_CHARS / 4
    assert cost.pairs_per_passage >= 2
    assert 0.2 < cost.scaled_usd() <= 0.50, dict(cost.micro_usd)
    assert cost.checks["judge"]["planted"] >= 10
    assert cost.checks["checked"]["widened"] is False


def test_the_arithmetic_of_half_a_dollar() -> None:
    """Tokens of the model for 2,370 passages of 694 tokens at four characters each, at batch prices; see bench/teacher/cost.py."""
    text = (HANDBOOK / "concepts" / "abstention.md").read_text(encoding="utf-8")
    growth = count_tokens(text) / (len(text) / 4)
    assert 1.1 < growth < 1.5, "tokens of the newest tokenizer over a quarter of the characters"
    read = growth * 694 * 1.12 + 300
    written, checked = 4.5 * 55 * growth, 0.4 * (1.2 * read + 60)
    usd = REFERENCE_PASSAGES * BATCH_SHARE * (PRICE["input"] * Decimal(read + checked) + PRICE["output"] * Decimal(written)) / 1_000_000
    assert Decimal("0.30") < usd < Decimal("0.50")


def test_names_that_the_teacher_lists_are_protected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.servers import claude

    monkeypatch.setattr(claude, "facts_answer", lambda text: {**facts_answer(text), "n": ["HarlowGauge", "NotInText"]})
    passages = [passage(number, f"d{number}", f"The HarlowGauge number {number} opens the valve at dawn every day.") for number in range(2)]
    with ClaudeServer() as server:
        found = pairs_of(run(tmp_path, server, passages, round_trip="off", judge="off", question_similarity=1))
    assert {pair.names for pair in found if "HarlowGauge" in pair.answer} == {("HarlowGauge",)}


def test_a_failed_request_is_counted_and_the_others_stay(tmp_path: Path) -> None:
    passages = handbook()
    with ClaudeServer() as server:
        server.storm.garbled = 0.3
        result = run(tmp_path, server, passages, abstention_share=0, round_trip="off", judge="off")
    refused = json.loads((result.out / "checks.json").read_text(encoding="utf-8"))["refused"]
    assert refused["teacher_failed"] >= 1
    assert pairs_of(result)


def test_questions_that_are_missing_are_bought_in_two_rounds_and_not_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.servers import claude

    def stingy(text: str) -> dict[str, Any]:
        whole = facts_answer(text)
        return {**whole, "u": whole["u"][:1] if whole["facts"] else whole["u"]}

    monkeypatch.setattr(claude, "facts_answer", stingy)
    passages = [passage(number, f"d{number}", f"The number {number} valve opens at dawn and closes at dusk in hall {number + 50}. " * 6) for number in range(36)]
    with ClaudeServer() as server:
        found = pairs_of(run(tmp_path, server, passages, mode="batch", round_trip="off", judge="off", question_similarity=1))
    near = [pair for pair in found if pair.bucket in {"abstain_near", "abstain_document"}]
    assert len(near) > 60
    assert server.books.batches_created <= 4, "pairs, questions from outside, and two rounds"
