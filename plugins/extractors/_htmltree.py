"""HTML as a tree: parsing that loses nothing silently, the text that a browser shows, tables of data."""

from __future__ import annotations

import re
from html.entities import html5
from typing import TYPE_CHECKING, Any

from forge.errors import ExtractError
from forge.phase import Requirement
from forge.plugins.extractors._boilerplate import is_code
from forge.plugins.extractors._xml import parse_xml, tag_of
from forge.registry import require

if TYPE_CHECKING:
    from lxml.etree import _Element

HEADINGS = {f"h{level}": level for level in range(1, 7)}
BLOCKS = {
    "p", "div", "section", "article", "main", "body", "ul", "ol", "dl", "blockquote", "figure", "figcaption", "table", "thead", "tbody",
    "tfoot", "caption", "address", "details", "summary", "fieldset", "legend", "hr", "center", "html", "nav", "header", "footer",
    "aside", "form", "menu", "hgroup", "dialog", "optgroup", "option",
}  # fmt: skip
BREAKS = BLOCKS | set(HEADINGS) | {"li", "dt", "dd", "tr", "pre"}
LONG_CELL = 300
"""Mean characters of a cell from which a table is taken for a page's layout."""

CP1252_REFERENCE = re.compile(r"&#(12[89]|1[345]\d);?")
NAMED_REFERENCE = re.compile(r"&(?!(?:amp|lt|gt|quot|apos);)([A-Za-z][A-Za-z0-9]{1,31};)")


def parse_html(text: str) -> _Element | None:
    """The root of an HTML text, None when it is empty. Raises ExtractError when it cannot be read whole."""
    require((Requirement(module="lxml", extra="docs"),), "reading HTML")
    from lxml import etree

    # huge_tree lifts libxml2's limit of 255 levels, beyond which text would vanish silently.
    parser = etree.HTMLParser(encoding="utf-8", huge_tree=True, no_network=True, remove_comments=True, remove_pis=True)
    data = CP1252_REFERENCE.sub(_cp1252, text).encode("utf-8", "replace")
    try:
        root = etree.fromstring(data, parser)
    except etree.ParseError as error:  # an empty page is one too
        if not text.strip():
            return None
        raise ExtractError(f"not readable as HTML: {error}") from error
    if any(error.type_name == "ERR_DOCUMENT_TOO_DEEP" or "Excessive depth" in error.message for error in parser.error_log):
        raise ExtractError("HTML nested too deeply to be read whole", refused=True)
    return root


def parse_xhtml(text: str, what: str) -> _Element | None:
    """The root of an XHTML text, its tags without namespace; read as HTML when it is not well-formed.

    An HTML parser takes everything after <title/> or <script/> for the content of that element.
    Raises ExtractError (refused) when it declares entities.
    """
    named = NAMED_REFERENCE.sub(lambda match: html5.get(match[1], match[0]), text)
    try:
        root = parse_xml(re.sub(r"^\s*<\?xml[^>]*\?>", "", named).encode("utf-8", "replace"), what, doctype=True)
    except ExtractError as error:
        if error.refused:
            raise
        return parse_html(text)
    from lxml import etree

    etree.strip_tags(root, etree.Comment, etree.ProcessingInstruction)  # their tails are text, which a walk over elements misses
    for node in root.iter():
        if isinstance(node.tag, str):
            node.tag = tag_of(node).lower()
    return root


def _cp1252(match: re.Match[str]) -> str:
    """What browsers show for &#150;: the character of windows-1252, not a control character."""
    return bytes([int(match[1])]).decode("cp1252", "replace")


def visible_text(node: _Element, left_out: dict[Any, str] | None = None) -> str:
    """All text below a node that a browser would show, in one line; words of different blocks stay apart."""
    from lxml import etree

    texts = []
    walk = etree.iterwalk(node, events=("start", "end"))
    for event, one in walk:
        apart = " " if one.tag in BREAKS or one.tag in {"td", "th", "br"} else ""
        if event == "end":
            texts.append(apart + ((one.tail or "") if one is not node else ""))
        elif is_code(one) or not isinstance(one.tag, str) or (left_out and one in left_out):
            walk.skip_subtree()
        else:
            texts.append(apart + (one.text or ""))
    return " ".join("".join(texts).split())


def data_rows(table: Any, left_out: dict[Any, str]) -> list[list[str]]:
    """A table's cells by row, spanned columns empty; nothing for a table that is a page's layout."""
    if table.get("role") == "presentation" or any(True for one in table.iter("table", "pre", "form", *HEADINGS) if one is not table):
        return []
    rows = []
    for row in table.iter("tr"):
        cells = [cell for cell in row if cell.tag in {"td", "th"} and cell not in left_out]
        rows.append([text for cell in cells for text in [visible_text(cell, left_out), *[""] * (_span(cell) - 1)]])
    rows = [row for row in rows if any(row)]
    filled = [cell for row in rows for cell in row if cell]
    is_layout = max(map(len, rows), default=0) < 2 or sum(map(len, filled)) > LONG_CELL * len(filled)
    return [] if is_layout and next(table.iter("th"), None) is None else rows


def _span(cell: Any) -> int:
    span = cell.get("colspan") or "1"
    return max(1, min(50, int(span))) if span.isascii() and span.isdigit() else 1
