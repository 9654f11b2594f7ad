"""Axis 1, content: how much of the kept text belongs to the corpus' own domain.

The domain is what the corpus is mostly about, so no list of topics is needed. Text is judged in stretches of about 200
words of one document. A stretch is off-domain when its TF-IDF similarity to all *other* documents is below 0.4 of the
median stretch's. Measured on 2026-11-20: abstracts of medicine planted in the Rust book, in security sheets and in the
handbook were found 22 of 23 times, security sheets in the Rust book half the time; 12 of 1,365 stretches of the corpora
themselves were called foreign (title pages, lists of links). What it cannot see: a minority that shares the majority's
words, or one of about a fifth and more that forms a second domain of its own.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

from forge.phases.plan_fit.verdicts import judge_share, plural, some, undecided
from forge.records import Passage, Verdict, digest

STRETCH_WORDS = 200
MIN_WORDS = 100
"""Shorter rests are joined to the stretch before them: a few words have no topic."""
MAX_STRETCHES = 5000
MIN_DOCUMENTS = 3
WORD = re.compile(r"[^\W\d_]{3,}")


class Stretch(NamedTuple):
    """Neighbouring passages of one document: their words."""

    document: str
    words: Counter[str]


def judge_content(clean: Sequence[Passage], thresholds: Mapping[str, float], seed: int) -> Verdict:
    """Share of stretches that are in the corpus' domain; undecided with fewer than three documents."""
    limit = thresholds["content_in_domain"]
    stretches = _sample(cut_stretches(clean), seed)
    documents = {stretch.document for stretch in stretches}
    if len(documents) < MIN_DOCUMENTS:
        return undecided("content", f"{plural(len(documents), 'document')}: nothing to compare with", threshold=limit)
    scores = similarities(stretches)
    floor = thresholds["content_outlier_share"] * median(scores)
    outside = [stretch.document for stretch, score in zip(stretches, scores, strict=True) if score < floor]
    inside = len(stretches) - len(outside)
    evidence = f"{inside:,} of {len(stretches):,} stretches of {plural(len(documents), 'document')} resemble the others"
    if outside:
        evidence += f"; unlike them: {some(outside)}"
    return judge_share("content", inside, len(stretches), limit, at_least=True, evidence=evidence)


def similarities(stretches: Sequence[Stretch]) -> list[float]:
    """Cosine of each stretch with the centroid of all stretches of other documents. TF-IDF, sublinear, unit length."""
    weights = _inverse_document_frequency(stretches)
    vectors = [_unit({word: (1 + math.log(n)) * weights[word] for word, n in s.words.items()}) for s in stretches]
    total: dict[str, float] = defaultdict(float)
    own: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for stretch, vector in zip(stretches, vectors, strict=True):
        for word, value in vector.items():
            total[word] += value
            own[stretch.document][word] += value
    square = sum(value * value for value in total.values())
    lengths = {
        document: math.sqrt(max(square + sum(v * v - 2 * v * total[w] for w, v in part.items()), 1e-12))
        for document, part in own.items()
    }
    return [
        sum(value * (total[word] - own[s.document][word]) for word, value in vector.items()) / lengths[s.document]
        for s, vector in zip(stretches, vectors, strict=True)
    ]


def cut_stretches(clean: Sequence[Passage]) -> list[Stretch]:
    """Every document in stretches of about 200 words; a short rest joins the one before it."""
    by_document: dict[str, list[Passage]] = defaultdict(list)
    for passage in clean:
        by_document[passage.source.path].append(passage)
    found = []
    for document in sorted(by_document):
        found += _cut(document, by_document[document])
    return found


def _cut(document: str, passages: Sequence[Passage]) -> list[Stretch]:
    parts: list[Counter[str]] = [Counter()]
    for passage in passages:
        if parts[-1].total() >= STRETCH_WORDS:
            parts.append(Counter())
        parts[-1].update(word.lower() for word in WORD.findall(passage.text))
    if len(parts) > 1 and parts[-1].total() < MIN_WORDS:
        rest = parts.pop()
        parts[-1] += rest
    return [Stretch(document, words) for words in parts if words]


def _sample(stretches: list[Stretch], seed: int) -> list[Stretch]:
    """At most MAX_STRETCHES, drawn by hash: a million passages need no more to bound a share."""
    if len(stretches) <= MAX_STRETCHES:
        return stretches
    order = sorted(range(len(stretches)), key=lambda index: digest(str(seed), str(index)))
    return [stretches[index] for index in sorted(order[:MAX_STRETCHES])]


def _inverse_document_frequency(stretches: Sequence[Stretch]) -> dict[str, float]:
    documents: dict[str, set[str]] = defaultdict(set)
    for stretch in stretches:
        for word in stretch.words:
            documents[word].add(stretch.document)
    count = len({stretch.document for stretch in stretches})
    return {word: math.log((1 + count) / len(having)) for word, having in documents.items()}


def _unit(vector: dict[str, float]) -> dict[str, float]:
    length = math.sqrt(sum(value * value for value in vector.values())) or 1.0
    return {word: value / length for word, value in vector.items()}
