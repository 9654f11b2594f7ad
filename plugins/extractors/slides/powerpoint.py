"""PowerPoint presentations (.pptx): the text of every slide's shapes, tables, charts and diagrams, and its notes."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from forge.plugins.extractors._office import (
    Package,
    alternative_text,
    chart_text,
    drawing_paragraphs,
    embedded_files,
)
from forge.plugins.extractors._xml import attribute, tag_of
from forge.protocols import Embedded, Option
from forge.records import Piece
from forge.tables import table_text

if TYPE_CHECKING:
    from lxml.etree import _Element

FURNITURE = {"sldNum", "dt", "ftr", "hdr", "sldImg"}
"""Placeholders that repeat on every slide: number, date, footer, header, the slide's picture on a notes page."""


def read_pptx(archive: zipfile.ZipFile, options: Mapping[str, Option]) -> Iterator[Piece | Embedded]:
    """Titles as headings, then each slide's text ("slide=3") and notes ("slide=3 notes"); at the end the files inside."""
    package = Package(archive)
    for number, slide in enumerate(_slides(package), 1):
        yield from _slide(package, slide, f"slide={number}")
    inside = [name for name in package.names if name.startswith(("ppt/media/", "ppt/embeddings/"))]
    yield from embedded_files(archive, inside, options, package.chart_data())


def _slides(package: Package) -> list[str]:
    """The slide parts in the order in which they are shown."""
    root = package.main("ppt/presentation.xml")
    targets = package.relations(root)
    order = [node for node in package.parse(root).iter() if tag_of(node) == "sldId"]
    ids = [next((value for key, value in node.attrib.items() if key.endswith("}id")), "") for node in order]
    return [targets[one][1] for one in ids if one in targets and targets[one][1] in package.names]


def _slide(parts: Package, name: str, locator: str) -> Iterator[Piece]:
    root = parts.parse(name)
    blocks = list(_blocks(root))
    title = " ".join(text for kind, text in blocks if kind == "heading").replace(" > ", " › ")
    if title:
        yield Piece(text=title, locator=locator, heading=title, kind="heading")
    for kind, text in blocks:
        if kind == "furniture" and text:
            yield Piece(text=text, locator=locator, dropped="slide footer")
        elif kind not in {"heading", "furniture"}:
            yield Piece(text=text, locator=locator, heading=title, kind="table" if kind == "table" else "prose")
    for text in filter(None, [alternative_text(node) for node in root.iter() if tag_of(node) == "cNvPr"]):
        yield Piece(text=text, locator=f"{locator} picture", heading=title, kind="notes")
    for chart in [*parts.related(name, "chart"), *parts.related(name, "chartEx")]:
        yield Piece(text=chart_text(parts.parse(chart)), locator=locator, heading=title, kind="table")
    for diagram in parts.related(name, "diagramData"):
        yield Piece(text="\n".join(drawing_paragraphs(parts.parse(diagram))), locator=locator, heading=title, kind="list")
    for notes in parts.related(name, "notesSlide"):
        for _, text in _blocks(parts.parse(notes)):
            # Page numbers stay here: a speaker's notes refer to them, and the slide's own is dropped with its footer.
            yield Piece(text=text, locator=f"{locator} notes", heading=title, kind="notes")
    for comments in parts.related(name, "comments"):
        texts = [node.text or "" for node in parts.parse(comments).iter() if tag_of(node) == "text"]
        yield Piece(text="\n".join([*texts, *drawing_paragraphs(parts.parse(comments))]), locator=f"{locator} comments", heading=title, kind="notes")


def _blocks(root: _Element) -> Iterator[tuple[str, str]]:
    """(kind, text) of each shape in drawing order, groups opened: heading, furniture, table or prose."""
    pending = [root]
    while pending:
        node = pending.pop()
        tag = tag_of(node)
        if tag == "tbl":
            yield "table", _table(node)
        elif tag == "txBody":
            yield _role(node.getparent()), "\n".join(drawing_paragraphs(node))
        elif tag == "AlternateContent":
            pending.extend([child for child in node if tag_of(child) == "Choice"] or list(node))
        else:
            pending.extend(reversed(node))


def _role(shape: Any) -> str:
    for node in shape.iter():
        if tag_of(node) == "ph":
            kind = node.get("type", "body")
            return "heading" if kind in {"title", "ctrTitle"} else "furniture" if kind in FURNITURE else "prose"
    return "prose"


def _table(table: _Element) -> str:
    marked = any(tag_of(node) == "tblPr" and attribute(node, "firstRow") in {"1", "true"} for node in table)
    rows = [[" ".join(" ".join(drawing_paragraphs(cell)).split()) for cell in row if tag_of(cell) == "tc"] for row in table if tag_of(row) == "tr"]
    return table_text([row for row in rows if any(row)], header=marked)
