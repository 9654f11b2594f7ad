"""OpenDocument presentations (.odp): the pages of content.xml with their notes."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

from forge.plugins.extractors._office import embedded_files
from forge.plugins.extractors._opendocument import nodes, paragraph, table_rows
from forge.plugins.extractors._xml import attribute, parse_part, tag_of
from forge.protocols import Embedded, Option
from forge.records import Piece
from forge.tables import table_text

FURNITURE = {"header", "footer", "date-time", "page-number"}


def read_odp(archive: zipfile.ZipFile, options: Mapping[str, Option]) -> Iterator[Piece | Embedded]:
    """Titles as headings, then each slide's text ("slide=3") and notes ("slide=3 notes"); at the end the files inside."""
    for number, page in enumerate(nodes(parse_part(archive, "content.xml"), "page"), 1):
        yield from _slide(page, f"slide={number}")
    yield from embedded_files(archive, [name for name in archive.namelist() if name.startswith("Pictures/")], options)


def _slide(page: Any, locator: str) -> Iterator[Piece]:
    shapes = [shape for shape in page if tag_of(shape) != "notes"]
    titles = [shape for shape in shapes if attribute(shape, "class") == "title"]
    title = " ".join(text for shape in titles for text in _paragraphs(shape)).replace(" > ", " › ")
    if title:
        yield Piece(text=title, locator=locator, heading=title, kind="heading")
    for shape in shapes:
        if shape in titles:
            continue
        text = "\n".join(_paragraphs(shape))
        if attribute(shape, "class") in FURNITURE:
            yield Piece(text=text, locator=locator, dropped="slide footer" if text else "")
            continue
        for table in nodes(shape, "table"):
            yield Piece(text=table_text(table_rows(table), header=False), locator=locator, heading=title, kind="table")
        yield Piece(text=text, locator=locator, heading=title)
    for notes in (shape for shape in page if tag_of(shape) == "notes"):
        kept = [text for shape in notes if attribute(shape, "class") not in FURNITURE for text in _paragraphs(shape)]
        yield Piece(text="\n".join(kept), locator=f"{locator} notes", heading=title, kind="notes")


def _paragraphs(shape: Any) -> Iterator[str]:
    """The paragraphs of a shape, without those of its tables."""
    for node in shape.iter():
        if tag_of(node) in {"p", "h"} and not any(tag_of(above) == "table" for above in node.iterancestors()) and (text := paragraph(node).text):
            yield text
