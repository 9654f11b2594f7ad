"""Predictions of made-up models for the tasks label and extract."""

from __future__ import annotations

from collections.abc import Callable

from forge.config import load_data
from forge.plugins.tasks.extract import task as extract
from forge.plugins.tasks.label import task as label
from forge.protocols import Prediction
from forge.records import Example, Extraction, Labelled, Relation, Span, Verdict

THRESHOLDS = {name: float(value) for name, value in load_data("gates").items()}
LABELS = ("Yes", "No", "Uncertain")
DRUGS = ("aspirin", "lithium", "naproxen", "digoxin", "heparin")
EFFECTS = ("nausea", "rash", "tremor", "fever")
Say = Callable[[Prediction], str]


def tell_the_truth(row: Prediction) -> str:
    return row.gold


def labelled(number: int, *, rationale: bool = True) -> Labelled:
    reason = f"The trial of {number} patients showed a clear effect after two weeks." if rationale else None
    body = Labelled(text="", question=f"Does treatment {number} help?", label=LABELS[number % 3], rationale=reason, source="made up")
    return body.model_copy(update={"labels": LABELS, "instruction": "Answer with Yes, No or Uncertain."})


def label_rows(say: Say, *, n: int = 300, rationale: bool = True, tfidf_right: float = 0.5) -> list[Prediction]:
    """`n` questions of n / 3 documents; the majority says Yes, TF-IDF is right on a share of the rows."""
    rows = []
    for number in range(n):
        example = Example(id=f"l{number:03}", split="test_unseen", group=f"g{number // 3}", body=labelled(number, rationale=rationale))
        gold = example.body.label  # type: ignore[union-attr]
        other = LABELS[(number + 1) % 3]
        row = Prediction(
            id=example.id, split=example.split, group=example.group, prompt=label.prompt(example), gold=label.target(example), answerable=True,
            answer_tokens=12, nll_base=30.0, nll_tuned=10.0, generated=True, body=example.body,
            others={"majority": "Yes", "tfidf": gold if (number * 7919) % 100 < 100 * tfidf_right else other, "base_labels": "No"},
            label_scores={name: -0.1 if name == gold else -3.0 for name in LABELS},
        )
        rows.append(row.model_copy(update={"tuned": say(row)}))
    return rows


def extraction(number: int, *, empty: bool = False) -> Extraction:
    drug, effect = DRUGS[number % 5], f"{EFFECTS[number % 4]} {number}"
    text = f"Patient {number} took {drug} and had {effect} soon." if not empty else f"Patient {number} was well."
    if empty:
        return Extraction(text=text, types=("Drug", "Effect"), relation_types=("causes",), instruction="List them.")
    first, second = text.index(drug), text.index(effect)
    spans = (Span(type="Drug", text=drug, start=first, end=first + len(drug)), Span(type="Effect", text=effect, start=second, end=second + len(effect)))
    return Extraction(
        text=text, entities=spans, relations=(Relation(head=0, type="causes", tail=1),), types=("Drug", "Effect"), relation_types=("causes",),
        instruction="List them.",
    )


def extract_rows(say: Say, *, n: int = 400, gazetteer_right: float = 0.6) -> list[Prediction]:
    """`n` texts of n / 4 documents, every tenth without anything; drugs are known from training, effects are not."""
    rows = []
    for number in range(n):
        body = extraction(number, empty=number % 10 == 9)
        example = Example(id=f"e{number:03}", split="test_unseen", group=f"g{number // 4}", body=body)
        gold = extract.target(example)
        row = Prediction(
            id=example.id, split=example.split, group=example.group, prompt=extract.prompt(example), gold=gold, answerable=True, answer_tokens=20,
            nll_base=40.0, nll_tuned=8.0, generated=True, body=body, seen=DRUGS,
            others={"gazetteer": gold if (number * 7919) % 100 < 100 * gazetteer_right else "None found."},
        )
        rows.append(row.model_copy(update={"tuned": say(row)}))
    return rows


def judge_label(rows: list[Prediction]) -> dict[str, Verdict]:
    return {verdict.name: verdict for verdict in label.gates(label.score(rows, abstention="", seed=7), THRESHOLDS)}


def judge_extract(rows: list[Prediction]) -> dict[str, Verdict]:
    return {verdict.name: verdict for verdict in extract.gates(extract.score(rows, abstention="", seed=7), THRESHOLDS)}


def outcomes(found: dict[str, Verdict]) -> dict[str, str]:
    return {name: verdict.outcome for name, verdict in found.items() if verdict.kind == "quality"}
