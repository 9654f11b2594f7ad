"""JSON Lines: one value a line, streamed. A line that is no JSON costs that line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from forge.errors import ExtractError
from forge.plugins.extractors._decode import open_text
from forge.plugins.extractors._records import plain, record_pieces
from forge.plugins.extractors._rows import row_limit
from forge.plugins.extractors.data.document import json_document
from forge.protocols import Reading
from forge.records import Piece

MAX_LINE_CHARACTERS = 1 << 26


def json_lines(path: Path, ctx: Reading) -> Iterator[Piece]:
    """The values of a file, each with its line ("line=7"). Raises ExtractError when no line is JSON.

    A file that is one JSON document over several lines is read as such.
    """
    if _is_document(path):
        yield from json_document(path, ctx)
        return
    faults: list[Piece] = []
    found = False
    for piece in record_pieces(_rows(path, faults), lambda number: f"line={number}", limit=row_limit(ctx.options)):
        found = True
        yield from faults
        faults.clear()
        yield piece
    if not found and faults:
        raise ExtractError("no line of it is JSON")
    yield from faults


def _is_document(path: Path) -> bool:
    """True when the first line that holds something is the start of a value and not a whole one."""
    with open_text(path) as file:
        first = next((line for line in iter(lambda: file.readline(MAX_LINE_CHARACTERS), "") if line.strip()), "")
        more = file.readline(MAX_LINE_CHARACTERS)
    try:
        _parsed(first)
    except ValueError:
        return bool(more) and first.lstrip()[:1] in ("{", "[") and len(first.strip()) < 1000
    return False


def _rows(path: Path, faults: list[Piece]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with open_text(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_CHARACTERS), ""), 1):
            if len(line) == MAX_LINE_CHARACTERS:
                raise ExtractError(f"a line of more than {MAX_LINE_CHARACTERS:,} characters", refused=True)
            if not line.strip():
                continue
            try:
                value = _parsed(line)
            except ValueError:
                faults.append(Piece(text=line, locator=f"line={number}", dropped="line that is no JSON"))
                continue
            yield number, value if isinstance(value, dict) else {"text": plain(value)}


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except RecursionError as error:
        raise ExtractError("JSON that is nested without end", refused=True) from error
