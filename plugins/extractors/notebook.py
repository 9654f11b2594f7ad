"""Jupyter notebooks (.ipynb, formats 2 to 4): Markdown and code cells with the text of their outputs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from forge.errors import ExtractError
from forge.phase import Requirement
from forge.protocols import Reading
from forge.records import Piece

OUTPUT_CHARACTERS = 2_000
"""Text kept of one cell's outputs; the rest is logs and printed tables."""

ATX = re.compile(r"^(#{1,6})[ \t]+(.+?)[ \t]*#*$")
FENCE = re.compile(r"^\s*(```|~~~)")
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class NotebookExtractor:
    """Cells in order; headings of Markdown cells make the path, outputs follow their cell."""

    name: ClassVar[str] = "notebook"
    media_types: ClassVar[tuple[str, ...]] = ("application/x-ipynb+json",)
    extensions: ClassVar[Mapping[str, str]] = {".ipynb": "application/x-ipynb+json"}
    magic: ClassVar[Mapping[bytes, str]] = {}
    requires: ClassVar[tuple[Requirement, ...]] = ()

    def extract(self, path: Path, ctx: Reading) -> Iterator[Piece]:
        """Yield the cells; locators count cells from 1 ("cell=4"). Raises ExtractError when it is not a notebook."""
        headings: list[tuple[int, str]] = []
        for number, cell in enumerate(_cells(_load(path)), 1):
            locator = f"cell={number}"
            kind = cell.get("cell_type", "raw")
            source = _text(cell.get("source", cell.get("input", "")))
            if kind == "heading":  # format 3
                level = cell.get("level", 1)
                source, kind = "#" * (level if isinstance(level, int) and 1 <= level <= 6 else 1) + " " + source, "markdown"
            if kind == "markdown":
                yield from _markdown(source, locator, headings)
            else:
                yield Piece(text=source, locator=locator, heading=_join(headings), kind="code" if kind == "code" else "prose")
                yield from _outputs(cell, locator, _join(headings))


extractor = NotebookExtractor()


def _load(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ExtractError(f"not a readable notebook: {error}") from error
    if not isinstance(value, dict):
        raise ExtractError("not a notebook: the file holds no JSON object")
    return value


def _cells(book: dict[str, Any]) -> Iterator[dict[str, Any]]:
    sheets = book.get("worksheets")  # formats 2 and 3
    lists = [sheet.get("cells", []) for sheet in sheets if isinstance(sheet, dict)] if isinstance(sheets, list) else []
    for cells in [*lists, book.get("cells", [])]:
        if not isinstance(cells, list):
            raise ExtractError("not a notebook: its cells are no list")
        yield from (cell for cell in cells if isinstance(cell, dict))


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "".join(part for part in value if isinstance(part, str))
    return value if isinstance(value, str) else ""


def _markdown(source: str, locator: str, headings: list[tuple[int, str]]) -> Iterator[Piece]:
    block: list[str] = []
    fenced = False
    for line in source.split("\n"):
        fenced ^= bool(FENCE.match(line))
        match = None if fenced else ATX.match(line)
        if not match:
            block.append(line)
            continue
        yield Piece(text="\n".join(block), locator=locator, heading=_join(headings))
        block = []
        level, title = len(match[1]), match[2].replace(" > ", " › ")
        while headings and headings[-1][0] >= level:
            headings.pop()
        headings.append((level, title))
        yield Piece(text=match[2], locator=locator, heading=_join(headings), kind="heading")
    yield Piece(text="\n".join(block), locator=locator, heading=_join(headings))


def _join(headings: list[tuple[int, str]]) -> str:
    return " > ".join(title for _, title in headings)


def _outputs(cell: dict[str, Any], locator: str, heading: str) -> Iterator[Piece]:
    outputs = cell.get("outputs")
    room = OUTPUT_CHARACTERS
    for output in outputs if isinstance(outputs, list) else []:
        text = ANSI.sub("", _output_text(output)) if isinstance(output, dict) else ""
        yield Piece(text=text[:room], locator=locator, heading=heading, kind="code")
        if over := text[room:].strip():
            yield Piece(text=over, locator=locator, dropped="notebook output over the limit")
        room = max(0, room - len(text))


def _output_text(output: dict[str, Any]) -> str:
    """Printed and plain-text results; an error's name and message. Pictures and HTML have a plain-text twin."""
    if output.get("output_type") in {"error", "pyerr"}:
        return f"{_text(output.get('ename'))}: {_text(output.get('evalue'))}"
    data = output.get("data")
    forms = [data.get(kind) for kind in ("text/plain", "text/markdown", "text/latex")] if isinstance(data, dict) else []
    return _text(output.get("text")) or next(filter(None, map(_text, forms)), "")
