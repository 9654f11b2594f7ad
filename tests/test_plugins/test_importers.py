"""Importers of ready-made data, each on small originals in its format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from forge.conformance import SURFACE
from forge.errors import ForgeError, UsageError
from forge.plugins.importers.pubmedqa import choose_rationale
from forge.plugins.importers.rows import from_tags
from forge.protocols import Importing, Ready
from forge.records import Extraction, Labelled
from forge.registry import Registry

NAMES = ("ade", "pubmedqa", "pubtator", "rows")


def read(name: str, folder: Path, files: dict[str, str], task: str, **how: Any) -> list[Ready]:
    importer = Registry().plugin("importer", name)
    for file, text in files.items():
        (folder / file).write_text(text, encoding="utf-8")
        assert importer.accepts(folder / file, file)
    return list(importer.read([(folder / file, file) for file in files], Importing(task=task, **how)))


def extraction(one: Ready) -> Extraction:
    assert isinstance(one.body, Extraction)
    assert all(one.body.text[span.start : span.end] == span.text for span in one.body.entities)
    return one.body


def labelled(one: Ready) -> Labelled:
    assert isinstance(one.body, Labelled)
    return one.body


@pytest.mark.parametrize("name", NAMES)
def test_every_importer_has_the_surface(name: str) -> None:
    importer = Registry().plugin("importer", name)
    assert [part for part in SURFACE["importer"] if not hasattr(importer, part)] == []
    assert importer.name == name
    assert set(importer.tasks) <= {"label", "extract"}


def test_ade_joins_the_lines_of_a_sentence_and_finds_places_from_those_in_the_abstract(tmp_path: Path) -> None:
    sentence = "Fever and a rash came after zortan, and the rash stayed."
    lines = [f"77|{sentence}|rash|112|116|zortan|128|134", f"77|{sentence}|Fever|100|105|zortan|128|134", f"77|{sentence}|rash|144|148|zortan|128|134"]
    found = read("ade", tmp_path, {"DRUG-AE.rel": "\n".join(lines) + "\n", "ADE-NEG.txt": "77 NEG All was well.\n88 NEG Nothing happened.\n"}, "extract")
    assert [one.group for one in found] == ["pmid:77", "pmid:88", "pmid:77"]
    body = extraction(found[2])
    assert [(span.type, span.start) for span in body.entities] == [("Effect", 12), ("Drug", 28), ("Effect", 0), ("Effect", 44)]
    assert [(body.entities[r.head].text, r.type, body.entities[r.tail].start) for r in body.relations] == [("zortan", "causes", 12), ("zortan", "causes", 0), ("zortan", "causes", 44)]
    assert extraction(found[0]).entities == ()


def test_ade_names_the_line_that_is_none_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ForgeError, match=r"DRUG-AE.rel:2 is no line of ADE"):
        read("ade", tmp_path, {"DRUG-AE.rel": "7|A rash from zortan.|rash|2|6|zortan|12|18\nbroken|line\n"}, "extract")


PUBTATOR = (
    "501|t|Zortan causes rash\n501|a|The rash went. Zortan was stopped.\n501\t0\t6\tZortan\tChemical\tC1\n501\t14\t18\trash\tDisease\tD1|D2\n"
    "501\t23\t27\trash\tDisease\tD1\n501\t34\t40\tZortan\tChemical\tC1\n501\tCID\tC1\tD1\n\n502|t|No drug\n502|a|Nothing.\n"
)


def test_pubtator_puts_a_relation_between_the_first_mentions_of_its_concepts(tmp_path: Path) -> None:
    found = read("pubtator", tmp_path, {"cdr.txt": PUBTATOR}, "extract")
    body = extraction(found[0])
    assert body.text == "Zortan causes rash The rash went. Zortan was stopped."
    assert [(r.head, r.type, r.tail) for r in body.relations] == [(0, "CID", 1)]
    assert [one.group for one in found] == ["pmid:501", "pmid:502"]


def test_pubtator_by_sentences_keeps_places_and_relations_inside_a_sentence(tmp_path: Path) -> None:
    found = read("pubtator", tmp_path, {"cdr.txt": PUBTATOR}, "extract", options={"sentences": True})
    texts = [extraction(one).text for one in found]
    assert texts == ["Zortan causes rash The rash went.", "Zortan was stopped.", "No drug Nothing."]
    assert [len(extraction(one).relations) for one in found] == [1, 0, 0]


def test_pubtator_refuses_a_mention_that_is_not_at_its_place(tmp_path: Path) -> None:
    with pytest.raises(ForgeError, match="does not stand at"):
        read("pubtator", tmp_path, {"cdr.txt": PUBTATOR.replace("501\t0\t6\tZortan", "501\t1\t7\tZortan")}, "extract")


RECORD = {
    "QUESTION": "Does zortan help?", "CONTEXTS": ["Ninety people took zortan.", "Half took sugar."], "LABELS": ["METHODS", "METHODS"], "final_decision": "maybe",
    "LONG_ANSWER": "See Smith et al. for more on it. Zortan may help some of them. More is needed.",
}


def test_pubmedqa_gives_question_context_label_and_one_sentence(tmp_path: Path) -> None:
    found = read("pubmedqa", tmp_path, {"pqal.json": json.dumps({"9001": RECORD})}, "label")
    body = labelled(found[0])
    assert (found[0].group, body.label, body.question) == ("pmid:9001", "Uncertain", "Does zortan help?")
    assert body.text == "Ninety people took zortan.\nHalf took sugar."
    assert body.rationale == "Zortan may help some of them."
    closed = read("pubmedqa", tmp_path, {"pqal.json": json.dumps({"9001": RECORD})}, "label", options={"context": False})
    assert labelled(closed[0]).text == ""


def test_a_conclusion_without_a_sentence_of_its_own_gives_no_rationale() -> None:
    assert choose_rationale("Unclear. As [3] says so and so on.") is None


JSONL = '{"sentence": "A b c.", "label": 1, "pmid": 5, "split": "validation"}\n{"sentence": "D e.", "label": 0, "pmid": 6, "split": "test"}\n'


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rows.jsonl", JSONL),
        ("rows.json", "[" + ",".join(JSONL.strip().split("\n")) + "]"),
        ("columns.json", '{"sentence": ["A b c.", "D e."], "label": [1, 0], "pmid": [5, 6], "split": ["validation", "test"]}'),
        ("rows.csv", "sentence,label,pmid,split\nA b c.,1,5,validation\nD e.,0,6,test\n"),
        ("rows.tsv", "sentence\tlabel\tpmid\tsplit\nA b c.\t1\t5\tvalidation\nD e.\t0\t6\ttest\n"),
    ],
)
def test_rows_are_read_by_the_usual_names_from_any_table(name: str, text: str, tmp_path: Path) -> None:
    found = read("rows", tmp_path, {name: text}, "label")
    assert [(labelled(one).text, labelled(one).label, one.group, one.part) for one in found] == [
        ("A b c.", "1", "pmid:5", "val"), ("D e.", "0", "pmid:6", "test"),
    ]  # fmt: skip


def test_parquet_classes_keep_the_names_that_hugging_face_wrote(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    features = {"text": {"_type": "Value"}, "label": {"names": ["neg", "pos"], "_type": "ClassLabel"}, "ner_tags": {"feature": {"names": ["O", "B-Drug"]}}}
    table = pa.table({"text": ["good", "bad"], "label": [1, 0], "ner_tags": [[1], [0]]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    importer = Registry().plugin("importer", "rows")
    found = list(importer.read([(tmp_path / "train-00000-of-00001.parquet", "data/train-00000-of-00001.parquet")], Importing(task="label")))
    assert [(labelled(one).label, one.part) for one in found] == [("pos", "train"), ("neg", "train")]
    assert not importer.accepts(tmp_path, "dataset_info.json")


def test_entities_come_with_places_as_texts_or_as_tags(tmp_path: Path) -> None:
    rows = [
        {"text": "Zortan gave a rash.", "doc": "a", "entities": [{"type": "Drug", "start": 0, "end": 6}, {"type": "Effect", "text": "rash"}],
         "relations": [{"head": 0, "type": "causes", "tail": "rash"}]},
        {"text": "Zortan again.", "doc": "b", "entities": [[0, 6, "Drug"]]},
        {"text": "Nothing.", "doc": "b", "entities": []},
    ]  # fmt: skip
    found = read("rows", tmp_path, {"ner.jsonl": "\n".join(map(json.dumps, rows))}, "extract")
    assert [(span.type, span.start) for span in extraction(found[0]).entities] == [("Drug", 0), ("Effect", 14)]
    assert [(r.head, r.tail) for r in extraction(found[0]).relations] == [(0, 1)]
    assert [one.group for one in found] == ["a", "b", "b"]
    tags = read("rows", tmp_path, {"tags.jsonl": '{"tokens": ["Acute", "renal", "failure", "came"], "ner_tags": ["B-E", "I-E", "I-E", "O"]}'}, "extract")
    assert [span.text for span in extraction(tags[0]).entities] == ["Acute renal failure"]


def test_tags_of_neighbours_are_two_entities() -> None:
    _, spans = from_tags(["a", "b", "c"], ["B-X", "B-X", "I-Y"])
    assert [(span.type, span.text) for span in spans] == [("X", "a"), ("X", "b"), ("Y", "c")]


@pytest.mark.parametrize(
    ("row", "task", "message"),
    [
        ({"words": "A b."}, "label", "has no label"),
        ({"text": "", "label": "x"}, "label", "has no text"),
        ({"text": "A b."}, "extract", "has no entities"),
        ({"text": "A b.", "entities": [{"type": "X", "text": "zz"}]}, "extract", "is not in its text"),
        ({"text": "A b.", "entities": [{"type": "X", "start": 0, "end": 9}]}, "extract", "is not"),
        ({"text": "A b.", "entities": [{"start": 0, "end": 1}]}, "extract", "without a type"),
        ({"text": "A b.", "entities": [{"type": "X", "start": 0, "end": 1}], "relations": [{"head": 0, "tail": 5}]}, "extract", "none of its entities"),
    ],
)
def test_a_row_that_is_no_example_is_named_with_its_place(row: dict[str, Any], task: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read("rows", tmp_path, {"bad.jsonl": json.dumps(row)}, task)
    assert "bad.jsonl:line=1" in str(caught.value.fact)


def test_a_column_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='no column "kind"'):
        read("rows", tmp_path, {"rows.jsonl": JSONL}, "label", columns={"label": "kind"})


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    with pytest.raises(ForgeError, match=r"rows.jsonl:3 is no JSON"):
        read("rows", tmp_path, {"rows.jsonl": JSONL + "{broken\n"}, "label")
