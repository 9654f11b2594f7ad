"""Subtopics: passages that speak of the same things, found from their words alone and named by their own terms.

Spherical k-means (Dhillon and Modha 2001) over weighted terms. It starts from the densest places that are far from each other instead
of at random, so equal passages give equal subtopics, in any order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from typing import TYPE_CHECKING

from forge.phases.audit.terms import Counts, Terms, Vectors
from forge.records import Passage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]
    Labels = NDArray[np.int64]

OTHER = "other"
"""Passages without terms, or with none in common with any subtopic."""
MIN_PASSAGES = 60
"""Below this there are no subtopics: numbers by subtopic would be of a handful of questions each."""
MOST = 12
MIN_MEMBERS, MIN_SHARE = 8, 0.02
FITTED_PASSAGES = 5_000
"""Subtopics are found on so many passages, evenly spread; the rest is only assigned."""
PER_BATCH = 2_000
ROUNDS = 20
LOOSE = 0.05
NAME_TERMS = 3
NAMING_SHARE = 0.15
"""A term names a subtopic when this share of its passages has it: "joebob" in one long example does not."""


def fit_terms(passages: Sequence[Passage]) -> Terms:
    """The terms of a corpus, from FITTED_PASSAGES of its passages."""
    return Terms(passage.text for passage in passages[:: _step(passages)])


def name_subtopics(
    passages: Sequence[Passage], wanted: int = 0, tick: Callable[[], None] = lambda: None, terms: Terms | None = None, counted: Counts | None = None
) -> dict[str, str]:
    """Passage id -> subtopic ("ownership, borrow, reference"); empty for a corpus too small to have any.

    passages: in a fixed order. wanted: how many subtopics; 0: by the size of the corpus (2 at 60 passages, 12 from 2,900 on).
    terms, counted: the corpus' terms, and how often they occur in the passages, where that is known.
    """
    import numpy as np

    count = wanted or min(MOST, round(len(passages) ** 0.5 / 4.5))
    if count < 2 or len(passages) < MIN_PASSAGES:
        return {}
    terms = terms or fit_terms(passages)
    if not terms.names:
        return {}
    counted = counted or terms.counts((passage.text for passage in passages), tick)
    vectors = terms.weighted(counted.take(np.arange(len(passages))[:: _step(passages)]))
    tick()
    centers = _without_small(vectors, _fit(vectors, count, len(terms.names), tick))
    if len(centers) < 2:
        return {}
    names = [*_names(vectors, centers, terms.names), OTHER]
    starts = range(0, len(passages), PER_BATCH)
    batches = (np.arange(start, min(start + PER_BATCH, len(passages))) for start in starts)
    numbers = [number for batch in batches for number in _assign(terms.weighted(counted.take(batch)), centers, tick)]
    return {passage.id: names[number] for passage, number in zip(passages, numbers, strict=True)}


def places(passages: Sequence[Passage], kept: Container[str]) -> NDArray[np.int64]:
    """Which of the passages are still kept."""
    import numpy as np

    return np.flatnonzero(np.array([passage.id in kept for passage in passages], np.bool_))


def _step(passages: Sequence[Passage]) -> int:
    return max(1, -(-len(passages) // FITTED_PASSAGES))


def counts(named: dict[str, str]) -> dict[str, int]:
    """Passages in each subtopic, by name."""
    return dict(sorted(Counter(named.values()).items()))


def _assign(batch: Vectors, centers: Matrix, tick: Callable[[], None]) -> Iterator[int]:
    tick()
    near = _similarities(batch, centers)
    for best, value in zip(near.argmax(1).tolist(), near.max(1).tolist(), strict=True):
        yield best if value >= LOOSE else -1


def _fit(vectors: Vectors, count: int, n_terms: int, tick: Callable[[], None]) -> Matrix:
    """The centers of `count` subtopics: (count, terms), rows of length 1."""
    import numpy as np

    centers = _spread_out(vectors, count, n_terms)
    labels = np.full(len(vectors), -1, np.int64)
    for _ in range(ROUNDS):
        tick()
        fresh = _similarities(vectors, centers).argmax(1)
        if (fresh == labels).all():
            break
        labels = fresh
        centers = _centers(vectors, labels, len(centers), n_terms)
    return centers


def _spread_out(vectors: Vectors, count: int, n_terms: int) -> Matrix:
    """Starting centers: each the mean of the texts around a typical text that is far from the centers before it."""
    import numpy as np

    typical = _similarities(vectors, _centers(vectors, np.zeros(len(vectors), np.int64), 1, n_terms))[:, 0]
    covered = np.zeros(len(vectors))
    around = max(4, len(vectors) // (2 * count))
    centers = []
    for _ in range(count):
        seed = int(np.argmax(typical * (1 - covered)))
        own = slice(vectors.starts[seed], vectors.starts[seed + 1])
        text = np.zeros((1, n_terms))
        text[0, vectors.term[own]] = vectors.weight[own]
        near = np.argsort(-_similarities(vectors, text)[:, 0], kind="stable")[:around]
        labels = np.ones(len(vectors), np.int64)
        labels[near] = 0
        centers.append(_centers(vectors, labels, 2, n_terms)[0])
        covered = np.maximum(covered, np.minimum(1, 2 * _similarities(vectors, centers[-1][None])[:, 0]))
    return np.array(centers)


def _without_small(vectors: Vectors, centers: Matrix) -> Matrix:
    """Without the subtopics that hold too few texts to be counted by themselves, the smallest first."""
    import numpy as np

    least = max(MIN_MEMBERS, MIN_SHARE * len(vectors))
    while len(centers):
        sizes = np.bincount(_similarities(vectors, centers).argmax(1), minlength=len(centers))
        if sizes.min() >= least:
            break
        centers = np.delete(centers, int(sizes.argmin()), axis=0)
    return centers


def _names(vectors: Vectors, centers: Matrix, terms: Sequence[str]) -> list[str]:
    """Terms that are frequent in a subtopic and rarer elsewhere: (share here) x log(share here / share elsewhere)."""
    import numpy as np

    labels, rows = _similarities(vectors, centers).argmax(1), vectors.rows()
    everywhere = np.bincount(vectors.term, minlength=len(terms))
    names: list[str] = []
    for number, center in enumerate(centers):
        size = int((labels == number).sum())
        here = np.bincount(vectors.term[labels[rows] == number], minlength=len(terms))
        share, elsewhere = (here + 0.5) / (size + 1), (everywhere - here + 0.5) / (len(vectors) - size + 1)
        score = np.where(share >= NAMING_SHARE, center * np.log(share / elsewhere), center / 100)
        ranked = [terms[at] for at in np.argsort(-score, kind="stable")[:40]]
        names.append(_name(ranked, names))
    return names


def _name(ranked: Sequence[str], taken: Sequence[str]) -> str:
    chosen: list[str] = []
    for term in ranked:
        if not any(term.startswith(one) or one.startswith(term) for one in chosen):
            chosen.append(term)
        if len(chosen) >= NAME_TERMS and (name := ", ".join(chosen)) not in taken:
            return name
    return f"{', '.join(chosen)} {len(taken) + 1}"


def _similarities(vectors: Vectors, centers: Matrix) -> Matrix:
    """Cosines: (texts, centers)."""
    import numpy as np

    rows = vectors.rows()
    return np.stack([np.bincount(rows, vectors.weight * center[vectors.term], len(vectors)) for center in centers], axis=1)


def _centers(vectors: Vectors, labels: Labels, count: int, n_terms: int) -> Matrix:
    """Means of the texts with each label, of length 1; (count, terms)."""
    import numpy as np

    place = labels[vectors.rows()] * n_terms + vectors.term
    centers = np.bincount(place, vectors.weight, count * n_terms).reshape(count, n_terms)
    length = np.linalg.norm(centers, axis=1, keepdims=True)
    length[length == 0] = 1
    found: Matrix = centers / length
    return found
