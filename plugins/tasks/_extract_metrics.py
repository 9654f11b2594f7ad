"""Numbers over extractions, on sets of (type, text) and (head, type, tail), compared without case and white space.

Micro: hits, false and missed ones summed over all texts. "Macro" is two things, so it is named: macro_example is the mean over texts
(a text with nothing expected and nothing found counts 1), macro_type the mean over types (what the ADE literature reports).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from forge.plugins.tasks._extract_format import Found, find_spans, mentions, normal, read, triples
from forge.protocols import Prediction
from forge.records import Extraction

Counts = tuple[float, float, float]
"""(hits, false, missed)"""
Key = tuple[str, ...]


def body_of(row: Prediction) -> Extraction:
    """The text with its entities behind a prediction."""
    assert isinstance(row.body, Extraction)
    return row.body


def read_row(row: Prediction, other: str = "") -> Found:
    """What the tuned model, or another one by its name, found."""
    return read(row.others[other] if other else row.tuned, relations=bool(body_of(row).relation_types))


def gold_entities(body: Extraction) -> set[Key]:
    """(type, text) of what is expected."""
    return {(type_, normal(text)) for type_, text in mentions(body)}


def gold_relations(body: Extraction) -> set[Key]:
    """(head, type, tail) of what is expected."""
    return {(normal(head), type_, normal(tail)) for head, type_, tail in triples(body)}


def entities(found: Found) -> set[Key]:
    """(type, text) of what was found."""
    return {(type_, normal(text)) for type_, text in found.entities}


def relations(found: Found) -> set[Key]:
    """(head, type, tail) of what was found."""
    return {(normal(head), type_, normal(tail)) for head, type_, tail in found.relations}


def count(gold: set[Key], given: set[Key]) -> Counts:
    """Hits, false and missed ones of one text."""
    hits = len(gold & given)
    return float(hits), float(len(given) - hits), float(len(gold) - hits)


def f1_ratio(counts: Counts) -> tuple[float, float]:
    """(2 tp, 2 tp + fp + fn): summed over texts, the first over the second is micro-F1."""
    hits, false, missed = counts
    return 2 * hits, 2 * hits + false + missed


def f1_of(counts: Sequence[float]) -> float:
    """F1 of summed counts; 0 when there is nothing to find and nothing was found."""
    bottom = 2 * counts[0] + counts[1] + counts[2]
    return 2 * counts[0] / bottom if bottom else 0.0


def example_f1(gold: set[Key], given: set[Key]) -> float:
    """F1 of one text; right silence is 1."""
    return 1.0 if not gold and not given else f1_of(count(gold, given))


def offset_counts(row: Prediction) -> Counts:
    """The same with places: a hit has the type, the beginning and the end of an expected span."""
    body = body_of(row)
    gold = Counter((span.type, span.start, span.end) for span in body.entities)
    spans = find_spans(body.text, read_row(row).entities)
    given = Counter((span.type, span.start, span.end) for span in spans if span)
    hits, nowhere = sum((gold & given).values()), sum(span is None for span in spans)
    return float(hits), float(sum(given.values()) - hits + nowhere), float(sum(gold.values()) - hits)


def known_counts(row: Prediction, *, seen: bool) -> Counts:
    """Entities whose text training rows have too (seen), or do not have."""
    known = {normal(text) for text in row.seen}
    gold, given = gold_entities(body_of(row)), entities(read_row(row))
    return count({key for key in gold if (key[1] in known) == seen}, {key for key in given if (key[1] in known) == seen})


def invented(row: Prediction) -> tuple[float, float]:
    """(mentions that are not in the text, all mentions)."""
    text = normal(body_of(row).text)
    found = read_row(row).entities
    return float(sum(normal(mention) not in text for _, mention in found)), float(len(found))


def reversed_relations(row: Prediction) -> tuple[float, float]:
    """(relations that are right but for their direction, all that were found)."""
    gold, given = gold_relations(body_of(row)), relations(read_row(row))
    turned = {(tail, type_, head) for head, type_, tail in gold} - gold
    return float(len(given & turned)), float(len(given))


def lost_mentions(row: Prediction) -> tuple[float, float]:
    """(expected mentions that a set of texts hides because they repeat another, all)."""
    body = body_of(row)
    return float(len(body.entities) - len(gold_entities(body))), float(len(body.entities))


def false_alarm(row: Prediction) -> tuple[float, float]:
    """(something was found, 1) for a text without entities, (0, 0) for the others."""
    return (0.0, 0.0) if body_of(row).entities else (float(bool(read_row(row).entities)), 1.0)
