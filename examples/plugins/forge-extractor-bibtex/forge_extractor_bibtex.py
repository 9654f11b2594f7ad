"""Reads BibTeX bibliographies for slm-forge: each entry becomes one readable record with its abstract."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from forge.errors import ExtractError
from forge.phase import Requirement
from forge.protocols import Reading
from forge.records import Piece

MEDIA_TYPE = "text/x-bibtex"
ENTRY = re.compile(r"@(\w+)\s*\{\s*([^\s,{}]*)\s*,")
FIELD = re.compile(r"\s*,?\s*([\w-]+)\s*=\s*")
NOT_AN_ENTRY = {"comment", "preamble", "string"}
SHOWN = ("author", "editor", "year", "journal", "booktitle", "publisher", "keywords", "note")
"""Fields of the first paragraph, in this order; the title is the heading, the abstract a paragraph of its own."""


class BibtexExtractor:
    """One heading and up to two paragraphs an entry; the locator names its key ("entry=knuth1984")."""

    name: ClassVar[str] = "bibtex"
    media_types: ClassVar[tuple[str, ...]] = (MEDIA_TYPE,)
    extensions: ClassVar[Mapping[str, str]] = {".bib": MEDIA_TYPE}
    magic: ClassVar[Mapping[bytes, str]] = {}
    requires: ClassVar[tuple[Requirement, ...]] = ()

    def extract(self, path: Path, ctx: Reading) -> Iterator[Piece]:
        """Yield the entries in the file's order. Raises ExtractError: not UTF-8, no entry, or one that never ends."""
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ExtractError("the bibliography is not UTF-8", why=str(error), next="save it as UTF-8") from error
        entries = [entry for entry in ENTRY.finditer(text) if entry[1].lower() not in NOT_AN_ENTRY]
        if not entries:
            raise ExtractError("no BibTeX entry in it")
        for entry in entries:
            yield from _pieces(entry[2] or entry[1], _fields(text, entry.end(), entry[2]))


extractor = BibtexExtractor()


def _pieces(key: str, fields: Mapping[str, str]) -> Iterator[Piece]:
    locator = f"entry={key}"
    title = fields.get("title", key)
    yield Piece(text=title, locator=locator, heading=title, kind="heading")
    known = [f"{name}: {fields[name]}" for name in SHOWN if fields.get(name)]
    yield Piece(text="; ".join(known), locator=locator, heading=title)
    if abstract := fields.get("abstract"):
        yield Piece(text=abstract, locator=locator, heading=title)
    if rest := [f"{name} = {value}" for name, value in fields.items() if name not in {*SHOWN, "title", "abstract"}]:
        yield Piece(text="; ".join(rest), locator=locator, dropped="bibliographic detail")


def _fields(text: str, position: int, key: str) -> dict[str, str]:
    """The entry's fields up to its closing brace, names in lower case."""
    fields: dict[str, str] = {}
    while match := FIELD.match(text, position):
        value, position = _value(text, match.end(), key)
        fields[match[1].lower()] = _plain(value)
    return fields


def _value(text: str, start: int, key: str) -> tuple[str, int]:
    """A braced, quoted or bare value and the position behind it."""
    if start >= len(text):
        raise ExtractError(f"the entry {key} never ends")
    if text[start] not in '{"':
        end = next((at for at in range(start, len(text)) if text[at] in ",}\n"), len(text))
        return text[start:end], end
    depth = 0
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        closed = depth == 0 and (text[at] == "}" if text[start] == "{" else text[at] == '"' and at > start)
        if closed:
            return text[start + 1 : at], at + 1
    raise ExtractError(f"the entry {key} never ends")


def _plain(value: str) -> str:
    """Without braces and line ends; "A and B" between authors stays as BibTeX writes it."""
    return " ".join(re.sub(r"[{}]", "", value).split())
