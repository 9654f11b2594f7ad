"""Kinds of examples as a recipe's target shares: who cannot make one says so, and wanted and made are told."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from forge.config import resolve
from forge.errors import UsageError
from forge.phases.synth import SynthSettings, phase
from forge.phases.synth.buckets import SHARES, Quotas, bucket_of, overfull, report, wanted_shares
from forge.records import Pair, Rejected, read_jsonl
from forge.testing import PhaseRun, run_phase

from .clock_world import clock_passages, write_clean

ABLE = ("factual", "mechanism", "application", "summary", "abstain_near", "abstain_document", "abstain_far")


def run(folder: Path, **settings: Any) -> PhaseRun:
    clean = write_clean(folder / "clean.jsonl", clock_passages())
    return run_phase(phase, folder, settings=SynthSettings(**settings), inputs={"clean": clean})


def pairs_of(result: PhaseRun) -> list[Pair]:
    return list(read_jsonl(result.out / "pairs.jsonl", Pair))


def notices(result: PhaseRun) -> str:
    return " ".join(str(fields.get("text")) for kind, fields in result.events if kind == "notice")


def pair(number: int, bucket: str, passage: str = "p", fact: str = "") -> Pair:
    return Pair(id=f"{bucket}-{number}", bucket=bucket, question=f"q{number}?", answer="a", passage=passage, fact=fact or f"{bucket}{number}")


def test_the_default_shares_are_a_whole() -> None:
    assert sum(SHARES.values()) == pytest.approx(1)
    assert SynthSettings(teacher="anthropic").abstaining == pytest.approx(0.2)
    assert set(SHARES) >= {"comparison", "method_discrimination", "negative_fact", "false_premise", "multi_turn", "abstain_document"}


def test_one_share_is_set_alone_and_the_others_stay() -> None:
    config = resolve({"synth": SynthSettings}, environment={}, folder=Path("/nonexistent"), flags=["synth.buckets.comparison=0.3"])
    shares = config.section("synth").buckets
    assert shares == {**SHARES, "comparison": 0.3}


def test_a_recipe_gives_some_shares_and_a_flag_one_more(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("synth:\n  buckets: {comparison: 0.2, abstain_far: 0.0}\n", encoding="utf-8")
    config = resolve({"synth": SynthSettings}, recipe=str(recipe), environment={}, folder=tmp_path, flags=["synth.buckets.summary=0.1"])
    assert config.section("synth").buckets == {**SHARES, "comparison": 0.2, "abstain_far": 0.0, "summary": 0.1}


@pytest.mark.parametrize("flag", ["synth.buckets.comparisson=0.3", "synth.buckets.comparison=-1", "synth.buckets.comparison=2"])
def test_a_bucket_that_does_not_exist_or_no_share_is_refused(flag: str) -> None:
    with pytest.raises(UsageError, match="buckets"):
        resolve({"synth": SynthSettings}, environment={}, folder=Path("/nonexistent"), flags=[flag])


def test_a_set_of_abstentions_alone_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least one bucket of answers"):
        SynthSettings(buckets={name: 0.0 for name in SHARES if not name.startswith("abstain")})


def test_the_abstaining_share_follows_the_buckets_unless_it_is_told() -> None:
    assert SynthSettings(buckets={"abstain_near": 0.0, "abstain_document": 0.0, "abstain_far": 0.0}).abstaining == 0
    assert SynthSettings(abstention_share=0.11).abstaining == 0.11
    assert SynthSettings().abstaining == 0.3, "a model from scratch has never declined anything"
    assert SynthSettings(buckets={"abstain_near": 0.01}).abstaining < 0.11


def test_what_cannot_be_made_goes_to_its_own_side() -> None:
    shares, missing = wanted_shares(SHARES, ABLE)
    assert missing == ["comparison", "method_discrimination", "negative_fact", "false_premise", "multi_turn"]
    answers = {name: share for name, share in shares.items() if not name.startswith("abstain")}
    assert sum(answers.values()) == pytest.approx(1)
    assert answers["factual"] / answers["mechanism"] == pytest.approx(SHARES["factual"] / SHARES["mechanism"])
    assert sum(shares.values()) == pytest.approx(2)


def test_quotas_follow_the_shares_to_the_pair_and_carry_over_what_a_request_cannot_take() -> None:
    quotas = Quotas(wanted_shares(SHARES, ())[0])
    given: Counter[str] = Counter()
    for number in range(200):
        given.update(quotas.give(7.3, 1.7, without=("comparison",) if number % 3 else ()))
    wanted, _ = wanted_shares(SHARES, ())
    for name, share in wanted.items():
        total = 200 * (1.7 if name.startswith("abstain") else 7.3)
        assert abs(given[name] - share * total) <= 4, name
    assert given["negative_fact"] % 2 == 0


def test_the_offline_teacher_says_in_one_notice_what_it_cannot_make(tmp_path: Path) -> None:
    result = run(tmp_path)
    told = notices(result)
    assert told.count("cannot make") == 1
    assert "offline cannot make comparison, method_discrimination, negative_fact, false_premise, multi_turn" in told
    targets = json.loads((result.out / "checks.json").read_text(encoding="utf-8"))["targets"]
    made = Counter(bucket_of(pair.bucket) for pair in pairs_of(result))
    assert {name: entry["made"] for name, entry in targets["made"].items() if entry["made"]} == made
    assert targets["pairs_per_fact"] > 1
    assert targets["pairs_per_1000_tokens"] > 0


def test_a_bucket_that_is_off_is_empty_and_its_pairs_are_kept_as_refused(tmp_path: Path) -> None:
    result = run(tmp_path, buckets={"mechanism": 0.0, "abstain_far": 0.0})
    assert not {"mechanism", "reason", "abstain_far"} & {pair.bucket for pair in pairs_of(result)}
    refused = [entry for entry in read_jsonl(result.out / "rejected.jsonl", Rejected) if entry.reason == "bucket_is_off"]
    assert refused
    assert {bucket_of(entry.pair.bucket) for entry in refused} == {"mechanism"}


def test_the_abstention_sentence_is_the_same_bytes_in_every_pair(tmp_path: Path) -> None:
    said = "Das weiß ich nicht – dazu steht nichts in den Dokumenten."
    found = [pair for pair in pairs_of(run(tmp_path, abstention=said)) if not pair.passage]
    assert {pair.answer.encode() for pair in found} == {said.encode()}
    assert {pair.bucket for pair in found} == {"abstain_near", "abstain_document", "abstain_far"}


def test_headings_that_crowd_out_everything_are_cut_to_their_share_but_never_a_passages_only_pairs() -> None:
    facts = [pair(number, "factual", f"p{number}") for number in range(60)]
    crowd = [pair(number, "summary", f"p{number}", f"s{number // 3}") for number in range(60)]
    only = [pair(number + 100, "summary", f"lonely{number}") for number in range(20)]
    shares = {"factual": 0.9, "summary": 0.1}
    gone = overfull([*facts, *crowd], shares)
    assert 45 <= len(gone) <= 51
    assert all(key.startswith("summary") for key in gone)
    assert not {one.id for one in only} & overfull([*facts, *crowd, *only], shares)
    assert overfull([*facts, *crowd], {"factual": 0.5, "summary": 0.5}) == set()


def test_wanted_is_reckoned_from_what_was_made() -> None:
    found = report([*(pair(number, "definition") for number in range(8)), *(pair(number, "reason") for number in range(2))], {"factual": 0.5, "mechanism": 0.5}, [], 5000)
    assert found["made"]["factual"] == {"wanted": 5, "made": 8}
    assert found["made"]["mechanism"] == {"wanted": 5, "made": 2}
    assert found["pairs_per_1000_tokens"] == 2
