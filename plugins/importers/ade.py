"""The ADE corpus, version 2 (Gurulingappa et al. 2012): sentences of case reports with drugs, their effects and their doses.

DRUG-AE.rel and DRUG-DOSE.rel have one line a relation, with places in the abstract; ADE-NEG.txt has sentences without an effect.
The lines of one sentence become one example. Sentences of one abstract are one group: of the published sentence-level split 89 % of
the tested sentences come from abstracts that also have sentences in training.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar, NamedTuple

from forge.errors import ForgeError
from forge.phase import Requirement
from forge.protocols import Importing, Ready
from forge.records import Extraction, Relation, Span

NEGATIVE = re.compile(r"(\d+) NEG (.*)")
FIELDS = 8
KINDS = {"DRUG-AE": ("Effect", "causes"), "DRUG-DOSE": ("Dose", "has_dose")}
"""File -> type of its third column, and the relation that leads from the drug to it."""


class Line(NamedTuple):
    """One relation: the other entity and the drug with their places in the abstract."""

    type: str
    text: str
    start: int
    drug: str
    drug_start: int


class AdeImporter:
    """DRUG-AE.rel, DRUG-DOSE.rel and ADE-NEG.txt under their own names."""

    name: ClassVar[str] = "ade"
    tasks: ClassVar[tuple[str, ...]] = ("extract",)
    priority: ClassVar[int] = 10
    requires: ClassVar[tuple[Requirement, ...]] = ()

    def accepts(self, path: Path, name: str) -> bool:
        """True for the three files, by their names."""
        stem, ending = PurePosixPath(name).stem.upper(), PurePosixPath(name).suffix.lower()
        return (stem in KINDS and ending == ".rel") or (stem == "ADE-NEG" and ending == ".txt")

    def read(self, paths: Sequence[tuple[Path, str]], how: Importing) -> Iterator[Ready]:
        """One example a sentence of an abstract, in the order of the files. Raises ForgeError for a line that is none of ADE's."""
        sentences: dict[tuple[str, str], list[Line]] = defaultdict(list)
        places: dict[tuple[str, str], str] = {}
        for path, name in paths:
            for number, raw in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
                if raw.strip():
                    key, line = _parse(raw, PurePosixPath(name).stem.upper(), f"{name}:{number}")
                    places.setdefault(key, f"{name}:line={number}")
                    sentences[key] += [line] if line else []
        for (pmid, text), lines in sorted(sentences.items(), key=lambda one: places[one[0]]):
            yield Ready(group=f"pmid:{pmid}", body=_extraction(text, lines), place=places[pmid, text])


importer = AdeImporter()


def _parse(raw: str, stem: str, where: str) -> tuple[tuple[str, str], Line | None]:
    if match := NEGATIVE.fullmatch(raw.strip()):
        return (match[1], " ".join(match[2].split())), None
    fields = raw.split("|")
    if stem not in KINDS or len(fields) != FIELDS or not (fields[3].isdigit() and fields[6].isdigit()):
        raise ForgeError(f"{where} is no line of ADE", why="PubMed number|sentence|text|begin|end|drug|begin|end is expected", next="mend the line")
    pmid, sentence, text, start, _, drug, drug_start, _ = fields
    return (pmid, sentence.strip()), Line(KINDS[stem][0], text, int(start), drug, int(drug_start))


def _extraction(sentence: str, lines: Sequence[Line]) -> Extraction:
    begin = _sentence_start(sentence, lines)
    spans: dict[tuple[str, int, int], int] = {}
    relations: dict[Relation, None] = {}
    for line in lines:
        other, drug = _place(sentence, line.type, line.text, line.start, begin, spans), _place(sentence, "Drug", line.drug, line.drug_start, begin, spans)
        kind = next(relation for type_, relation in KINDS.values() if type_ == line.type)
        if other is not None and drug is not None:
            relations[Relation(head=drug, type=kind, tail=other)] = None
    entities = tuple(Span(type=type_, text=sentence[start:end], start=start, end=end) for type_, start, end in spans)
    return Extraction(text=sentence, entities=entities, relations=tuple(relations))


def _sentence_start(sentence: str, lines: Sequence[Line]) -> int:
    """Where the sentence begins in its abstract: the place that most mentions agree on."""
    votes: Counter[int] = Counter()
    for line in lines:
        for text, start in ((line.text, line.start), (line.drug, line.drug_start)):
            votes.update({start - match.start() for match in re.finditer(re.escape(text), sentence)})
    return min(votes, key=lambda place: (-votes[place], place)) if votes else 0


def _place(sentence: str, type_: str, text: str, start: int, begin: int, spans: Mapping[tuple[str, int, int], int]) -> int | None:
    """The index of a mention among the spans, added when it is new. The nearest occurrence where white space moved it."""
    found = [match.start() for match in re.finditer(re.escape(text), sentence)] or [match.start() for match in re.finditer(re.escape(text), sentence, re.IGNORECASE)]
    if not found:
        return None
    at = min(found, key=lambda place: (abs(place - (start - begin)), place))
    assert isinstance(spans, dict)
    return int(spans.setdefault((type_, at, at + len(text)), len(spans)))
