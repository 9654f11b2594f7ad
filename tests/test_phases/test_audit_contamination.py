"""audit finds items of evaluation sets in passages: verbatim, disguised, in tables, at the exact limits; and nothing in clean twins."""

from __future__ import annotations

import gzip
import json
import random
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge.errors import ForgeError, UsageError
from forge.phases.audit import phase
from forge.phases.audit.contamination import EvaluationIndex, search
from forge.phases.audit.evaluation_sets import Item, read_items
from forge.phases.audit.settings import AuditSettings
from tests.test_phases.test_audit import audit, clean, drops, others, prose, summary

LONG = (
    "Which two valves must be shut by hand before the second boiler of the northern plant may be opened for inspection?",
    "The inlet valve and the bypass valve, in this order, as the plant's standing rules of 1987 require.",
)
MIDDLE = "How many strokes does the bronze bell of Lorin make at noon?"  # 12 words
EIGHT = "Who painted the ceiling of the old observatory?"
TINY = "What is a mutex?"


def ask(*questions: str | tuple[str, str]) -> list[Item]:
    parts = [(f"{one[0]} {one[1]}", one[0]) if isinstance(one, tuple) else (one,) for one in questions]
    return [Item(f"set:{number}", part) for number, part in enumerate(parts, 1)]


def found(items: list[Item], *texts: str) -> list[tuple[int, str]]:
    return [(one.text, one.place) for one in search(EvaluationIndex(items), texts)]


def shout(text: str) -> str:
    return text.upper().replace(" ", "  \n").replace("?", " ?!")


def unpunctuated(text: str) -> str:
    return "".join(" " if one in string.punctuation and one != "'" else one for one in text)


DISGUISES = {
    "verbatim": lambda q, a: f"{prose(1)} {q} {a} {prose(2)}",
    "case and spaces": lambda q, a: f"{prose(1)} {shout(q)} {shout(a)}",
    "punctuation": lambda q, a: f"{prose(1)} {unpunctuated(q)} -- {unpunctuated(a)}",
    "curly quotes and soft hyphens": lambda q, a: f"{prose(1)} {q} {a}".replace("'", "\u2019").replace("valve", "val\u00adve"),
    "markup": lambda q, a: f"## Quiz\n\n* **Q:** _{q}_\n* **A:** {a}",
    "a table": lambda q, a: f"| No | Question | Answer |\n|---|---|---|\n| 7 | {q} | {a} |\n| 8 | other | rows |",
    "rows with headers": lambda q, a: f"No: 7; Question: {q}; Answer: {a}\nNo: 8; Question: other; Answer: rows",
    "the answer alone": lambda q, a: f"{prose(3)} {a}",
}


@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_planted_item_is_found_in_every_disguise_and_its_clean_twin_holds_none(disguise: str) -> None:
    planted = DISGUISES[disguise](*LONG)
    twin = DISGUISES[disguise]("Which screws hold the lid of the small kettle in the kitchen of the canteen?", "Four brass screws of the usual kind.")
    assert found(ask(LONG, MIDDLE), twin, planted, twin) == [(1, "set:1")]


