"""HTML as pieces: a page's main text by its headings; what is left out is handed over with its reason."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from forge.plugins.extractors._boilerplate import Layout, hidden, is_code, layout
from forge.plugins.extractors._htmltree import BLOCKS, BREAKS, HEADINGS, data_rows, parse_html, visible_text
from forge.plugins.extractors._outline import Outline
from forge.records import Piece
from forge.tables import table_text

if TYPE_CHECKING:
    from lxml.etree import _Element

BREAK = "\u2028"
"""Stands for <br>; line ends of the source are spaces."""

OUTSIDE = "outside the article"
SENTENCE_END = re.compile(r"[.!?…:;。！？][\"'”’»“)\]]*$")
LONG_ARTICLE, LABEL_LENGTH = 1_000, 100
"""Only below an article of so many characters, a line shorter than this and without a sentence's end is a label."""


def page(text: str) -> Iterator[Piece]:
    """The main text of a web page: headings, paragraphs, list items, tables, code; then what was dropped, by reason.

    Needs the [docs] extra. Raises ExtractError (refused) for a page nested so deeply that libxml2 would cut it.
    """
    root = parse_html(text)
    if root is not None:
        yield from _without_tail(list(_pieces(root, layout(root), "")))


def _without_tail(pieces: list[Piece]) -> Iterator[Piece]:
    """Drop what trails after an article: headings over nothing, labels of buttons. Sentences, lists, code and tables stay.

    Of the phrases of trafilatura's test set that are no article text and that we kept, 70 % stood there.
    """
    kept = [number for number, piece in enumerate(pieces) if not piece.dropped]
    end = len(kept)
    while end and pieces[kept[end - 1]].kind in {"prose", "heading"} and _is_label(pieces[kept[end - 1]].text):
        end -= 1
    if sum(len(pieces[number].text) for number in kept[:end]) < LONG_ARTICLE:
        end = len(kept)
    tail = set(kept[end:])
    yield from (piece for number, piece in enumerate(pieces) if number not in tail)
    if tail:
        yield Piece(text="\n".join(pieces[number].text for number in kept[end:]), dropped="after the article")


def _is_label(text: str) -> bool:
    return len(text) < LABEL_LENGTH and not SENTENCE_END.search(text)


def whole(root: _Element, *, locator: str = "", quotes: Iterable[Any] = (), outline: Outline | None = None) -> Iterator[Piece]:
    """All text of a document without boilerplate: a chapter of a book, the body of a mail. Hidden text is dropped.

    locator: written to every piece; without it each names its heading. quotes: elements dropped as "quoted reply".
    outline: the headings open before it, which it goes on with (a book in several files).
    """
    yield from _pieces(root, Layout(root, hidden(root) | dict.fromkeys(quotes, "quoted reply")), locator, outline)


def _pieces(root: _Element, found: Layout, locator: str, outline: Outline | None = None) -> Iterator[Piece]:
    walker = _Walker(found.left_out, locator, outline or Outline())
    title = " ".join("".join("".join(node.itertext()) for node in root.iter("title") if _in_head(node)).split())
    if title and not any(_is_kept(node, found) for node in found.main.iter("h1")):
        yield Piece(text=title, heading=walker.outline.enter(0 if outline is None else 1, title), kind="heading", locator=locator or "heading=title")
    elif title:
        yield Piece(text=title, locator=locator, dropped="page title")
    yield from walker.pieces(found.main)
    for node in _outside(root, found.main):
        walker.drop(OUTSIDE, visible_text(node))
    for reason, texts in sorted(walker.dropped.items()):
        yield Piece(text="\n".join(texts), locator=locator, dropped=reason)


def _in_head(node: Any) -> bool:
    above = node.getparent()
    return above is None or above.tag in {"head", "html", "body"}


def _is_kept(heading: Any, found: Layout) -> bool:
    reasons = [found.left_out[one] for one in [heading, *heading.iterancestors()] if one in found.left_out]
    return not reasons or reasons == ["page header"]


def _outside(root: _Element, main: _Element) -> Iterator[_Element]:
    """The largest parts of the page that do not hold its main text."""
    above = list(main.iterancestors())
    for node in reversed(above):
        for child in node:
            if child is not main and child not in above and isinstance(child.tag, str) and not is_code(child):
                yield child


