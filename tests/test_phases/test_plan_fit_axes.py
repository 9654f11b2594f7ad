"""Each check of plan_fit is shown a bad fixture that it must fail, and one too small to decide on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from forge.config import load_data
from forge.ledger import MICRO, Spend
from forge.phases.plan_fit.accuracy import judge_accuracy
from forge.phases.plan_fit.budget import judge_budget
from forge.phases.plan_fit.checker import find_defects, names
from forge.phases.plan_fit.content import cut_stretches, judge_content
from forge.phases.plan_fit.coverage import evenness, judge_coverage
from forge.phases.plan_fit.diversity import judge_diversity, repeated_share
from forge.phases.plan_fit.forecast import Row
from forge.phases.plan_fit.planted import measure_recall
from forge.protocols import Offer
from forge.records import Pair, Passage, Source, Verdict
from tests.test_phases.planned_world import ABSTENTION, MAKERS, documents, pairs_of

LIMITS = {name: float(value) for name, value in load_data("gates").items()}
COOKING = (
    "Whisk the butter with sugar until creamy, fold in sifted flour and bake the dough golden in a moderate oven. "
    "Garnish the dessert with raspberries, lemon zest and vanilla cream before serving it to hungry guests at dinner. "
)


def passage(path: str, text: str, number: int = 0) -> Passage:
    return Passage(id=f"{path}-{number}", source=Source(path=path, sha256="0" * 64), group=path, text=text, tokens=len(text.split()))


def pair(answer: str, **more: object) -> Pair:
    values: dict[str, object] = {
        "id": "p", "bucket": "factual", "question": "What is it?", "answer": answer, "evidence": "", "passage": "x",
        "group": "x",
    }
    return Pair.model_validate({**values, **more})


# --- content ---------------------------------------------------------------------------------------------------


def test_content_passes_for_one_subject_and_fails_when_a_tenth_is_about_another() -> None:
    clean = documents()
    assert judge_content(clean, LIMITS, 7).outcome == "pass"
    foreign = [passage(f"recipe-{number}.md", COOKING * 2 + f"batch {number}") for number in range(3)]
    assert judge_content([*clean, *foreign], LIMITS, 7).outcome != "pass"
    verdict = judge_content([*clean[:60], *foreign * 4], LIMITS, 7)
    assert "recipe-0.md" in verdict.evidence


def test_content_fails_when_a_quarter_of_the_documents_is_about_something_else() -> None:
    syllables = ("ba", "ke", "lo", "mu", "ri", "sa", "ty", "wo")
    foreign = [
        passage(f"noise-{number}.md", " ".join(a + b + syllables[number % 8] + c * (number // 8) for a in syllables for b in syllables
                                               for c in syllables))
        for number in range(1, 31)
    ]
    verdict = judge_content([*documents(), *foreign], LIMITS, 7)
    assert verdict.outcome == "fail"
    assert verdict.estimate == pytest.approx(96 / verdict.n, abs=0.001)


def test_content_is_undecided_for_a_few_documents_and_for_too_few_stretches() -> None:
    assert judge_content([passage("a.md", COOKING)], LIMITS, 7).outcome == "undecided"
    few = judge_content(documents(MAKERS[:3]), LIMITS, 7)
    assert (few.outcome, few.n) == ("undecided", 18)


def test_a_short_rest_of_a_document_is_joined_to_the_stretch_before_it() -> None:
    parts = [passage("a.md", "many plain words follow here " * 50, n) for n in range(3)] + [passage("a.md", "a short rest", 3)]
    assert [stretch.words.total() for stretch in cut_stretches(parts)] == [250, 250, 252]


# --- coverage --------------------------------------------------------------------------------------------------


def test_coverage_fails_when_documents_have_no_pairs_and_names_them() -> None:
    clean = documents()
    assert judge_coverage(clean, pairs_of(clean), LIMITS).outcome == "pass"
    verdict = judge_coverage(clean, pairs_of(clean[:60]), LIMITS)
    assert verdict.outcome == "fail"
    assert "kestrel/" in verdict.evidence


def test_coverage_fails_for_one_large_document_without_a_pair_although_the_share_is_high() -> None:
    clean = documents()
    large = passage("manual.md", COOKING * 10)
    verdict = judge_coverage([*clean, large], pairs_of(clean), LIMITS)
    assert verdict.estimate is not None
    assert verdict.estimate > 0.98
    assert verdict.outcome == "fail"
    assert "manual.md" in verdict.evidence


def test_coverage_is_undecided_for_a_handful_of_documents() -> None:
    clean = documents(MAKERS[:1])[:4]
    assert judge_coverage(clean, pairs_of(clean), LIMITS).outcome == "undecided"


def test_coverage_tells_how_evenly_pairs_follow_the_text_and_which_sections_are_left_out() -> None:
    clean = documents()
    assert evenness({"a": 10, "b": 10}, {"a": 5, "b": 5}) == pytest.approx(1.0)
    assert evenness({"a": 10, "b": 10}, {"a": 5}) == 0.0
    long = passage("arvo/pump.md", COOKING * 3, 9).model_copy(update={"meta": {"heading": "Recipes"}})
    evidence = judge_coverage([*clean, long], pairs_of(clean), LIMITS).evidence
    assert "the largest without: arvo/pump.md Recipes" in evidence
    assert "pairs spread over 100% of what" in evidence


# --- accuracy --------------------------------------------------------------------------------------------------


def judged(pairs: list[Pair], clean: list[Passage]) -> Verdict:
    return judge_accuracy(pairs, {p.id: p for p in clean}, ABSTENTION, LIMITS, 7)


def test_accuracy_passes_for_copied_answers_and_tells_what_its_own_test_found() -> None:
    clean = documents()
    verdict = judged(pairs_of(clean), clean)
    assert verdict.outcome == "pass"
    assert "number 60 of 60, name 60 of 60, claim 60 of 60" in verdict.evidence


SPOIL: dict[str, Callable[[Pair], Pair]] = {
    "evidence": lambda p: p.model_copy(update={"evidence": p.evidence + " indeed"}),
    "number": lambda p: p.model_copy(update={"answer": p.answer.replace("relay", "relay 9999")}),
    "name": lambda p: p.model_copy(update={"answer": p.answer + " So says Zephyr-9."}),
    "unsupported": lambda p: p.model_copy(update={"answer": p.answer + " Elephants migrate towards tropical rivers."}),
    "passage": lambda p: p.model_copy(update={"passage": "gone"}),
}


@pytest.mark.parametrize("kind", sorted(SPOIL))
def test_accuracy_fails_when_a_tenth_of_the_pairs_has_a_defect(kind: str) -> None:
    clean = documents()
    good = [p for p in pairs_of(clean) if p.passage]
    cause = [p for p in good if p.bucket == "cause"][:60]
    rest = [p for p in good if p not in cause]
    verdict = judged([*rest, *map(SPOIL[kind], cause)], clean)
    assert verdict.outcome == "fail"
    assert f"{kind} 60" in verdict.evidence


def test_accuracy_fails_when_one_bucket_is_bad_although_the_whole_is_good() -> None:
    clean = documents()
    pairs = pairs_of(clean)
    spoiled = {p.id for p in pairs if p.bucket == "place"} & {p.id for p in pairs[:130]}
    mixed = [SPOIL["number"](p.model_copy(update={"bucket": "rare"})).model_copy(update={"answer": "It is 99999."})
             if p.id in spoiled else p for p in pairs]
    verdict = judged(mixed, clean)
    assert verdict.ci is not None
    assert verdict.outcome == "fail"
    assert "bucket rare" in verdict.evidence or verdict.ci[0] > LIMITS["accuracy_defects"]


def test_an_out_of_scope_pair_with_another_wording_is_a_defect() -> None:
    off = pair("I cannot answer that.", passage="", bucket="out_of_scope")
    assert find_defects(off, {}, ABSTENTION) == ["abstention"]
    assert find_defects(off.model_copy(update={"answer": ABSTENTION}), {}, ABSTENTION) == []


def test_accuracy_is_undecided_with_few_pairs_even_when_all_are_good() -> None:
    clean = documents(MAKERS[:1])
    verdict = judged([p for p in pairs_of(clean, each=6) if p.passage], clean)
    assert (verdict.estimate, verdict.outcome) == (0.0, "undecided")


def test_accuracy_is_undecided_when_nothing_can_be_planted_to_test_the_check() -> None:
    clean = [passage("a.md", "water is wet", n) for n in range(200)]
    pairs = [pair("water is wet", id=f"p{n}", passage=p.id, evidence="water is wet") for n, p in enumerate(clean)]
    verdict = judged(pairs, clean)
    assert (verdict.estimate, verdict.outcome) == (0.0, "undecided")
    assert "could be planted as a test" in verdict.evidence


def test_accuracy_is_undecided_when_the_check_misses_planted_defects(monkeypatch: pytest.MonkeyPatch) -> None:
    from forge.phases.plan_fit import planted

    clean = documents()
    monkeypatch.setattr(planted, "find_defects", lambda *_: [])
    verdict = judged(pairs_of(clean), clean)
    assert verdict.outcome == "undecided"
    assert "finds only 0%" in verdict.evidence


def test_planting_never_counts_a_defect_that_the_passage_happens_to_support() -> None:
    clean = documents()
    recall = measure_recall(pairs_of(clean), {p.id: p for p in clean}, ABSTENTION, 7)
    assert recall.worst == 1.0
    assert recall.planted == {"number": 60, "name": 60, "claim": 60}


def test_names_are_seen_inside_sentences_and_not_at_their_start() -> None:
    assert names("Call MeshSegNet or the Arvo-Pump17. Then ask Berlin about GPT and v2.") == [
        "MeshSegNet", "Arvo-Pump17", "Berlin", "GPT", "v2"
    ]


# --- diversity -------------------------------------------------------------------------------------------------


def test_diversity_fails_for_one_bucket_one_opening_repeated_questions_and_few_words() -> None:
    good = pairs_of(documents())
    assert judge_diversity(good, LIMITS).outcome == "pass"
    bad = {
        "bucket": [p.model_copy(update={"bucket": "factual"}) for p in good],
        "opens": [p.model_copy(update={"question": f"Tell me {p.question}"}) for p in good],
        "repeat": [p.model_copy(update={"question": good[index // 2].question}) for index, p in enumerate(good)],
        "distinct-2": [p.model_copy(update={"question": f"What is it about then {'and ' * 9}?"}) for p in good],
    }
    for word, pairs in bad.items():
        verdict = judge_diversity(pairs, LIMITS)
        assert verdict.outcome == "fail", word
        assert word in verdict.evidence.split("over the limit")[1]


def test_two_forms_of_one_fact_do_not_count_as_repeated() -> None:
    good = pairs_of(documents())
    forms = [p.model_copy(update={"id": f"{p.id}-again", "form": p.form + 10}) for p in good]
    assert repeated_share([*good, *forms]) == 0.0
    assert repeated_share([*good, *(p.model_copy(update={"fact": "another"}) for p in forms)]) == 1.0


def test_diversity_is_undecided_for_few_pairs() -> None:
    assert judge_diversity(pairs_of(documents())[:49], LIMITS).outcome == "undecided"


# --- budget ----------------------------------------------------------------------------------------------------


def budget(spent: float, p90: float, cap: float, usd_per_hour: float = 0.0) -> Verdict:
    spend = Spend(settled=int(spent * MICRO), reserved=0, before_gate=0, budget=int(cap * MICRO), before_gate_cap=0)
    to_come = Row(phase="total", seconds_p50=1, seconds_p90=2, usd_p50=p90 / 2, usd_p90=p90, basis="")
    offer = Offer(provider="x", name="y", usd_per_hour=usd_per_hour, device="cpu", cores=1, memory_gib=8)
    return judge_budget(spend, to_come, offer, 3600, LIMITS)


@pytest.mark.parametrize(
    ("spent", "p90", "cap", "rate", "outcome"),
    [
        (0, 0, 0, 0, "pass"),
        (1.10, 14.50, 40, 2, "pass"),
        (1.10, 14.50, 15, 2, "fail"),
        (5, 4.1, 10, 0, "fail"),
        (0, 1, 10, 9.5, "fail"),
    ],
)
def test_the_budget_counts_what_is_spent_p90_headroom_and_the_leases_worst_case(
    spent: float, p90: float, cap: float, rate: float, outcome: str
) -> None:
    verdict = budget(spent, p90, cap, rate)
    assert (verdict.outcome, verdict.kind) == (outcome, "integrity")


def test_thresholds_are_flat_numbers_with_a_reason_above_each_block() -> None:
    text = Path("configs/gates.yaml").read_text(encoding="utf-8") if Path("configs/gates.yaml").exists() else ""
    assert all(isinstance(value, int | float) for value in load_data("gates").values())
    for block in text.split("\n#")[1:]:
        assert block.strip()
