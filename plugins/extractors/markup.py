"""XML: SVG pictures, documents (DocBook, JATS, TEI, DITA, FictionBook) by their sections, data by its elements."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html.entities import html5
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from forge.phase import Requirement
from forge.plugins.extractors._htmltree import parse_html, visible_text
from forge.plugins.extractors._outline import Outline
from forge.plugins.extractors._xml import attribute, parse_xml, tag_of
from forge.protocols import Reading
from forge.records import Piece
from forge.tables import table_text

if TYPE_CHECKING:
    from lxml.etree import _Element

XML, SVG = "application/xml", "image/svg+xml"
DOCUMENTS = {"article", "book", "chapter", "section", "part", "set", "refentry", "appendix", "preface", "TEI", "teiCorpus", "FictionBook", "topic", "concept", "task", "reference", "dtbook", "sec"}
"""Root elements of formats whose text is prose; of any other the elements' names are needed to understand it."""

SECTION_TITLES = {"title", "head", "caption-title"}
METADATA = {"journal-meta", "article-meta", "teiHeader", "info", "articleinfo", "bookinfo", "description", "prolog", "back-matter-meta"}
TITLES_IN_METADATA = {"article-title", "book-title", "title", "subtitle", "abstract", "trans-abstract", "annotation"}
CODE = {"programlisting", "screen", "literallayout", "synopsis", "preformat", "codeblock", "screenblock", "eg", "egXML", "pre", "code-block"}
ITEMS = {"listitem", "list-item", "item", "li", "step", "member"}
REFERENCES = {"ref-list", "bibliography", "listBibl"}
BLOCKS = {"para", "p", "simpara", "formalpara", "ab", "l", "lg", "v", "cit", "blockquote", "note", "q", "bridgehead", "term", "def", "label", "abstract", "quote"}
HTML = re.compile(r"</?(?:p|div|a|br|b|i|em|strong|ul|li|img|span|h\d|table)\b[^<>]*>", re.IGNORECASE)
HIDDEN_VALUES = re.compile(r"^(?:xmlns|xsi|xml)|schemaLocation$")


class MarkupExtractor:
    """The text of XML; entity declarations are refused, nothing is loaded from elsewhere."""

    name: ClassVar[str] = "markup"
    media_types: ClassVar[tuple[str, ...]] = (XML, SVG)
    extensions: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys((".xml", ".dbk", ".docbook", ".nxml", ".jats", ".tei", ".fb2", ".dita", ".ditamap", ".rss", ".atom", ".opml", ".xlf", ".xliff", ".tmx"), XML),
        ".svg": SVG,
    }  # fmt: skip
    magic: ClassVar[Mapping[bytes, str]] = {}
    requires: ClassVar[tuple[Requirement, ...]] = (Requirement(module="lxml", extra="docs"),)

    def extract(self, path: Path, ctx: Reading) -> Iterator[Piece]:
        """Yield titles, paragraphs and tables, or "name: value" lines of data. Raises ExtractError: damaged, or refused."""
        root = parse_xml(path.read_bytes(), "the file", doctype=True)
        _resolve(root)
        if tag_of(root) == "svg":
            yield from _picture(root)
        elif tag_of(root) in DOCUMENTS:
            yield from _Document().pieces(root)
        else:
            yield from _data(root)


extractor = MarkupExtractor()


def _resolve(root: _Element) -> None:
    """Comments and instructions out; a named character (&nbsp;) of a document type that is not loaded becomes its text."""
    from lxml import etree

    etree.strip_tags(root, etree.Comment, etree.ProcessingInstruction)
    for node in list(root.iter(etree.Entity)):
        text = html5.get(f"{node.name};", node.text or "") + (node.tail or "")
        before, above = node.getprevious(), node.getparent()
        if above is None:
            continue
        if before is not None:
            before.tail = (before.tail or "") + text
        else:
            above.text = (above.text or "") + text
        node.tail = None
        above.remove(node)


def _picture(root: _Element) -> Iterator[Piece]:
    """The words of an SVG in drawing order."""
    skipped = {"script", "style", "metadata"}
    for node in root.iter():
        tag = tag_of(node)
        if tag in {"title", "desc", "text", "foreignObject"} and not any(tag_of(above) in {*skipped, "text", "foreignObject"} for above in node.iterancestors()):
            yield Piece(text=_words(node), kind="heading" if tag == "title" and node.getparent() is root else "prose", heading=_words(node) if tag == "title" and node.getparent() is root else "")


def _words(node: Any) -> str:
    """All text below an element, in one line; lines and cells apart."""
    return " ".join(_spaced(node).split())


def _spaced(node: Any) -> str:
    apart = " " if tag_of(node) in {"tspan", "p", "para", "title", "entry", "td", "th", "div", "br", "lb", "li", "item", "row", "surname", "given-names"} else ""
    return apart + (node.text or "") + "".join(_spaced(child) + (child.tail or "") for child in node) + apart


