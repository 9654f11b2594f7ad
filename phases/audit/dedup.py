"""Near-duplicates among many texts: for each text, whether it stays or which earlier text it repeats, and how exactly.

Two texts are near-duplicates when the Jaccard similarity of their five-word shingles is at least the threshold. Texts
are taken in order, and one stays unless it is a near-duplicate of one that stayed before it.

    sketch      64 min-hashes of each text (more below a threshold of 0.55) (Broder 1997), of which one key per band stays in memory
    spill       the shingles go to a temporary file, 8 bytes each
    candidates  texts that agree in all rows of a band (Leskovec et al., Mining of Massive Datasets, 3.4)
    verify      exact Jaccard similarity of the candidates, from their shingles

The sketch only proposes. Bands are chosen so that a pair at the threshold is missed with a chance below 1e-5. (datasketch
2.0 with its defaults for 0.85 misses more than half of such pairs and drops some below the threshold: it weighs both
errors alike, because it does not verify. bench/dedup measures both.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, TYPE_CHECKING, NamedTuple, Self

from forge.errors import UsageError
from forge.phases.audit.shingles import distinct, shingle_batch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from forge.phases.audit.shingles import Hashes, Offsets

PERMUTATIONS = 64
MORE_PERMUTATIONS = (96, 128)
"""Where 64 leave bands of a single row, which propose every pair that shares one minimum: at 0.5 that was 30 times as many."""
MISS_CHANCE = 1e-5
TEXTS_PER_BATCH = 256
"""About 35,000 shingles: a batch stays in the processor's cache through all permutations."""
CHARACTERS_PER_BATCH = 1_000_000
CACHED_TEXTS = 20_000
"""Texts whose sorted shingles stay in memory while candidates are verified: about 20 MB."""


class Match(NamedTuple):
    """What became of one text: kept, or a repetition of `duplicate_of` with the exact Jaccard `similarity`."""

    text: int
    duplicate_of: int | None = None
    similarity: float | None = None


