"""Text of every kind: encodings, Markdown, reStructuredText, TeX, tables, plain text."""

from __future__ import annotations

import codecs
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge.errors import ExtractError
from forge.plugins.extractors._decode import decode
from forge.plugins.extractors.text import READERS
from forge.records import Piece

GERMAN = "Die schöne Frau hat einen Kaffee für 15,50 € getrunken. El niño comió."


def read(media_type: str, text: str) -> list[Piece]:
    return list(READERS[media_type](text))


def kept(pieces: list[Piece]) -> list[str]:
    return [piece.text for piece in pieces if not piece.dropped]


def dropped(pieces: list[Piece]) -> dict[str, str]:
    return {piece.dropped: piece.text for piece in pieces if piece.dropped}


# --- decoding --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        GERMAN.encode(),
        codecs.BOM_UTF8 + GERMAN.encode(),
        GERMAN.encode("utf-16"),
        GERMAN.encode("utf-16-le"),
        GERMAN.encode("utf-16-be"),
        GERMAN.encode("utf-32"),
        GERMAN.encode("utf-32-be"),
        GERMAN.encode("cp1252"),
    ],
)
def test_every_usual_encoding_is_read(data: bytes) -> None:
    assert decode(data) == GERMAN


def test_shift_jis_and_cyrillic_are_told_from_western_text() -> None:
    japanese = "名前,住所\n佐藤太郎,大阪府大阪市北区梅田\n鈴木花子,東京都港区芝公園\n"
    assert decode(japanese.encode("shift_jis")) == japanese
    russian = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.\n" * 3
    assert decode(russian.encode("cp1251")) == russian


def test_html_without_a_charset_is_windows_1252_and_a_declared_one_counts() -> None:
    assert decode(b"<p>caf\xe9 \x80</p>", html=True) == "<p>café €</p>"
    declared = '<meta charset="koi8-r"><p>Привет</p>'
    assert decode(declared.encode("koi8-r"), html=True) == declared


def test_bytes_that_no_encoding_explains_are_not_text() -> None:
    with pytest.raises(ExtractError):
        decode(bytes(range(256)) * 4)


# --- Markdown --------------------------------------------------------------------------------------------------


def test_markdown_gives_the_heading_path_code_lists_and_tables() -> None:
    text = (
        "---\ntitle: Guide\n---\n# One\n\nWrapped\nparagraph.\n\nTwo\n---\n\n- item a\n  goes on\n- item b\n\n"
        "```python\n# no heading\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n    indented()\n"
    )
    pieces = read("text/markdown", text)
    assert [(piece.kind, piece.text) for piece in pieces if not piece.dropped] == [
        ("heading", "One"), ("prose", "Wrapped paragraph."), ("heading", "Two"), ("list", "- item a goes on\n- item b"),
        ("code", "```python\n# no heading\n```"), ("table", "a | b\na: 1; b: 2"), ("code", "    indented()"),
    ]  # fmt: skip
    assert pieces[3].heading == "Guide > One > Two"
    assert pieces[1].locator == "line=6..7"
    assert "title: Guide" in dropped(pieces)["front matter"]


def test_markdown_links_keep_their_words_and_code_spans_their_brackets() -> None:
    text = "See [the guide](guide.md) <!-- ignore --> and ![a picture](p.png), `Vec<T>` or `[x](y)`, <b>bold</b>, [a][ref].\n\n[ref]: https://x.example\n"
    pieces = read("text/markdown", text)
    assert kept(pieces) == ["See the guide  and a picture, `Vec<T>` or `[x](y)`, bold, a."]
    assert "guide.md" in dropped(pieces)["link target"]
    assert "ignore" in dropped(pieces)["comment"]


@given(st.lists(st.sampled_from([
    "# Title", "## Two ##", "text [a](b) `c` <b>d</b>", "- item", "  more", "> quoted", "```", "~~~", "---", "===", "| a | b |",
    "|---|---|", "<!-- c -->", "<!-- open", "-->", "[ref]: url", "{{#include x}}", "    code", "", "", "title: x", "1. one", "a\\",
])))  # fmt: skip
def test_markdown_hands_over_every_visible_character(lines: list[str]) -> None:
    text = "\n".join(lines)
    pieces = read("text/markdown", text)
    given_chars, read_chars = Counter("".join(text.split())), Counter("".join("".join(piece.text for piece in pieces).split()))
    assert not given_chars - read_chars
    if not any(piece.kind == "table" for piece in pieces):   # a table's header is repeated in each of its rows
        assert read_chars == given_chars


