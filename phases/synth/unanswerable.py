"""Questions to abstain from: proposed ones are let in only when the corpus really does not answer them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from forge.phases.synth.filters import QUESTION_CHARS, SPECIAL_TOKEN, leans, reject
from forge.questions import normalize, same_subject, subject, words
from forge.records import Pair, Passage, Rejected

WINDOW = 8
"""Two words of an absent name that stand this close anywhere in the corpus, in words, make the name doubtful."""


class Corpus:
    """Which words stand where, to show that something is absent. Plural s is ignored."""

    def __init__(self, passages: Iterable[Passage]) -> None:
        self.places: dict[str, dict[int, list[int]]] = {}
        for number, passage in enumerate(passages):
            for position, word in enumerate(_parts(f"{passage.meta.get('heading', '')} . {passage.text}")):
                self.places.setdefault(word, {}).setdefault(number, []).append(position)

    def mentions(self, phrase: str) -> bool:
        """True when all words of the phrase stand within WINDOW words of each other somewhere."""
        parts = _parts(phrase)
        if not parts or any(part not in self.places for part in parts):
            return not parts
        shared = set.intersection(*(set(self.places[part]) for part in parts))
        return any(
            all(any(abs(position - other) <= WINDOW for other in self.places[part][number]) for part in parts[1:])
            for number in shared
            for position in self.places[parts[0]][number]
        )

    def might_answer(self, question: str) -> bool:
        """True when one passage has every telling word of the question."""
        parts = {part for word in subject(question) for part in _parts(word)}
        found = [set(self.places.get(part, {})) for part in parts]
        return bool(found) and bool(set.intersection(*found))


def sift_unanswerable(pairs: Sequence[Pair], answerable: Sequence[Pair], corpus: Corpus) -> tuple[list[Pair], list[Rejected]]:
    """Abstention pairs whose absence is verified and that resemble no answerable question; `evidence` is cleared.

    A near pair, or one about a document, says in `evidence` which words the corpus must not have.
    """
    good: list[Pair] = []
    rejected: list[Rejected] = []
    seen = {normalize(pair.question) for pair in answerable}
    twins = {i for i, _ in same_subject([pair.question for pair in pairs], [pair.question for pair in answerable])}
    for number, pair in enumerate(pairs):
        reason = "resembles_answerable" if number in twins else _fault(pair, corpus)
        if not reason and normalize(pair.question) in seen:
            reason = "repeated_question"
        seen.add(normalize(pair.question))
        if reason:
            rejected.append(reject(pair, reason))
        else:
            good.append(pair.model_copy(update={"evidence": ""}))
    return good, rejected


def _fault(pair: Pair, corpus: Corpus) -> str:
    if not QUESTION_CHARS[0] <= len(pair.question) <= QUESTION_CHARS[1]:
        return "question_length"
    if SPECIAL_TOKEN.search(pair.question):
        return "special_token"
    if pair.bucket in {"abstain_near", "abstain_document"}:
        if leans(pair.question):
            return "leaning_question"
        if not pair.evidence.strip():
            return "absence_not_named"
        return "not_absent" if corpus.mentions(pair.evidence) else ""
    return "might_be_answerable" if corpus.might_answer(pair.question) else ""


def _parts(text: str) -> list[str]:
    return [part.removesuffix("s") if len(part) > 3 else part for word in words(text) for part in word.replace("-", " ").split()]
