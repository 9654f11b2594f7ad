"""Questions that the corpus cannot answer: near ones built from its own terms, far ones from a bundled list.

A near proposal names in `evidence` the words that must be absent from the corpus; synth verifies that over all passages.
abstain_near asks about a thing that does not exist, abstain_document about a real one what no document says about it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import cycle, islice
from typing import Any, TypeVar

from forge.config import load_data
from forge.plugins.teachers._facts import Fact
from forge.plugins.teachers._words import GENERIC, VAGUE
from forge.protocols import Proposal
from forge.records import Passage, digest

T = TypeVar("T")
TERM = re.compile(r"^[a-z][a-z-]{2,}(?: [a-z][a-z-]{2,}){0,2}$")
CAMEL = re.compile(r"\b[A-Z][a-z]+(?:[A-Z][a-z]+)+\b")
MIXTURE_EVERY = 4
WITH_SUBJECT = {"definition", "mechanism", "statement", "rule", "number"}


def far_questions(wanted: int) -> list[Proposal]:
    """Up to `wanted` questions on cooking, sports, small talk, injections and so on, topics in turn."""
    topics: dict[str, list[str]] = _table("out_of_scope")
    ordered = sorted((rank, topic, question) for topic, group in topics.items() for rank, question in enumerate(group))
    return [
        Proposal(bucket="abstain_far", question=question, answer="", evidence="", fact=f"far:{topic}:{rank}")
        for rank, topic, question in ordered[:wanted]
    ]


def near_questions(passage: Passage, context: Sequence[Passage], wanted: int, read: Callable[[Passage], Sequence[Fact]]) -> list[Proposal]:
    """Questions about things that sound like this corpus and are not in it. read: the facts of a passage.

    In turn: answerable questions about a real term with a foreign word before it, real terms with an absent attribute, real
    terms with a foreign word in other wordings, merged names; and for every fourth passage one question about a mixture of two
    real terms ("lease journal"). Most share their wording with what is answered: a model that had seen few such questions went
    by the wording. Mixtures are the hardest: a model of 2 M parameters declines about half of them, however many it is shown,
    and then refuses real compounds too (handbook, 2026-11-21).
    """
    facts, foreign = [[fact for fact in found if fact.bucket in WITH_SUBJECT] for found in (read(passage), [fact for other in context for fact in read(other)])]
    own = _terms(facts)
    templates = _table("unanswerable")
    start = int(digest(passage.id)[:8], 16)
    asked = _foreign_words(facts, _rotate(templates["words"], start), start)
    sources = [
        asked,
        _attributes(own, _rotate(templates["attributes"], start)),
        islice(_contrasts(facts, foreign, start), start % MIXTURE_EVERY == 0),
        asked,
        _invented(own, _rotate(templates["words"], start + 7), _rotate(templates["invented"], start)),
        _merged_names(passage, context, _rotate(templates["names"], start)),
    ]
    return list({proposal.question: proposal for proposal in islice(_in_turn(sources), 2 * wanted)}.values())[:wanted]


@lru_cache(maxsize=2)
def _table(name: str) -> Any:
    """Parsed once: YAML takes 50 ms, and there are hundreds of requests."""
    return load_data(name)


def _terms(facts: Sequence[Fact]) -> list[str]:
    """Noun phrases that statements are made about, in the order given."""
    cores = (_core(fact) for fact in facts if fact.bucket in WITH_SUBJECT)
    return list(dict.fromkeys(core for core in cores if TERM.match(core) and not _vague(core)))


def _core(fact: Fact) -> str:
    """What a fact is about, in lower case, as its key names it."""
    kind, _, rest = fact.key.partition(":")
    return rest.partition(":")[0] if kind == "count" else rest


def _vague(core: str) -> bool:
    words = core.split()
    return words[-1] in GENERIC or any(word in VAGUE | {"and", "of", "or", "in", "for"} for word in words)


def _contrasts(facts: Sequence[Fact], foreign: Sequence[Fact], start: int) -> Iterator[Proposal]:
    """Real questions in which the subject became a mixture of it and another one: "What is a lease journal?" """
    for turn in range(len(foreign)):
        for number, fact in enumerate(facts):
            other = foreign[(start + turn + number) % len(foreign)]
            mixed = _mix(fact, other, turned=turn % 2 == 1)
            form = fact.forms[(start + turn + number) % len(fact.forms)]
            question = _replace(form, _core(fact), mixed) if mixed else form
            if question != form:
                yield _near(question, mixed)


def _foreign_words(facts: Sequence[Fact], words: Sequence[str], start: int) -> Iterator[Proposal]:
    """Real questions with a word from elsewhere before their subject: "What is the tidal lease?" """
    subjects = [fact for fact in facts if TERM.match(_core(fact))]
    for number, word in enumerate(words if subjects else ()):
        fact = subjects[number % len(subjects)]
        form = fact.forms[(start + number) % len(fact.forms)]
        question = _replace(form, _core(fact), f"{word} {_core(fact)}")
        if question != form:
            yield _near(question, word)


def _mix(fact: Fact, foreign: Fact, *, turned: bool) -> str:
    """The beginning of one term and the end of another. Empty when that makes no new term."""
    core, other = _core(fact), _core(foreign)
    if not (TERM.match(core) and TERM.match(other)) or _vague(core) or _vague(other):
        return ""
    first, last = (other, core) if turned else (core, other)
    words = [*(first.split()[:-1] or first.split()), last.split()[-1]]
    return " ".join(words) if len(set(words)) == len(words) else ""


def _replace(form: str, core: str, mixed: str) -> str:
    """The question about something else, with the right article; the first word keeps its capital."""
    def put(match: re.Match[str]) -> str:
        word = mixed[0].upper() + mixed[1:] if match[2][0].isupper() else mixed
        article = match[1] and (match[1][0] + ("n " if mixed[0].lower() in "aeiou" else " "))
        return f"{article or ''}{word}"

    return re.sub(rf"(\b[aA]n? )?({re.escape(core)})", put, form, count=1, flags=re.IGNORECASE)


def _invented(own: Sequence[str], words: Sequence[str], templates: Sequence[str]) -> Iterator[Proposal]:
    """A real term with a foreign word, in wordings that answered questions do not have."""
    for number, (word, template) in enumerate(zip(words, cycle(templates))):
        if own:
            yield _near(template.format(f"{word} {own[number % len(own)]}", article="an" if word[0].lower() in "aeiou" else "a"), word)


def _attributes(own: Sequence[str], templates: Sequence[Sequence[str]]) -> Iterator[Proposal]:
    """A real term and something that this corpus does not say about anything, marked by the absent word."""
    for number, (question, absent) in enumerate(templates):
        if own:
            term = own[number % len(own)]
            yield _near(question.format(term), absent, "abstain_document")


def _merged_names(passage: Passage, context: Sequence[Passage], templates: Sequence[str]) -> Iterator[Proposal]:
    """Half of one CamelCase name with half of another: MutexGuard and RefCell make MutexCell."""
    own = sorted(set(CAMEL.findall(passage.text)))
    others = sorted({name for other in context for name in CAMEL.findall(other.text)})
    merged = dict.fromkeys(_humps(a)[0] + _humps(b)[-1] for a in own for b in others if _humps(a)[0] != _humps(b)[-1])
    for name, template in zip(merged, cycle(templates)):
        yield _near(template.format(name, article="an" if name[0] in "aeiou" else "a"), name)


def _near(question: str, absent: str, bucket: str = "abstain_near") -> Proposal:
    return Proposal(bucket=bucket, question=question, answer="", evidence=absent, fact=f"near:{question.casefold()}")


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
