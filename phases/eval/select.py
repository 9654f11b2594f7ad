"""Which rows are generated for: a fixed, stratified sample of each test."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from forge.records import Example, digest


def stratified(examples: Sequence[Example], cap: int, seed: int) -> list[Example]:
    """At most `cap` examples, taken in turns from the buckets, in an order drawn by hash. The same rows on every machine.

    Larger caps keep the rows of smaller ones.
    """
    buckets: dict[str, list[Example]] = defaultdict(list)
    for example in sorted(examples, key=lambda row: digest(str(seed), row.id)):
        buckets[example.bucket].append(example)
    turns = max((len(rows) for rows in buckets.values()), default=0)
    order = [rows[turn] for turn in range(turns) for _, rows in sorted(buckets.items()) if turn < len(rows)]
    return sorted(order[:cap], key=lambda row: row.id)
