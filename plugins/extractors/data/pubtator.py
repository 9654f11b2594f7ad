"""PubTator: titles and abstracts of PubMed with the names that were marked in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from forge.errors import ExtractError
from forge.plugins.extractors._decode import decode
from forge.plugins.extractors._rows import OVER_LIMIT, row_limit
from forge.protocols import Reading
from forge.records import Piece

TEXT_LINE = re.compile(r"(\d+)\|([a-z])\|(.*)")


def pubtator(path: Path, ctx: Reading) -> Iterator[Piece]:
    """Each article's title as heading and its abstract as text; its names as metadata, their offsets dropped."""
    limit = row_limit(ctx.options)
    articles = re.split(r"\n[ \t]*\n", decode(path.read_bytes()))
    line, count = 1, 0
    for article in articles:
        lines = article.split("\n")
        if any(map(TEXT_LINE.match, lines)):
            count += 1
            yield from _article(lines, line) if count <= limit else [OVER_LIMIT]
        elif article.strip():
            yield Piece(text=article, locator=f"line={line}..{line + len(lines) - 1}", dropped="line outside an article")
        line += len(lines) + 1
    if not count:
        raise ExtractError("no PubTator file: no line starts with a number and |t|")


def _article(lines: list[str], first: int) -> Iterator[Piece]:
    title = ""
    marked: dict[str, None] = {}
    for number, line in enumerate(lines, first):
        where = f"line={number}"
        if match := TEXT_LINE.match(line):
            title = title or match[3].replace(" > ", " › ")
            kind = "heading" if match[2] == "t" else "prose"
            yield Piece(text=match[3], locator=where, heading=title, kind="heading" if kind == "heading" else "prose")
            yield Piece(text=f"{match[1]}|{match[2]}|", locator=where, dropped="PubMed number")
            continue
        fields = line.split("\t")
        if len(fields) >= 5:
            marked[" ".join(fields[3:]).strip()] = None
            yield Piece(text=" ".join(fields[:3]), locator=where, dropped="offsets of a name")
        elif line.strip():
            marked[" ".join(fields[1:]).strip()] = None
            yield Piece(text=fields[0], locator=where, dropped="PubMed number")
    if marked:
        yield Piece(text="Names: " + "; ".join(marked), locator=f"line={first}", heading=title, kind="metadata")