@pytest.mark.parametrize(("words", "is_found"), [(12, False), (13, True), (14, True)])
def test_thirteen_words_in_a_row_are_the_limit(words: int, is_found: bool) -> None:
    run = " ".join(LONG[0].split()[2 : 2 + words])
    assert bool(found(ask(LONG), f"{prose(1)} It was said: {run} {prose(2)}")) is is_found
    broken = run.split()
    broken[words // 2] = "kettle"
    assert found(ask(LONG), f"{prose(1)} {' '.join(broken)} {prose(2)}") == []


def test_a_short_item_must_be_there_whole_or_by_seventy_percent_of_its_runs() -> None:
    terms = MIDDLE.split()
    assert found(ask(MIDDLE, EIGHT), f"{prose(1)} {MIDDLE}", f"{EIGHT} {prose(2)}") == [(0, "set:1"), (1, "set:2")]
    four_of_five, three_of_five = " ".join(terms[:11]), " ".join(terms[:10])
    assert found(ask(MIDDLE), f"{prose(1)} {four_of_five} nobody knows.", f"{prose(1)} {three_of_five} nobody knows.") == [(0, "set:1")]
    assert found(ask(EIGHT), "Who painted the ceiling of the new observatory?") == []


def test_words_of_two_passages_and_of_two_items_make_no_run() -> None:
    terms = LONG[0].split()
    assert found(ask(LONG), " ".join(terms[:10]), " ".join(terms[10:])) == []
    assert found(ask("one two three four five six seven", "eight nine ten eleven twelve thirteen fourteen"), "five six seven eight nine ten eleven") == []


def test_items_too_short_to_tell_are_counted_and_a_set_of_nothing_else_is_refused(tmp_path: Path) -> None:
    index = EvaluationIndex(ask(TINY, MIDDLE))
    assert (index.items, index.unchecked) == (2, 1)
    assert index.search([f"{TINY} {prose(1)}"]) == []
    tiny = tmp_path / "tiny.txt"
    tiny.write_text(f"{TINY}\n", encoding="utf-8")
    with pytest.raises(ForgeError, match=r"tiny\.txt has no item that can be looked for"):
        audit(tmp_path / "run", others(), AuditSettings(evaluation_sets=(str(tiny),)))


def test_scripts_without_spaces_are_compared_by_character() -> None:
    item = "東京の古い天文台の天井を描いたのは誰ですか"
    assert found(ask(item), f"ある日、{item}と彼は聞いた。", "東京の古い天文台は誰が建てたのですか") == [(0, "set:1")]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_index_finds_exactly_what_a_plain_search_finds(data: st.DataObject) -> None:
    """Random words from a small vocabulary, so that runs of every length are shared by chance."""
    rng = random.Random(data.draw(st.integers(0, 10**9)))
    vocabulary = ["ka", "lo", "mi"]
    items = [" ".join(rng.choices(vocabulary, k=rng.randint(1, 22))) for _ in range(6)]
    texts = [" ".join(rng.choices(vocabulary, k=rng.randint(0, 60))) for _ in range(6)]

    def runs(text: str, length: int) -> set[str]:
        parts = text.split()
        return {" ".join(parts[at : at + length]) for at in range(len(parts) - length + 1)}

    def holds(text: str, item: str) -> bool:
        length = len(item.split())
        if length < 5:
            return False
        if length >= 13:
            return bool(runs(item, 13) & runs(text, 13))
        own = [" ".join(item.split()[at : at + 8]) for at in range(length - 7)] if length > 8 else []
        return item in runs(text, length) or bool(own and sum(run in runs(text, 8) for run in own) >= 0.7 * len(own))

    expected = [number for number, text in enumerate(texts) if any(holds(text, item) for item in items)]
    hits = search(EvaluationIndex(ask(*items)), texts)
    assert [one.text for one in hits] == expected
    assert all(holds(texts[one.text], items[int(one.place.split(":")[1]) - 1]) for one in hits)


# --- files -----------------------------------------------------------------------------------------------------


def test_sets_are_read_from_every_kind_of_file_with_the_place_of_each_item(tmp_path: Path) -> None:
    squad = {"data": [{"paragraphs": [{"context": "long text", "qas": [{"question": MIDDLE, "answers": [{"text": "twelve"}], "id": "x"}]}]}]}
    files: dict[str, str] = {
        "a.jsonl": json.dumps({"id": 1, "question": LONG[0], "answer": LONG[1]}) + "\n\n" + json.dumps({"messages": [{"role": "user", "content": EIGHT}]}),
        "b.csv": f'Query,Answer\n"{MIDDLE}",twelve\n',
        "c.tsv": f"question\tanswer\n{MIDDLE}\ttwelve\n",
        "d.json": json.dumps(squad),
        "e.txt": f"{MIDDLE}\n\n{EIGHT}\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "f.jsonl.gz").write_bytes(gzip.compress(json.dumps({"statement": MIDDLE, "id": "q1"}).encode()))
    items = {name: list(read_items(name, tmp_path / name)) for name in [*files, "f.jsonl.gz"]}
    assert items["a.jsonl"] == [Item("a.jsonl:1", (f"{LONG[0]} {LONG[1]}", LONG[0])), Item("a.jsonl:3", (EIGHT, EIGHT))]
    assert items["b.csv"] == [Item("b.csv:2", (f"{MIDDLE} twelve", MIDDLE))]
    assert items["c.tsv"] == [Item("c.tsv:2", (f"{MIDDLE} twelve", MIDDLE))]
    assert items["d.json"] == [Item("d.json#1", (f"{MIDDLE} twelve", MIDDLE))]
    assert items["e.txt"] == [Item("e.txt:1", (MIDDLE,)), Item("e.txt:3", (EIGHT,))]
    assert items["f.jsonl.gz"] == [Item("f.jsonl.gz:1", (MIDDLE,))]


@pytest.mark.parametrize("name", ["gone.jsonl", "empty", "picture.png", "torn.jsonl"])
def test_a_set_that_cannot_be_read_stops_the_phase(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "torn.jsonl").write_text('{"question": "Who', encoding="utf-8")
    with pytest.raises(UsageError, match=name):
        audit(tmp_path / "run", others(), AuditSettings(evaluation_sets=(str(tmp_path / name),)))


# --- the phase -------------------------------------------------------------------------------------------------


def contaminated(tmp_path: Path, **more: Any) -> Any:
    folder = tmp_path / "sets"
    folder.mkdir(exist_ok=True)
    (folder / "quiz.jsonl").write_text(json.dumps({"question": LONG[0], "answer": LONG[1]}) + "\n" + json.dumps({"question": TINY}), encoding="utf-8")
    documents = {**others(), "faq.md": [f"{prose(7)}\n\n{LONG[0]}\n\n{LONG[1]}", prose(8)]}
    return audit(tmp_path / "run", documents, AuditSettings(evaluation_sets=(str(folder),), **more))


def test_passages_with_items_are_dropped_counted_and_shown_with_the_place_of_both(tmp_path: Path) -> None:
    run = contaminated(tmp_path)
    assert {id: (drop.reason, drop.detail) for id, drop in drops(run).items()} == {
        "faq.md-000": ("evaluation_item", "13 words in a row of sets/quiz.jsonl:1")
    }
    told = summary(run)["contamination"]
    assert told["sets"] == [{"name": "sets/quiz.jsonl", "items": 2, "unchecked": 1, "passages": 1}]
    assert (told["passages"], told["items_found"], told["action"]) == (1, 1, "drop")
    assert told["samples"][0]["item"] == "sets/quiz.jsonl:1"
    assert len(told["samples"][0]["words"].split()) == 13
    assert str(tmp_path) not in (run.out / "audit.json").read_text(encoding="utf-8")


def test_flagged_passages_stay_and_are_listed(tmp_path: Path) -> None:
    run = contaminated(tmp_path, evaluation_action="flag")
    assert drops(run) == {}
    assert "faq.md-000" in clean(run)
    assert summary(run)["contamination"]["samples"][0]["path"] == "faq.md"


def test_a_clean_corpus_has_no_hit_and_a_run_without_sets_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "quiz.txt").write_text(f"{MIDDLE}\n{EIGHT}\n{' '.join(LONG)}\n", encoding="utf-8")
    run = audit(tmp_path / "a", others(), AuditSettings(evaluation_sets=(str(tmp_path / "quiz.txt"),)))
    assert summary(run)["contamination"]["passages"] == 0
    assert summary(audit(tmp_path / "b", others()))["contamination"] == {}


def test_a_changed_set_makes_audit_run_again(tmp_path: Path) -> None:
    quiz = tmp_path / "quiz.txt"
    chosen = AuditSettings(evaluation_sets=(str(quiz),))
    seen = [phase.named_files(AuditSettings()), phase.named_files(chosen)]
    for text in (MIDDLE, EIGHT):
        quiz.write_text(text, encoding="utf-8")
        seen.append(phase.named_files(chosen))
    assert seen[0] == ""
    assert len(set(seen)) == 4
    assert AuditSettings.model_validate({"evaluation_sets": "a b.jsonl, c"}).evaluation_sets == ("a b.jsonl", "c")
