"""Cutting: sections stand alone when they can, tiny ones join, long ones are split evenly; nothing is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge.phases.prep.balance import visible
from forge.phases.prep.cut import count_words, cut, merge_locators
from forge.records import Piece


def section(path: str, words: int, *, first: int = 1) -> list[Piece]:
    """A heading and paragraphs of 20 words under it."""
    title = path.rpartition(" > ")[2]
    paragraphs = [Piece(text="word " * 19 + "end.", locator=f"page={first + row}", heading=path) for row in range(words // 20)]
    return [Piece(text=title, locator=f"page={first}", heading=path, kind="heading"), *paragraphs]


def test_a_section_long_enough_stays_alone_and_a_tiny_one_joins_the_next_under_the_same_parent() -> None:
    pieces = section("A", 100) + section("A > B", 20) + section("A > C", 100) + section("D", 100)
    assert [one.heading for one in cut(pieces, words=180, words_max=320)] == ["A", "A", "D"]
    assert cut(pieces, words=180, words_max=320)[1].text.startswith("B\n\n")


def test_a_last_tiny_section_joins_the_one_before() -> None:
    pieces = section("A > B", 100) + section("A > C", 20) + section("X > Y", 20)
    assert [one.heading for one in cut(pieces, words=180, words_max=320)] == ["A", "X > Y"]


def test_a_long_section_is_split_into_nearly_equal_parts_at_paragraphs() -> None:
    cuts = cut(section("A", 700), words=180, words_max=320)
    sizes = [len(one.text.split()) for one in cuts]
    assert len(cuts) == 4
    assert max(sizes) - min(sizes) <= 21
    assert [one.locator for one in cuts] == ["page=1..9", "page=10..17", "page=18..26", "page=27..35"]
    assert all(one.text.rstrip().endswith("end.") for one in cuts)


def test_a_paragraph_above_the_maximum_is_split_at_sentences_and_code_at_lines() -> None:
    prose = [Piece(text="One two three four five. " * 100)]
    assert all(one.text.endswith("five.") for one in cut(prose, words=180, words_max=320))
    code = [Piece(text="\n".join(f"    call_{row}(a, b, c)" for row in range(300)), kind="code")]
    cuts = cut(code, words=180, words_max=320)
    assert len(cuts) > 3
    assert all(line.startswith("    call_") for one in cuts for line in one.text.split("\n"))


def test_text_without_spaces_is_cut_too() -> None:
    chinese = [Piece(text="这是一个没有空格的句子。" * 200)]
    assert 8 <= len(cut(chinese, words=180, words_max=320)) <= 12
    endless = cut([Piece(text="x" * 20_000)], words=180, words_max=320)
    assert max(len(one.text) for one in endless) < 4_000
    assert count_words("a b c") == 3


@given(
    st.lists(
        st.builds(
            Piece,
            text=st.text(st.sampled_from("ab .\n\t。字"), max_size=200),
            heading=st.sampled_from(["", "A", "A > B", "A > B > C", "D"]),
            kind=st.sampled_from(["prose", "heading", "list", "table", "code"]),
        ),
        max_size=12,
    )
)
def test_cutting_loses_and_adds_no_visible_character(pieces: list[Piece]) -> None:
    cuts = cut(pieces, words=5, words_max=8)
    assert sum(visible(one.text) for one in cuts) == sum(visible(piece.text) for piece in pieces)
    assert all(one.text.strip() for one in cuts)


@pytest.mark.parametrize(
    ("locators", "merged"),
    [
        (["page=3"], "page=3"),
        (["page=3", "page=5", "page=4..7"], "page=3..7"),
        (["slide=3", "slide=3 notes"], "slide=3"),
        (["slide=3 notes", "slide=3 notes"], "slide=3 notes"),
        (["paragraph=2", "table=1"], "paragraph=2 to table=1"),
        (["heading=1 Intro", "heading=2 Use"], "heading=1 Intro to heading=2 Use"),
        (["", ""], ""),
    ],
)
def test_locators_become_ranges(locators: list[str], merged: str) -> None:
    assert merge_locators(locators) == merged


def test_facts_about_a_file_share_no_passage_with_its_text() -> None:
    pieces = [Piece(text="Language: Python", kind="metadata"), Piece(text="run()", kind="code"), Piece(text="License: MIT", kind="metadata")]
    assert [(one.kind, one.text) for one in cut(pieces, words=180, words_max=320)] == [
        ("metadata", "Language: Python"), ("code", "run()"), ("metadata", "License: MIT"),
    ]  # fmt: skip


def test_times_are_named_from_first_to_last() -> None:
    assert merge_locators(["t=00:00:01", "t=00:00:31", "t=01:10:04"]) == "t=00:00:01 to t=01:10:04"
