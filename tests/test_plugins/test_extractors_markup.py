"""XML of every kind, RTF and subtitles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from forge.errors import ExtractError
from forge.plugins.extractors import markup, rtf, subtitles
from forge.protocols import Reading
from forge.records import Piece


def read(extractor: Any, tmp_path: Path, content: str | bytes) -> list[Piece]:
    path = tmp_path / "file"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(extractor.extract(path, Reading(extractor.media_types[0])))


def kept(pieces: list[Piece]) -> list[tuple[str, str]]:
    return [(piece.kind, piece.text) for piece in pieces if not piece.dropped and piece.text]


def dropped(pieces: list[Piece]) -> dict[str, str]:
    return {piece.dropped: piece.text for piece in pieces if piece.dropped}


# --- xml -------------------------------------------------------------------------------------------------------


def test_svg_gives_its_words_and_not_its_scripts(tmp_path: Path) -> None:
    text = (
        '<?xml version="1.0"?><!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/x.dtd"><svg xmlns="http://www.w3.org/2000/svg"><title>Flow</title><style>a{}</style>'
        "<desc>How a run goes</desc><g><text><tspan>prep</tspan><tspan>reads</tspan></text></g><script>alert(1)</script><!-- no --></svg>"
    )
    assert kept(read(markup.extractor, tmp_path, text)) == [("heading", "Flow"), ("prose", "How a run goes"), ("prose", "prep reads")]


def test_docbook_by_its_sections_with_named_characters(tmp_path: Path) -> None:
    text = (
        '<!DOCTYPE article PUBLIC "-//OASIS//DTD DocBook XML V4.5//EN" "http://x/docbookx.dtd"><article><articleinfo><title>Leases</title><date>2026</date></articleinfo>'
        "<section><title>Start&nbsp;up</title><para>A <emphasis>lease</emphasis> &mdash; timed.</para><itemizedlist><listitem><para>one</para></listitem></itemizedlist>"
        "<programlisting>a = 1\n  b</programlisting><informaltable><tgroup><thead><row><entry>k</entry><entry>v</entry></row></thead><tbody><row><entry>a</entry><entry>1</entry></row>"
        "</tbody></tgroup></informaltable></section></article>"
    )
    pieces = read(markup.extractor, tmp_path, text)
    assert kept(pieces) == [
        ("heading", "Leases"), ("metadata", "date: 2026"), ("heading", "Start up"), ("prose", "A lease — timed."), ("list", "- one"),
        ("code", "a = 1\n  b"), ("table", "k | v\nk: a; v: 1"),
    ]  # fmt: skip
    assert [piece.heading for piece in pieces if piece.kind == "code"] == ["Leases > Start up"]


def test_a_journal_article_keeps_its_abstract_and_drops_its_references(tmp_path: Path) -> None:
    text = (
        "<article><front><journal-meta><issn>1-2</issn></journal-meta><article-meta><title-group><article-title>On ledgers</article-title></title-group>"
        "<contrib-group><contrib><name><surname>Lovelace</surname><given-names>Ada</given-names></name></contrib></contrib-group><abstract><p>In short.</p></abstract></article-meta></front>"
        "<body><sec><title>Methods</title><p>We <italic>count</italic>.</p></sec></body><back><ref-list><ref><article-title>Old</article-title></ref></ref-list></back></article>"
    )
    pieces = read(markup.extractor, tmp_path, text)
    assert [text for kind, text in kept(pieces) if kind != "metadata"] == ["On ledgers", "In short.", "Methods", "We count."]
    assert "Lovelace" in "".join(text for kind, text in kept(pieces) if kind == "metadata")
    assert dropped(pieces) == {"references": "Old"}


def test_data_names_its_values(tmp_path: Path) -> None:
    text = '<stock xmlns:a="urn:x"><item id="7"><name>Bolt</name><price unit="USD">0.40</price></item><note>Sold &lt;b&gt;out&lt;/b&gt;</note></stock>'
    pieces = read(markup.extractor, tmp_path, text)
    assert [(piece.locator, piece.text) for piece in pieces if piece.text] == [
        ("item=1", "item: id=7\nname: Bolt\nprice (unit=USD): 0.40"), ("note=1", "note: Sold out"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE lolz [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;">]><lolz>&c;</lolz>',
        '<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg><text>&x;</text></svg>',
        '<!DOCTYPE r [<!ENTITY % p SYSTEM "http://127.0.0.1:9/x.dtd"> %p;]><r/>',
    ],
)
def test_entity_declarations_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ExtractError) as caught:
        read(markup.extractor, tmp_path, text)
    assert caught.value.refused


@pytest.mark.parametrize("text", ["", "<a>", "not xml", "<a></b>", "<a>" * 100_000])
def test_damaged_xml_is_an_extraction_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(ExtractError):
        read(markup.extractor, tmp_path, text)


def test_xml_nested_200_deep_is_read(tmp_path: Path) -> None:
    for root in ("data", "article"):
        pieces = read(markup.extractor, tmp_path, f"<{root}>" + "<a>" * 200 + "treasure" + "</a>" * 200 + f"</{root}>")
        assert "treasure" in "".join(text for _, text in kept(pieces))


# --- rtf -------------------------------------------------------------------------------------------------------

RTF = (
    r"{\rtf1\ansi\ansicpg1251{\fonttbl{\f0\fcharset204 Arial;}{\f1\fcharset128 MS Mincho;}}{\stylesheet{\s1 heading 1;}{\s0 Normal;}}{\info{\title T}}"
    r"\pard\s1 Big \'cf\'f0\par\pard\f0 \'cf\'f0 \u8364? \u-10179?\u-8704? {\header HEAD\par}{\footnote NOTE}{\v hidden}{\deleted gone}body {\f1\'93\'fa\'96\'7b}\par"
    r"\trowd\trhdr\intbl A\cell B\cell\row\intbl 1\cell 2\cell\row\pard a\~b\{c\}{\*\generator x;}{\field{\*\fldinst HYPERLINK "
    r'"http://a"}{\fldrslt link}}\par{\pard{\listtext\'b7\tab}item\par}\pard{\shp{\*\shpinst{\sp{\sn n}{\sv v}}{\shptxt BOX\par}}}{\pict\bin5 {{{{{ }end}'
)


def test_rtf_gives_what_a_reader_sees(tmp_path: Path) -> None:
    pieces = read(rtf.extractor, tmp_path, RTF)
    assert kept(pieces) == [
        ("heading", "Big Пр"), ("prose", "Пр € 😀 body 日本"), ("table", "A | B\nA: 1; B: 2"), ("prose", "a\u00a0b{c}link"), ("list", "- item"),
        ("prose", "BOX"), ("prose", "end"), ("header", "HEAD"), ("notes", "NOTE"),
    ]  # fmt: skip
    assert dropped(pieces) == {"hidden text": "hidden", "deleted text": "gone"}
    assert pieces[1].heading == "Big Пр"


def test_rtf_skips_as_many_characters_as_the_group_says(tmp_path: Path) -> None:
    assert kept(read(rtf.extractor, tmp_path, r"{\rtf1{\uc0\u228 x}{\uc2\u228 ??y}\u228 ?z}")) == [("prose", "äxäyäz")]


@pytest.mark.parametrize("text", ["{\\rtf1 " + '{\\field{\\*\\fldinst{HYPERLINK "x"' * 5_000, "{\\rtf1 " + "{" * 300_000 + "x", "{\\rtf1 \\bin99999999999 x", "{\\rtf1\\u99999999999 \\'zz\\"])
def test_hostile_rtf_is_read_in_linear_time(tmp_path: Path, text: str) -> None:
    read(rtf.extractor, tmp_path, text)


def test_what_is_not_rtf_is_an_extraction_error(tmp_path: Path) -> None:
    with pytest.raises(ExtractError):
        read(rtf.extractor, tmp_path, "PK")


# --- subtitles -------------------------------------------------------------------------------------------------


def test_subtitles_are_joined_to_stretches_with_their_time(tmp_path: Path) -> None:
    text = (
        "1\n00:00:01,000 --> 00:00:04,000\n<i>We meet</i>\n\n2\n00:00:04,100 --> 00:00:06,000\n{\\an8}on Monday.\n\n"
        "3\n01:10:04,000 --> 01:10:06,000\nMuch later.\n"
    )
    assert [(piece.locator, piece.text) for piece in read(subtitles.extractor, tmp_path, text) if piece.text] == [
        ("t=00:00:01", "We meet on Monday."), ("t=01:10:04", "Much later."),
    ]  # fmt: skip


def test_webvtt_names_voices_and_drops_notes_and_repeated_lines(tmp_path: Path) -> None:
    text = "WEBVTT\n\nNOTE hi\n\n00:01.000 --> 00:02.000 align:start\n<v Ada>Good &amp; well\n\n00:02.000 --> 00:03.000\nAda: Good & well\nand on\n"
    pieces = read(subtitles.extractor, tmp_path, text)
    assert [piece.text for piece in pieces if not piece.dropped and piece.text] == ["Ada: Good & well and on"]
    assert dropped(pieces)["repeated caption"] == "Ada: Good & well"
    with pytest.raises(ExtractError):
        read(subtitles.extractor, tmp_path, "WEBVTT\n\nNOTE nothing here\n")


def test_entities_declared_in_another_encoding_are_refused_too(tmp_path: Path) -> None:
    for encoding in ("utf-16", "utf-16-le"):
        declared = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE svg [<!ENTITY x "y">]><svg><text>a</text></svg>'
        with pytest.raises(ExtractError):
            read(markup.extractor, tmp_path, declared.encode(encoding))
