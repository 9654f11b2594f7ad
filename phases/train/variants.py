"""Training examples put in another way, which other epochs of a model from scratch read: mentions with a capital, as a sentence begins with them.

To a byte-level tokenizer "lithium" inside a sentence is one token and "Lithium" at its beginning two others. A model that has read nothing
else than the corpus cannot know that they are one word: of 25 errors on the drugs of ADE (docs/evaluation.md) 17 were such forms, most of
them of names that training has ten to thirty times in small letters (2026-11-22). Training on both letter cases is a known cure (Mayhew et
al. 2019, arXiv:1903.11222). Cutting words at random instead (BPE dropout, arXiv:1910.13267) costs more than it gives in so few steps: a
tenth of the merges left out, entity F1 0.21 for 0.65 (same seed, same minutes).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from forge.phases.train.packing import Encoded
from forge.records import Example, Extraction, Span

VERSIONS = 3
"""In three epochs each example is read once with capitals and twice as it is."""


def capitalise_mentions(example: Example) -> Example:
    """The example with a capital at the beginning of every entity, in the text and so in the answer; other tasks' examples as they are."""
    if not isinstance(example.body, Extraction):
        return example
    text = example.body.text
    for span in example.body.entities:
        if len(capital := text[span.start].upper()) == 1:  # not "ß": places would move
            text = text[: span.start] + capital + text[span.start + 1 :]
    body = example.body.model_copy(update={"text": text, "entities": tuple(_as_in(text, span) for span in example.body.entities)})
    return example.model_copy(update={"body": body})


def has_capitals(examples: Iterable[Example]) -> bool:
    """Whether any entity begins with a capital: where none does, the test's will not either."""
    return any(span.text[:1].isupper() for example in examples if isinstance(example.body, Extraction) for span in example.body.entities)


def take_turns(plain: Sequence[Encoded], other: Sequence[Encoded], max_length: int) -> list[Encoded]:
    """All examples VERSIONS times over, in each version another third of them from `other`, unless that is longer than max_length tokens."""
    return [
        put if (version + number) % VERSIONS == VERSIONS - 1 and len(put.ids) <= max_length else one
        for version in range(VERSIONS)
        for number, (one, put) in enumerate(zip(plain, other, strict=True))
    ]


def _as_in(text: str, span: Span) -> Span:
    return span.model_copy(update={"text": text[span.start : span.end]})
