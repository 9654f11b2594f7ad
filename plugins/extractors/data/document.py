"""JSON documents: arrays of records, COCO, SQuAD, descriptions of data sets, and anything else as "path: value"."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from forge.errors import ExtractError
from forge.plugins.extractors._decode import decode
from forge.plugins.extractors._records import MAX_DEPTH, is_record, plain, record_pieces
from forge.plugins.extractors._rows import row_limit
from forge.plugins.extractors.data.coco import coco, is_coco
from forge.protocols import Reading
from forge.records import Piece

DESCRIPTIONS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
"""What Hugging Face's datasets writes beside the shards of a set."""

NO_JSON = re.compile(r'"(?:[^"\\]|\\.)*+"?|//[^\n]*|/\*.*?(?:\*/|\Z)|,(?=\s*[}\]])', re.DOTALL)
"""Strings and comments, also those without an end: 100,000 quotes that each look for theirs took four minutes."""

MIN_ROWS = 2
LONG_TEXT = 200
GROUP_CHARACTERS = 400


def json_document(path: Path, ctx: Reading) -> Iterator[Piece]:
    """The pieces of a document by what it holds. Raises ExtractError for damaged and (refused) endlessly nested ones."""
    value, comments = load(path)
    limit = row_limit(ctx.options)
    yield from (Piece(text=comment, kind="notes") for comment in comments)
    if is_coco(value):
        yield from coco(value, limit)
    elif isinstance(value, dict) and PurePosixPath(ctx.name or path.name).name in DESCRIPTIONS:
        yield from (Piece(text=f"{name}: {text}", kind="metadata") for name, inner in value.items() if (text := plain(inner)))
    elif isinstance(value, dict) and _is_columns(value):
        yield from _table("", [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)], limit)
    else:
        yield from _tables(value, limit)


def load(path: Path) -> tuple[Any, list[str]]:
    """The value of a JSON file and the comments in it, which configuration files have although JSON has none.

    Raises ExtractError when it is damaged; refused when it is nested without end.
    """
    text = decode(path.read_bytes())
    try:
        try:
            return json.loads(text), []
        except ValueError as error:
            bare, comments = _without_comments(text)
            if bare == text:
                raise ExtractError(f"damaged JSON ({error})") from error
            return json.loads(bare), comments
    except RecursionError as error:
        raise ExtractError("JSON that is nested without end", refused=True) from error
    except ValueError as error:
        raise ExtractError(f"damaged JSON ({error})") from error


def _without_comments(text: str) -> tuple[str, list[str]]:
    """The text without comments and without commas before a closing bracket."""
    comments: list[str] = []

    def bare(match: re.Match[str]) -> str:
        found = match[0]
        if found.startswith("/"):
            comments.append(found.strip("/* \n"))
        return found if found.startswith('"') else " "

    return NO_JSON.sub(bare, text), comments


def _tables(value: Any, limit: int) -> Iterator[Piece]:
    """Lists of objects as rows under the name that they have; the rest as paths."""
    if _is_rows(value):
        yield from _table("", value, limit)
        return
    parts = value if isinstance(value, dict) else {}
    tables = {name: inner for name, inner in parts.items() if _is_rows(inner)}
    rest = {name: inner for name, inner in parts.items() if name not in tables} if parts else value
    if rest not in ({}, None):
        yield from _paths(rest)
    for name, rows in tables.items():
        yield from _table(str(name), rows, limit)


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and len(value) >= MIN_ROWS - any(map(_is_asked, value[:1])) and all(isinstance(row, dict) for row in value)


def _is_asked(row: Any) -> bool:
    return isinstance(row, dict) and (is_record(row) or "paragraphs" in row)


def _is_columns(value: Mapping[str, Any]) -> bool:
    """True for {"question": [...], "answer": [...]} with lists of one length."""
    lists = [inner for inner in value.values() if isinstance(inner, list)]
    return len(lists) == len(value) > 1 and is_record(value) and len({len(inner) for inner in lists}) == 1


def _table(name: str, rows: list[dict[str, Any]], limit: int) -> Iterator[Piece]:
    if rows and "paragraphs" in rows[0]:
        rows = list(_squad(rows))
    yield from record_pieces(enumerate(rows, 1), lambda number: f"row={number}", heading=name.replace(" > ", " › "), limit=limit)


def _squad(articles: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each question of SQuAD's articles with its paragraph; paragraphs without questions as texts."""
    for article in articles:
        paragraphs = article.get("paragraphs")
        for paragraph in paragraphs if isinstance(paragraphs, list) else ():
            paragraph = paragraph if isinstance(paragraph, dict) else {"context": plain(paragraph)}
            listed = paragraph.get("qas")
            questions = [asked for asked in listed if isinstance(asked, dict)] if isinstance(listed, list) else []
            yield from ({"context": paragraph.get("context"), **asked} for asked in questions)
            if not questions:
                yield {"text": plain(paragraph.get("context"))}


def _paths(value: Any) -> Iterator[Piece]:
    """Readable lines "a.b[0]: value", several a piece; long texts by themselves under the path as their heading."""
    lines: list[str] = []
    size = 0
    for path, text in _leaves(value, "", 0):
        if len(text) >= LONG_TEXT:
            yield from _grouped(lines)
            yield Piece(text=text, locator=f"path={path}", heading=path)
            size = 0
            continue
        lines.append(f"{path}: {text}" if path else text)
        size += len(lines[-1])
        if size > GROUP_CHARACTERS:
            yield from _grouped(lines)
            size = 0
    yield from _grouped(lines)


def _grouped(lines: list[str]) -> Iterator[Piece]:
    if lines:
        yield Piece(text="\n".join(lines), locator=f"path={lines[0].partition(': ')[0]}", kind="table")
        lines.clear()


def _leaves(value: Any, path: str, depth: int) -> Iterator[tuple[str, str]]:
    if depth > MAX_DEPTH:
        raise ExtractError(f"JSON of more than {MAX_DEPTH} levels", refused=True)
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else str(name), depth + 1)
    elif isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{number}]", depth + 1)
    elif text := plain(value):
        yield path, text