# --- the other kinds -------------------------------------------------------------------------------------------


def test_plain_text_joins_wrapped_lines_and_leaves_verse_alone() -> None:
    wrapped = "This is a line that an editor wrapped at about\nseventy characters, and its end."
    verse = "Rose is a rose\nis a rose"
    pieces = read("text/plain", f"{wrapped}\n\n{verse}\n")
    assert kept(pieces) == [wrapped.replace("\n", " "), verse]
    assert [piece.locator for piece in pieces] == ["line=1..2", "line=4..5"]


def test_restructured_text_by_its_underlines() -> None:
    text = (
        "=====\nGuide\n=====\n\nWords.\n\nUse\n---\n\nExample::\n\n    run()\n\n.. image:: x.png\n\n.. code-block:: python\n\n   a = 1\n\n.. a comment\n"
    )
    pieces = read("text/x-rst", text)
    assert [(piece.kind, piece.text, piece.heading) for piece in pieces if not piece.dropped and piece.text] == [
        ("heading", "Guide", "Guide"), ("prose", "Words.", "Guide"), ("heading", "Use", "Guide > Use"),
        ("prose", "Example::", "Guide > Use"), ("code", "    run()", "Guide > Use"), ("code", "   a = 1", "Guide > Use"),
    ]  # fmt: skip
    assert set(dropped(pieces)) == {"markup", "directive", "comment"}


def test_tex_by_its_sections_without_preamble_and_comments() -> None:
    text = "\\usepackage{x}\n\\title{Waves}\n\\begin{document}\n\\section{Sea}\nWater % remark\nis 5\\% salt.\n\\end{document}\n"
    pieces = read("text/x-tex", text)
    assert [piece.heading for piece in pieces if piece.kind == "heading"] == ["Waves > Sea"]
    assert any("is 5\\% salt." in piece for piece in kept(pieces))
    assert "usepackage" in dropped(pieces)["preamble"]
    assert "remark" in dropped(pieces)["comment"]


def test_asciidoc_and_org_by_their_headings() -> None:
    adoc = "= Guide\n:toc:\n\n// remark\nWords.\n\n== Use\n\n[source,sh]\n----\nrun  it\n\nnow\n----\n\n* one\n* two\n\n|===\n|k |v\n|a |1\n|===\n\nimage::x.png[]\n"
    org = (
        "#+TITLE: Guide\n\nWords.\n\n* TODO [#A] Use :tag:\n:PROPERTIES:\n:ID: 7\n:END:\n\n#+BEGIN_SRC sh\nrun  it\n\nnow\n#+END_SRC\n\n- one\n- two\n\n"
        "| k | v |\n|---+---|\n| a | 1 |\n# remark\n"
    )
    for media_type, text, marks in (("text/x-asciidoc", adoc, "*"), ("text/x-org", org, "-")):
        pieces = read(media_type, text)
        found = [(piece.kind, piece.text, piece.heading) for piece in pieces if not piece.dropped and piece.kind != "table"]
        assert found == [
            ("heading", "Guide", "Guide"), ("prose", "Words.", "Guide"), ("heading", "Use", "Guide > Use"), ("code", "run  it\n\nnow", "Guide > Use"),
            ("list", f"{marks} one\n{marks} two", "Guide > Use"),
        ]  # fmt: skip
        assert [piece.text for piece in pieces if piece.kind == "table"] == ["k | v\nk: a; v: 1"]
        assert "remark" in dropped(pieces)["comment"]


def test_an_asciidoc_block_that_is_never_closed_is_text() -> None:
    assert kept(read("text/x-asciidoc", "----\nwords\n")) == ["----\nwords"]


def test_tables_name_each_value_and_sniff_the_separator() -> None:
    assert kept(read("text/csv", 'name;city\nBob;"Lyon; France"\nAda;\n')) == ["name | city", "name: Bob; city: Lyon; France", "name: Ada"]
    assert kept(read("text/csv", "1,2\n3,4\n")) == ["1 | 2", "3 | 4"]
    assert [piece.locator for piece in read("text/tab-separated-values", "a\tb\n1\t2\n")] == ["row=1", "row=2"]
