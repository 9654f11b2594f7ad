"""Web pages: the article stays whole, the furniture around it is dropped with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from forge.errors import ExtractError
from forge.plugins.extractors._html import page, whole
from forge.plugins.extractors._htmltree import parse_xhtml
from forge.protocols import Reading
from forge.records import Piece
from forge.registry import Registry

SENTENCE = "The ledger reserves an amount before a call is made and settles it afterwards, so that a crash never spends twice."
ARTICLE = "".join(f"<p>Paragraph {number}. {SENTENCE}</p>" for number in range(5))


def kept(text: str) -> list[str]:
    return [piece.text for piece in page(text) if not piece.dropped]


def dropped(text: str) -> dict[str, str]:
    return {piece.dropped: piece.text for piece in page(text) if piece.dropped}


def kinds(text: str) -> list[tuple[str, str]]:
    return [(piece.kind, piece.text) for piece in page(text) if not piece.dropped]


def test_the_main_text_is_kept_and_every_other_part_is_counted_by_its_reason() -> None:
    text = (
        "<!doctype html><html><head><title>Page</title><style>p{}</style></head><body><nav>Home About</nav><header><h1>Leases</h1>"
        "<p>Logo</p></header><p>One<br>two\nthree</p><ul><li>red</li><li>blue</li></ul><table><tr><th>k</th><th>v</th></tr></table>"
        '<pre>a\n  b</pre><script>x()</script><script type="application/ld+json">{"@type": "Article"}</script><p hidden>secret</p>'
        "<footer>Imprint</footer></body></html>"
    )
    assert kinds(text) == [
        ("heading", "Leases"), ("prose", "One\ntwo three"), ("list", "- red"), ("list", "- blue"), ("table", "k | v"), ("code", "a\n  b"),
    ]  # fmt: skip
    assert dropped(text) == {
        "page title": "Page", "navigation": "Home About", "page header": "Logo", "hidden text": "secret", "page footer": "Imprint",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("furniture", "reason"),
    [
        ('<div id="cookie-banner">We value your privacy. Accept all cookies.</div>', "cookie banner"),
        ('<div class="CookieConsent">We use cookies.</div>', "cookie banner"),
        ('<ul class="breadcrumbs"><li><a href="/">Home</a></li><li>Here</li></ul>', "navigation"),
        ('<div class="left-sidebar"><a href="/a">Alpha</a> is popular this week</div>', "sidebar"),
        ('<aside><h2>Elsewhere</h2><a href="/a">Alpha</a></aside>', "sidebar"),
        ('<section class="newsletter-signup">Subscribe to our newsletter</section>', "promotion"),
        ('<div class="related-posts"><a href="/a">Another post</a> you may like</div>', "links to others"),
        ("<ul>" + "".join(f'<li><a href="/{n}">Topic number {n}</a></li>' for n in range(6)) + "</ul>", "link list"),
        ("<form><label>Search <input name=q></label><button>Go</button></form>", "form"),
        ("<noscript>Please enable JavaScript.</noscript>", "noscript"),
        ('<div style="display: none">Loading</div>', "hidden text"),
    ],
)
def test_furniture_is_dropped_and_the_article_beside_it_stays(furniture: str, reason: str) -> None:
    text = f"<body><h1>Ledger</h1>{furniture}{ARTICLE}</body>"
    assert len([one for one in kept(text) if SENTENCE in one]) == 5
    assert list(dropped(text)) == [reason]


def test_a_class_on_a_layout_element_never_costs_the_article() -> None:
    for opening in ('<div class="sidebar">', '<div class="content-with-sidebar">', '<div id="related">', '<form class="newsletter">'):
        assert len([one for one in kept(f"<body>{opening}{ARTICLE}</body>") if SENTENCE in one]) == 5
    assert len(kept(f'<body class="has-sidebar cookie-banner"><article class="promo">{ARTICLE}</article></body>')) == 5


def test_comments_and_cards_of_other_pages_are_dropped_and_labels_that_trail_the_article() -> None:
    cards = "".join(f'<div class="x"><a href="/{n}"><h3>Other story {n}</h3></a><p>What it says.</p></div>' for n in range(4))
    said = "".join(f"<article><p>Reader {n} says so. {SENTENCE}</p></article>" for n in range(4))
    text = f'<body><h1>Ledger</h1>{ARTICLE * 3}<p>The end.</p><div>Follow us</div><div>{cards}</div><div id="comments">{said}</div><h3>More</h3></body>'
    assert kept(text)[-1] == "The end."
    assert len(kept(text)) == 17
    assert set(dropped(text)) == {"comments", "link list", "after the article"}
    assert dropped(text)["after the article"] == "Follow us\nMore"


def test_an_index_page_keeps_its_lists_of_links() -> None:
    links = "".join(f'<li><a href="{n}.html">Chapter {n}: The year {1800 + n}</a></li>' for n in range(30))
    assert len(kept(f"<body><h1>Contents</h1><ul>{links}</ul></body>")) == 31


def test_a_note_inside_the_article_stays_and_a_list_of_links_does_not() -> None:
    note = '<aside class="warning"><p>Never commit a key.</p></aside>'
    text = f"<article><h1>Keys</h1>{ARTICLE}{note}<aside><a href=/a>Other</a> <a href=/b>pages</a></aside></article>"
    assert "Never commit a key." in kept(text)
    assert dropped(text) == {"sidebar": "Other pages"}


def test_main_element_is_the_page_and_a_title_stands_in_for_a_missing_heading() -> None:
    text = "<title>T</title><div>menu</div><main><p>Text</p></main><div>more</div>"
    assert kept(text) == ["T", "Text"]
    assert dropped(text)["outside the article"].split() == ["menu", "more"]


def test_an_empty_main_element_is_not_taken_for_the_page() -> None:
    assert len([one for one in kept(f"<main></main><div>{ARTICLE}</div>") if SENTENCE in one]) == 5


def test_tables_name_their_values_and_layout_tables_are_walked() -> None:
    table = (
        "<table><caption>Prices</caption><thead><tr><th>Item</th><th>USD</th></tr></thead><tbody><tr><td>GPU</td><td>2.40</td></tr>"
        "<tr><td colspan=2>free of charge</td></tr></tbody></table>"
    )
    assert kinds(table) == [("prose", "Prices"), ("table", "Item | USD\nItem: GPU; USD: 2.40\nItem: free of charge")]
    layout = f"<table><tr><td><h2>Left</h2><p>{SENTENCE}</p></td><td><table><tr><td>a</td><td>b</td></tr></table></td></tr></table>"
    assert ("heading", "Left") in kinds(layout)
    assert ("table", "a | b") in kinds(layout)


def test_definitions_carry_their_terms_and_details_their_summary() -> None:
    assert kinds("<dl><dt>lease</dt><dd>time on a machine</dd><dt>run</dt><dt>job</dt><dd><p>one try</p></dd><dt>rest</dt></dl>") == [
        ("list", "- lease: time on a machine"), ("list", "- run, job: one try"), ("list", "- rest"),
    ]  # fmt: skip
    assert kept("<details><summary>Why</summary><p>Because.</p></details>") == ["Why", "Because."]


def test_code_keeps_its_lines_without_their_numbers() -> None:
    assert kept("<pre><div>a = 1</div><div>  b = 2</div></pre>") == ["a = 1\n  b = 2"]
    text = f'<p>{SENTENCE}</p><table><tr><td class="linenos"><pre>1\n2</pre></td><td class="code"><pre>x\ny</pre></td></tr></table>'
    assert kept(text)[1:] == ["x\ny"]
    assert dropped(text) == {"navigation": "1 2"}


def test_ruby_readings_and_heading_anchors_do_not_stand_in_the_text() -> None:
    assert kept("<p><ruby>漢字<rp>(</rp><rt>かんじ</rt><rp>)</rp></ruby>を読む</p>") == ["漢字を読む"]
    text = f'<h2>Install<a class="headerlink" href="#i">¶</a></h2><h2>Use <a href="#u">#</a></h2><p>{SENTENCE}</p>'
    assert kept(text) == ["Install", "Use", SENTENCE]


def test_a_formula_is_its_tex_once() -> None:
    text = (
        '<p>So <math><semantics><mrow><mi>x</mi><mo>=</mo><mn>1</mn></mrow><annotation encoding="application/x-tex">x=1</annotation>'
        f'</semantics></math><span class="katex-html" aria-hidden="true">x=1</span> holds. {SENTENCE}</p>'
    )
    assert kept(text) == [f"So x=1 holds. {SENTENCE}"]


def test_entities_are_read_as_browsers_read_them() -> None:
    assert kept("<p>a&nbsp;b &#150; &#x2014; &euro; &nosuchthing;</p>") == ["a b – — € &nosuchthing;"]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ("<meta charset=utf-8><p>zażółć</p>".encode("utf-16"), "zażółć"),  # the mark beats what the page says
        ('<meta charset="iso-8859-2"><p>zażółć</p>'.encode("iso-8859-2"), "zażółć"),
        (b"<p>na\xefve \x80</p>", "naïve €"),
        ("\ufeff<p>é</p>".encode(), "é"),
    ],
)
def test_byte_order_marks_and_declared_charsets(tmp_path: Path, data: bytes, found: str) -> None:
    path = tmp_path / "page"
    path.write_bytes(data)
    pieces: list[Piece] = list(Registry().plugin("extractor", "html").extract(path, Reading("text/html")))
    assert [piece.text for piece in pieces] == [found]


def test_a_page_nested_too_deeply_is_refused_and_not_half_read() -> None:
    for depth in (200, 1000):
        assert kept("<div>" * depth + "treasure" + "</div>" * depth) == ["treasure"]
    for depth in (10_000, 100_000):
        with pytest.raises(ExtractError, match="nested") as caught:
            kept("<div>" * depth + "treasure")
        assert caught.value.refused


@pytest.mark.parametrize("text", ["", " ", "<", "<html>", "<table><tr>", "<dl><dt>", "\0\0", "<p>\ud800</p>", "<!-- x", "<object><main><article>x</object><aside>y<svg><main>"])
def test_broken_pages_do_not_crash(text: str) -> None:
    list(page(text))


def test_every_visible_character_of_a_page_is_kept_or_dropped() -> None:
    text = (
        f"<body><nav>n</nav><h1>h</h1>{ARTICLE}<ul><li>i<ul><li>j</li></ul>k</li></ul><dl><dt>t</dt><dd>d<p>e</p></dd></dl><div>x<table><tr><td>u</td>"
        "<td>v</td></tr></table>y</div><aside>z</aside>end</body>"
    )
    from lxml import html

    seen = "".join(piece.text for piece in page(text))
    for mark in ("- ", " | ", ": "):
        seen = seen.replace(mark, "")
    wanted = "".join(html.fromstring(text).itertext()).replace(": ", "")
    assert sorted("".join(seen.split())) == sorted("".join(wanted.split()))


def test_xhtml_is_read_as_xml_where_an_html_parser_would_swallow_the_text() -> None:
    text = (
        '<?xml version="1.0" encoding="utf-8"?><!DOCTYPE html><html xmlns="http://www.w3.org/1999/xhtml"><head><title/><script src="x"/></head>'
        "<body><p>caf&eacute;<!-- c --> open</p></body></html>"
    )
    root = parse_xhtml(text, "chapter")
    assert root is not None
    assert [piece.text for piece in whole(root, locator="chapter=1")] == ["café open"]
    with pytest.raises(ExtractError) as caught:
        parse_xhtml('<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>', "chapter")
    assert caught.value.refused
