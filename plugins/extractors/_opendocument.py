"""OpenDocument XML, as texts and presentations share it: the text of a paragraph, and what hangs on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from forge.plugins.extractors._xml import attribute, tag_of

ASIDES = {"annotation": "comment", "note": "note"}
NO_TEXT = {"tracked-changes", "annotation-end", "forms", "sequence-decls", "desc", "title", "event-listeners", "notes-configuration"}


class Paragraph(NamedTuple):
    """A paragraph's text; its notes and comments as (kind, text); the elements of text boxes anchored in it."""

    text: str
    asides: tuple[tuple[str, str], ...] = ()
    boxes: tuple[Any, ...] = ()


def paragraph(node: Any) -> Paragraph:
    """A paragraph or heading. XML deeper than 256 levels is refused by the parser, so that recursion is safe."""
    asides: list[tuple[str, str]] = []
    boxes: list[Any] = []
    return Paragraph(_text(node, asides, boxes).strip(), tuple(asides), tuple(boxes))


def plain(node: Any) -> str:
    """All text of a paragraph in place, without its notes."""
    return paragraph(node).text


def nodes(node: Any, tag: str) -> Iterator[Any]:
    """All elements with a tag below a node."""
    return (one for one in node.iter() if tag_of(one) == tag)


def table_rows(table: Any) -> list[list[str]]:
    """A table's cells by row; a cell that stands for several is written once."""
    rows = []
    for row in nodes(table, "table-row"):
        cells = [cell for cell in row if tag_of(cell) in {"table-cell", "covered-table-cell"}]
        texts = [" ".join(plain(one) for one in nodes(cell, "p")) for cell in cells]
        while texts and not texts[-1] and attribute(cells[len(texts) - 1], "number-columns-repeated"):
            texts.pop()
        rows.append(texts)
    return [row for row in rows if any(row)]


def _text(node: Any, asides: list[tuple[str, str]], boxes: list[Any]) -> str:
    parts = [node.text or ""]
    for child in node:
        tag = tag_of(child)
        if tag == "s":
            count = attribute(child, "c")
            parts.append(" " * min(1000, int(count) if count.isascii() and count.isdigit() else 1))
        elif tag in {"tab", "line-break"}:
            parts.append("\t" if tag == "tab" else "\n")
        elif tag in ASIDES:
            texts = [plain(one) for one in child.iter() if tag_of(one) in {"p", "h"}]
            asides.append((ASIDES[tag], "\n".join(text for text in texts if text)))
        elif tag == "text-box":
            boxes.append(child)
        elif tag and tag not in NO_TEXT:
            parts.append(_text(child, asides, boxes))
        parts.append(child.tail or "")
    return "".join(parts)
