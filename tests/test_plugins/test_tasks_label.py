"""The label task: its strict form, its metrics, and a bad model for each of its gates."""

from __future__ import annotations

from typing import Any

import pytest

from forge.plugins.tasks._citations import citations, invented_citations
from forge.plugins.tasks._label_baselines import tfidf
from forge.plugins.tasks._label_format import read
from forge.plugins.tasks._label_metrics import calibration, class_counts, macro_f1, said
from forge.plugins.tasks._label_rows import label_source
from forge.plugins.tasks.label import task
from forge.protocols import Prediction
from forge.records import Example, Labelled
from forge.sentences import is_one_sentence, split_sentences
from tests.test_plugins.tasks_world import (
    LABELS,
    Say,
    judge_label,
    label_rows,
    labelled,
    outcomes,
    tell_the_truth,
)


def test_a_model_that_is_right_passes_every_gate() -> None:
    assert set(outcomes(judge_label(label_rows(tell_the_truth))).values()) == {"pass"}


BAD: dict[str, Say] = {
    "compliance": lambda row: row.gold.replace(". Rationale: ", " because "),
    "invented_citations": lambda row: row.gold.replace("a clear effect", "a clear effect (Smith, 2009)"),
    "class_recall": lambda row: row.gold.replace("Uncertain.", "No."),
    "gain_over_majority": lambda row: "Yes." + row.gold.partition(".")[2],
}


@pytest.mark.parametrize("gate", BAD)
def test_each_gate_refuses_the_model_that_it_is_for(gate: str) -> None:
    found = judge_label(label_rows(BAD[gate]))[gate]
    assert found.outcome != "pass"
    if gate != "gain_over_majority":   # a model that always says Yes is no worse than the majority: no difference
        assert found.outcome == "fail"


def test_a_model_that_a_linear_model_over_words_beats_fails() -> None:
    worse = judge_label(label_rows(lambda row: row.gold if int(row.id[1:]) % 5 < 3 else "No." + row.gold.partition(".")[2], tfidf_right=1.0))
    assert worse["gain_over_tfidf"].outcome == "fail"
    equal = judge_label(label_rows(tell_the_truth, tfidf_right=1.0))
    assert equal["gain_over_tfidf"].outcome == "undecided"


def test_few_answers_decide_nothing_however_right() -> None:
    found = outcomes(judge_label(label_rows(tell_the_truth, n=90)))
    assert set(found.values()) == {"undecided"}


def test_an_answer_without_the_form_is_wrong_and_told_apart() -> None:
    found = judge_label(label_rows(lambda row: row.gold if int(row.id[1:]) % 2 else row.gold.split(".")[0]))
    assert found["accuracy"].estimate == 0.5
    assert found["compliant_accuracy"].estimate == 1.0


def test_149_clean_answers_bound_the_citation_rate_by_two_percent() -> None:
    ci = judge_label(label_rows(tell_the_truth, n=150))["invented_citations"].ci
    assert ci is not None
    assert ci[1] == pytest.approx(0.0198, abs=2e-4)


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("Yes. Rationale: It helps in 0.85 of cases vs. 0.2 before.", "Yes"),
        ("Uncertain. Rationale: As Dr. A. Lee et al. say, nobody knows.", "Uncertain"),
        ("Yes. Rationale: It helps. It really does.", ""),
        ("Yes. Rationale: It helps", ""),
        ("Yes. Rationale: It\nhelps.", ""),
        ("yes. Rationale: It helps.", ""),
        ("Maybe. Rationale: It helps.", ""),
        ("Yes.", ""),
        ("Answer: Yes. Rationale: It helps.", ""),
        ("Yes. Rationale: ", ""),
    ],
)
def test_the_reader_is_strict(answer: str, label: str) -> None:
    assert read(answer, labelled(0)).label == label


def test_without_rationales_the_answer_is_the_label_alone() -> None:
    body = labelled(0, rationale=False)
    assert [read(text, body).label for text in ("Yes", "Yes.", "yes", "No")] == ["Yes", "", "", "No"]
    assert task.label_prefixes(Example(id="e", split="val", group="g", body=body)) == {name: name for name in LABELS}
    assert task.label_prefixes(Example(id="e", split="val", group="g", body=labelled(0)))["No"] == "No. Rationale:"


