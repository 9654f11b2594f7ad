"""The extract task: its strict form, its metrics against another implementation, and a bad model for each of its gates."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from forge.plugins.tasks._extract_format import NONE, find_spans, read, write
from forge.plugins.tasks._gazetteer import Gazetteer
from forge.plugins.tasks.extract import task
from forge.protocols import Prediction
from forge.records import Example, Extraction, Span
from tests.test_plugins.tasks_world import (
    Say,
    extract_rows,
    extraction,
    judge_extract,
    outcomes,
    tell_the_truth,
)


def test_a_model_that_is_right_passes_every_gate() -> None:
    assert set(outcomes(judge_extract(extract_rows(tell_the_truth))).values()) == {"pass"}


BAD: dict[str, Say] = {
    "parsed": lambda row: row.gold.replace("### Entities:", "Entities:"),
    "invented_mentions": lambda row: row.gold.replace("[Effect] ", "[Effect] severe "),
    "entity_f1": lambda row: row.gold.replace("[Drug]", "[Effect]"),
    "relation_f1": lambda row: "\n".join(" --[causes]--> ".join(line.partition(". ")[2].split(" --[causes]--> ")[::-1]).join([line.partition(". ")[0] + ". ", ""])
                                          if "--[" in line else line for line in row.gold.split("\n")),
    "gain_over_gazetteer": lambda row: row.others["gazetteer"],
}  # fmt: skip


@pytest.mark.parametrize("gate", BAD)
def test_each_gate_refuses_the_model_that_it_is_for(gate: str) -> None:
    assert judge_extract(extract_rows(BAD[gate]))[gate].outcome == "fail"


def test_reversed_relations_are_counted_as_such() -> None:
    found = judge_extract(extract_rows(BAD["relation_f1"]))
    assert found["reversed_relations"].estimate == 1.0
    assert found["entity_f1"].estimate == 1.0


def test_few_texts_decide_nothing_however_right() -> None:
    found = outcomes(judge_extract(extract_rows(tell_the_truth, n=60)))
    assert {found[name] for name in ("entity_f1", "relation_f1", "gain_over_gazetteer", "parsed")} == {"undecided"}


def test_data_without_relations_are_not_gated_on_them() -> None:
    rows = extract_rows(tell_the_truth)
    bare = [row.model_copy(update={"body": row.body.model_copy(update={"relations": (), "relation_types": ()})}) for row in rows]  # type: ignore[union-attr]
    assert judge_extract(bare)["relation_f1"].kind == "info"


def test_right_silence_counts_and_talking_about_nothing_is_seen() -> None:
    found = judge_extract(extract_rows(lambda row: row.gold if row.gold != NONE else "### Entities:\n1. [Drug] aspirin\n\n### Relations:\nNone found."))
    assert found["false_alarms"].estimate == 1.0
    assert judge_extract(extract_rows(tell_the_truth))["macro_example_f1"].estimate == 1.0


def test_entities_that_training_never_had_are_measured_apart() -> None:
    found = judge_extract(extract_rows(lambda row: NONE if row.gold == NONE else write([("Drug", row.body.entities[0].text)], [], relations=True)))  # type: ignore[union-attr]
    assert found["seen_f1"].estimate == 1.0
    assert found["unseen_recall"].estimate == 0.0


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("None found.", True),
        ("### Entities:\n1. [Drug] aspirin\n\n### Relations:\nNone found.", True),
        ("### Entities:\n1. [Drug] aspirin\n2. [Effect] rash\n\n### Relations:\n1. aspirin --[causes]--> rash", True),
        ("### Entities:\n1. [Drug] aspirin", False),
        ("### Entities:\n2. [Drug] aspirin\n\n### Relations:\nNone found.", False),
        ("### Entities:\n1. Drug aspirin\n\n### Relations:\nNone found.", False),
        ("Sure! ### Entities:\n1. [Drug] aspirin\n\n### Relations:\nNone found.", False),
        ("### Entities:\n\n### Relations:\nNone found.", False),
        ("### Entities:\n1. [Drug] aspirin\n\n### Relations:\n1. aspirin causes rash", False),
        ("", False),
    ],
)
def test_the_reader_is_strict(text: str, parsed: bool) -> None:
    assert read(text, relations=True).parsed == parsed


def test_what_is_written_is_read_back() -> None:
    example = Example(id="e", split="val", group="g", body=extraction(3))
    found = read(task.target(example), relations=True)
    assert found.entities == (("Drug", "digoxin"), ("Effect", "fever 3"))
    assert found.relations == (("digoxin", "causes", "fever 3"),)


def test_repeated_mentions_take_one_occurrence_after_the_other() -> None:
    spans = find_spans("Rash after aspirin; rash again.", (("Effect", "rash"), ("Effect", "rash"), ("Drug", "Aspirin"), ("Drug", "lithium")))
    assert [(span.start, span.end) if span else None for span in spans] == [(0, 4), (20, 24), (11, 18), None]


def test_the_gazetteer_finds_what_training_marked_and_joins_related_types() -> None:
    gazetteer = Gazetteer([extraction(0), extraction(1)])
    body = extraction(5).model_copy(update={"text": "Lithium and ASPIRIN gave nausea 0 and nothing else."})
    found = read(gazetteer.answer(body), relations=True)
    assert found.entities == (("Drug", "Lithium"), ("Drug", "ASPIRIN"), ("Effect", "nausea 0"))
    assert found.relations == (("Lithium", "causes", "nausea 0"), ("ASPIRIN", "causes", "nausea 0"))
    assert gazetteer.answer(body.model_copy(update={"text": "Nothing here."})) == NONE


def _independent(rows: Sequence[tuple[list[tuple[str, str]], list[tuple[str, str]]]]) -> tuple[float, float, float]:
    """Micro-F1, mean F1 over texts, mean F1 over types, written a second time from their definitions."""
    def same(text: str) -> str:
        return " ".join(text.lower().split())

    hits = false = missed = 0
    per_text, per_type = [], dict[str, list[int]]()
    for gold_list, given_list in rows:
        gold, given = {(t, same(m)) for t, m in gold_list}, {(t, same(m)) for t, m in given_list}
        tp = sum(one in given for one in gold)
        hits, false, missed = hits + tp, false + len(given) - tp, missed + len(gold) - tp
        if not gold and not given:
            per_text.append(1.0)
        else:
            p, r = tp / len(given) if given else 0.0, tp / len(gold) if gold else 0.0
            per_text.append(2 * p * r / (p + r) if p + r else 0.0)
        for type_ in {t for t, _ in gold | given}:
            a, b = {one for one in gold if one[0] == type_}, {one for one in given if one[0] == type_}
            counts = per_type.setdefault(type_, [0, 0, 0])
            counts[0] += len(a & b)
            counts[1] += len(b)
            counts[2] += len(a)
    precision, recall = hits / (hits + false) if hits + false else 0.0, hits / (hits + missed) if hits + missed else 0.0
    types = [2 * tp / (given + gold) if given + gold else 0.0 for tp, given, gold in (per_type[t] for t in per_type) if gold]
    return (
        2 * precision * recall / (precision + recall) if precision + recall else 0.0, sum(per_text) / len(per_text),
        sum(types) / len(types) if types else 0.0,
    )


def test_the_metrics_agree_with_another_implementation_on_a_thousand_random_prediction_sets() -> None:
    from forge.plugins.tasks import extract
    from forge.plugins.tasks._extract_metrics import entities, example_f1, f1_of, gold_entities, read_row

    generator = random.Random(11)
    words = ["aspirin", "Aspirin", "lithium", "rash", "acute  rash", "fever"]
    for number in range(1000):
        rows, plain = [], []
        for index in range(generator.randint(1, 5)):
            text = " ".join(words)
            gold = [(generator.choice(["Drug", "Effect"]), generator.choice(words)) for _ in range(generator.randint(0, 4))]
            given = [(generator.choice(["Drug", "Effect"]), generator.choice(words)) for _ in range(generator.randint(0, 4))]
            spans = tuple(Span(type=t, text=w, start=text.index(w), end=text.index(w) + len(w)) for t, w in gold)
            body = Extraction(text=text, entities=spans)
            said = write([(t, " ".join(w.split())) for t, w in given], [], relations=False)
            rows.append(Prediction(id=str(index), split="test_unseen", group=str(index), prompt=(), gold="", answerable=True, answer_tokens=1,
                                   nll_base=1, nll_tuned=1, tuned=said, generated=True, body=body))  # fmt: skip
            plain.append((gold, given))
        micro, by_text, by_type = _independent(plain)
        counts = tuple(map(sum, zip(*(extract.entity_counts(row) for row in rows), strict=True)))
        texts = [example_f1(gold_entities(row.body), entities(read_row(row))) for row in rows]  # type: ignore[arg-type]
        types = sorted({span.type for row in rows for span in row.body.entities})  # type: ignore[union-attr]
        assert f1_of(counts) == pytest.approx(micro), number
        assert sum(texts) / len(texts) == pytest.approx(by_text), number
        assert (extract._type_mean(rows, types) or 0.0) == pytest.approx(by_type), number


def test_offsets_count_places_and_not_texts() -> None:
    text = "Rash, then fever, then rash."
    spans = (Span(type="E", text="Rash", start=0, end=4), Span(type="E", text="rash", start=23, end=27))
    row = extract_rows(tell_the_truth, n=4)[0].model_copy(update={
        "body": Extraction(text=text, entities=spans), "tuned": "### Entities:\n1. [E] Rash\n2. [E] rash", "others": {},
    })  # fmt: skip
    found = judge_extract([row])
    assert found["offset_f1"].estimate == 1.0
    assert found["repeated_mentions"].estimate == 0.5
