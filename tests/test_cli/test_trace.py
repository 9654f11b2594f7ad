"""forge trace: from a question to its page and its prediction; and why something is not in the model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from forge import registry
from forge.protocols import Prediction
from forge.records import Document, Example, Labelled, Message, Record, write_jsonl
from forge.run import Run
from tests.test_cli.conftest import Command
from tests.test_cli.toy_review import points_with_pairs
from tests.test_engine.review_world import DEVICES, row, source
from tests.test_engine.review_world import pair as toy_pair


@pytest.fixture
def traced(forge: Command, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """A run at the gate whose files and one prediction are known too."""
    monkeypatch.setattr(registry, "_points", points_with_pairs(registry._points))
    assert forge("run", corpus, "--budget", "5", "--id", "one").code == 3
    run = Run.open("one")
    put(run, "documents", [
        *(Document(id=name, source=source(f"{name}.md"), media_type="text/markdown", extractor="text", status="ok", license="MIT") for name in DEVICES),
        Document(id="locked", source=source("locked.pdf"), media_type="application/pdf", extractor="pdf", status="refused", reason="it is encrypted"),
    ])
    held = row(toy_pair("sensor", 9)).model_copy(update={"split": "test_unseen"})
    put(run, "test_unseen", [held])
    put(run, "predictions", [Prediction(
        id="sensor-9", split="test_unseen", group="sensor", prompt=(Message(role="user", content="How many bar?"),), gold="97 bar", answerable=True,
        answer_tokens=4, nll_base=12.0, nll_tuned=2.0, base="bar bar", tuned="It holds 97 bar.",
    )])
    run.close()
    return forge


def put(run: Run, name: str, records: Iterable[Record]) -> None:
    draft = run.folder / f"{name}.draft"
    write_jsonl(draft, records)
    sql, values = run.store.record(run.store.publish(name, "hand", draft, f"{name}.jsonl"))
    run.state.execute(sql, *values)


def steps(forge: Command, *words: str) -> dict[str, Any]:
    """The facts of each station, by its name."""
    told = forge("trace", *words, "--json")
    assert told.code == 0, told.err
    return {step["name"]: step["facts"] for step in told.json["steps"]}


def test_a_question_in_other_words_leads_to_its_page_and_its_split(traced: Command) -> None:
    told = traced("trace", "one", "what bar does the fenwick boiler hold?", "--json").json
    assert (told["kind"], told["id"]) == ("pair", "boiler-5")
    assert 0.5 < told["score"] < 1
    assert told["others"], "what is nearly as close is offered"
    way = {step["name"]: step["facts"] for step in told["steps"]}
    assert list(way) == ["pair", "passage", "file", "filters", "split", "card"]
    start, end = way["passage"]["characters"]
    assert end - start == len(way["passage"]["evidence"])
    assert (way["file"]["path"], way["file"]["place"], way["file"]["licence"]) == ("boiler.md", "page=1", "MIT")
    assert "evidence_not_in_passage" in way["filters"]["passed"]
    assert way["split"]["meaning"] == "the model was taught this answer"
    assert len(way["card"]["train sha256"]) == 64


def test_a_test_row_shows_what_the_models_said(traced: Command) -> None:
    way = steps(traced, "one", "sensor-9")
    assert way["split"]["split"] == "test_unseen"
    assert way["prediction"] == {"wanted": "97 bar", "tuned model": "It holds 97 bar.", "base model": "bar bar", "nats a token": {"base": 3.0, "tuned": 0.5}}


@pytest.mark.parametrize(("asked", "station", "name", "value"), [
    ("refused-1-number", "refused", "reason", "number_or_name_not_in_evidence"),
    ("bad-poisoned", "refused", "reason", "poisoned_passage"),
    ("dropped-1", "dropped", "reason", "near_duplicate"),
    ("dropped-1", "dropped", "which is in", "pump.md page=1"),
    ("locked.pdf", "file", "reason", "it is encrypted"),
])
def test_why_something_is_not_in_the_model(traced: Command, asked: str, station: str, name: str, value: str) -> None:
    assert steps(traced, "one", asked)[station][name] == value


def test_of_a_refused_pair_the_filters_before_are_named(traced: Command) -> None:
    passed = steps(traced, "one", "refused-1-number")["refused"]["passed"]
    assert passed[0] == "incomplete"
    assert passed[-1] == "number_or_name_not_in_passage"


def test_a_pair_that_a_person_rejected_says_who_and_why(traced: Command) -> None:
    traced("review", "one", "--reject", "pump-1", "--why", "wrong crew")
    assert "has to be made again" in steps(traced, "one", "pump-1")["split"]["meaning"]
    traced("resume", "one", "--until", "plan_it")
    way = steps(traced, "one", "pump-1")
    assert way["review"]["decision"] == "rejected"
    assert way["review"]["why"] == "wrong crew"
    assert way["split"] == {"split": "none", "meaning": "rejected in the review, so it is not in the data set"}


def test_a_file_tells_what_became_of_it(traced: Command) -> None:
    way = steps(traced, "one", "pump.md")
    assert way["pairs"]["made"] == 10
    assert way["pairs"]["refused"] == {"number_or_name_not_in_evidence": 1}
    assert way["passages"] == {"kept": 1, "dropped": {}}
    assert steps(traced, "one", "p-pump")["pairs"]["splits"] == {"train": 10}


def test_a_ready_made_row_is_found_by_its_text(traced: Command) -> None:
    put(Run.open("one"), "val", [Example(id="ready-1", split="val", group="g", body=Labelled(text="Aspirin eases pain.", label="yes"))])
    told = traced("trace", "one", "aspirin eases pain", "--json").json
    assert (told["kind"], told["id"]) == ("row", "ready-1")
    way = {step["name"]: step["facts"] for step in told["steps"]}
    assert (way["row"]["answer"], way["split"]["split"]) == ("yes", "val")


def test_without_a_run_the_newest_is_asked(traced: Command) -> None:
    out = traced("trace", "How many bar does the Arvo pump hold?").out
    assert "pump-0" in out
    assert out.rstrip().splitlines()[-1] == "next: forge review one"


def test_what_resembles_nothing_is_told(traced: Command) -> None:
    assert 'resembles "zebra crossing"' in traced("trace", "one", "zebra crossing").error(2)[0]
