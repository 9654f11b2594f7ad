"""Facts that single sentences state, each with several ways to ask for it. The answer is always the sentence itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from forge.plugins.teachers._reading import is_clean, points_back, stands_alone
from forge.plugins.teachers._subjects import Subject, read_subject
from forge.plugins.teachers._words import STATES, VERBS


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that a passage says: `forms` are different questions with the same answer; low `rank` is asked first."""

    bucket: str
    key: str
    forms: tuple[str, ...]
    answer: str
    evidence: str
    rank: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sentence stands: its heading, the document's title and the whole passage text on one line."""

    heading: str
    title: str
    text: str


@lru_cache(maxsize=256)
def facts_of_sentence(sentence: str, place: Place) -> tuple[Fact, ...]:
    """What one sentence states: every pattern that fits asks, the general ones only when no special one did."""
    if not stands_alone(sentence) or not is_clean(sentence):
        return ()
    body = sentence.rstrip("”\"')").rstrip(".!").strip()
    special = (_definition, _meaning, _count, _default, _reason, _condition, _procedure)
    if found := tuple(fact for pattern in special for fact in pattern(body, sentence, place)):
        return found
    made = (tuple(general(body, sentence, place)) for general in (_rule, _treatment, _action, _mention))
    return next((facts for facts in made if facts), ())


DEFINITION = re.compile(
    r"^(?P<subject>[^,;:()]{2,70}?) (?P<verb>is|are) (?P<rest>(?:an?|the|one of|any|whatever|everything|what|how|simply an?|usually an?|"
    r"(?:\w+ ){0,2}(?:that|which|made of|used (?:to|for|by|in)|meant)) .{12,})$"
)
PREDICATE_IS_VAGUE = re.compile(r"^(?:(?:an?|the) )?(?:\w+ )?(?:good|bad|great|nice|reason|way|same|case|only|first|best|most|one|problem|bit|lot|little|key to|topic|subject)\b|.*\bthat (?:it|they)\b")


def _definition(body: str, sentence: str, place: Place) -> Iterator[Fact]:
    match = DEFINITION.match(body) if " is " in body or " are " in body else None
    subject = match and read_subject(match["subject"], heading=place.heading, text=place.text)
    if not match or not subject or PREDICATE_IS_VAGUE.match(match["rest"]):
        return
    be = match["verb"]
    yield Fact(
        "definition", f"definition:{subject.core.casefold()}",
        (
            f"What {be} {subject.phrase}?",
            f"How would you define {subject.phrase}?",
            f"Explain in your own words what {subject.phrase} {be}.",
        ),
        sentence, sentence, 0,
    )


MEANING = re.compile(r"^(?P<subject>[^,;:()]{1,60}?) (?:means|refers to|stands for|denotes|describes|is called|are called|is known as|is short for) .{8,}$")


def _meaning(body: str, sentence: str, place: Place) -> Iterator[Fact]:
    match = MEANING.match(body)
    subject = match and read_subject(match["subject"], heading=place.heading, text=place.text)
    if subject:
        yield Fact(
            "definition", f"meaning:{subject.core.casefold()}",
            (
                f"What is meant by {subject.phrase}?",
                f"What does {subject.phrase} mean or describe?",
                f"Explain the meaning of {subject.phrase}.",
            ),
            sentence, sentence, 0,
        )


NUMBER = r"(?:\d[\d,.]*|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)"
COUNT = re.compile(
    rf"^(?P<subject>[^,;:()]{{2,60}}?) (?P<verb>has|have|contains|contain|includes|needs|need|uses|offers|supports|takes|provides) (?:exactly |only |about |at least )?"
    rf"{NUMBER} (?P<noun>[a-z][\w-]*(?: [a-z][\w-]*){{0,2}}?s)(?= ?(?:[:,.;(]|of|in|for|that|which|and|to|with|when|per|$))"
)
COUNT_VERB = {"has": "have", "contains": "contain", "includes": "include", "needs": "need", "uses": "use", "offers": "offer",
              "supports": "support", "takes": "take", "provides": "provide"}


