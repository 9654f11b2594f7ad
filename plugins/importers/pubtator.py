"""PubTator: titles and abstracts of PubMed with marked names and relations between concepts (BC5CDR, BioRED).

A relation joins two concepts of a document; it is put between the first mention of each. Mentions and relations of one document are
one example, or one a sentence (option sentences=true), for models whose context is short; relations between sentences are then
lost (BC5CDR keeps those whose concepts meet in one sentence), so the document is the default.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, NamedTuple

from forge.errors import ForgeError
from forge.phase import Requirement
from forge.protocols import Importing, Ready
from forge.records import Extraction, Relation, Span
from forge.sentences import sentence_ends

TEXT_LINE = re.compile(r"(\d+)\|([a-z])\|(.*)")
HEAD_BYTES = 4096


class Article(NamedTuple):
    """One document: its text, its mentions with their concepts, and the related concepts."""

    pmid: str
    text: str
    mentions: tuple[tuple[Span, frozenset[str]], ...]
    related: tuple[tuple[str, str, str], ...]


class PubtatorImporter:
    """Files in PubTator format under any name. Option sentences (false): one example a sentence."""

    name: ClassVar[str] = "pubtator"
    tasks: ClassVar[tuple[str, ...]] = ("extract",)
    priority: ClassVar[int] = 10
    requires: ClassVar[tuple[Requirement, ...]] = ()

    def accepts(self, path: Path, name: str) -> bool:
        """True for a file that begins with a title line."""
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES).decode("utf-8", "replace").lstrip("\ufeff \r\n")
        return bool(re.match(r"\d+\|t\|", head))

    def read(self, paths: Sequence[tuple[Path, str]], how: Importing) -> Iterator[Ready]:
        """One example a document (or sentence). Raises ForgeError for a mention whose place does not hold it."""
        for path, name in paths:
            for article in _articles(path.read_text(encoding="utf-8-sig"), name):
                place = f"{name}:pmid={article.pmid}"
                bodies = _sentences(article) if how.options.get("sentences", False) else [_whole(article)]
                yield from (Ready(group=f"pmid:{article.pmid}", body=body, place=place) for body in bodies)


importer = PubtatorImporter()


def _articles(text: str, name: str) -> Iterator[Article]:
    for block in re.split(r"\r?\n[ \t]*\r?\n", text):
        lines = [line for line in block.splitlines() if line.strip()]
        if lines:
            yield _article(lines, name)


def _article(lines: Sequence[str], name: str) -> Article:
    parts: list[str] = []
    mentions: list[tuple[Span, frozenset[str]]] = []
    related = []
    pmid = lines[0].split("|", 1)[0]
    for line in lines:
        if match := TEXT_LINE.match(line):
            parts.append(match[3])
            continue
        fields = line.rstrip("\r\n").split("\t")
        if len(fields) >= 5 and fields[1].isdigit() and fields[2].isdigit():
            mentions.append(_mention(fields, " ".join(parts), f"{name}:pmid={pmid}"))
        elif len(fields) >= 4:
            related.append((fields[1], fields[2], fields[3]))
    return Article(pmid, " ".join(parts), tuple(mentions), tuple(related))


def _mention(fields: Sequence[str], text: str, where: str) -> tuple[Span, frozenset[str]]:
    start, end = int(fields[1]), int(fields[2])
    if text[start:end] != fields[3]:
        raise ForgeError(
            f'{where}: "{fields[3]}" does not stand at {start}-{end}', why=f'"{text[start:end]}" does; places count from the title on, one blank between the parts'
        )
    concepts = frozenset(re.split(r"[,|;]", fields[5])) if len(fields) > 5 else frozenset[str]()
    return Span(type=fields[4], text=fields[3], start=start, end=end), concepts - {"-1", "-", ""}


def _whole(article: Article) -> Extraction:
    return _example(article.text, 0, article.mentions, article.related)


def _sentences(article: Article) -> Iterator[Extraction]:
    """The document's sentences; a mention that crosses their border keeps them together."""
    ends = [end for end in sentence_ends(article.text) if not any(span.start < end < span.end for span, _ in article.mentions)]
    places = sorted({0, *ends, len(article.text)})
    for start, end in pairwise(places):
        start += len(article.text[start:end]) - len(article.text[start:end].lstrip())
        inside = [one for one in article.mentions if start <= one[0].start and one[0].end <= end]
        if article.text[start:end].strip():
            yield _example(article.text[start:end], start, inside, article.related)


def _example(
    text: str, offset: int, mentions: Sequence[tuple[Span, frozenset[str]]], related: Sequence[tuple[str, str, str]]
) -> Extraction:
    ordered = sorted(mentions, key=lambda one: (one[0].start, one[0].end))
    spans = tuple(span.model_copy(update={"start": span.start - offset, "end": span.end - offset}) for span, _ in ordered)
    first: dict[str, int] = {}
    for number, (_, concepts) in enumerate(ordered):
        for concept in sorted(concepts):
            first.setdefault(concept, number)
    found = dict.fromkeys(
        Relation(head=first[a], type=kind, tail=first[b]) for kind, a, b in related if a in first and b in first and first[a] != first[b]
    )
    return Extraction(text=text, entities=spans, relations=tuple(found))
