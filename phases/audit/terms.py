"""Texts as weighted terms: what the words of a corpus tell about its subjects, without any list of words.

A term weighs by how rare it is (inverse frequency, Sparck Jones 1972) and by how it clumps: function words are spread over texts as
chance would spread them, words with a subject come in clumps (residual inverse frequency, Church and Gale 1995).
"""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable
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
_ASCII_SPACES = {code: " " for code in range(128) if not chr(code).isalpha()}
_IS_UNSPACED = re.compile(rf"[{_UNSPACED}]")


@dataclass(frozen=True)
class Counts:
    """How often terms occur in some texts: those of row i are term[starts[i]:starts[i + 1]], as often as `times` says there."""

    starts: NDArray[np.int64]
    term: NDArray[np.int32]
    times: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def rows(self) -> NDArray[np.int64]:
        """The row of each entry."""
        import numpy as np

        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def take(self, wanted: NDArray[np.int64]) -> Counts:
        """Some of the rows, in the order given."""
        import numpy as np

        size = np.diff(self.starts)[wanted]
        starts = np.concatenate(([0], np.cumsum(size))).astype(np.int64)
        at = np.arange(starts[-1]) + np.repeat(self.starts[wanted] - starts[:-1], size)
        return Counts(starts, self.term[at], self.times[at])

    def summed(self, group_of: NDArray[np.int64], groups: int) -> Counts:
        """One row for each group of rows."""
        import numpy as np

        n_terms = int(self.term.max(initial=0)) + 1
        key, place = np.unique(group_of[self.rows()] * n_terms + self.term, return_inverse=True)
        starts = np.searchsorted(key, np.arange(groups + 1) * n_terms)
        return Counts(starts, (key % n_terms).astype(np.int32), np.bincount(place, self.times, len(key)).astype(np.int32))


@dataclass(frozen=True)
class Vectors:
    """Rows of unit length: terms of row i are term[starts[i]:starts[i + 1]], with weight at the same places.

    lengths: (rows,) what each was divided by.
    """

    starts: NDArray[np.int64]
    term: NDArray[np.int32]
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
        return self.weighted(self.counts(texts))

    def counts(self, texts: Iterable[str], tick: Callable[[], None] = lambda: None) -> Counts:
        """How often each term occurs in each text; 6 bytes for each pair."""
        import numpy as np

        size, term, times = array("q", [0]), array("i"), array("i")
        for text in texts:
            tick()
            found = Counter(map(self._ids.get, words(text)))
            found.pop(None, None)
            term.extend(found)   # type: ignore[arg-type]  # None is out
            times.extend(found.values())
            size.append(len(term))
        return Counts(np.array(size, np.int64), np.array(term, np.int32), np.array(times, np.int32))

    def strange_words(self, text: str) -> set[str]:
        """The words that are neither terms nor common: too rare in the texts to be terms, or not in them."""
        return {word for word in words(text) if word not in self._ids and word not in self._plain}

    def weighted(self, counts: Counts) -> Vectors:
        """Rows from counted terms: (1 + log count) x weight, scaled to length 1."""
        import numpy as np

        weight = (1 + np.log(counts.times)) * self.weights[counts.term] if len(counts.term) else np.zeros(0)
        rows = counts.rows()
        length = np.sqrt(np.bincount(rows, weight**2, len(counts)))
        length[length == 0] = 1
        return Vectors(counts.starts, counts.term, weight / length[rows], length)


def words(text: str) -> list[str]:
    """Words of 3 to 24 letters in small letters, without masked places; pairs of characters in scripts without spaces."""
    plain = (_PLACEHOLDER.sub(" ", text) if "[" in text else text).lower()
    if text.isascii():
        return [word for word in plain.translate(_ASCII_SPACES).split() if LETTERS[0] <= len(word) <= LETTERS[1]]
    found = _WORD.findall(plain)
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
