"""Which proposed pairs may teach: cheap checks first, each with its name. A pair that fails one is kept as Rejected."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from forge.phases.synth.balance import unbalanced
from forge.phases.synth.shapes import NAMES, broken_shape
from forge.questions import LEANING, normalize, same_subject, subject
from forge.records import Pair, Passage, Rejected

QUESTION_CHARS = (8, 400)
SHORT_ANSWERS = {"gap", "acronym", "number", "table"}
ANSWER_CHARS_MIN = 12
FACTS_PER_ANSWER = 3
"""Facts that may share one answer; more would teach the answer and not the questions."""

SPECIAL_TOKEN = re.compile(r"<\|[\w ]{1,40}\|>|\[/?INST\]|</?s>|<(?:start|end)_of_turn>")
POINTING = re.compile(
    r"\b(?:this|that|these|given|provided) (?:passage|text|excerpt|paragraph|author|authors|writer|speaker|context)\b|\bthe (?:excerpt|document above)\b"
    r"|\bthe (?:passage|text|author|authors|writer|speaker|paragraph) (?:says?|states?|mentions?|describes?|discuss(?:es)?|explains?|suggests?|argues?)\b"
    r"|\b(?:Figure|Fig\.|Table|Listing|Equation|Eq\.) ?\d|\b(?:according to|in|based on) (?:the|this) (?:passage|text|section above|paragraph)\b",
    re.IGNORECASE,
)
TELLING = re.compile(r"\d+(?:[.,]\d+)*|\b[A-Za-z0-9]*[a-z][A-Z]\w*|\b[A-Z]{2,}[\w-]*")
"""Numbers, CamelCase names and acronyms: what a teacher may not make up."""
UNIT = re.compile(r"(\d+(?:[.,]\d+)*) ?(%|percent|[kMGT]i?B|ms|s|min|h|kg|g|mg|km|m|cm|mm|°C|USD|EUR|tokens|hours|minutes|seconds|days|years)\b")

Check = Callable[[Pair, str, str], bool]
"""Of a pair, its passage's text, and all text that its evidence may come from."""


def sift(pairs: Sequence[Pair], passages: Mapping[str, Passage], *, similarity: float, answer_chars_max: int) -> tuple[list[Pair], list[Rejected]]:
    """The pairs that pass every check, in order, and the others with the name of the first check that they failed."""
    rejected: list[Rejected] = []
    checks = _checks(answer_chars_max)
    good = []
    for pair in pairs:
        texts = [passages[pair.passage].text, *(passages[quote.passage].text for quote in pair.also if quote.passage in passages)]
        reason = next((name for name, fails in checks.items() if fails(pair, texts[0], "\n".join(texts))), "")
        if reason:
            rejected.append(reject(pair, reason))
        else:
            good.append(pair)
    good = _drop(good, _repeated_questions(good, similarity), rejected)
    good = _drop(good, _overused_answers(good), rejected)
    good = _drop(good, unbalanced(good), rejected)
    return good, rejected


def reject(pair: Pair, reason: str) -> Rejected:
    """The pair with the reason for its refusal."""
    return Rejected(id=f"{pair.id}-{reason}", reason=reason, pair=pair)


def flat(text: str) -> str:
    """The text with every run of white space as one space."""
    return " ".join(text.split())


def exact_span(evidence: str, text: str) -> str:
    """The stretch of `text` that equals `evidence` apart from white space; empty when there is none."""
    if evidence in text:
        return evidence
    parts = [re.escape(part) for part in evidence.split()]
    found = re.search(r"\s+".join(parts), text) if parts else None
    return found.group() if found else ""