def find_near_duplicates(texts: Iterable[str], threshold: float = 0.85) -> Iterator[Match]:
    """One Match for each text, in order. Reads all texts before it yields the first; texts are not kept in memory.

    A text without any word is always kept. Raises UsageError for a threshold outside 0.2..1.
    """
    with NearDuplicates(threshold) as index:
        for batch in batches(texts):
            index.add(batch)
        yield from index.matches()


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """The texts in lists of up to TEXTS_PER_BATCH and about CHARACTERS_PER_BATCH."""
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if len(batch) == TEXTS_PER_BATCH or characters >= CHARACTERS_PER_BATCH:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def choose_bands(threshold: float, permutations: int = PERMUTATIONS) -> tuple[int, int]:
    """(bands, rows): as many rows as keep (1 - t**rows)**bands, the chance to miss a pair at the threshold, below 1e-5."""
    if not 0.2 <= threshold <= 1:
        raise UsageError(
            f"near-duplicates at a similarity of {threshold} cannot be found",
            why="a similarity is at most 1, and below 0.2 min-hashes would miss some pairs",
            next="choose a threshold between 0.2 and 1; 0.85 is usual",
        )
    rows = next(rows for rows in range(8, 0, -1) if (1 - threshold**rows) ** (permutations // rows) <= MISS_CHANCE)
    return permutations // rows, rows


def choose_sketch(threshold: float) -> tuple[int, int]:
    """choose_bands() for the fewest permutations with which a band has more than one row; for PERMUTATIONS where none has."""
    choices = [choose_bands(threshold, permutations) for permutations in (PERMUTATIONS, *MORE_PERMUTATIONS)]
    return next((choice for choice in choices if choice[1] > 1), choices[0])


def best_match(text: int, candidates: Iterable[int], shingles: Callable[[int], Hashes], threshold: float) -> Match:
    """The most similar candidate (the earliest of equals) that reaches the threshold, by exact Jaccard similarity."""
    best = Match(text)
    own = shingles(text)
    for candidate in sorted(candidates):
        other = shingles(candidate)
        if min(len(own), len(other)) < threshold * max(len(own), len(other)) - 1e-9:
            continue
        similarity = jaccard(own, other)
        if similarity >= threshold and similarity > (best.similarity or 0):
            best = Match(text, candidate, similarity)
    return best


def jaccard(one: Hashes, two: Hashes) -> float:
    """Shared shingles over all shingles, of two sorted arrays without repeats."""
    import numpy as np

    merged = np.concatenate((one, two))
    merged.sort(kind="stable")  # merges two sorted runs; twice as fast as np.intersect1d at this size
    shared = int(np.count_nonzero(merged[1:] == merged[:-1]))
    return shared / (len(merged) - shared)


class NearDuplicates:
    """Collects texts with add(), then tells by matches() which of them repeat an earlier one."""

    def __init__(self, threshold: float = 0.85) -> None:
        self.threshold = threshold
        self.bands, self.rows = choose_sketch(threshold)
        self._keys: list[NDArray[np.uint64]] = []
        self._lengths: list[NDArray[np.int64]] = []
        self._spill: IO[bytes] = TemporaryFile(prefix="forge-shingles-")  # noqa: SIM115 - closed by __exit__
        self._cache: dict[int, Hashes] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spill.close()

    def add(self, texts: Sequence[str]) -> None:
        """Take the next texts. A few hundred at a time is fastest."""
        import numpy as np

        hashes, offsets = shingle_batch(texts)
        self._spill.write(hashes.data)
        self._lengths.append(np.diff(offsets))
        self._keys.append(self._band_keys(_sketch(hashes, offsets, max(PERMUTATIONS, self.bands * self.rows))))

    def matches(self) -> Iterator[Match]:
        """One Match for each added text, in the order in which they came."""
        import numpy as np

        if not self._lengths:
            return
        lengths = np.concatenate(self._lengths)
        self._starts = np.concatenate(([0], np.cumsum(lengths)))
        buckets, ends = _shared_buckets(np.concatenate(self._keys), lengths > 0)
        kept_by_bucket: defaultdict[int, list[int]] = defaultdict(list)
        for text in range(len(lengths)):
            own = buckets[ends[text] : ends[text + 1]]
            candidates = {kept for bucket in own for kept in kept_by_bucket[bucket]}
            match = best_match(text, candidates, self._shingles, self.threshold) if candidates else Match(text)
            if match.duplicate_of is None:
                for bucket in own:
                    kept_by_bucket[bucket].append(text)
            yield match

    def _band_keys(self, sketch: NDArray[np.uint32]) -> NDArray[np.uint64]:
        """(texts, bands) uint64: equal keys in a band mean equal min-hashes in all its rows."""
        import numpy as np

        constants = np.random.default_rng(2).integers(1, 1 << 63, self.rows, dtype=np.uint64) * np.uint64(
            2
        ) + np.uint64(1)
        rows = sketch[: self.bands * self.rows].reshape(self.bands, self.rows, -1).astype(np.uint64)
        keys: NDArray[np.uint64] = np.einsum("brt,r->tb", rows, constants)
        return keys

    def _shingles(self, text: int) -> Hashes:
        """The sorted, distinct shingles of a text, read back from the spill file."""
        import numpy as np

        found = self._cache.get(text)
        if found is None:
            if len(self._cache) >= CACHED_TEXTS:
                self._cache.clear()
            self._spill.seek(int(self._starts[text]) * 8)
            count = int(self._starts[text + 1] - self._starts[text])
            found = self._cache[text] = distinct(np.frombuffer(self._spill.read(count * 8), np.uint64))
        return found


def _sketch(hashes: Hashes, offsets: Offsets, permutations: int) -> NDArray[np.uint32]:
    """(permutations, texts) uint32 min-hashes under x -> a*x + b mod 2**32, a odd; meaningless for a text without shingles."""
    import numpy as np

    random = np.random.default_rng(1)
    factors = random.integers(0, 1 << 31, permutations, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    summands = random.integers(0, 1 << 32, permutations, dtype=np.uint32)
    values = (hashes >> np.uint64(32)).astype(np.uint32)
    sketch = np.zeros((permutations, len(offsets) - 1), np.uint32)
    if len(values):
        # reduceat wants an index for an empty last text too: one value more, that no minimum can be.
        padded = np.full(len(values) + 1, 0xFFFFFFFF, np.uint32)
        permuted = padded[:-1]
        for row, factor, summand in zip(sketch, factors, summands, strict=True):
            np.multiply(values, factor, out=permuted)
            permuted += summand
            np.minimum.reduceat(padded, offsets[:-1], out=row)
    return sketch


def _shared_buckets(keys: NDArray[np.uint64], has_words: NDArray[np.bool_]) -> tuple[list[int], list[int]]:
    """Numbers of the buckets that a text shares with other texts, text after text, and where each text's begin.

    Nearly all keys occur once; dropping them here leaves the loop over texts with the few that matter.
    """
    import numpy as np

    text_parts, bucket_parts = [], []
    texts, n_buckets = np.flatnonzero(has_words), 0
    for band in range(keys.shape[1]):
        _, bucket, counts = np.unique(keys[texts, band], return_inverse=True, return_counts=True)
        shared = counts[bucket] > 1
        text_parts.append(texts[shared])
        bucket_parts.append(bucket[shared] + n_buckets)
        n_buckets += len(counts)
    text_of, bucket_of = np.concatenate(text_parts), np.concatenate(bucket_parts)
    order = np.argsort(text_of, kind="stable")
    ends = np.searchsorted(text_of[order], np.arange(len(keys) + 1))
    return bucket_of[order].tolist(), ends.tolist()
