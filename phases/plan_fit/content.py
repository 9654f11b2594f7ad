"""Axis 1, content: how much of the kept text belongs to the corpus' own domain.

The domain is what the corpus is mostly about, so no list of topics is needed. Text is judged passage by passage (short
ones together), by two statistics against all *other* documents: the TF-IDF similarity to their centroid, and how many of
their passages use its words, on average. Both are put on one scale (logarithm, median, median absolute deviation); a
passage whose mean is more than 2.5 below the median is off-domain.

Measured on 2026-11-21 with a tenth of the passages planted, as whole documents or inside documents of the corpus: abstracts of
medicine in the Rust book and in the handbook were all found; in security sheets 6 of 10 (whole) and 2 of 10 (inside);
security sheets in the Rust book 8 of 10, in the handbook 8 and 5 of 10. Called foreign in the corpora themselves: none of
the handbook, 1 % of the security sheets, 4.5 % of the Rust book, which are its licences, front matter and tables. What it
cannot see: a minority that shares the majority's words (the Rust book in security sheets, of which a third is code), or
one of about a fifth and more that forms a second domain of its own.
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

STRETCH_WORDS = 60
"""Shorter passages are joined to their neighbours: a few words have no topic."""
FIRST_LOOK, MOST = 5_000, 20_000
"""Stretches that are judged; when they do not decide, more are drawn, up to the second number."""
MIN_DOCUMENTS = 3
MIN_SPREAD = (0.25, 0.25)
"""Least deviations of the two statistics: in a corpus made by one template a trifle would be an outlier (measured: 0.24-0.45 and 0.28-0.43)."""
WORD = re.compile(r"[^\W\d_]{3,}")


class Stretch(NamedTuple):
    """Neighbouring passages of one document: their words."""

    document: str
    words: Counter[str]


def judge_content(clean: Sequence[Passage], thresholds: Mapping[str, float], seed: int) -> Verdict:
    """Share of stretches that are in the corpus' domain; undecided with fewer than three documents."""
    everything = cut_stretches(clean)
    verdict = _judge(_sample(everything, FIRST_LOOK, seed), thresholds)
    if verdict.outcome == "undecided" and len(everything) > FIRST_LOOK:
        verdict = _judge(_sample(everything, MOST, seed), thresholds)
    return verdict


def _judge(stretches: Sequence[Stretch], thresholds: Mapping[str, float]) -> Verdict:
    limit = thresholds["content_in_domain"]
    documents = {stretch.document for stretch in stretches}
    if len(documents) < MIN_DOCUMENTS:
        return undecided("content", f"{plural(len(documents), 'document')}: nothing to compare with", threshold=limit)
    scores = belonging(stretches)
    outside = [s.document for s, score in zip(stretches, scores, strict=True) if score < -thresholds["content_outlier"]]
    inside = len(stretches) - len(outside)
    evidence = f"{inside:,} of {len(stretches):,} stretches of {plural(len(documents), 'document')} resemble the others"
    if outside:
        evidence += f"; unlike them: {some(outside)}"
    return judge_share("content", inside, len(stretches), limit, at_least=True, evidence=evidence)


def belonging(stretches: Sequence[Stretch]) -> list[float]:
    """How far each stretch is below (negative) or above the median stretch, in robust standard deviations."""
    near = [math.log(max(value, 1e-3)) for value in similarities(stretches)]
    scales = [_scaled(values, least) for values, least in zip((near, familiarity(stretches)), MIN_SPREAD, strict=True)]
    return [(a + b) / 2 for a, b in zip(*scales, strict=True)]


def familiarity(stretches: Sequence[Stretch]) -> list[float]:
    """Mean, over the different words of a stretch, of the logarithm of the share of other documents' stretches that have it."""
    total: Counter[str] = Counter()
    own: dict[str, Counter[str]] = defaultdict(Counter)
    sizes = Counter(stretch.document for stretch in stretches)
    for stretch in stretches:
        total.update(stretch.words.keys())
        own[stretch.document].update(stretch.words.keys())
    found = []
    for document, words in stretches:
        others, mine = len(stretches) - sizes[document] + 1, own[document]
        found.append(sum(math.log((total[word] - mine[word] + 0.5) / others) for word in words) / len(words))
    return found


def _scaled(values: Sequence[float], least: float) -> list[float]:
    middle = median(values)
    spread = max(least, 1.4826 * median(abs(value - middle) for value in values))
    return [(value - middle) / spread for value in values]


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
    """Every document in stretches of at least 60 words; a short rest joins the one before it."""
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
    if len(parts) > 1 and parts[-1].total() < STRETCH_WORDS:
        rest = parts.pop()
        parts[-1] += rest
    return [Stretch(document, words) for words in parts if words]


def _sample(stretches: list[Stretch], most: int, seed: int) -> list[Stretch]:
    """At most so many, drawn by hash: a million passages need no more to bound a share."""
    if len(stretches) <= most:
        return stretches
    order = sorted(range(len(stretches)), key=lambda index: digest(str(seed), str(index)))
    return [stretches[index] for index in sorted(order[:most])]


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
