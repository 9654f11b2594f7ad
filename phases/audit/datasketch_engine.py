"""The same answer by way of datasketch: its min-hashes and its index propose, our exact check decides.

Slower than phases/audit/dedup.py (bench/dedup); for those who want a second opinion from a library that many know.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from forge.phase import Requirement
from forge.phases.audit.dedup import Match, best_match, choose_bands
from forge.phases.audit.shingles import unique_shingles
from forge.registry import require

PERMUTATIONS = 128
REQUIRES = (Requirement(module="datasketch", extra="datasketch"),)


def find_near_duplicates(texts: Iterable[str], threshold: float = 0.85) -> Iterator[Match]:
    """One Match for each text, in order; shingles stay in memory. Raises MissingAccess without the [datasketch] extra."""
    require(REQUIRES, "audit.dedup_engine=datasketch")
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(num_perm=PERMUTATIONS, params=choose_bands(threshold, PERMUTATIONS))
    shingles = [unique_shingles(text) for text in texts]
    values = ((own >> 32).astype("uint32").tolist() for own in shingles)
    sketches = MinHash.generator(values, num_perm=PERMUTATIONS, hashfunc=int)
    for text, sketch in enumerate(sketches):
        if not len(shingles[text]):
            yield Match(text)
            continue
        match = best_match(text, index.query(sketch), shingles.__getitem__, threshold)
        if match.duplicate_of is None:
            index.insert(text, sketch, check_duplication=False)
        yield match
