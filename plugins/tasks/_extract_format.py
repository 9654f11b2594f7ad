"""How entities and relations are asked for, written and read back.

    ### Entities:
    1. [Drug] enalapril
    2. [Effect] acute renal failure

    ### Relations:
    1. enalapril --[causes]--> acute renal failure

Entities stand in the order of the text, which small models learn more easily than the alphabet. The second part is there when the
data set has relations. A text without entities is answered with "None found.". The reader is strict: any other line is a parse
failure, and a parse failure is an empty prediction.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from forge.records import Extraction, Message, Relation, Span

NONE = "None found."
ENTITIES, RELATIONS = "### Entities:", "### Relations:"
ENTITY = re.compile(r"(\d+)\. \[([^\]\n]+)\] (\S(?:[^\n]*\S)?)")
RELATION = re.compile(r"(\d+)\. (\S(?:[^\n]*?\S)?) --\[([^\]\n]+)\]--> (\S(?:[^\n]*\S)?)")

Mention = tuple[str, str]
"""(type, text)"""
Triple = tuple[str, str, str]
"""(head's text, type, tail's text)"""


class Found(NamedTuple):
    """What an answer says, in its order. parsed: it had the right form; else it is empty."""

    entities: tuple[Mention, ...] = ()
    relations: tuple[Triple, ...] = ()
    parsed: bool = True


def instruct(types: tuple[str, ...], relation_types: tuple[str, ...]) -> str:
    """The system message for a data set."""
    named = f"List every {' and '.join(types) if len(types) < 3 else ', '.join(types)} in the text"
    return named + (f", and the relations between them: {', '.join(relation_types)}." if relation_types else ".")


def ask(body: Extraction) -> tuple[Message, ...]:
    """System message and text."""
    system = (Message(role="system", content=body.instruction),) if body.instruction else ()
    return (*system, Message(role="user", content=body.text))


def answer(body: Extraction) -> str:
    """The answer that is expected."""
    return write(mentions(body), triples(body), relations=bool(body.relation_types))


def mentions(body: Extraction) -> list[Mention]:
    """The entities as they are written: in the order of the text, each text of a type once, white space as single spaces."""
    ordered = sorted(body.entities, key=lambda span: (span.start, span.end, span.type))
    return list(dict.fromkeys((span.type, one_line(span.text)) for span in ordered))


def triples(body: Extraction) -> list[Triple]:
    """The relations as they are written, in the order of their heads and tails, each once."""
    ordered = sorted(body.relations, key=lambda relation: _place(relation, body.entities))
    named = ((one_line(body.entities[r.head].text), r.type, one_line(body.entities[r.tail].text)) for r in ordered)
    return list(dict.fromkeys(named))


def write(entities: list[Mention], found: list[Triple], *, relations: bool) -> str:
    """An answer with these entities and relations."""
    if not entities:
        return NONE
    lines = [ENTITIES, *(f"{number}. [{type_}] {text}" for number, (type_, text) in enumerate(entities, 1))]
    if relations:
        told = [f"{number}. {head} --[{type_}]--> {tail}" for number, (head, type_, tail) in enumerate(found, 1)]
        lines += ["", RELATIONS, *(told or [NONE])]
    return "\n".join(lines)


def read(text: str, *, relations: bool) -> Found:
    """The entities and relations of an answer; nothing, with parsed=False, when it has any other form."""
    text = text.strip()
    if text == NONE:
        return Found()
    first, _, second = text.partition(f"\n\n{RELATIONS}\n")
    lines = first.split("\n")
    if lines[0] != ENTITIES or bool(second) != relations:
        return Found(parsed=False)
    entities = [ENTITY.fullmatch(line) for line in lines[1:]]
    told = [] if second in ("", NONE) else [RELATION.fullmatch(line) for line in second.split("\n")]
    if not entities or not _numbered(entities) or not _numbered(told):
        return Found(parsed=False)
    return Found(tuple((m[2], m[3]) for m in entities if m), tuple((m[2], m[3], m[4]) for m in told if m))


def one_line(text: str) -> str:
    """White space as single spaces."""
    return " ".join(text.split())


def normal(text: str) -> str:
    """Mentions are the same when they differ in case and white space only (the convention of the medical NER guide)."""
    return one_line(text).casefold()


def find_spans(text: str, entities: tuple[Mention, ...]) -> list[Span | None]:
    """Where each predicted mention stands: same words one after the other take one occurrence after the other. None: nowhere."""
    flat, taken = text.casefold(), dict[str, int]()
    found: list[Span | None] = []
    for type_, mention in entities:
        pattern = r"\s+".join(map(re.escape, mention.casefold().split()))
        match = re.compile(pattern).search(flat, taken.get(pattern, 0)) or re.compile(pattern).search(flat)
        if match is None or len(flat) != len(text):
            found.append(None)
            continue
        taken[pattern] = match.end()
        found.append(Span(type=type_, text=text[match.start() : match.end()], start=match.start(), end=match.end()))
    return found


def _numbered(matches: list[re.Match[str] | None]) -> bool:
    return all(match is not None and int(match[1]) == number for number, match in enumerate(matches, 1))


def _place(relation: Relation, entities: tuple[Span, ...]) -> tuple[int, int, str]:
    return entities[relation.head].start, entities[relation.tail].start, relation.type
