"""OpenDocument text (.odt): content.xml in order."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from typing import Any

from forge.plugins.extractors._outline import Outline
from forge.plugins.extractors._xml import attribute, parse_part, tag_of
from forge.records import Piece
from forge.tables import table_text


def read_odt(archive: zipfile.ZipFile) -> Iterator[Piece]:
    """Headings, paragraphs, list items and tables; what was deleted under change tracking is left out."""
    root = parse_part(archive, "content.xml")
    outline, count, tables = Outline(), 0, 0
    pending: list[Any] = [root]
    while pending:
        node = pending.pop()
        tag = tag_of(node)
        if tag in {"h", "p"}:
            count += 1
            text = _odt_text(node).strip()
            listed = any(tag_of(above) == "list-item" for above in node.iterancestors())
            if tag == "h" and text:
                outline.enter(int(attribute(node, "outline-level") or "1"), text)
            kind = "heading" if tag == "h" else "list" if listed else "prose"
            yield Piece.model_validate(
                {"text": f"- {text}" if kind == "list" and text else text, "locator": f"paragraph={count}", "heading": outline.path, "kind": kind}
            )
        elif tag == "table":
            tables += 1
            rows = [[" ".join(map(_odt_text, _nodes(cell, "p"))) for cell in row if "cell" in tag_of(cell)] for row in _nodes(node, "table-row")]
            text = table_text([row for row in rows if any(row)], header=bool(list(_nodes(node, "table-header-rows"))))
            yield Piece(text=text, locator=f"table={tables}", heading=outline.path, kind="table")
        elif tag != "tracked-changes":
            pending.extend(reversed(node))


def _nodes(node: Any, tag: str) -> Iterator[Any]:
    return (one for one in node.iter() if tag_of(one) == tag)


def _odt_text(node: Any) -> str:
    parts = [node.text or ""]
    for child in node:
        tag = tag_of(child)
        if tag == "s":
            parts.append(" " * int(attribute(child, "c") or "1"))
        elif tag in {"tab", "line-break"}:
            parts.append("\t" if tag == "tab" else "\n")
        elif tag:
            parts.append(_odt_text(child))
        parts.append(child.tail or "")
    return "".join(parts)
