"""Texts as weighted terms: what the words of a corpus tell about its subjects, without any list of words.

A term weighs by how rare it is (inverse frequency, Sparck Jones 1972) and by how it clumps: function words are spread over texts as
chance would spread them, words with a subject come in clumps (residual inverse frequency, Church and Gale 1995).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_TERMS = 20_000
MOST_SHARE = 0.4
"""A term in more of the texts than this says nothing about any of them."""
CLUMPED = 0.5
"""Bits of residual inverse frequency from which a term counts in full."""
LETTERS = (3, 24)

_UNSPACED = "\u0e00-\u0edf\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]+|[^\W\d_{_UNSPACED}]+")
_PLACEHOLDER = re.compile(r"\[[a-z-]{2,20}\]")
_IS_UNSPACED = re.compile(rf"[{_UNSPACED}]")


@dataclass(frozen=True)
class Vectors:
    """Rows of unit length: terms of row i are term[starts[i]:starts[i + 1]] (sorted), with weight at the same places.

    lengths: (rows,) what each was divided by.
    """

    starts: NDArray[np.int64]
    term: NDArray[np.int64]
    weight: NDArray[np.float64]
    lengths: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def rows(self) -> NDArray[np.int64]:
        """The row of each entry."""
        import numpy as np

        return np.repeat(np.arange(len(self)), np.diff(self.starts))


class Terms:
    """The terms of some texts with their weights; turns any text into a vector over them.

    names: (terms,) in alphabetical order; a plural in -s is one term with its singular.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        import numpy as np

        in_texts: Counter[str] = Counter()
        total: Counter[str] = Counter()
        count = 0
        for count, text in enumerate(texts, 1):  # noqa: B007 - counted
            found = Counter(words(text))
            in_texts.update(found.keys())
            total.update(found)
        singular = {word: word[:-1] for word in in_texts if _may_be_plural(word) and word[:-1] in in_texts}
        for plural, word in singular.items():
            in_texts[word] = max(in_texts[word], in_texts.pop(plural))
            total[word] += total.pop(plural)
        least = 2 if count < 100 else max(3, count // 2000)
        weights = {
            word: weight
            for word, texts_with in in_texts.items()
            if least <= texts_with <= MOST_SHARE * count and (weight := _weight(texts_with, total[word], count)) > 0
        }
        best = sorted(weights, key=lambda word: (-weights[word] * total[word], word))[:MOST_TERMS]
        self.names = sorted(best)
        self.weights = np.array([weights[word] for word in self.names])
        self.rarest = math.log(1 + max(count, 1))
        self._plain = {word for word in in_texts if in_texts[word] > MOST_SHARE * count or (in_texts[word] >= least and word not in weights)}
        self._ids = {word: number for number, word in enumerate(self.names)}
        self._ids |= {plural: self._ids[word] for plural, word in singular.items() if word in self._ids}

    def vectors(self, texts: Iterable[str]) -> Vectors:
        """One row for each text; a text without any term has an empty one."""
        counts = [self.count(text) for text in texts]
        return self.weighted(counts)

    def count(self, text: str) -> Counter[int]:
        """How often each term occurs, by number."""
        ids = self._ids
        return Counter([ids[word] for word in words(text) if word in ids])

    def strange_words(self, text: str) -> set[str]:
        """The words that are neither terms nor common: too rare in the texts to be terms, or not in them."""
        return {word for word in words(text) if word not in self._ids and word not in self._plain}

    def weighted(self, counts: Sequence[Counter[int]]) -> Vectors:
        """Rows from counted terms: (1 + log count) x weight, scaled to length 1."""
        import numpy as np

        starts = np.concatenate(([0], np.cumsum([len(one) for one in counts]))).astype(np.int64)
        size = int(starts[-1])
        term = np.fromiter((number for one in counts for number in sorted(one)), np.int64, size)
        times = np.fromiter((one[number] for one in counts for number in sorted(one)), np.float64, size)
        weight = (1 + np.log(times)) * self.weights[term] if size else np.zeros(0)
        rows = np.repeat(np.arange(len(counts)), np.diff(starts))
        length = np.sqrt(np.bincount(rows, weight**2, len(counts)))
        length[length == 0] = 1
        return Vectors(starts, term, weight / length[rows], length)


def words(text: str) -> list[str]:
    """Words of 3 to 24 letters in small letters, without masked places; pairs of characters in scripts without spaces."""
    found = _WORD.findall(_PLACEHOLDER.sub(" ", text).lower())
    if text.isascii():
        return [word for word in found if LETTERS[0] <= len(word) <= LETTERS[1]]
    return [part for word in found for part in _parts(word)]


def _parts(word: str) -> list[str]:
    if _IS_UNSPACED.match(word):
        return [word[at : at + 2] for at in range(len(word) - 1)]
    return [word] if LETTERS[0] <= len(word) <= LETTERS[1] else []


def _may_be_plural(word: str) -> bool:
    return len(word) > 3 and word.endswith("s") and not word.endswith("ss")


def _weight(texts_with: int, times: int, count: int) -> float:
    expected = 1 - math.exp(-times / count)  # share of texts with the word if its occurrences were spread by chance
    clumped = math.log2(expected) - math.log2(texts_with / count)
    return math.log(1 + count / texts_with) * min(1.0, max(0.0, clumped / CLUMPED))
