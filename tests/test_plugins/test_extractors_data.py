"""Ready-made data: what becomes a record, what text, what metadata; and files that are nested, damaged or mislabelled."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from forge.errors import ExtractError
from forge.plugins.extractors.data import ARROW, DOCUMENT, LINES, PARQUET, PUBTATOR
from forge.protocols import Option, Reading
from forge.records import Piece
from forge.registry import Registry


def read(tmp_path: Path, content: str | bytes, media_type: str = LINES, name: str = "", **options: Option) -> list[Piece]:
    path = tmp_path / "data"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(Registry().plugin("extractor", "data").extract(path, Reading(media_type, name=name, options=options)))


def read_lines(tmp_path: Path, *rows: Any, **options: Option) -> list[Piece]:
    return read(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), LINES, "", **options)


def shown(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    return [(piece.kind, piece.text) for piece in pieces if not piece.dropped]


# --- records ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"question": "How many?", "answer": "18"}, "Question: How many?\nAnswer: 18"),
        ({"prompt": "Say hi", "completion": " hi"}, "Question: Say hi\nAnswer: hi"),
        ({"instruction": "Add", "input": "1 and 2", "output": "3"}, "Question: Add\ninput: 1 and 2\nAnswer: 3"),
        ({"instruction": "Go", "input": "", "output": "Gone"}, "Question: Go\nAnswer: Gone"),
        ({"input": "2+2", "target": 4}, "Question: 2+2\nAnswer: 4"),
        ({"context": "Ada wrote it.", "question": "Who?", "answers": {"text": ["Ada", "Ada"], "answer_start": [0, 0]}},
         "Question: Who?\ncontext: Ada wrote it.\nAnswer: Ada"),
        ({"Question": "Q?", "Answer": "A", "topic": "math", "source": None}, "Question: Q?\nAnswer: A\ntopic: math"),
        ({"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
         "system: Be kind.\nuser: Hi\nassistant: Hello"),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, "user: Hi\nassistant: Hello"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Look"}, {"type": "image_url"}]}]}, "user: Look"),
    ],
)  # fmt: skip
def test_questions_and_chats_stay_records(tmp_path: Path, row: dict[str, Any], text: str) -> None:
    pieces = read_lines(tmp_path, {"text": "first"}, row)
    assert (pieces[1].kind, pieces[1].text, pieces[1].locator) == ("record", text, "line=2")


def test_identifiers_and_rejected_answers_are_no_text(tmp_path: Path) -> None:
    pieces = read_lines(tmp_path, {"id": "q7", "prompt": "Which?", "chosen": "This.", "rejected": "That."}, {"chosen": "yes", "rejected": "no"})
    assert shown(pieces) == [("record", "Question: Which?\nAnswer: This."), ("table", "chosen: yes")]
    assert [(piece.dropped, piece.text) for piece in pieces if piece.dropped] == [
        ("identifier", "q7"), ("rejected answer", "That."), ("rejected answer", "no"),
    ]  # fmt: skip


def test_texts_and_other_objects(tmp_path: Path) -> None:
    long = "A long passage about leases. " * 10
    pieces = read_lines(tmp_path, {"text": "short", "label": 1}, {"text": long, "source": "web"}, {"a": [1, 2], "b": {"c": True, "d": None}}, "words", [1, "x"])
    assert shown(pieces) == [
        ("table", "text: short\nlabel: 1"), ("prose", long), ("metadata", "source: web"), ("table", "a: 1, 2\nb: c: true"),
        ("prose", "words"), ("prose", "1, x"),
    ]  # fmt: skip


def test_a_broken_line_costs_itself_and_only_broken_lines_cost_the_file(tmp_path: Path) -> None:
    pieces = read(tmp_path, '{"text": "one"}\n\n{"text": "tw\n{"text": "three"}\n{"text": "fo')
    assert shown(pieces) == [("prose", "one"), ("prose", "three")]
    assert [(piece.locator, piece.dropped) for piece in pieces if piece.dropped] == [("line=3", "line that is no JSON"), ("line=5", "line that is no JSON")]
    with pytest.raises(ExtractError, match="no line of it is JSON"):
        read(tmp_path, "just words\nand more\n")


def test_rows_over_the_limit_are_counted(tmp_path: Path) -> None:
    pieces = read_lines(tmp_path, *({"question": f"q{number}", "answer": "a"} for number in range(50)), max_rows=30)
    assert Counter(piece.dropped for piece in pieces) == {"": 30, "row over the limit": 20}


def test_a_set_of_too_many_characters_is_cut_rather_than_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.plugins.extractors._records.MAX_CHARACTERS", 100)
    pieces = read_lines(tmp_path, *({"text": f"a text of some words, number {number}"} for number in range(50)))
    assert Counter(piece.dropped for piece in pieces) == {"": 4, "row over the limit": 46}


# --- documents -------------------------------------------------------------------------------------------------


def test_arrays_of_records_and_tables_below_a_name(tmp_path: Path) -> None:
    rows = [{"question": f"Q{number}?", "answer": f"A{number}"} for number in range(3)]
    pieces = read(tmp_path, json.dumps(rows), DOCUMENT)
    assert [(piece.text, piece.locator) for piece in pieces][2] == ("Question: Q2?\nAnswer: A2", "row=3")
    pieces = read(tmp_path, json.dumps({"version": "1.1", "train": rows}, indent=1), DOCUMENT)
    assert [(piece.kind, piece.heading) for piece in pieces] == [("table", "")] + [("record", "train")] * 3
    columns = {"question": ["Q0?", "Q1?"], "answer": ["A0", "A1"]}
    assert shown(read(tmp_path, json.dumps(columns), DOCUMENT))[1] == ("record", "Question: Q1?\nAnswer: A1")


def test_squad_questions_carry_their_paragraph(tmp_path: Path) -> None:
    asked = {"question": "Who?", "id": "56be", "answers": [{"text": "Ada", "answer_start": 0}, {"text": "Ada", "answer_start": 0}]}
    squad = {"version": "1.1", "data": [{"title": "Ada", "paragraphs": [{"context": "Ada wrote it.", "qas": [asked]}, {"context": "No more."}]}]}
    assert shown(read(tmp_path, json.dumps(squad), DOCUMENT))[1:] == [("record", "Question: Who?\ncontext: Ada wrote it.\nAnswer: Ada"), ("prose", "No more.")]


def test_any_other_document_is_readable_lines(tmp_path: Path) -> None:
    long = "The tenant pays on the first of the month, and never later. " * 5
    value = {"name": "lease", "terms": {"months": 12, "tags": ["home", "city"], "text": long}, "rooms": [{"size": 20}], "none": None}
    pieces = read(tmp_path, json.dumps(value), DOCUMENT)
    assert shown(pieces) == [("table", "name: lease\nterms.months: 12\nterms.tags: home, city"), ("prose", long.strip()), ("table", "rooms[0].size: 20")]
    assert pieces[1].heading == "terms.text"


def test_coco_gives_captions_as_text_and_the_rest_as_metadata(tmp_path: Path) -> None:
    value = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}], "categories": [{"id": 3, "name": "bus"}],
        "annotations": [{"image_id": 1, "category_id": 3, "bbox": [0, 0, 9, 9]}, {"image_id": 2, "caption": "A bus waits."}],
    }  # fmt: skip
    assert shown(read(tmp_path, json.dumps(value), DOCUMENT)) == [
        ("metadata", "COCO annotations: 2 images, 2 annotations."), ("metadata", "Categories with annotations: bus (1)"),
        ("metadata", "Images: a.jpg, b.jpg"), ("record", "b.jpg: A bus waits."),
    ]  # fmt: skip


def test_the_description_of_a_data_set_is_metadata(tmp_path: Path) -> None:
    value = {"description": "Grade school maths.", "license": "MIT", "features": {"question": {"dtype": "string"}}, "citation": ""}
    pieces = read(tmp_path, json.dumps(value), DOCUMENT, name="gsm8k/dataset_info.json")
    assert shown(pieces) == [("metadata", "description: Grade school maths."), ("metadata", "license: MIT"), ("metadata", "features: question: dtype: string")]


@pytest.mark.parametrize("media_type", [LINES, DOCUMENT])
@pytest.mark.parametrize("levels", [200, 100_000])
@pytest.mark.parametrize(("start", "end"), [("[", "]"), ('{"a":', "}")])
def test_endless_nesting_is_refused(tmp_path: Path, media_type: str, levels: int, start: str, end: str) -> None:
    with pytest.raises(ExtractError) as caught:
        read(tmp_path, start * levels + "1" + end * levels, media_type)
    assert caught.value.refused


@pytest.mark.parametrize(
    "text",
    [
        "null", "[]", '"words"', '[{"paragraphs":null},{"paragraphs":[{"qas":5}, 7]}]', '{"images":[],"annotations":[1],"categories":[null]}',
        '{"images":[{"id":[1]}],"annotations":[{"caption":{"a":1},"image_id":{}}]}', '{"question":[],"answer":[]}',
        '[{"messages":[{}]},{"conversations":[{"from":1,"value":{}}]}]', '[{"question":{},"answers":[{"text":[null]}]},{}]',
    ],
)  # fmt: skip
def test_data_in_unexpected_shapes_is_read_as_far_as_it_goes(tmp_path: Path, text: str) -> None:
    for media_type in (DOCUMENT, LINES):
        assert all(isinstance(piece, Piece) for piece in read(tmp_path, text, media_type))


def test_comments_in_a_configuration_are_notes(tmp_path: Path) -> None:
    text = '{\n  // how wide a line may be\n  "width": 110, /* in\n characters */\n  "url": "https://x.example/*", "list": [1, 2,],\n}\n'
    assert shown(read(tmp_path, text, DOCUMENT)) == [
        ("notes", "how wide a line may be"), ("notes", "in\n characters"), ("table", "width: 110\nurl: https://x.example/*\nlist: 1, 2"),
    ]  # fmt: skip


@pytest.mark.parametrize("part", ['"\\', "/* ", "//", ", "])
def test_a_damaged_document_is_said_at_once(tmp_path: Path, part: str) -> None:
    start = time.process_time()
    with pytest.raises(ExtractError):
        read(tmp_path, part * 300_001, DOCUMENT)
    assert time.process_time() - start < 5


def test_damaged_documents_are_said_and_pretty_printed_ones_are_found_under_lines(tmp_path: Path) -> None:
    with pytest.raises(ExtractError, match="damaged JSON"):
        read(tmp_path, '{"a": 1', DOCUMENT)
    assert shown(read(tmp_path, '{\n "a": 1,\n "b": 2\n}\n', LINES)) == [("table", "a: 1\nb: 2")]


def test_lines_and_pubtator_are_recognised_by_their_content() -> None:
    accepts = Registry().plugin("extractor", "data").accepts
    assert accepts(b'{"a": 1}\n{"a": 2}\n', "x/train.JSON") == accepts(b'{"a": 1} \r\n\r\n {"a": 2}', "train.json") == LINES
    assert accepts(b"{}" + b"\n" * 65_000, "x.json") == ""  # in no time
    assert accepts(b'{\n "a": 1}\n', "x/one.json") == accepts(b'{"a": 1}\n', "one.json") == accepts(b'{"a": 1}\n{"a": 2}\n', "notes.txt") == ""
    assert accepts(b"\xff\xff\xff\xff\xa0\0\0\0", "data-00000-of-00001.arrow") == ARROW
    assert accepts(b"\xff\xff\xff\xff\xa0\0\0\0", "x.bin") == ""
    assert accepts(b"123|t|Title\n123|a|Abstract\n", "corpus.txt") == PUBTATOR


@given(st.binary(max_size=300), st.sampled_from([LINES, DOCUMENT, PUBTATOR]))
def test_no_bytes_break_the_readers(tmp_path_factory: pytest.TempPathFactory, content: bytes, media_type: str) -> None:
    try:
        pieces = read(tmp_path_factory.mktemp("d"), content, media_type)
    except ExtractError:
        return
    assert all(isinstance(piece, Piece) for piece in pieces)


# --- PubTator --------------------------------------------------------------------------------------------------


def test_pubtator_articles_with_their_names(tmp_path: Path) -> None:
    text = "12|t|Naloxone and clonidine\n12|a|Naloxone reverses it.\n12\t0\t8\tNaloxone\tChemical\tD009270\n12\tCID\tD009270\tD007022\n\n13|t|Next\n13|a|More.\n"
    pieces = read(tmp_path, text, PUBTATOR)
    assert [(piece.kind, piece.text, piece.heading, piece.locator) for piece in pieces if not piece.dropped] == [
        ("heading", "Naloxone and clonidine", "Naloxone and clonidine", "line=1"),
        ("prose", "Naloxone reverses it.", "Naloxone and clonidine", "line=2"),
        ("metadata", "Names: Naloxone Chemical D009270; CID D009270 D007022", "Naloxone and clonidine", "line=1"),
        ("heading", "Next", "Next", "line=6"), ("prose", "More.", "Next", "line=7"),
    ]  # fmt: skip
    visible = Counter("".join(text.split())) - Counter("".join("".join(piece.text for piece in pieces).split()))
    assert not visible


# --- Parquet and Arrow -----------------------------------------------------------------------------------------


def table() -> pa.Table:
    return pa.table({"question": [f"Q{n}?" for n in range(30)], "answer": [f"A{n}" for n in range(30)], "image": [b"\x89PNG"] * 30})


def written(tmp_path: Path, kind: str, value: pa.Table) -> bytes:
    path = tmp_path / "written"
    if kind == "parquet":
        parquet.write_table(value, path, row_group_size=7)
    else:
        make = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
        with pa.OSFile(str(path), "wb") as sink, make(sink, value.schema) as writer:
            writer.write_table(value, max_chunksize=7)
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["parquet", "file", "stream"])
def test_columns_become_records_and_binary_ones_are_counted(tmp_path: Path, kind: str) -> None:
    pieces = read(tmp_path, written(tmp_path, kind, table()), PARQUET if kind == "parquet" else ARROW, max_rows=12)
    assert pieces[0].kind == "metadata"
    assert pieces[0].text.startswith("Columns: question (string), answer (string), image (binary)")
    records = [piece for piece in pieces if piece.kind == "record"]
    assert (len(records), records[7].text, records[7].locator) == (12, "Question: Q7?\nAnswer: A7", "row=8")
    assert Counter(piece.dropped for piece in pieces if piece.dropped) == {"column of binary values": 1, "row over the limit": 18}


@pytest.mark.parametrize("kind", ["parquet", "stream"])
def test_other_columns_become_rows(tmp_path: Path, kind: str) -> None:
    value = pa.table({"city": ["Oslo", "Rome"], "rain": [763.5, None], "shops": [["a", "b"], []], "pictures": [[{"bytes": b"x", "path": "p"}]] * 2})
    pieces = read(tmp_path, written(tmp_path, kind, value), PARQUET if kind == "parquet" else ARROW)
    assert shown(pieces)[1:] == [("table", "city: Oslo; rain: 763.5; shops: a, b"), ("table", "city: Rome")]


@pytest.mark.parametrize("kind", ["parquet", "file", "stream"])
def test_damaged_columns_are_said(tmp_path: Path, kind: str) -> None:
    content = written(tmp_path, kind, table())
    with pytest.raises(ExtractError, match="damaged"):
        read(tmp_path, content[: len(content) // 2], PARQUET if kind == "parquet" else ARROW)
