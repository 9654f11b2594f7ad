"""Texts as sets of five-word shingles, each a 64-bit number: many texts at once, in a few numpy operations.

A word is what `words()` returns: a run of letters, digits and underscores, in lower case. Five words in a row are a
shingle; a shorter text is one shingle.

Two different shingles share a number with probability 2**-64: over 10 million distinct shingles the chance that any
two do is about 3 in a million, and one such pair would move one similarity by less than 1 %.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Hashes = NDArray[np.uint64]
    Offsets = NDArray[np.int64]

WORDS_PER_SHINGLE = 5
CODE_POINTS = 0x110000
CHARACTERS_PER_BLOCK = 1 << 16
"""Words are hashed this many characters at a time: the tables stay small, however long a text is."""

_WORD = re.compile(r"\w+")

_MULTIPLIER = 0x9E3779B97F4A7C15
_MIX_1, _MIX_2 = 0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53  # murmur3 fmix64, Appleby
_POSITION = (0xD6E8FEB86659FD93, 0xA0761D6478BD642F, 0xE7037ED1A0B428DB, 0x8EBC6AF09C88C6E3, 0x589965CC75374CC3)
"""One odd constant for each word of a shingle, so that the order of its words counts."""


def words(text: str) -> list[str]:
    """The words of a text, as the shingles see them."""
    return _WORD.findall(text.lower())


def shingle_batch(texts: Sequence[str]) -> tuple[Hashes, Offsets]:
    """The shingles of all texts in a row, with repeats: (shingles,) uint64, and (texts + 1,) int64 offsets.

    Shingles of text i are hashes[offsets[i]:offsets[i + 1]]; a text without any word has none.
    """
    import numpy as np

    ids, words_before = word_ids(texts)
    n_words = np.diff(words_before)
    n_shingles = np.maximum(n_words - WORDS_PER_SHINGLE + 1, np.minimum(n_words, 1))
    offsets = np.concatenate(([0], np.cumsum(n_shingles)))
    padded = np.concatenate((ids, np.zeros(WORDS_PER_SHINGLE - 1, np.uint64)))
    sums = np.zeros(len(ids), np.uint64)
    for position, constant in enumerate(_POSITION):
        sums += padded[position : position + len(ids)] * np.uint64(constant)
    at = np.arange(offsets[-1]) + np.repeat(words_before[:-1] - offsets[:-1], n_shingles)
    hashes = sums[at]
    for text in np.flatnonzero(
        (n_words > 0) & (n_words < WORDS_PER_SHINGLE)
    ):  # its own words only, not the next text's
        own = ids[words_before[text] : words_before[text + 1]]
        hashes[offsets[text]] = (own * np.array(_POSITION[: len(own)], np.uint64)).sum(dtype=np.uint64)
    return mix(hashes), offsets


def unique_shingles(text: str) -> Hashes:
    """The sorted, distinct shingles of one text."""
    return distinct(shingle_batch([text])[0])


def distinct(hashes: Hashes) -> Hashes:
    """Sorted, each once: of one text's shingles in half the time of np.unique (numpy 2.4 hashes them first)."""
    import numpy as np

    ordered = np.sort(hashes)
    is_first = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
    return ordered[is_first]


def word_ids(texts: Sequence[str]) -> tuple[Hashes, Offsets]:
    """A 64-bit id for each word of all texts, and how many words come before each text.

    The id is a polynomial over the word's characters modulo 2**64. All words are done at once: characters times
    rising powers, summed from word start to word start, divided by the power at the start (odd, so invertible).
    """
    import numpy as np

    lowered = [text.lower() for text in texts]
    joined = "\n" + "\n".join(lowered) + "\n"
    codes = _codes(joined)
    in_word_by_code, value_by_code = _character_tables()
    in_word = in_word_by_code[codes]
    starts = np.flatnonzero(in_word[1:] & ~in_word[:-1]) + 1  # character 0 is a separator
    ends_at = np.cumsum([len(text) + 1 for text in lowered]) + 1
    words_before = np.concatenate(([0], np.searchsorted(starts, ends_at)))
    ids = np.zeros(len(starts), np.uint64)
    blocks = np.unique(
        np.searchsorted(starts, np.arange(0, len(codes) + CHARACTERS_PER_BLOCK, CHARACTERS_PER_BLOCK))
    ).tolist()
    for first, last in pairwise(blocks):
        begin = starts[first]
        block = codes[begin : starts[last] if last < len(starts) else len(codes)]
        powers, inverses = _powers(len(block))
        own_starts = starts[first:last] - begin
        sums = np.add.reduceat(value_by_code[block] * powers[: len(block)], own_starts)
        ids[first:last] = sums * inverses[own_starts]
    return mix(ids), words_before


def _codes(text: str) -> NDArray[np.uint8] | NDArray[np.uint32]:
    import numpy as np

    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


@cache
def _character_tables() -> tuple[NDArray[np.bool_], Hashes]:
    """For each code point: whether it is part of words, and a random-looking 64-bit value (0 between words)."""
    import numpy as np

    in_word = np.zeros(CODE_POINTS, np.bool_)
    everything = np.arange(CODE_POINTS, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")
    for run in _WORD.finditer(everything):
        in_word[run.start() : run.end()] = True
    values = mix((np.arange(CODE_POINTS, dtype=np.uint64) + np.uint64(1)) * np.uint64(_MULTIPLIER))
    values[~in_word] = 0
    return in_word, values


_power_tables: list[tuple[Hashes, Hashes]] = []


def _powers(count: int) -> tuple[Hashes, Hashes]:
    """Powers of the multiplier and of its inverse modulo 2**64; kept, and grown when a longer batch comes."""
    import numpy as np

    if not _power_tables or len(_power_tables[0][0]) < count:
        size = max(1 << 16, 1 << (count - 1).bit_length())
        inverse = pow(_MULTIPLIER, -1, 1 << 64)
        tables = []
        for base in (_MULTIPLIER, inverse):
            table = np.full(size, np.uint64(base))
            table[0] = 1
            tables.append(np.multiply.accumulate(table))
        _power_tables[:] = [(tables[0], tables[1])]
    return _power_tables[0]


def mix(values: Hashes) -> Hashes:
    """Spread every input bit over all output bits (murmur3's finaliser); changes `values` in place."""
    import numpy as np

    values ^= values >> np.uint64(33)
    values *= np.uint64(_MIX_1)
    values ^= values >> np.uint64(33)
    values *= np.uint64(_MIX_2)
    values ^= values >> np.uint64(33)
    return values
