"""BM25: which texts answer a question best, by their words (Robertson & Zaragoza 2009, Okapi BM25 with k1 = 1.2, b = 0.75)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from forge.questions import words

K1, B = 1.2, 0.75


class Bm25:
    """An index over texts, held in memory."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._postings: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._lengths: list[int] = []
        for number, text in enumerate(texts):
            found = words(text)
            self._lengths.append(len(found))
            for word, count in sorted(Counter(found).items()):
                self._postings[word].append((number, count))
        self._mean = sum(self._lengths) / len(self._lengths) if self._lengths else 1.0

    def best(self, query: str, most: int = 1) -> list[int]:
        """Positions of the texts that fit a query best, best first, earlier ones first among equals; none without a common word."""
        scores: dict[int, float] = defaultdict(float)
        for word in dict.fromkeys(words(query)):
            found = self._postings.get(word, [])
            weight = math.log(1 + (len(self._lengths) - len(found) + 0.5) / (len(found) + 0.5))
            for number, count in found:
                length = 1 - B + B * self._lengths[number] / (self._mean or 1.0)
                scores[number] += weight * count * (K1 + 1) / (count + K1 * length)
        return sorted(scores, key=lambda number: (-scores[number], number))[:most]
