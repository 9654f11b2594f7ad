"""Which language each passage is in, and which of them the corpus is about.

A passage with enough prose speaks for itself; a short one that seems foreign follows its document, in which all passages
vote with their letters. Code, formulas and addresses are taken out first. Less than 20 letters of prose is no language ("und") and stays.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from forge.phases.audit.prose import letters_in
from forge.records import Passage

UNDETERMINED = "und"
MIN_LETTERS = 20
OWN_VOICE_LETTERS = 120
"""From here on a passage is believed against its document. Measured on 12-word texts: 98.8 % right (1,814 texts, 22 languages)."""
CLEAR_MARGIN = 0.9
"""Share of the probability that a passage's language must have to overrule its document's."""
DETECTED_CHARACTERS = 300
"""More text does not change the answer and costs time: 5,400 whole passages or 13,700 short ones a second."""


class Voice(NamedTuple):
    """letters: of prose; language: which one they are in; confidence: the share of the probability (0..1) that it has."""

    letters: int
    language: str
    confidence: float


SILENT = Voice(0, UNDETERMINED, 1.0)

class Languages:
    """Listens to all passages, then says which language each is in. Codes are ISO 639-1, or "und".

    voice_of: from listen(), of a passage's prose. main: the language of most letters in the corpus.
    """

    def __init__(self, passages: Iterable[Passage], voice_of: Callable[[Passage], Voice], tick: Callable[[], None]) -> None:
        self._own: dict[str, tuple[str, str, bool]] = {}  # id -> document, language, whether that is clear
        votes: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for passage in passages:
            tick()
            letters, language, confidence = voice_of(passage)
            votes[passage.group][language] += letters
            is_clear = letters < MIN_LETTERS or (letters >= OWN_VOICE_LETTERS and confidence >= CLEAR_MARGIN)
            self._own[passage.id] = passage.group, language, is_clear
        self._of_document = {group: majority(vote) for group, vote in votes.items()}
        self.main = majority(sum(votes.values(), Counter[str]()))

    def of(self, wanted: Sequence[str]) -> dict[str, str]:
        """The language of each passage by id. An unclear one is given the benefit of the doubt when it seems to be wanted."""
        return {
            id: language if is_clear or language in wanted else self._of_document[group]
            for id, (group, language, is_clear) in self._own.items()
        }


def listen(prose: str) -> Voice:
    """The language of some prose; less than 20 letters are in none."""
    letters = letters_in(prose)
    return Voice(letters, *_detect(prose)) if letters >= MIN_LETTERS else Voice(letters, UNDETERMINED, 1.0)


def characters_by_language(passages: Iterable[Passage], languages: Mapping[str, str]) -> dict[str, int]:
    """Characters of the passages in each language."""
    counts: Counter[str] = Counter()
    for passage in passages:
        counts[languages[passage.id]] += len(passage.text)
    return dict(sorted(counts.items()))


def majority(votes: Counter[str]) -> str:
    """The language with the most votes (the first by name of equals); "und" without votes."""
    known = [(-count, language) for language, count in votes.items() if language != UNDETERMINED]
    return min(known)[1] if known else UNDETERMINED


def _detect(prose: str) -> tuple[str, float]:
    language, confidence = _identifier().classify(prose[:DETECTED_CHARACTERS])
    return ("en" if language == "pcm" else str(language)), float(
        confidence
    )  # Nigerian Pidgin: what terse English looks like


@cache
def _identifier() -> Any:
    """py3langid's model, which it carries with it; 0.8 s to load."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
