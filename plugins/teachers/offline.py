"""The teacher on a machine with nothing: deterministic and extractive. It reads patterns, calls nobody and costs nothing.

Every answer is an exact stretch of the passage (white space apart), so nothing it teaches is invented. What it cannot do
is join passages or explain. Acceptable share of 40 pairs read by hand: see SKILL.md of synth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import ClassVar

from forge.phase import Requirement
from forge.plugins.teachers._facts import Fact, Place, facts_of_sentence
from forge.plugins.teachers._reading import Block, blocks, flat, sentences
from forge.plugins.teachers._sections import (
    acronym_facts,
    gap_facts,
    item_sentences,
    list_facts,
    section_facts,
)
from forge.plugins.teachers._tables import table_facts
from forge.plugins.teachers._unanswerable import far_questions, near_questions
from forge.protocols import Proposal, TeacherCapabilities, TeacherRequest, TeacherResponse
from forge.records import Passage

GAPS_PER_PASSAGE = 1
BUCKETS = ("factual", "mechanism", "application", "summary", "abstain_near", "abstain_document", "abstain_far")


class OfflineTeacher:
    """Proposes pairs from patterns in the text. Request kinds: "pairs", "abstain" (near), "out_of_scope" (far)."""

    name: ClassVar[str] = "offline"
    requires: ClassVar[tuple[Requirement, ...]] = ()

    def capabilities(self) -> TeacherCapabilities:
        """Free and deterministic; what needs joining or explaining it cannot make."""
        return TeacherCapabilities(paid=False, deterministic=True, buckets=BUCKETS)

    def price(self, request: TeacherRequest) -> int:
        """Nothing, in micro-dollars."""
        return 0

    def generate(self, requests: Sequence[TeacherRequest]) -> Iterator[TeacherResponse]:
        """Answer in the order of the requests."""
        read = _Reader()
        for request in requests:
            yield TeacherResponse(key=request.key, proposals=tuple(_propose(request, read)))


teacher = OfflineTeacher()


class _Reader:
    """read_facts, remembered: a passage is the context of several requests."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str], list[Fact]] = {}

    def __call__(self, passage: Passage) -> list[Fact]:
        key = (passage.id, passage.text)
        if key not in self.known:
            self.known[key] = read_facts(passage)
        return self.known[key]


def _propose(request: TeacherRequest, read: _Reader) -> list[Proposal]:
    if request.kind == "out_of_scope":
        return far_questions(request.wanted)
    if request.kind == "abstain":
        return near_questions(request.passage, request.context, request.wanted, read)
    proposals: list[Proposal] = []
    for fact in _best_first(read(request.passage)):
        if len(proposals) + len(fact.forms) > request.wanted:
            break
        proposals += [
            Proposal(bucket=fact.bucket, question=question, answer=fact.answer, evidence=fact.evidence, fact=fact.key, form=form)
            for form, question in enumerate(fact.forms)
        ]
    return proposals


def read_facts(passage: Passage) -> list[Fact]:
    """Every fact that the patterns find in a passage, in reading order; the first of two with the same key stays."""
    found: dict[str, Fact] = {}
    seen_paths: set[tuple[str, ...]] = set()
    text = flat(passage.text)
    previous: Block | None = None
    prose: list[tuple[str, Place]] = []
    for block in blocks(passage):
        place = Place(heading=block.path[-1] if block.path else "", title=block.path[0] if block.path else "", text=text)
        facts = list(_facts_of_block(block, place, previous, first=block.path not in seen_paths))
        prose += [(sentence, place) for sentence in sentences(flat(block.text)) if block.kind == "prose"]
        for fact in facts:
            found.setdefault(fact.key, fact)
        seen_paths.add(block.path)
        previous = block
    gaps = (fact for sentence, place in prose for fact in gap_facts(sentence, place))
    for fact in islice(gaps, GAPS_PER_PASSAGE):
        found.setdefault(fact.key, fact)
    return list(found.values())


def _facts_of_block(block: Block, place: Place, previous: Block | None, *, first: bool) -> Iterator[Fact]:
    if block.kind == "table":
        yield from table_facts(block.text, place.heading, has_header=previous is not None)
        return
    if block.kind == "list":
        intro = sentences(flat(previous.text))[-1] if previous and previous.kind == "prose" and previous.path == block.path else ""
        yield from list_facts(block, intro, place)
        for sentence in item_sentences(block.text):
            yield from facts_of_sentence(sentence, place)
        return
    if first:
        yield from section_facts(block, place.title)
    yield from acronym_facts(flat(block.text))
    for sentence in sentences(flat(block.text)):
        yield from facts_of_sentence(sentence, place)


def _best_first(facts: list[Fact]) -> list[Fact]:
    return sorted(facts, key=lambda fact: fact.rank)
