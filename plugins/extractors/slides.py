"""PowerPoint presentations (.pptx): the text of every slide's shapes, tables, charts and diagrams, and its notes.

The parts' XML is walked: python-pptx's top-level shapes miss groups, tables, charts and notes (4 of 7 known phrases
against 7 of 7, measured 2026-11-20).
"""

from __future__ import annotations

import posixpath
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from forge.phase import Requirement
from forge.plugins.extractors._xml import parse_part, tag_of
from forge.protocols import Reading
from forge.records import Piece

if TYPE_CHECKING:
    from lxml.etree import _Element

PRESENTATION = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
FURNITURE = {"sldNum", "dt", "ftr", "hdr", "sldImg"}
"""Placeholders that repeat on every slide: number, date, footer, header, the slide's picture on a notes page."""


class SlidesExtractor:
    """Slides in the order of the presentation."""

    name: ClassVar[str] = "slides"
    media_types: ClassVar[tuple[str, ...]] = (PRESENTATION,)
    extensions: ClassVar[Mapping[str, str]] = {".pptx": PRESENTATION, ".pptm": PRESENTATION, ".ppsx": PRESENTATION}
    magic: ClassVar[Mapping[bytes, str]] = {}
    requires: ClassVar[tuple[Requirement, ...]] = (Requirement(module="lxml", extra="docs"),)

    def extract(self, path: Path, ctx: Reading) -> Iterator[Piece]:
        """Yield titles as headings, then the slide's text ("slide=3"), then its notes ("slide=3 notes")."""
        with zipfile.ZipFile(path) as archive:
            parts = _Parts(archive)
            for number, slide in enumerate(parts.slides(), 1):
                yield from _slide(parts, slide, f"slide={number}")


extractor = SlidesExtractor()


class _Parts:
    """The package's parts by name, parsed without entities, and their relationships."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive, self.names = archive, set(archive.namelist())

    def slides(self) -> list[str]:
        """The slide parts in the order in which they are shown."""
        root = next(iter(self.related("", "officeDocument")), "ppt/presentation.xml")
        targets = self.relations(root)
        order = [node for node in self.parse(root).iter() if tag_of(node) == "sldId"]
        ids = [next((value for key, value in node.attrib.items() if key.endswith("}id")), "") for node in order]
        return [targets[one][1] for one in ids if one in targets and targets[one][1] in self.names]

    def parse(self, name: str) -> _Element:
        """A part's root. Raises ExtractError when it is missing, damaged or declares entities (refused)."""
        return parse_part(self.archive, name)

    def relations(self, part: str) -> dict[str, tuple[str, str]]:
        """Relationship id -> (last word of its type, part name); links to outside are left out."""
        folder, file = posixpath.split(part)
        name = posixpath.join(folder, "_rels", f"{file}.rels")
        if name not in self.names:
            return {}
        found = {}
        for node in self.parse(name):
            if isinstance(node.tag, str) and node.get("TargetMode") != "External":
                target = posixpath.normpath(posixpath.join("/", folder, node.get("Target", ""))).lstrip("/")
                found[node.get("Id", "")] = (node.get("Type", "").rsplit("/", 1)[-1], target)
        return found

    def related(self, part: str, kind: str) -> list[str]:
        """The existing parts that `part` points to by relationships of a kind, in the order of their ids."""
        found = sorted((len(one), one, target) for one, (what, target) in self.relations(part).items() if what == kind)
        return [target for _, _, target in found if target in self.names]


def _slide(parts: _Parts, name: str, locator: str) -> Iterator[Piece]:
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
    for chart in [*parts.related(name, "chart"), *parts.related(name, "chartEx")]:
        yield Piece(text=_chart(parts.parse(chart)), locator=locator, heading=title, kind="table")
    for diagram in parts.related(name, "diagramData"):
        yield Piece(text="\n".join(_paragraphs(parts.parse(diagram))), locator=locator, heading=title, kind="list")
    for notes in parts.related(name, "notesSlide"):
        for _, text in _blocks(parts.parse(notes)):
            # Page numbers stay here: a speaker's notes refer to them, and the slide's own is dropped with its footer.
            yield Piece(text=text, locator=f"{locator} notes", heading=title, kind="notes")
    for comments in parts.related(name, "comments"):
        texts = [node.text or "" for node in parts.parse(comments).iter() if tag_of(node) == "text"]
        yield Piece(text="\n".join([*texts, *_paragraphs(parts.parse(comments))]), locator=f"{locator} comments", heading=title, kind="notes")


def _blocks(root: _Element) -> Iterator[tuple[str, str]]:
    """(kind, text) of each shape in drawing order, groups opened: heading, furniture, table or prose."""
    pending = [root]
    while pending:
        node = pending.pop()
        tag = tag_of(node)
        if tag == "tbl":
            yield "table", _table(node)
        elif tag == "txBody":
            yield _role(node.getparent()), "\n".join(_paragraphs(node))
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


def _paragraphs(root: _Element) -> Iterator[str]:
    for paragraph in root.iter():
        if tag_of(paragraph) == "p":
            parts = [_RUN[tag_of(node)](node) for node in paragraph.iter() if tag_of(node) in _RUN]
            if text := "".join(parts).strip():
                yield text


_RUN: dict[str, Any] = {"t": lambda node: node.text or "", "br": lambda node: "\n", "tab": lambda node: "\t"}


def _table(table: _Element) -> str:
    rows = []
    for row in table:
        if tag_of(row) == "tr":
            cells = [" ".join(_paragraphs(cell)) for cell in row if tag_of(cell) == "tc"]
            rows.append(" | ".join(cells).strip())
    return "\n".join(row for row in rows if row.strip(" |"))


def _chart(root: _Element) -> str:
    """Titles, then each series as "name: category value; category value"."""
    lines = [text for node in root.iter() if tag_of(node) in {"title", "txData"} for text in _paragraphs(node)]
    for series in (node for node in root.iter() if tag_of(node) == "ser"):
        found = {tag_of(child): [leaf.text or "" for leaf in child.iter() if tag_of(leaf) == "v"] for child in series}
        names, values = found.get("cat", found.get("xVal", [])), found.get("val", found.get("yVal", []))
        points = [f"{a} {b}".strip() for a, b in zip(names, values, strict=False)]
        rest = names[len(points) :] + values[len(points) :]
        lines.append(f"{' '.join(found.get('tx', []))}: {'; '.join([*points, *rest])}".strip(": "))
    return "\n".join(line for line in lines if line)

