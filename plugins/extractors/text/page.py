"""HTML: the main text of a page by its headings; scripts are no text, navigation is dropped and counted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from forge.errors import ExtractError
from forge.phase import Requirement
from forge.plugins.extractors.text.outline import Outline
from forge.records import Piece
from forge.registry import require

if TYPE_CHECKING:
    from lxml.etree import _Element

CODE = {"script", "style", "noscript", "template", "svg", "iframe", "object", "canvas", "head", "select", "datalist"}
"""Never text that a reader sees. (The title is taken from the head by itself.)"""

NAVIGATION = {"nav", "header", "footer", "aside", "form", "button", "menu"}
NAVIGATION_ROLES = {"navigation", "banner", "contentinfo", "complementary", "search"}
BREAK = "\u2028"
"""Stands for <br>; line ends of the source are spaces."""

HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden")
HEADINGS = {f"h{level}": level for level in range(1, 7)}
BLOCKS = {
    "p", "div", "section", "article", "main", "body", "ul", "ol", "dl", "dt", "dd", "blockquote", "figure", "figcaption", "table",
    "thead", "tbody", "tfoot", "caption", "address", "details", "summary", "fieldset", "hr", "center", "html", *NAVIGATION,
}


def page(text: str) -> Iterator[Piece]:
    """Headings, paragraphs, list items, table rows and code; <main> alone when there is one. Needs the [docs] extra."""
    require((Requirement(module="lxml", extra="docs"),), "reading HTML")
    root = _parse(text)
    if root is None:
        return
    main = _main(root)
    title = " ".join("".join(node.itertext()).strip() for node in root.iter("title"))
    walker = _Walker()
    if title.strip() and next(main.iter("h1"), None) is None:
        yield Piece(text=title, heading=walker.outline.enter(0, title), kind="heading", locator="heading=title")
    elif title.strip():
        yield Piece(text=title, dropped="page title")
    yield from walker.pieces(main)
    outside = [] if main is root else [_visible_text(node) for node in _outside(root, main)]
    if navigation := "\n".join([*walker.dropped, *outside]).strip():
        yield Piece(text=navigation, dropped="navigation")


def _parse(text: str) -> _Element | None:
    """The page's root. huge_tree lifts libxml2's limit of 255 levels, beyond which text would vanish silently."""
    from lxml import etree

    parser = etree.HTMLParser(encoding="utf-8", huge_tree=True, no_network=True, remove_comments=True, remove_pis=True)
    data = text.encode("utf-8", "replace")
    try:
        root = etree.fromstring(data, parser)
    except etree.ParseError as error:  # an empty page is one too
        if not text.strip():
            return None
        raise ExtractError(f"not readable as HTML: {error}") from error
    if any(error.type_name == "ERR_DOCUMENT_TOO_DEEP" or "Excessive depth" in error.message for error in parser.error_log):
        raise ExtractError("HTML nested too deeply to be read whole", refused=True)
    return root


def _main(root: _Element) -> _Element:
    found = [node for node in root.iter() if node.tag == "main" or _role(node) == "main"]
    return found[0] if len(found) == 1 else root


def _role(node: Any) -> str:
    return (node.get("role") or "").lower()


def _outside(root: _Element, main: _Element) -> Iterator[_Element]:
    """The largest parts of the page that do not hold its main text."""
    above = set(main.iterancestors())
    for node in above:
        for child in node:
            if child is not main and child not in above and isinstance(child.tag, str) and child.tag not in CODE:
                yield child


def _visible_text(node: _Element) -> str:
    """All text below a node that a browser would show, in one line."""
    from lxml import etree

    texts = []
    walk = etree.iterwalk(node, events=("start", "end"))
    for event, one in walk:
        if event == "end":
            texts.append((one.tail or "") if one is not node else "")
        elif one.tag in CODE:
            walk.skip_subtree()
        else:
            texts.append(one.text or "")
    return " ".join(" ".join(texts).split())


class _Walker:
    """Walks a page without recursion (pages may be nested thousands deep) and cuts its text at block borders."""

    def __init__(self) -> None:
        self.outline = Outline()
        self.dropped: list[str] = []
        self.buffer: list[str] = []
        self.pre = 0
        self.item: list[str] = []
        self.ready: list[Piece] = []

    def pieces(self, main: _Element) -> Iterator[Piece]:
        """The blocks below a node, in order."""
        from lxml import etree

        walk = etree.iterwalk(main, events=("start", "end"))
        for event, node in walk:
            if not isinstance(node.tag, str):
                continue
            if event == "start" and self._skips(node):
                walk.skip_subtree()
                if node.tag not in CODE:
                    self._drop_but_headings(node)
            elif event == "start":
                self._enter(node)
                self.buffer.append(node.text or "")
            else:
                if not self._skips(node):
                    self._leave(node)
                if node is not main:
                    self.buffer.append(node.tail or "")
            yield from self.ready
            self.ready = []
        self._flush("prose")
        yield from self.ready

    def _skips(self, node: Any) -> bool:
        if node.tag in CODE or _role(node) in NAVIGATION_ROLES or "hidden" in node.attrib or HIDDEN.search(node.get("style") or ""):
            return True
        return node.tag in NAVIGATION and not (node.tag == "form" and len("".join(node.itertext())) > 2_000)

    def _drop_but_headings(self, node: Any) -> None:
        """An article's <header> holds its title: its h1 stays."""
        self._flush("prose")
        kept = list(node.iter("h1")) if node.tag == "header" else []
        titles = [" ".join("".join(one.itertext()).split()) for one in kept]
        for title in filter(None, titles):
            self._heading(1, title)
        rest = _visible_text(node)
        for title in titles:
            rest = rest.replace(title, "", 1)
        self.dropped.append(rest)

    def _enter(self, node: Any) -> None:
        tag = node.tag
        if tag in BLOCKS or tag in HEADINGS or tag in {"li", "tr", "pre"}:
            self._flush("list" if self.item else "prose")
        if tag == "pre":
            self.pre += 1
        elif tag == "li":
            self.item.append("- ")
        elif tag == "br":
            self.buffer.append(BREAK)
        elif tag in {"td", "th"} and any(part.strip() for part in self.buffer):
            self.buffer.append(" | ")

    def _leave(self, node: Any) -> None:
        tag = node.tag
        if tag in HEADINGS:
            self._heading(HEADINGS[tag], " ".join("".join(self.buffer).split()))
            self.buffer = []
        elif tag == "pre":
            self._flush("code")
            self.pre -= 1
        elif tag == "tr":
            self._flush("table")
        elif tag == "li":
            self._flush("list")
            if self.item:
                self.item.pop()
        elif tag in BLOCKS:
            self._flush("list" if self.item else "prose")

    def _heading(self, level: int, title: str) -> None:
        if title.strip():
            path = self.outline.enter(level, title)
            self.ready.append(Piece(text=title, locator=f"heading={title[:80]}", heading=path, kind="heading"))

    def _flush(self, kind: str) -> None:
        raw, self.buffer = "".join(self.buffer), []
        if self.pre:
            text = raw.replace(BREAK, "\n").strip("\n")
        else:
            text = "\n".join(line for part in raw.split(BREAK) if (line := " ".join(part.split())))
        if not text.strip():
            return
        if kind == "list" and self.item:
            text, self.item[-1] = self.item[-1] + text, ""
        heading = self.outline.path
        place = heading.rpartition(" > ")[2]
        self.ready.append(
            Piece.model_validate({"text": text, "locator": f"heading={place[:80]}" if place else "", "heading": heading, "kind": kind})
        )
