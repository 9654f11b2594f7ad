"""Ready-made data through shape: by document always, masked, one form, and a leakage gate that fails."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from forge.errors import ForgeError, GateFailed, UsageError
from forge.phases.shape import ShapeSettings, phase
from forge.records import (
    DataContract,
    Example,
    Extraction,
    Labelled,
    Passage,
    read_jsonl,
    read_record,
    write_jsonl,
)
from forge.testing import PhaseRun, run_phase, tiny_corpus

pytest.importorskip("tokenizers")
WORDS = ("valve", "pump", "filter", "motor", "gasket", "rotor", "clamp", "gauge", "relay", "sensor")


def sentence(number: int) -> str:
    """A sentence that no other resembles."""
    return " ".join(f"{WORDS[(number * 7 + i * i * (number % 9 + 1)) % 10]}{(number * 31 + i * 17) % 97}" for i in range(9)) + "."


def label_rows(documents: int = 60, each: int = 4) -> list[dict[str, Any]]:
    return [
        {"text": sentence(doc * each + i), "label": ("open", "shut", "stuck")[(doc + i) % 3], "doc": f"d{doc}", "source": "a" if i % 2 else "b"}
        for doc in range(documents) for i in range(each)
    ]  # fmt: skip


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def shape(folder: Path, files: dict[str, str], task: str = "label", **settings: Any) -> PhaseRun:
    corpus = tiny_corpus(folder / "corpus", dict(files))
    write_jsonl(folder / "none.jsonl", [])
    inputs = {"clean": folder / "none.jsonl", "pairs": folder / "none.jsonl"}
    return run_phase(phase, folder / "run", settings=ShapeSettings(base="scratch", **settings), inputs=inputs, corpus=corpus, task=task)


def rows_of(run: PhaseRun, split: str) -> list[Example]:
    return list(read_jsonl(run.out / f"{split}.jsonl", Example))


def notices(run: PhaseRun) -> str:
    return "\n".join(fields["text"] for kind, fields in run.events if kind == "notice")


def test_no_document_is_on_two_sides_and_labels_are_spread_evenly(tmp_path: Path) -> None:
    run = shape(tmp_path, {"data.jsonl": lines(label_rows())})
    sides = {split: rows_of(run, split) for split in ("train", "val", "test_unseen")}
    groups = [{row.group for row in rows} for rows in sides.values()]
    assert not groups[0] & groups[1]
    assert not (groups[0] | groups[1]) & groups[2]
    assert sum(map(len, sides.values())) == 240
    tested = Counter(row.bucket for row in sides["test_unseen"])
    assert max(tested.values()) - min(tested.values()) <= 4
    assert len(sides["test_unseen"]) == pytest.approx(72, abs=6)   # 30 %: 240 rows are few
    contract = read_record(run.out / "shape.json", DataContract)
    assert contract.task == "label"
    assert contract.system_prompt == "Label the text: open, shut or stuck."
    assert set(contract.leakage.values()) == {0.0}
    body = sides["train"][0].body
    assert isinstance(body, Labelled)
    assert body.labels == ("open", "shut", "stuck")


def test_a_split_by_sentence_makes_the_leakage_gate_fail(tmp_path: Path) -> None:
    """As published sets do it: sentences of one document in training and in the test."""
    rows = [{**row, "split": "test" if i % 4 == 0 else "train"} for i, row in enumerate(label_rows())]
    with pytest.raises(GateFailed, match="leak into training") as caught:
        shape(tmp_path, {"data.jsonl": lines(rows)})
    assert "shared_groups_unseen" in caught.value.why


def test_an_input_on_both_given_sides_makes_the_leakage_gate_fail(tmp_path: Path) -> None:
    rows = label_rows()
    given = [{**row, "split": "train" if i < 200 else "test"} for i, row in enumerate(rows)]
    given.append({**rows[0], "doc": "another", "split": "test"})
    with pytest.raises(GateFailed, match="identical_inputs 1"):
        shape(tmp_path, {"data.jsonl": lines([row for row in given if row["split"] == "train" or row["doc"] not in {r["doc"] for r in given[:200]}])})


def test_a_split_that_the_data_give_by_document_is_kept(tmp_path: Path) -> None:
    rows = [{**row, "split": "test" if int(row["doc"][1:]) >= 48 else "train"} for row in label_rows()]
    run = shape(tmp_path, {"data.jsonl": lines(rows)})
    assert len(rows_of(run, "test_unseen")) == 48
    assert len(rows_of(run, "train")) == 192


def test_documents_with_near_copies_stay_together(tmp_path: Path) -> None:
    rows = label_rows()
    rows.append({"text": rows[0]["text"].upper().replace(".", " ..."), "label": rows[0]["label"] + "", "doc": "copy"})
    rows.append({"text": rows[4]["text"] + " and", "label": rows[4]["label"], "doc": "near"})
    run = shape(tmp_path, {"data.jsonl": lines(rows)})
    group = {row.id: row.group for split in ("train", "val", "test_unseen") for row in rows_of(run, split)}
    assert "documents hold near-copies" in notices(run)
    assert not {"copy", "near"} <= set(group.values())


def test_copies_go_and_contradictions_go_altogether(tmp_path: Path) -> None:
    rows = label_rows()
    rows += [dict(rows[0]), {**rows[5], "label": "open" if rows[5]["label"] != "open" else "shut"}]
    run = shape(tmp_path, {"data.jsonl": lines(rows)})
    ready = read_record(run.out / "shape.json", DataContract).ready
    assert ready == {"read": 242, "examples": 239, "copies": 1, "contradictory": 2}


def test_labels_are_renamed_and_sources_are_combined_with_their_ratio(tmp_path: Path) -> None:
    other = [{"claim": sentence(1000 + i), "verdict": "OPEN", "article": f"o{i}"} for i in range(100)]
    data = [
        {"path": "data.jsonl"},
        {"path": "other/*.csv", "ratio": 0.25, "columns": {"text": "claim", "label": "verdict", "group": "article"}, "labels": {"OPEN": "open"}},
    ]
    table = "claim,verdict,article\n" + "".join(f"{row['claim']},{row['verdict']},{row['article']}\n" for row in other)
    run = shape(tmp_path, {"data.jsonl": lines(label_rows()), "other/x.csv": table}, data=data)
    contract = read_record(run.out / "shape.json", DataContract)
    assert contract.ready["examples"] == 265
    assert contract.ready["not_taken"] == 75
    assert set(contract.buckets) == {"open", "shut", "stuck"}


def test_balance_leaves_as_many_of_each_label_as_the_rarest_has(tmp_path: Path) -> None:
    rows = label_rows() + [{"text": sentence(5000 + i), "label": "open", "doc": f"x{i}"} for i in range(60)]
    run = shape(tmp_path, {"data.jsonl": lines(rows)}, balance=True)
    counts = Counter(row.bucket for row in rows_of(run, "train"))
    assert len(set(counts.values())) == 1
    assert "balanced" in notices(run)


def test_secrets_are_masked_in_labels_and_cost_an_extraction(tmp_path: Path) -> None:
    rows = label_rows()
    rows[0]["text"] += " Write to jane.doe@hospital-mail.com."
    run = shape(tmp_path, {"data.jsonl": lines(rows)})
    texts = "".join((run.out / f"{split}.jsonl").read_text() for split in ("train", "val", "test_unseen", "pretrain", "pretrain_val"))
    assert "jane.doe" not in texts
    found = [{"text": row["text"], "doc": row["doc"], "entities": [[0, 5, "Part"]]} for row in rows]
    extracted = shape(tmp_path / "e", {"data.jsonl": lines(found)}, task="extract")
    assert read_record(extracted.out / "shape.json", DataContract).ready["private"] == 1


def test_rows_without_a_reason_are_left_out_where_most_have_one(tmp_path: Path) -> None:
    rows = [{**row, "rationale": "It was seen in the first trial of many."} for row in label_rows()]
    rows[0].pop("rationale")
    run = shape(tmp_path, {"data.jsonl": lines(rows)})
    contract = read_record(run.out / "shape.json", DataContract)
    assert contract.ready["without_rationale"] == 1
    assert "then give the reason in one sentence" in contract.system_prompt


def test_data_without_a_document_column_say_so_and_keep_rows_on_one_text_together(tmp_path: Path) -> None:
    rows = [{"context": sentence(i // 3), "question": f"Is part {i} {WORDS[i % 10]}?", "label": ("yes", "no")[i % 2]} for i in range(180)]
    run = shape(tmp_path, {"data.jsonl": lines(rows)})
    assert "name no source document" in notices(run)
    where: dict[str, set[str]] = {}
    for split in ("train", "val", "test_unseen"):
        for row in rows_of(run, split):
            assert isinstance(row.body, Labelled)
            where.setdefault(row.body.text, set()).add(split)
    assert {len(splits) for splits in where.values()} == {1}


def test_the_base_reads_training_texts_and_other_documents_only(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path / "corpus", {"data.jsonl": lines(label_rows()), "book.md": "A book."})
    made = [("data.jsonl", "row of the data file"), ("book.md", "The book tells of pumps.")]
    passages = [Passage(id=f"p{i}", source={"path": path, "sha256": ""}, group=path, text=text) for i, (path, text) in enumerate(made)]
    write_jsonl(tmp_path / "clean.jsonl", passages)
    write_jsonl(tmp_path / "none.jsonl", [])
    inputs = {"clean": tmp_path / "clean.jsonl", "pairs": tmp_path / "none.jsonl"}
    run = run_phase(phase, tmp_path / "run", settings=ShapeSettings(base="scratch"), inputs=inputs, corpus=corpus, task="label")
    texts = {passage.text for passage in read_jsonl(run.out / "pretrain.jsonl", Passage)}
    assert "The book tells of pumps." in texts
    assert "row of the data file" not in texts
    tested = {row.body.text for row in rows_of(run, "test_unseen")}  # type: ignore[union-attr]
    assert not tested & texts


def test_extractions_know_the_types_of_their_data_set(tmp_path: Path) -> None:
    rows = [{"text": row["text"], "doc": row["doc"], "entities": [[0, len(row["text"].split()[0]), "Part"]] if i % 3 else []} for i, row in enumerate(label_rows())]
    run = shape(tmp_path, {"data.jsonl": lines(rows)}, task="extract")
    bodies = [row.body for row in rows_of(run, "train")]
    assert all(isinstance(body, Extraction) and body.types == ("Part",) for body in bodies)
    assert {row.bucket for row in rows_of(run, "train")} == {"entities", "nothing"}
    assert read_record(run.out / "shape.json", DataContract).system_prompt == "List every Part in the text."


@pytest.mark.parametrize(
    ("files", "settings", "error"),
    [
        ({"notes.md": "# Notes"}, {}, "holds no ready-made data"),
        ({"data.jsonl": lines(label_rows())}, {"data": [{"path": "daten.jsonl"}]}, "no file of the corpus"),
        ({"data.jsonl": lines(label_rows())}, {"data": [{"path": "data.jsonl", "format": "pubmedqua"}]}, "no importer reads"),
    ],
)
def test_what_cannot_be_imported_is_told(files: dict[str, str], settings: dict[str, Any], error: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=error):
        shape(tmp_path, files, **settings)


def test_two_documents_cannot_be_divided(tmp_path: Path) -> None:
    with pytest.raises(ForgeError, match="come from 2 documents"):
        shape(tmp_path, {"data.jsonl": lines(label_rows(documents=2))})


def test_the_same_data_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (shape(tmp_path / name, {"data.jsonl": lines(label_rows())}) for name in "ab")
    for name in ("train.jsonl", "test_unseen.jsonl", "shape.json", "pretrain.jsonl"):
        assert (first.out / name).read_bytes() == (second.out / name).read_bytes()
