"""The tool behind `forge review` and `forge trace`: an edited pair through the filters of synth, and the names of those filters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from forge.phases.synth.citations import scrub
from forge.phases.synth.filters import check_names, exact_span, flat, sift
from forge.phases.synth.names import Names
from forge.phases.synth.poison import inspect, poisoned_pair
from forge.phases.synth.unanswerable import Corpus, sift_unanswerable
from forge.records import Pair, Passage, Quote

if TYPE_CHECKING:
    from forge.phases.synth import SynthSettings

AMONG_OTHERS = (
    "repeated_question", "near_duplicate_question", "overused_answer", "overused_opening", "yes_no_imbalance", "instruction_in_pair", "canary",
)
ABSENCE = ("question_length", "special_token", "leaning_question", "not_absent", "might_be_answerable", "resembles_answerable", "repeated_question")


class Recheck:
    """Checks edits against the pairs and passages of one run. Costs nothing: round trip and judge are not asked again."""

    def __init__(self, pairs: Iterable[Pair], passages: Iterable[Passage], settings: SynthSettings) -> None:
        self.pairs, self.passages = list(pairs), {passage.id: passage for passage in passages}
        self.settings = settings

    def check(self, edited: Pair) -> tuple[Pair, str]:
        """The pair as it would be used (white space, exact evidence, names found anew), and the filter that refuses it or ""."""
        others = [pair for pair in self.pairs if pair.id != edited.id]
        if not edited.passage:
            return self._abstention(edited, others)
        passage = self.passages.get(edited.passage)
        if passage is None:
            return edited, "passage_is_gone"
        pair = self._tidy(edited, passage)
        if any(quote.passage not in self.passages or quote.evidence not in self.passages[quote.passage].text for quote in pair.also):
            return pair, "evidence_not_in_passage"
        return pair, self._refusal(pair, others, passage)

    def _refusal(self, pair: Pair, others: Sequence[Pair], passage: Passage) -> str:
        """First by itself, then as the last of all: it must not repeat what is there, nor tip the balance of its bucket."""
        if reason := self._sifted([pair], pair):
            return reason
        if reason := poisoned_pair(pair, inspect(passage)):
            return reason
        rivals = [other for other in others if other.passage in self.passages and (other.fact != pair.fact or other.question == pair.question)]
        return self._sifted([*rivals, pair], pair)

    def _sifted(self, pairs: Sequence[Pair], pair: Pair) -> str:
        """The filter that refuses `pair` among `pairs`, or ""."""
        similarity, longest = self.settings.question_similarity, self.settings.answer_chars_max
        _, refused = sift(pairs, self.passages, similarity=similarity, answer_chars_max=longest)
        return next((entry.reason for entry in refused if entry.pair.id == pair.id), "")

    def _tidy(self, pair: Pair, passage: Passage) -> Pair:
        answer = scrub(pair.answer).strip()
        also = tuple(
            Quote(passage=quote.passage, evidence=exact_span(quote.evidence, other.text) or quote.evidence) if (other := self.passages.get(quote.passage)) else quote
            for quote in pair.also
        )
        return pair.model_copy(update={
            "question": flat(scrub(pair.question)), "answer": answer, "evidence": exact_span(pair.evidence.strip(), passage.text) or pair.evidence,
            "names": self._names.of(answer), "also": also,
        })

    def _abstention(self, edited: Pair, others: Sequence[Pair]) -> tuple[Pair, str]:
        """A question to abstain from keeps the one sentence as its answer; a near one is shown absent by all of its words."""
        pair = edited.model_copy(update={"question": flat(edited.question), "evidence": ""})
        if pair.answer != self.settings.abstention:
            return pair, "answer_is_not_the_abstention"
        asked = pair if pair.bucket not in {"abstain_near", "abstain_document"} else pair.model_copy(update={"bucket": "abstain_far"})
        _, refused = sift_unanswerable([asked], others, self._corpus)
        return pair, refused[0].reason if refused else ""

    @cached_property
    def _names(self) -> Names:
        return Names(self.passages.values())

    @cached_property
    def _corpus(self) -> Corpus:
        return Corpus(self.passages.values())


def filter_names(*, answerable: bool) -> tuple[str, ...]:
    """The filters that a pair goes through, in their order; round trip and judge come last, where the teacher offers them."""
    return (*check_names(), *AMONG_OTHERS) if answerable else ABSENCE


class Tool:
    """What the command line gets: the filters' names, and a Recheck for one run."""

    filters = staticmethod(filter_names)
    over = Recheck


recheck = Tool()