def _checks(answer_chars_max: int) -> dict[str, Check]:
    checks: dict[str, Check] = {
        "incomplete": lambda pair, text, whole: not (pair.question.strip() and pair.answer.strip()),
        "question_length": lambda pair, text, whole: not _shortest_question(pair) <= len(pair.question) <= QUESTION_CHARS[1],
        "answer_length": lambda pair, text, whole: not _shortest(pair) <= len(pair.answer.strip()) <= answer_chars_max,
        "special_token": lambda pair, text, whole: any(SPECIAL_TOKEN.search(said) for said in _said(pair)),
        "leaning_question": lambda pair, text, whole: leans(pair.asked) or not subject(pair.asked),
        "leaning_answer": lambda pair, text, whole: any(leans(said) for said in _answers(pair)),
        "answer_is_question": lambda pair, text, whole: pair.answer.rstrip().endswith("?") or normalize(pair.answer) == normalize(pair.question),
        "evidence_not_in_passage": lambda pair, text, whole: not pair.evidence or pair.evidence not in text or any(quote.evidence not in whole for quote in pair.also),
    }
    checks |= {name: partial(_has_shape, name) for name in NAMES}
    return checks | {
        "number_or_name_not_in_passage": lambda pair, text, whole: any(invented(said, f"{whole} {_granted(pair)}") for said in _answers(pair)),
        "number_or_name_not_in_evidence": lambda pair, text, whole: bool(invented(pair.answer, f"{_evidence(pair)} {_granted(pair)}")),
    }


def _has_shape(name: str, pair: Pair, text: str, whole: str) -> bool:
    return broken_shape(pair, _evidence(pair), TELLING) == name


def _evidence(pair: Pair) -> str:
    return "\n".join([pair.evidence, *(quote.evidence for quote in pair.also)])


def _granted(pair: Pair) -> str:
    """What an answer may take from what the user said. A wrong premise is checked by its shape: where it is only denied."""
    return pair.asked


def _said(pair: Pair) -> list[str]:
    return [*(turn.content for turn in pair.earlier), pair.question, pair.answer]


def _answers(pair: Pair) -> list[str]:
    return [*(turn.content for turn in pair.earlier if turn.role == "assistant"), pair.answer]


def check_names() -> tuple[str, ...]:
    """The checks that look at one pair alone, in their order."""
    return tuple(_checks(0))


def leans(text: str) -> bool:
    """True when the text needs the page it was written from."""
    return bool(POINTING.search(text) or LEANING.search(text))


def invented(answer: str, known: str) -> list[str]:
    """Numbers, units, CamelCase names and acronyms of the answer that the known text does not have."""
    have = set(TELLING.findall(known))
    missing = [word for word in TELLING.findall(answer) if word not in have]
    units = set(UNIT.findall(known))
    return missing + [f"{number} {unit}" for number, unit in UNIT.findall(answer) if (number, unit) not in units]


def _shortest_question(pair: Pair) -> int:
    """A question that follows others may be as short as "And why?"."""
    return QUESTION_CHARS[0] // 2 if pair.earlier else QUESTION_CHARS[0]


def _shortest(pair: Pair) -> int:
    return 1 if pair.bucket in SHORT_ANSWERS else ANSWER_CHARS_MIN


def _repeated_questions(pairs: Sequence[Pair], similarity: float) -> dict[int, str]:
    """Of equal questions, and of near-duplicates about different facts, the first stays."""
    questions = [pair.asked for pair in pairs]
    earlier: dict[int, list[int]] = {}
    for i, j in same_subject(questions, questions, similarity):
        if pairs[i].fact != pairs[j].fact:
            earlier.setdefault(j, []).append(i)
    gone: dict[int, str] = {}
    seen: set[str] = set()
    for number, question in enumerate(questions):
        form = normalize(question)
        if form in seen:
            gone[number] = "repeated_question"
        elif any(other not in gone for other in earlier.get(number, ())):
            gone[number] = "near_duplicate_question"
        seen.add(form)
    return gone


def _overused_answers(pairs: Sequence[Pair]) -> dict[int, str]:
    facts: dict[str, dict[str, None]] = {}
    gone = {}
    for number, pair in enumerate(pairs):
        known = facts.setdefault(normalize(pair.answer), {})
        known.setdefault(pair.fact)
        if list(known).index(pair.fact) >= FACTS_PER_ANSWER:
            gone[number] = "overused_answer"
    return gone


def _drop(pairs: Sequence[Pair], gone: Mapping[int, str], rejected: list[Rejected]) -> list[Pair]:
    rejected += [reject(pairs[number], reason) for number, reason in sorted(gone.items())]
    return [pair for number, pair in enumerate(pairs) if number not in gone]


def count_reasons(rejected: Iterable[Rejected]) -> dict[str, int]:
    """How many were refused for each reason, by reason."""
    return dict(sorted(Counter(entry.reason for entry in rejected).items()))
