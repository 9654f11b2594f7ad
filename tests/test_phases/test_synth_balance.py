"""Caps on answers that are far too much alike, and the table that shows how alike they are."""

from __future__ import annotations

from forge.phases.synth.balance import answer_type, summary, unbalanced
from forge.records import Pair


def pair(number: int, answer: str, bucket: str = "mechanism", form: int = 0) -> Pair:
    return Pair(id=f"x{number}-{form}", bucket=bucket, question=f"What about gear {number}?", answer=answer, passage="p", fact=f"f{number}", form=form)


def varied(number: int) -> str:
    return f"Gear {'abcdefghijklmnopqrstuvwxyz'[number % 26]}{number} drives the hammer when the spring is wound."


def test_an_opening_that_rules_a_bucket_is_cut_to_its_share() -> None:
    pairs = [pair(n, f"It depends on the weather whether gear {n} turns at all.") for n in range(60)] + [pair(n, varied(n)) for n in range(60, 100)]
    gone = unbalanced(pairs)
    assert set(gone.values()) == {"overused_opening"}
    kept = [found for position, found in enumerate(pairs) if position not in gone]
    assert sum(found.answer.startswith("It depends") for found in kept) <= 0.25 * len(kept)
    assert len([found for found in kept if not found.answer.startswith("It depends")]) == 40


def test_a_habit_of_saying_no_is_cut_and_all_forms_of_a_fact_go_together() -> None:
    words = ("oil", "brass", "steel", "ruby", "bone", "dust")
    pairs = [pair(n, f"No, {words[n % 6]} {n} never helps it.", "negative_fact", form) for n in range(50) for form in (0, 1)]
    pairs += [pair(n, f"Yes, {words[n % 6]} {n} keeps it going.", "negative_fact") for n in range(50, 60)]
    gone = unbalanced(pairs)
    assert set(gone.values()) == {"yes_no_imbalance"}
    kept = [found for position, found in enumerate(pairs) if position not in gone]
    assert len({found.fact for found in kept if found.answer.startswith("No")}) == 23, "7 to 3, or what a set too small to judge may have"
    assert all(sum(found.fact == one for found in kept) in {1, 2} for one in {found.fact for found in kept})


def test_small_or_mixed_buckets_lose_nothing() -> None:
    assert unbalanced([pair(n, "It depends on the weather and the oil today.") for n in range(29)]) == {}
    assert unbalanced([pair(n, varied(n)) for n in range(200)]) == {}
    assert unbalanced([pair(n, str(n), "number") for n in range(200)]) == {}


def test_answers_have_types() -> None:
    types = {"Yes, it does.": "yes", "No.": "no", "14": "number", "Brass.": "short", "- one\n- two": "list", varied(1): "sentence", "word " * 61: "long", "Nobody knows how it turns today.": "sentence"}
    assert {answer: answer_type(answer) for answer in types} == types


def test_the_summary_counts_facts_and_shows_lengths_and_the_commonest_opening() -> None:
    shown = summary([pair(n, varied(n % 2), form=form) for n in range(4) for form in (0, 1)])["mechanism"]
    assert (shown["pairs"], shown["facts"]) == (8, 4)
    assert shown["answer_types"] == {"sentence": 1.0}
    assert shown["commonest_opening_share"] == 0.5
    assert shown["answer_words"] == [10, 10, 10]