def _count(body: str, sentence: str, place: Place) -> Iterator[Fact]:
    match = COUNT.match(body)
    subject = match and read_subject(match["subject"], heading=place.heading, text=place.text)
    if match and subject and match["noun"].split()[-1] not in {"reasons", "ways", "things", "cases", "times"}:
        do, verb = ("does", COUNT_VERB[match["verb"]]) if match["verb"] in COUNT_VERB else ("do", match["verb"])
        yield Fact(
            "number", f"count:{subject.core.casefold()}:{match['noun']}",
            (
                f"How many {match['noun']} {do} {subject.phrase} {verb}?",
                f"What is the number of {match['noun']} that {subject.phrase} {match['verb']}?",
                f"{subject.capitalized} {match['verb']} how many {match['noun']}?",
            ),
            sentence, sentence, 1,
        )


DEFAULT = re.compile(r"^(?:The default (?:value )?(?:for|of) (?P<of>[^,;:]{2,50}?) (?:is|are)|(?P<subject>[^,;:()]{2,50}?) (?:defaults? to|whose default is|is by default)) .+$")
BY_DEFAULT = re.compile(r"^By default,? (?P<subject>[^,;:()]{2,60}?) (?:is|are|has|have|uses|will|does|do|\w+s) .+$")


def _default(body: str, sentence: str, place: Place) -> Iterator[Fact]:
    match = DEFAULT.match(body) or BY_DEFAULT.match(body)
    text = match and (match["subject"] or match.groupdict().get("of"))
    subject = text and read_subject(text, heading=place.heading, text=place.text)
    if match and subject:
        by = body.startswith("By default")
        yield Fact(
            "number", f"default:{subject.core.casefold()}",
            (
                f"What is the default for {subject.phrase}?" if not by else f"What is the default behavior of {subject.phrase}?",
                f"How is {subject.phrase} set when nothing else is chosen?" if not by else f"What applies to {subject.phrase} by default?",
                f"Which default applies to {subject.phrase}?",
            ),
            sentence, sentence, 1,
        )


REASON = re.compile(r"^(?P<claim>[^:;]{8,140}?),? because (?!of\b)(?P<why>[^:;]{8,})$")
AUXILIARY = re.compile(r"^(?P<subject>[^,;:()]{2,60}?) (?P<aux>is|are|was|were|can|cannot|must|should|may|will|does not|do not|did not|has|have) (?P<rest>.+)$")


def _reason(body: str, sentence: str, place: Place) -> Iterator[Fact]:
    match = REASON.match(body) if " because " in body else None
    claim = match["claim"] if match else ""
    parts = AUXILIARY.match(claim)
    subject = read_subject(parts["subject"], heading=place.heading, text=place.text) if parts else None
    if not match or not parts or not subject or points_back(claim):
        return
    aux, rest = parts["aux"], parts["rest"]
    if aux in {"has", "have"} and not re.match(r"(?:been|not|to be|\w+ed)\b", rest):
        return
    head, _, no = aux.partition(" ")
    head, no = ("can", "not") if aux == "cannot" else (head, no)
    inner = f"{subject.phrase} {no} {rest}" if no else f"{subject.phrase} {rest}"
    stated = f"{subject.phrase} {aux} {rest}"
    yield Fact(
        "reason", f"reason:{stated.casefold()}",
        (f"Why {head} {inner}?", f"What is the reason that {stated}?", f"{stated[0].upper()}{stated[1:]}: why?"),
        sentence, sentence, 1,
    )


CONDITION = re.compile(r"^(?P<word>When|If|Once|Unless|Whenever) (?P<clause>[^,;:]{10,90}), (?P<rest>.{10,})$")
COMMAND = re.compile(r"^(?:then )?(?P<verb>use|set|check|make|run|add|choose|read|look|call|write|ask|try|put|remove|ensure|consider|avoid|do not|don't|you (?:can|should|must|need|may))\b")


def _condition(body: str, sentence: str, place: Place) -> Iterator[Fact]:
    match = CONDITION.match(body)
    if not match or points_back(match["clause"]) or match["clause"].startswith("that ") or len(match["clause"].split()) < 3 or match["rest"].startswith(("and ", "or ")):
        return
    clause = _lower_start(match["clause"], place)
    word = match["word"].casefold()
    first = "What should be done" if COMMAND.match(match["rest"]) else "What happens"
    when = f"{word} {clause}"
    yield Fact(
        "condition", f"condition:{clause.casefold()}",
        (f"{first} {when}?", f"{when[0].upper()}{when[1:]}, what follows?", f"What do the documents say about the case {'that' if word == 'if' else word} {clause}?"),
        sentence, sentence, 2,
    )


