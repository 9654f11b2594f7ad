"""Examples put in another way: capitals at the beginning of mentions, and which epoch reads them."""

from __future__ import annotations

import pytest

from forge.phases.train.order import rows_of_step
from forge.phases.train.packing import Encoded, pack_steps
from forge.phases.train.variants import VERSIONS, capitalise_mentions, has_capitals, take_turns
from forge.plugins.tasks.extract import task
from forge.records import Chat, Example, Extraction, Message, Relation, Span


def extraction(text: str, *words: str) -> Example:
    """Words of a text as its entities, the first one related to each other one."""
    spans = tuple(Span(type="Drug", text=word, start=text.index(word), end=text.index(word) + len(word)) for word in words)
    relations = tuple(Relation(type="with", head=0, tail=number) for number in range(1, len(spans)))
    body = Extraction(text=text, entities=spans, relations=relations, types=("Drug",), relation_types=("with",) if relations else ())
    return Example(id="e", split="train", group="g", body=body)


def test_mentions_get_a_capital_in_the_text_and_in_the_answer() -> None:
    told = capitalise_mentions(extraction("After lithium and 5-FU with gold sodium.", "lithium", "5-FU", "gold sodium"))
    assert task.prompt(told)[-1].content == "After Lithium and 5-FU with Gold sodium."
    assert "1. [Drug] Lithium\n2. [Drug] 5-FU\n3. [Drug] Gold sodium" in task.target(told)
    assert "Lithium --[with]--> Gold sodium" in task.target(told)


def test_mentions_within_mentions_say_what_the_text_says() -> None:
    told = capitalise_mentions(extraction("Because of lithium toxicity.", "lithium toxicity", "lithium", "toxicity"))
    assert isinstance(told.body, Extraction)
    assert [span.text for span in told.body.entities] == ["Lithium Toxicity", "Lithium", "Toxicity"]
    assert all(told.body.text[span.start : span.end] == span.text for span in told.body.entities)


def test_a_letter_whose_capital_is_two_letters_stays() -> None:
    one = extraction("Viel ßoda half.", "ßoda")
    assert capitalise_mentions(one) == one


def test_other_examples_stay() -> None:
    turns = (Message(role="user", content="when?"),), (Message(role="assistant", content="at once."),)
    one = Example(id="c", split="train", group="g", body=Chat(prompt=turns[0], completion=turns[1]))
    assert capitalise_mentions(one) is one


def test_a_corpus_whose_names_never_begin_with_a_capital_gets_none() -> None:
    small, other = extraction("after lithium", "lithium"), extraction("Gold helps", "Gold")
    assert not has_capitals([small, small])
    assert has_capitals([small, other])


def test_every_example_is_read_with_capitals_in_one_of_three_epochs() -> None:
    plain, other = [Encoded((number,), 0) for number in range(6)], [Encoded((10 + number,), 0) for number in range(6)]
    found = take_turns(plain, other, max_length=4)
    epochs = [found[6 * version : 6 * version + 6] for version in range(VERSIONS)]
    for number in range(6):
        assert sorted(epoch[number].ids[0] for epoch in epochs) == [number, number, 10 + number]
    assert all(sum(one in other for one in epoch) == 2 for epoch in epochs)


def test_what_capitals_make_too_long_is_read_as_it_is() -> None:
    plain, other = [Encoded((1, 2), 1)] * 3, [Encoded((1, 2, 3), 1)] * 3
    assert take_turns(plain, other, max_length=2) == plain * VERSIONS


@pytest.mark.local
def test_every_epoch_reads_the_next_version_of_every_row() -> None:
    rows = [row for step in range(1, 11) for row in rows_of_step(step, 4, 10, seed=7, versions=3)]
    assert [sorted(rows[first : first + 10]) for first in range(0, 40, 10)] == [[*range(10)], [*range(10, 20)], [*range(20, 30)], [*range(10)]]
    assert [row % 10 for row in rows] == [row for step in range(1, 11) for row in rows_of_step(step, 4, 10, seed=7)]
    packed = pack_steps([5] * 30, 10, 4, 7, 1000, versions=3)
    assert sorted(row for rows in packed.rows for row in rows) == sorted(rows)
