"""The offline teacher: its answers are stretches of the passage, its subjects specific, its unanswerable questions unanswerable."""

from __future__ import annotations

from pathlib import Path

import pytest

from forge.config import load_data
from forge.plugins.teachers.offline import read_facts, teacher
from forge.protocols import Proposal, TeacherRequest
from forge.questions import near_duplicates, normalize
from forge.records import Passage, Source

HANDBOOK = Path(__file__).parents[2] / "examples" / "handbook" / "concepts"


def passage(text: str, heading: str = "Clocks > The escapement", **meta: str) -> Passage:
    return Passage(
        id="p", source=Source(path="a.md", sha256="0" * 64), group="g", text=text, meta={"heading": heading, "kind": "prose", **meta}
    )


def ask(item: Passage, kind: str = "pairs", wanted: int = 60, context: tuple[Passage, ...] = ()) -> list[Proposal]:
    request = TeacherRequest(key="k", kind=kind, passage=item, context=context, wanted=wanted)
    return list(next(iter(teacher.generate([request]))).proposals)


def questions(text: str, bucket: str = "", **meta: str) -> list[str]:
    return [found.question for found in ask(passage(text, **meta)) if bucket in {"", found.bucket}]


def flat(text: str) -> str:
    return " ".join(text.split())


def test_every_answer_is_a_stretch_of_the_evidence_and_the_evidence_of_the_passage() -> None:
    files = sorted(HANDBOOK.glob("*.md"))
    found = [(item, pair) for item in (passage(file.read_text(encoding="utf-8")) for file in files) for pair in ask(item)]
    assert len(found) > 100
    for item, pair in found:
        assert flat(pair.answer) in flat(pair.evidence)
        assert flat(pair.evidence) in flat(item.text)


def test_each_fact_is_asked_in_three_different_ways() -> None:
    for fact in read_facts(passage("An escapement is a device that releases the wheel tooth by tooth.")):
        assert len({normalize(form) for form in fact.forms}) == 3


@pytest.mark.parametrize(
    ("sentence", "question"),
    [
        ("An escapement is a device that releases the wheel tooth by tooth.", "What is an escapement?"),
        ("Beat error means that the two halves of a swing differ in length.", "What is meant by beat error?"),
        ("The anchor wheel has thirty teeth. A gate has three outcomes: pass, fail and undecided.", "How many outcomes does a gate have?"),
        ("A tower clock is wound by hand because the building has no electricity.", "Why is a tower clock wound by hand?"),
        ("When the mainspring breaks, the clock stops within a minute.", "What happens when the mainspring breaks?"),
        ("If you find rust on the arbor, remove it with a brass brush.", "What should be done if you find rust on the arbor?"),
        ("To set the strike train, lift the warning lever twice.", "How do you set the strike train?"),
        ("The Harlow gauge must never be oiled in winter.", "Which rule applies to the Harlow gauge?"),
        ("By default, the strike train is silent after ten in the evening.", "What is the default behavior of the strike train?"),
        ("The oil is tested by the Royal Horological Society (RHS) in spring.", "What does RHS stand for?"),
    ],
)
def test_patterns_ask_what_a_person_would_ask(sentence: str, question: str) -> None:
    assert question in questions(sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "It is a device that releases the wheel tooth by tooth.",
        "This is the reason why people wind it every day.",
        "The file is a list of names that nobody reads.",
        "The first step is a check of the whole installation.",
        "Running the tests is a good way to find mistakes early.",
        "The **escapement** is a device that releases the wheel.",
        "The escapement in Figure 3 is a device that releases the wheel.",
        "We call the escapement a device that releases the wheel.",
        "The type of `x` is a number with a sign and no fraction.",
        "Establish security controls for all wheels and levers.",
        "The wheel shown below is a part that nobody oils.",
    ],
)
def test_pointing_generic_or_marked_up_sentences_are_not_asked_about(sentence: str) -> None:
    assert questions(sentence, heading="Introduction") == []


def test_a_heading_that_is_a_question_is_asked_as_it_stands() -> None:
    item = passage("Yes. A tower clock can run for eight days without being wound, if the weights hang high enough.", "FAQ > Can a clock run alone?")
    assert next(pair.question for pair in ask(item)) == "Can a clock run alone?"


def test_headings_inside_a_passage_are_followed() -> None:
    text = "The escapement\n\nThe escapement stops the wheel and lets it go again.\n\nThe mainspring\n\nThe mainspring stores the force that drives the whole clock."
    found = questions(text, "summary", heading="Clocks")
    assert any('"The mainspring"' in question for question in found)


def test_lists_are_asked_by_what_introduces_them() -> None:
    text = "These are the winding rules:\n\n- Never wind backwards.\n- Stop at the first resistance.\n- Count the turns."
    pairs = [pair for pair in ask(passage(text)) if pair.bucket == "list"]
    assert pairs[0].question == "What are the winding rules?"
    assert pairs[0].answer == "- Never wind backwards.\n- Stop at the first resistance.\n- Count the turns."