PROCEDURE = re.compile(r"^To (?P<task>[a-z]+ [^,;:]{8,80}), (?P<rest>.{10,})$")


def _procedure(body: str, sentence: str, place: Place) -> Iterator[Fact]:
    match = PROCEDURE.match(body)
    task = match["task"] if match else ""
    if not match or points_back(task) or len(task.split()) < 3 or task.startswith(("be ", "do ", "summarize", "illustrate", "demonstrate", "see ")):
        return
    yield Fact(
        "procedure", f"procedure:{task.casefold()}",
        (f"How do you {task}?", f"What is needed to {task}?", f"Someone wants to {task}. What should they know?"),
        sentence, sentence, 2,
    )


RULE = re.compile(r"^(?P<subject>[^,;:()]{2,60}?) (?:must|should|may not|cannot|can not|never|always|has to|have to|is required|are required|is not allowed|are never|is never|is always|are always) .{8,}$")


def _rule(body: str, sentence: str, place: Place) -> Iterator[Fact]:
    yield from _ask(RULE.match(body), sentence, place, "rule", 2, ("Which rule applies to {0}?", "What has to be observed about {0}?", "State the rule for {0}."))


PARTICIPLE = r"(?:\w+ed|made|written|kept|taken|given|shown|built|set|run|sent|put|read|split|chosen|found|held|lost|stored|known|bound|cut|done|drawn|left|paid|told|hidden)"
TREATMENT = re.compile(rf"^(?P<subject>[^,;:()]{{2,60}}?) (?:is|are) (?:\w+ly |not |also )?{PARTICIPLE} .{{6,}}$")


def _treatment(body: str, sentence: str, place: Place) -> Iterator[Fact]:
    yield from _ask(TREATMENT.match(body), sentence, place, "mechanism", 3, ("What happens to {0}?", "How do the documents describe what is done with {0}?", "What is known about how {0} @be handled?"))


ACTION = re.compile(rf"^(?P<subject>[^,;:()]{{2,60}}?) (?:also |then |only |always |usually |automatically |itself )?(?P<verb>{'|'.join(sorted(VERBS))}) .{{8,}}$")


def _action(body: str, sentence: str, place: Place) -> Iterator[Fact]:
    match = ACTION.match(body)
    if match and match["verb"] not in STATES:
        yield from _ask(match, sentence, place, "mechanism", 2, ("What does {0} do?", "Describe what {0} does.", "What do the documents say that {0} does?"))
    else:
        yield from _about(match, sentence, place)


MENTION = re.compile(r"^(?P<subject>[^,;:()]{2,60}?) (?:is|are|was|were|has|have|can|may|will|might|did|does not|do not|do) .{8,}$")


def _mention(body: str, sentence: str, place: Place) -> Iterator[Fact]:
    yield from _about(MENTION.match(body), sentence, place)


def _about(match: re.Match[str] | None, sentence: str, place: Place) -> Iterator[Fact]:
    yield from _ask(match, sentence, place, "statement", 3, ("What do the documents say about {0}?", "What is stated about {0}?", "Tell me something about {0}."))


OPEN_OBJECT = re.compile(r"(?:\W+\w+){1,5}?\W+(?:it|them|both|this|these|those|that|so)(?=[ .,;]|$)(?! \w+s\b)")
"""A pronoun close after the verb: what it stands for is in another sentence."""


def _ask(match: re.Match[str] | None, sentence: str, place: Place, bucket: str, rank: int, forms: tuple[str, ...]) -> Iterator[Fact]:
    subject: Subject | None = read_subject(match["subject"], heading=place.heading, text=place.text) if match else None
    if match and subject and not OPEN_OBJECT.match(sentence[match.end("subject") :]):
        be = "are" if re.match(r" are\b", sentence[match.end("subject") :]) else "is"
        questions = tuple(form.format(subject.phrase).replace("@be", be) for form in forms)
        yield Fact(bucket, f"{bucket}:{subject.core.casefold()}", questions, sentence, sentence, rank)


def _lower_start(clause: str, place: Place) -> str:
    first, _, rest = clause.partition(" ")
    return clause if first.isupper() or first == "I" or f" {first}" in place.text else f"{first[0].lower()}{first[1:]} {rest}"
