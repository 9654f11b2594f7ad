"""Asks a teacher for pairs, passage by passage or many passages at once, and turns what it proposes into pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from forge.phases.synth.asking import Asker
from forge.phases.synth.buckets import ABSTAINING, SHARES, bucket_of
from forge.phases.synth.citations import scrub
from forge.phases.synth.filters import exact_span, flat, reject
from forge.phases.synth.names import Names
from forge.phases.synth.packs import pack, request_facts
from forge.phases.synth.requests import request_pairs
from forge.protocols import Proposal, Teacher, TeacherRequest, TeacherResponse
from forge.records import Message, Pair, Passage, Quote, Rejected, digest

if TYPE_CHECKING:
    from forge.phases.synth import SynthSettings

OVER_QUOTA = 2
"""Times of what was asked for that is taken from one answer; more is a teacher that ignores the request."""


@dataclass
class Proposed:
    """Pairs before any filter, questions to abstain from, and what was refused at once."""

    pairs: list[Pair] = field(default_factory=list)
    absent: list[Proposal] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    scrubbed: int = 0
    requests: list[TeacherRequest] = field(default_factory=list)
    names: set[str] = field(default_factory=set)


def pair_requests(passages: Sequence[Passage], teacher: Teacher, identity: str, settings: SynthSettings) -> list[TeacherRequest]:
    """What a teacher is asked about the passages: facts of a pack of them, or pairs of each. identity: whose answers they will be."""
    abilities = teacher.capabilities()
    if abilities.facts:
        return request_facts(pack(passages), settings, identity, abilities.buckets)
    return request_pairs(passages, identity, settings.pairs_per_passage)


def propose(passages: Sequence[Passage], asker: Asker, settings: SynthSettings) -> Proposed:
    """Ask about all passages. Failed requests are kept as refused pairs with their reason."""
    proposed = Proposed(requests=pair_requests(passages, asker.teacher, asker.identity, settings))
    names = Names(passages)
    for request, response in asker.ask(proposed.requests, "asking about passages"):
        _take(request, response, names, settings, proposed)
    proposed.rejected += [_failed(request, asker, settings.teacher) for request in proposed.requests if request.key in asker.failed]
    proposed.pairs = list({pair.id: pair for pair in proposed.pairs}.values())
    return proposed


def _take(request: TeacherRequest, response: TeacherResponse, names: Names, settings: SynthSettings, proposed: Proposed) -> None:
    passages = {passage.id: passage for passage in (request.passage, *request.context)}
    text = "\n".join(passage.text for passage in passages.values())
    names.add(name for name in response.names if name in text)
    answers = [one for one in response.proposals if one.bucket not in ABSTAINING]
    proposed.absent += [one for one in response.proposals if one.bucket in ABSTAINING]
    proposed.scrubbed += sum(scrub(one.question) != one.question or scrub(one.answer) != one.answer for one in answers)
    taken: Counter[str] = Counter()
    for proposal in answers:
        pair = _pair(proposal, passages.get(proposal.passage, request.passage), passages, settings.teacher, names, facts=request.kind == "facts")
        place = pair.bucket if request.quota else pair.passage
        taken[place] += 1
        if reason := _refused_at_once(pair, taken[place], request, settings):
            proposed.rejected.append(reject(pair, reason))
        else:
            proposed.pairs.append(pair)


def _refused_at_once(pair: Pair, number: int, request: TeacherRequest, settings: SynthSettings) -> str:
    if settings.buckets[bucket_of(pair.bucket)] == 0:
        return "bucket_is_off"
    most = OVER_QUOTA * max(1, request.quota.get(pair.bucket, 0)) if request.quota else settings.pairs_per_passage
    return "more_than_asked_for" if number > most else ""


def _pair(
    proposal: Proposal, passage: Passage, passages: Mapping[str, Passage], teacher: str, names: Names, *, facts: bool
) -> Pair:
    fact = digest(passage.id, proposal.fact or proposal.answer)[:12]
    answer = scrub(proposal.answer).strip()
    bucket = proposal.bucket if proposal.bucket in SHARES or not facts else "factual"
    return Pair(
        id=digest(passage.id, fact, str(proposal.form), proposal.question)[:16], bucket=bucket, question=flat(scrub(proposal.question)), answer=answer,
        evidence=exact_span(proposal.evidence, passage.text), passage=passage.id, group=passage.group, fact=fact, form=proposal.form, source=passage.source,
        teacher=teacher, names=names.of(answer), subtopic=passage.meta.get("subtopic", ""), also=_also(proposal, passages),
        earlier=tuple(Message(role=turn.role, content=flat(scrub(turn.content))) for turn in proposal.earlier),
    )


def _also(proposal: Proposal, passages: Mapping[str, Passage]) -> tuple[Quote, ...]:
    """What other passages of the request add, as exact stretches."""
    known = [(quote.passage, exact_span(quote.evidence, passages[quote.passage].text)) for quote in proposal.also if quote.passage in passages]
    return tuple(Quote(passage=passage, evidence=evidence) for passage, evidence in known)


def _failed(request: TeacherRequest, asker: Asker, teacher: str) -> Rejected:
    pair = Pair(
        id=digest(request.key)[:16], bucket="", question="", answer=asker.failed[request.key][:500], passage=request.passage.id,
        group=request.passage.group, source=request.passage.source, teacher=teacher,
    )
    return reject(pair, "teacher_failed")