class _Document:
    """Walks a document by its sections. XML deeper than 256 levels is refused by the parser, so that recursion is safe."""

    def __init__(self) -> None:
        self.outline = Outline()
        self.item = False

    def pieces(self, node: Any, depth: int = 0) -> Iterator[Piece]:
        """The blocks of an element and all below it."""
        tag = tag_of(node)
        if tag in METADATA:
            yield from self._metadata(node, depth)
        elif tag in REFERENCES:
            yield Piece(text=_words(node), heading=self.outline.path, dropped="references")
        elif tag == "binary":
            yield Piece(text="", dropped="embedded picture")
        elif tag in CODE:
            yield Piece(text="".join(node.itertext()).strip("\n"), heading=self.outline.path, kind="code")
        elif tag in {"table", "informaltable", "tgroup", "simpletable"} and (rows := _rows(node)):
            yield from (self._piece(_words(one)) for one in node if tag_of(one) in {"title", "caption", "head"})
            yield Piece(text=table_text(rows, header=_has_header(node)), heading=self.outline.path, kind="table")
        elif tag in SECTION_TITLES and _words(node):
            title = _words(node)
            yield Piece(text=title, heading=self.outline.enter(depth, title), kind="heading")
        elif tag in BLOCKS and not _holds_blocks(node):
            yield self._piece(_words(node))
        else:
            yield from self._inside(node, tag, depth)

    def _inside(self, node: Any, tag: str, depth: int) -> Iterator[Piece]:
        self.item = self.item or tag in ITEMS
        mixed = bool((node.text or "").strip()) or any((child.tail or "").strip() for child in node)
        if mixed and not _holds_blocks(node):
            yield self._piece(_words(node))
            return
        if (node.text or "").strip():
            yield self._piece(" ".join(node.text.split()))
        for child in node:
            yield from self.pieces(child, depth + 1)
            if (child.tail or "").strip():
                yield self._piece(" ".join(child.tail.split()))

    def _piece(self, text: str) -> Piece:
        if self.item and text:
            self.item = False
            return Piece(text=f"- {text}", heading=self.outline.path, kind="list")
        return Piece(text=text, heading=self.outline.path)

    def _metadata(self, node: Any, depth: int) -> Iterator[Piece]:
        """Facts about a document; its title and abstract are text."""
        facts: list[str] = []
        titled = False
        pending = [node]
        while pending:
            one = pending.pop()
            tag = tag_of(one)
            if tag in {"abstract", "trans-abstract", "annotation"}:
                yield from self.pieces(one, depth + 2)
            elif tag in {"article-title", "book-title", "title"} and not titled and (title := _words(one)):
                titled = True
                yield Piece(text=title, heading=self.outline.enter(0, title), kind="heading")
            elif len(one) and any(len(child) or tag_of(child) in TITLES_IN_METADATA for child in one):
                pending.extend(reversed(one))
            elif text := _words(one):
                facts.append(f"{tag}: {text}")
        yield Piece(text="\n".join(facts), kind="metadata")


def _holds_blocks(node: Any) -> bool:
    inner = BLOCKS | CODE | ITEMS | {"table", "informaltable", "section", "sec", "itemizedlist", "orderedlist", "list", "ul", "ol", "figure"}
    return any(tag_of(one) in inner for one in node.iter() if one is not node)


def _rows(table: Any) -> list[list[str]]:
    rows = [[_words(cell) for cell in row if tag_of(cell) in {"entry", "td", "th", "cell", "stentry"}] for row in table.iter() if tag_of(row) in {"row", "tr", "strow", "sthead"}]
    return [row for row in rows if any(row)]


def _has_header(table: Any) -> bool:
    first = next((row for row in table.iter() if tag_of(row) in {"row", "tr", "sthead"}), None)
    if first is None:
        return False
    return tag_of(first) == "sthead" or attribute(first, "role") == "label" or any(tag_of(above) == "thead" for above in first.iterancestors()) or all(tag_of(cell) == "th" for cell in first)


def _data(root: _Element) -> Iterator[Piece]:
    """One piece for each element whose children hold nothing but text, as "name: value" lines with their attributes."""
    counts: dict[str, int] = {}
    pending: list[Any] = [root]
    while pending:
        node = pending.pop()
        children = [child for child in node if isinstance(child.tag, str)]
        if children and (any(len(child) for child in children) or node is root):
            lines = [_line(node)] if _values(node) or (node.text or "").strip() else []
            yield Piece(text="\n".join(lines), locator=_place(node, counts) if lines else "")
            pending.extend(reversed(children))
        else:
            lines = [_line(node), *map(_line, children)]
            yield Piece(text="\n".join(line for line in lines if line), locator=_place(node, counts))


def _place(node: Any, counts: dict[str, int]) -> str:
    tag = tag_of(node)
    counts[tag] = counts.get(tag, 0) + 1
    return f"{tag}={counts[tag]}"


def _values(node: Any) -> list[str]:
    """An element's attributes, without those about namespaces."""
    return [f"{key.rpartition('}')[2]}={value}" for key, value in node.attrib.items() if value.strip() and not HIDDEN_VALUES.search(key)]


def _line(node: Any) -> str:
    text = " ".join((node.text or "").split()) + "".join(f" {' '.join((child.tail or '').split())}" for child in node if (child.tail or "").strip())
    if HTML.search(text) and (root := parse_html(text)) is not None:
        text = visible_text(root)
    values = "; ".join(_values(node))
    name = tag_of(node)
    return f"{name} ({values}): {text}" if values and text else f"{name}: {text or values}" if text or values else ""