class _Walker:
    """Walks a page without recursion (pages may be nested thousands deep) and cuts its text at block borders."""

    def __init__(self, left_out: dict[Any, str], locator: str, outline: Outline) -> None:
        self.left_out, self.locator, self.outline = left_out, locator, outline
        self.dropped: dict[str, list[str]] = {}
        self.buffer: list[str] = []
        self.pre = 0
        self.item: list[str] = []
        self.terms: list[str] = []
        self.ready: list[Piece] = []

    def pieces(self, main: _Element) -> Iterator[Piece]:
        """The blocks below a node, in order."""
        from lxml import etree

        walk = etree.iterwalk(main, events=("start", "end"))
        skipped: Any = None
        for event, node in walk:
            if event == "start" and self._skips(node):
                walk.skip_subtree()
                skipped = node
            elif event == "start":
                self._enter(node)
                self.buffer.append(node.text or "")
            else:
                if node is not skipped:
                    self._leave(node)
                skipped = None
                if node is not main:
                    self.buffer.append(node.tail or "")
            yield from self.ready
            self.ready = []
        self._flush("prose")
        yield from self.ready

    def drop(self, reason: str, text: str) -> None:
        """Note text that is not kept."""
        if text:
            self.dropped.setdefault(reason, []).append(text)

    def _skips(self, node: Any) -> bool:
        """Take an element as a whole: code, what is left out, a table of data."""
        if not isinstance(node.tag, str) or is_code(node):
            return True
        if reason := self.left_out.get(node):
            self._leave_out(node, reason)
            return True
        if node.tag == "table" and (rows := data_rows(node, self.left_out)):
            self._table(node, rows)
            return True
        return False

    def _leave_out(self, node: Any, reason: str) -> None:
        """An article's <header> holds its title: its h1 stays."""
        rest = visible_text(node)
        if node.tag in BREAKS:
            self._flush("list" if self.item else "prose")
        for title in [visible_text(one) for one in node.iter("h1")] if reason == "page header" else []:
            self._heading(1, title)
            rest = rest.replace(title, "", 1)
        self.drop(reason, rest.strip())

    def _table(self, node: Any, rows: list[list[str]]) -> None:
        self._flush("list" if self.item else "prose")
        for caption in node.iter("caption"):
            self._ready(visible_text(caption, self.left_out), "prose")
        first = next(one for one in node.iter("tr") if len(one))
        header = any(one.tag == "thead" for one in first.iterancestors()) or all(cell.tag == "th" for cell in first.iter("td", "th"))
        self._ready(table_text(rows, header=header), "table")
        for reason, text in [(self.left_out[one], visible_text(one)) for one in node.iter() if one in self.left_out]:
            self.drop(reason, text)

    def _enter(self, node: Any) -> None:
        tag = node.tag
        if self.pre and tag in BLOCKS:
            self._end_line()
        elif tag in BREAKS:
            self._flush("list" if self.item else "prose")
        if tag == "pre":
            self.pre += 1
        elif tag == "li":
            self.item.append("- ")
        elif tag == "dd":
            self.item.append(f"- {', '.join(self.terms)}: " if self.terms else "- ")
            self.terms = []
        elif tag == "br":
            self.buffer.append(BREAK)
        elif tag in {"td", "th"} and any(part.strip() for part in self.buffer):
            self.buffer.append(" | ")

    def _end_line(self) -> None:
        """Highlighters put each line of code into an element of its own."""
        if (text := "".join(self.buffer)) and not text.endswith("\n"):
            self.buffer.append("\n")

    def _leave(self, node: Any) -> None:
        tag = node.tag
        if tag in HEADINGS:
            self._heading(HEADINGS[tag], " ".join("".join(self.buffer).replace(BREAK, " ").split()))
            self.buffer = []
        elif tag == "pre":
            self._flush("code")
            self.pre -= 1
        elif tag == "tr":
            self._flush("table")
        elif tag == "dt":
            self._take_term()
        elif tag in {"li", "dd"}:
            self._flush("list")
            if self.item:
                self._take_rest(self.item.pop())
        elif self.pre and tag in BLOCKS:
            self._end_line()
        elif tag in BLOCKS:
            self._flush("list" if self.item else "prose")
            if tag == "dl" and self.terms:
                self._take_rest(f"- {', '.join(self.terms)}")
                self.terms = []

    def _take_term(self) -> None:
        term = " ".join("".join(self.buffer).replace(BREAK, " ").split())
        self.buffer = []
        self.terms += [term] if term else []

    def _take_rest(self, prefix: str) -> None:
        """A term whose definition is empty is still text."""
        if prefix not in {"", "- "}:
            self._ready(prefix.rstrip(": "), "list")

    def _heading(self, level: int, title: str) -> None:
        if title.strip():
            path = self.outline.enter(level, title)
            self.ready.append(Piece(text=title, locator=self.locator or f"heading={title[:80]}", heading=path, kind="heading"))

    def _flush(self, kind: str) -> None:
        raw, self.buffer = "".join(self.buffer), []
        if self.pre:
            text, kind = raw.replace(BREAK, "\n").strip("\n"), "code"
        else:
            text = "\n".join(line for part in raw.split(BREAK) if (line := " ".join(part.split())))
        if not text.strip():
            return
        prefix = self.item[-1] if self.item else ""
        if kind == "list" and prefix:
            text, self.item[-1] = prefix + text, ""
        elif kind == "code" and prefix not in {"", "- "}:
            text, self.item[-1] = f"{prefix.rstrip()}\n{text}", ""
        self._ready(text, kind)

    def _ready(self, text: str, kind: str) -> None:
        if not text.strip():
            return
        heading = self.outline.path
        place = heading.rpartition(" > ")[2]
        locator = self.locator or (f"heading={place[:80]}" if place else "")
        self.ready.append(Piece.model_validate({"text": text, "locator": locator, "heading": heading, "kind": kind}))