@pytest.mark.parametrize("text", ["(during 1996)", "[1,306] patients", "(since 2009)", "(March 2009)", "in 10.5/12 cases", "[see below]", "(n = 1990)"])
def test_what_only_looks_like_a_citation_is_none(text: str) -> None:
    assert citations(f"It was measured {text} twice.") == []


@pytest.mark.parametrize(
    "text",
    ["PMID: 1234567", "PMC123456", "doi 10.1000/xyz123", "NCT01234567", "ISRCTN12345678", "arXiv:2101.00001", "https://x.org/a", "Smith et al.",
     "[3]", "[3, 7-9]", "(Smith, 2009)", "(Smith & Jones 2010)", "(McDonald and Lee, 2011a)"],
)  # fmt: skip
def test_citations_are_seen(text: str) -> None:
    assert citations(f"As {text} shows.")


def test_a_citation_that_the_prompt_has_is_not_invented() -> None:
    assert invented_citations("As PMID 1234567 shows.", "The trial (PMID: 1234567) was small.") == ["PMID 1234567"]
    assert invented_citations("As PMID: 1234567 shows.", "The trial (PMID: 1234567) was small.") == []


def test_sentences_end_where_people_say_so() -> None:
    assert split_sentences("It was 0.5 (e.g. low). Then 3. It rose!") == ["It was 0.5 (e.g. low).", "Then 3.", "It rose!"]
    assert not is_one_sentence("")


def test_macro_f1_counts_a_missing_class_as_nothing() -> None:
    rows = [row for row in label_rows(tell_the_truth, n=30) if row.body and row.body.label != "No"]  # type: ignore[union-attr]
    counts = [class_counts(LABELS, said)(row) for row in rows]
    assert macro_f1(tuple(map(sum, zip(*counts, strict=True)))) == pytest.approx(2 / 3)


def test_metrics_agree_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rows = label_rows(lambda row: row.gold if int(row.id[1:]) % 7 else "No." + row.gold.partition(".")[2])
    gold, given = [row.body.label for row in rows], [said(row) for row in rows]  # type: ignore[union-attr]
    found = judge_label(rows)
    assert found["macro_f1"].estimate == pytest.approx(metrics.f1_score(gold, given, average="macro"), abs=1e-4)
    assert found["accuracy"].estimate == pytest.approx(metrics.accuracy_score(gold, given), abs=1e-4)


def test_a_model_that_is_sure_and_wrong_is_badly_calibrated() -> None:
    def sure_of(name: str) -> list[Prediction]:
        return [row.model_copy(update={"label_scores": {label: 0.0 if label == name else -9.0 for label in LABELS}}) for row in label_rows(tell_the_truth)]

    wrong, right = calibration(sure_of("Yes")), calibration(label_rows(tell_the_truth))
    assert wrong is not None
    assert right is not None
    assert wrong[0] > 0.6 > right[0]


def test_a_label_that_the_source_gives_away_is_seen() -> None:
    """The published yes/no/uncertain model: every Uncertain from one source, the others from another."""
    bodies = [Labelled(text="t", label=label, source="labelled" if label == "Uncertain" else "artificial") for label in LABELS for _ in range(110)]
    found = label_source(bodies)
    assert found.estimate == pytest.approx(1 / 3, abs=1e-3)
    mixed = [body.model_copy(update={"source": "ab"[i % 2]}) for i, body in enumerate(bodies)]
    assert (label_source(mixed).estimate or 0) < 0.02


def test_tfidf_learns_words_and_gives_way_when_there_is_one_class() -> None:
    pytest.importorskip("sklearn")
    train = [Labelled(text=f"the valve {word} {i}", label=label) for i in range(20) for word, label in (("opened", "A"), ("closed", "B"))]
    assert tfidf(train, [Labelled(text="a valve opened", label="B")], 7) == ["A"]
    assert tfidf(train[:1], train, 7) is None


def test_closed_book_and_with_context_are_told_apart() -> None:
    rows = label_rows(tell_the_truth, n=30)
    assert "closed book" in judge_label(rows)["accuracy"].evidence
    with_text: list[Any] = [row.model_copy(update={"body": row.body.model_copy(update={"text": "An abstract."})}) for row in rows]  # type: ignore[union-attr]
    assert "with context" in judge_label(with_text)["accuracy"].evidence