def test_terms_of_a_list_are_asked_one_by_one() -> None:
    pairs = ask(passage("- Beat error: the two halves of a swing differ in length.\n- Recoil: the wheel moves backwards for a moment."))
    assert {pair.answer for pair in pairs if pair.bucket == "item"} == {
        "Beat error: the two halves of a swing differ in length.", "Recoil: the wheel moves backwards for a moment."
    }


def test_a_gap_asks_for_the_missing_number() -> None:
    gaps = [pair for pair in ask(passage("The escapement must be oiled every 14 months with bone oil.")) if pair.bucket == "gap"]
    assert gaps
    assert {pair.answer for pair in gaps} == {"14"}
    assert all("____" in pair.question for pair in gaps)


def test_rows_of_a_table_are_looked_up() -> None:
    found = {pair.question: pair.answer for pair in ask(passage("part | oil\npart: escapement; oil: bone oil\npart: dial; oil: none", kind="table"))}
    assert found['What stands under "oil" for part "escapement"?'] == "bone oil"
    text = "Parts and their oil:\n\n| part | oil |\n| escapement | bone oil |\n| dial | none |"
    assert 'What stands under "oil" for part "dial"?' in questions(text)


def test_a_pipe_table_without_its_header_is_left_alone() -> None:
    assert questions("| escapement | bone oil |\n| dial | none |\n| crown | fat |", kind="table") == []


def test_code_is_left_alone() -> None:
    assert questions("The escapement is a device that releases the wheel.", kind="code") == []
    assert questions("```\nThe escapement is a device that releases the wheel.\n```") == []


def test_the_same_passage_gives_the_same_pairs() -> None:
    item = passage((HANDBOOK / "abstention.md").read_text(encoding="utf-8"))
    assert ask(item) == ask(item)


def test_no_more_pairs_than_wanted() -> None:
    item = passage((HANDBOOK / "abstention.md").read_text(encoding="utf-8"))
    assert 0 < len(ask(item, wanted=7)) <= 7


def test_it_is_free_and_says_so() -> None:
    request = TeacherRequest(key="k", kind="pairs", passage=passage("x"))
    assert (teacher.price(request), teacher.capabilities().paid, teacher.capabilities().deterministic) == (0, False, True)


def test_far_questions_are_many_and_different() -> None:
    found = [pair.question for pair in ask(passage("x"), "out_of_scope", wanted=1000)]
    assert len(found) >= 150
    assert near_duplicates(found, found, 0.85) == []


def test_near_questions_name_what_is_absent() -> None:
    own = passage("An anchor escapement is a device that releases the wheel. A winding crown is a knob that turns the mainspring.")
    other = passage("A striking train is a set of wheels that rings the bell. A moon dial is a plate that shows the moon's phase.")
    found = ask(own, "abstain", wanted=12, context=(other,))
    assert len(found) == 12
    for pair in found:
        assert pair.bucket in {"abstain_near", "abstain_document"}
        assert pair.evidence.casefold() not in f"{own.text} {other.text}".casefold()


def test_near_questions_share_their_wording_with_answerable_ones() -> None:
    own = passage("An anchor escapement is a device that releases the wheel. A winding crown is a knob that turns the mainspring.")
    found = ask(own, "abstain", wanted=20)
    answered = {form.partition("a")[0] for form in ("What is an", "How would you define an", "Explain in your own words what an")}
    assert sum(any(pair.question.startswith(frame) for frame in answered) for pair in found) >= 5


def test_some_passages_mix_two_real_terms() -> None:
    text = "An anchor escapement is a device that releases the wheel. A winding crown is a knob that turns the mainspring."
    other = passage("A striking train is a set of wheels that rings the bell. A moon dial is a plate that shows the moon's phase.")
    mixtures = set()
    for number in range(24):
        own = passage(text).model_copy(update={"id": f"p{number}"})
        mixtures |= {pair.evidence for pair in ask(own, "abstain", wanted=12, context=(other,)) if " " in pair.evidence}
    assert mixtures & {"anchor train", "anchor dial", "winding train", "winding dial", "striking escapement", "moon escapement", "striking crown", "moon crown"}


def test_a_foreign_word_before_a_real_term_gets_the_right_article() -> None:
    found = ask(passage("An anchor escapement is a device that releases the wheel of a tower clock."), "abstain", wanted=60)
    words = {word: pair.question for pair in found for word in load_data("unanswerable")["words"] if pair.evidence == word}
    assert len(words) >= 20
    assert all(f"{word} anchor escapement" in question for word, question in words.items())
    assert all((f" an {word}" in question) == (word[0].lower() in "aeiou") for word, question in words.items() if "what is a" in question.lower())
