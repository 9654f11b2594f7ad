"""Questions that the corpus cannot answer: near ones built from its own terms, far ones from a bundled list.

A near proposal names in `evidence` the words that must be absent from the corpus; synth verifies that over all passages.
Some near questions use the wording of answerable ones, so that the wording alone does not give them away.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import cycle, islice
from typing import Any, TypeVar

from forge.config import load_data
from forge.plugins.teachers._facts import Place, facts_of_sentence
from forge.plugins.teachers._reading import blocks, flat, sentences
from forge.plugins.teachers._words import GENERIC, VAGUE
from forge.protocols import Proposal
from forge.records import Passage, digest

T = TypeVar("T")
TERM = re.compile(r"^[a-z][a-z-]{2,}(?: [a-z][a-z-]{2,}){0,2}$")
CAMEL = re.compile(r"\b[A-Z][a-z]+(?:[A-Z][a-z]+)+\b")


def far_questions(wanted: int) -> list[Proposal]:
    """Up to `wanted` questions on cooking, sports, small talk, injections and so on, topics in turn."""
    topics: dict[str, list[str]] = _table("out_of_scope")
    ordered = sorted((rank, topic, question) for topic, group in topics.items() for rank, question in enumerate(group))
    return [
        Proposal(bucket="abstain_far", question=question, answer="", evidence="", fact=f"far:{topic}:{rank}")
        for rank, topic, question in ordered[:wanted]
    ]


def near_questions(passage: Passage, context: Sequence[Passage], wanted: int) -> list[Proposal]:
    """Questions about things that sound like this corpus: terms of two passages combined, and real terms with absent attributes."""
    own, others = _terms(passage), [term for other in context for term in _terms(other)]
    templates = _table("unanswerable")
    start = int(digest(passage.id)[:8], 16)
    sources = [
        _invented(own, others, _rotate(templates["invented"], start)),
        _attributes(own, _rotate(templates["attributes"], start)),
        _merged_names(passage, context, _rotate(templates["names"], start)),
    ]
    return list(islice(_in_turn(sources), wanted))


@lru_cache(maxsize=2)
def _table(name: str) -> Any:
    """Parsed once: YAML takes 50 ms, and there are hundreds of requests."""
    return load_data(name)


def _terms(passage: Passage) -> list[str]:
    """Noun phrases that the passage makes statements about, longest known first in reading order."""
    found: dict[str, None] = {}
    for block in blocks(passage):
        place = Place(heading=block.path[-1] if block.path else "", title="", text=passage.text)
        for sentence in sentences(flat(block.text)):
            for fact in facts_of_sentence(sentence, place):
                core = fact.key.partition(":")[2]
                if fact.bucket not in {"reason", "condition", "procedure", "number"} and TERM.match(core) and not _vague(core):
                    found[core] = None
    return list(found)


def _vague(core: str) -> bool:
    words = core.split()
    return words[-1] in GENERIC or any(word in VAGUE | {"and", "of", "or", "in", "for"} for word in words)


def _invented(own: Sequence[str], others: Sequence[str], templates: Sequence[str]) -> Iterator[Proposal]:
    """A modifier from here with a head from elsewhere: "skip rule" and "abstention contract" make "skip contract"."""
    pairs = [(a.split()[0], b.split()[-1]) for a in own for b in others]
    pairs += [(b.split()[0], a.split()[-1]) for a in own for b in others]
    names = dict.fromkeys(f"{first} {last}" for first, last in pairs if first != last.rstrip("s") and not last.endswith("s"))
    for name, template in zip(names, cycle(templates)):
        yield _near(template.format(name, article="an" if name[0] in "aeiou" else "a"), name)


def _attributes(own: Sequence[str], templates: Sequence[Sequence[str]]) -> Iterator[Proposal]:
    """A real term and something that this corpus does not say about anything, marked by the absent word."""
    for number, (question, absent) in enumerate(templates):
        if own:
            term = own[number % len(own)]
            yield _near(question.format(term), absent)


def _merged_names(passage: Passage, context: Sequence[Passage], templates: Sequence[str]) -> Iterator[Proposal]:
    """Half of one CamelCase name with half of another: MutexGuard and RefCell make MutexCell."""
    own = sorted(set(CAMEL.findall(passage.text)))
    others = sorted({name for other in context for name in CAMEL.findall(other.text)})
    merged = dict.fromkeys(_humps(a)[0] + _humps(b)[-1] for a in own for b in others if _humps(a)[0] != _humps(b)[-1])
    for name, template in zip(merged, cycle(templates)):
        yield _near(template.format(name, article="an" if name[0] in "aeiou" else "a"), name)


def _near(question: str, absent: str) -> Proposal:
    return Proposal(bucket="abstain_near", question=question, answer="", evidence=absent, fact=f"near:{question.casefold()}")


def _humps(name: str) -> list[str]:
    return re.findall(r"[A-Z][a-z]+", name)


def _rotate(items: Sequence[T], start: int) -> list[T]:
    at = start % len(items)
    return [*items[at:], *items[:at]]


def _in_turn(sources: Sequence[Iterator[Proposal]]) -> Iterator[Proposal]:
    waiting = list(sources)
    while waiting:
        for source in tuple(waiting):
            item = next(source, None)
            if item is None:
                waiting.remove(source)
            else:
                yield item
