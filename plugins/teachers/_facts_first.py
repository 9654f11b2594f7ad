"""Many passages in one request: facts with their questions ("facts"), and pairs to answer again or to judge ("check").

Keys are short, evidence is named by sentence number and an answer that several questions share is written once: output
tokens cost five times what input costs.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from forge.plugins.teachers._numbered import numbered, quotes, reference
from forge.protocols import Judgement, Proposal, Reply, TeacherRequest
from forge.records import Message, Passage

KINDS = ("facts", "check")
"""Request kinds that are written and read here."""
TURNS = ("user", "assistant")


class _Short(BaseModel):
    model_config = ConfigDict(extra="forbid")


class WireFact(_Short):
    """A fact: what states it, the answer, and the questions that it answers."""

    e: str
    a: str
    q: list[str]


class WireExample(_Short):
    """An example of another kind: its bucket, the number of its fact (0: none), question, answer, evidence ("": the fact's)."""

    b: str
    f: int
    q: str
    a: str
    e: str


class WireTalk(_Short):
    """A conversation: evidence of its last answer, and the turns, the user's first."""

    e: str
    t: list[str]


class WireAbsent(_Short):
    """A question without an answer: its bucket, and the words of it that stand nowhere."""

    b: str
    q: str
    w: str


class WireFacts(_Short):
    """The whole answer to a request of kind "facts"; n are names to be spelt exactly."""

    facts: list[WireFact]
    x: list[WireExample]
    t: list[WireTalk]
    u: list[WireAbsent]
    n: list[str]


class WireReply(_Short):
    """The answer to item n from the passages alone."""

    n: int
    a: str


class WireFault(_Short):
    """What is wrong with item n."""

    n: int
    d: Literal["unsupported", "contradicts", "incomplete", "leans"]


class WireCheck(_Short):
    """The whole answer to a request of kind "check": answers, items without a fault, items with one."""

    r: list[WireReply]
    ok: list[int]
    bad: list[WireFault]


def schema_of(kind: str) -> dict[str, Any]:
    """The JSON schema of an answer, without references or optional keys: some servers take neither."""
    whole = (WireFacts if kind == "facts" else WireCheck).model_json_schema()
    return _plain(whole, whole.get("$defs", {}))  # type: ignore[no-any-return]


def text_of(request: TeacherRequest, mark: str) -> str:
    """Task, passages with numbered sentences and the items to check, between markers."""
    shown = []
    for number, passage in enumerate(passages_of(request), 1):
        heading = " ".join(passage.meta.get("heading", "").split())
        shown.append(f"[{mark} passage {number} begins]\nsection: {heading}\n\n{numbered(passage.text)}\n[{mark} passage {number} ends]")
    if request.items:
        shown.append(f"[{mark} items begin]\n{_items(request)}\n[{mark} items end]")
    quota = "; ".join(f"{bucket} {count}" for bucket, count in request.quota.items() if count)
    return f"{request.prompt}{f' Write: {quota}.' if quota else ''}\n\n" + "\n\n".join(shown)


def passages_of(request: TeacherRequest) -> list[Passage]:
    """The passages in the order of their numbers."""
    return [request.passage, *request.context]


def read_facts_first(text: str, request: TeacherRequest) -> dict[str, Any]:
    """The fields of a TeacherResponse that an answer fills. Raises ValueError when it is not the JSON asked for."""
    passages = passages_of(request)
    if request.kind == "check":
        return _read_check(WireCheck.model_validate_json(text))
    answer = WireFacts.model_validate_json(text)
    proposals = [*_facts(answer.facts, passages), *_examples(answer, passages), *_talks(answer.t, passages)]
    absent = [Proposal(bucket=one.b, question=one.q, answer="", evidence=one.w, fact=one.q) for one in answer.u]
    return {"proposals": tuple(_forms([*proposals, *absent])), "names": tuple(answer.n)}


def _facts(facts: Iterable[WireFact], passages: Sequence[Passage]) -> Iterable[Proposal]:
    for number, fact in enumerate(facts, 1):
        for question in fact.q:
            yield _proposal("factual", question, fact.a, fact.e, f"f{number}", passages)


def _examples(answer: WireFacts, passages: Sequence[Passage]) -> Iterable[Proposal]:
    for number, one in enumerate(answer.x, 1):
        fact = answer.facts[one.f - 1] if 1 <= one.f <= len(answer.facts) else None
        evidence = one.e or (fact.e if fact else "")
        same_passage = fact is not None and quotes(evidence, passages)[:1] and quotes(fact.e, passages)[:1] \
            and quotes(evidence, passages)[0].passage == quotes(fact.e, passages)[0].passage
        yield _proposal(one.b, one.q, one.a, evidence, f"f{one.f}" if same_passage else f"x{number}", passages)


def _talks(talks: Iterable[WireTalk], passages: Sequence[Passage]) -> Iterable[Proposal]:
    for number, talk in enumerate(talks, 1):
        *earlier, question, answer = talk.t if len(talk.t) % 2 == 0 and len(talk.t) >= 2 else ["", ""]
        turns = tuple(Message(role=TURNS[place % 2], content=text) for place, text in enumerate(earlier))
        yield _proposal("multi_turn", question, answer, talk.e, f"t{number}", passages).model_copy(update={"earlier": turns})


def _proposal(bucket: str, question: str, answer: str, evidence: str, fact: str, passages: Sequence[Passage]) -> Proposal:
    first, *also = quotes(evidence, passages) or (None,)
    return Proposal(
        bucket=bucket, question=question, answer=answer, evidence=first.evidence if first else "", fact=fact, passage=first.passage if first else "",
        also=tuple(quote for quote in also if quote),
    )


def _forms(proposals: Iterable[Proposal]) -> Iterable[Proposal]:
    """The proposals with their forms counted within each fact."""
    seen: Counter[str] = Counter()
    for proposal in proposals:
        yield proposal.model_copy(update={"form": seen[proposal.fact]})
        seen[proposal.fact] += 1


def _read_check(answer: WireCheck) -> dict[str, Any]:
    faults = {one.n: one.d for one in answer.bad}
    verdicts = [
        Judgement(
            number=number, supported=fault not in {"unsupported", "contradicts"}, contradicts=fault == "contradicts",
            complete=fault != "incomplete", self_contained=fault != "leans",
        )
        for number, fault in [*((number, "") for number in answer.ok if number not in faults), *faults.items()]
    ]
    return {"replies": tuple(Reply(number=one.n, answer=one.a) for one in answer.r), "verdicts": tuple(verdicts)}


def _items(request: TeacherRequest) -> str:
    """One item a line: its number and passage, the question, and for a judge the answer with the numbers of its evidence."""
    passages = passages_of(request)
    lines = []
    for item in request.items:
        entry: dict[str, Any] = {"n": item.number, "p": item.passage, "q": item.question}
        if item.answer:
            entry |= {"a": item.answer, "e": reference(item.evidence, item.passage, passages[item.passage - 1].text)}
        lines.append(json.dumps(entry, ensure_ascii=False, separators=(",", ":")))
    return "\n".join(lines)


def _plain(node: Any, definitions: dict[str, Any]) -> Any:
    """A pydantic schema without titles, descriptions and references."""
    if isinstance(node, list):
        return [_plain(one, definitions) for one in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _plain(definitions[node["$ref"].rpartition("/")[2]], definitions)
    kept = {key: value for key, value in node.items() if key not in {"title", "description", "$defs"}}
    return {key: {name: _plain(one, definitions) for name, one in value.items()} if key == "properties" else _plain(value, definitions) for key, value in kept.items()}
