"""Documents that say the same: the same chapter in two formats, two versions, an excerpt. Exact, on all shingles.

Twins cut their passages at different places, so that no pair of passages need be similar, though every passage of one
document lies within the other. Two measures find them:

    containment  share of a passage's shingles that the kept passages of one other document hold
    twinship     Jaccard similarity of two whole documents, or share of the smaller one's shingles that the larger one holds
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from forge.phases.audit.dedup import batches, find_near_duplicates
from forge.phases.audit.shingles import shingle_batch
from forge.records import Passage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DISTINCTIVE_DOCUMENTS = 20
"""A shingle in more documents than this is a common phrase and no sign of twinship."""
MIN_DISTINCTIVE = 30
"""Shingles that the smaller document must have: fewer say nothing about a whole document."""


class Contained(NamedTuple):
    """A passage that another document holds: `id` in the document of `holder`, the passage that shares most of it."""

    id: str
    holder: str
    similarity: float


class SharedShingles:
    """Which passages share which shingles with another document. Passages, documents and shared shingles are numbers here.

    passages      sorted by document
    document_of   (passages,) number of the document
    total         (passages,) distinct shingles, shared or not
    size          (documents,) distinct shingles, shared or not
    shingles_of   shared shingles of a passage: shingle[starts[p] : starts[p + 1]]
    holders_of    passages with a shared shingle: holder[firsts[s] : firsts[s + 1]]
    """

    def __init__(self, passages: Sequence[Passage]) -> None:
        import numpy as np

        self.passages = sorted(passages, key=lambda passage: (passage.group, passage.id))
        names = {group: number for number, group in enumerate(sorted({passage.group for passage in passages}))}
        self.documents = list(names)
        self.document_of = np.array([names[passage.group] for passage in self.passages], np.int64)
        passage, shingle, self.total, self.size = _index(
            [passage.text for passage in self.passages], self.document_of
        )
        by_passage = np.argsort(passage, kind="stable")
        self.shingle, self.holder = shingle[by_passage], passage
        self.starts = np.searchsorted(passage[by_passage], np.arange(len(self.passages) + 1))
        self.n_shingles = int(shingle[-1]) + 1 if len(shingle) else 0
        self.firsts = np.searchsorted(shingle, np.arange(self.n_shingles + 1))

    def shingles_of(self, passage: int) -> NDArray[np.int64]:
        """The shared shingles of a passage."""
        return self.shingle[self.starts[passage] : self.starts[passage + 1]]

    def holders_of(self, shingles: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(passage, place in `shingles`) for every passage that holds one of the shingles."""
        import numpy as np

        counts = self.firsts[shingles + 1] - self.firsts[shingles]
        place = np.repeat(np.arange(len(shingles)), counts)
        at = np.arange(len(place)) + np.repeat(self.firsts[shingles] - (np.cumsum(counts) - counts), counts)
        return self.holder[at], place


def find_contained(passages: Sequence[Passage], worst_first: Sequence[str], threshold: float) -> list[Contained]:
    """Passages of which at least `threshold` lies in what is left of one other document.

    worst_first: ids in the order in which passages are given up, so that of twins the better one stays.
    """
    import numpy as np

    table = SharedShingles(passages)
    number = {passage.id: at for at, passage in enumerate(table.passages)}
    is_left = np.ones(len(table.passages), np.bool_)
    found = []
    for at in (number[id] for id in worst_first):
        shared, total = table.shingles_of(at), int(table.total[at])
        if not total or len(shared) / total < threshold:
            continue
        holders, places = table.holders_of(shared)
        elsewhere = is_left[holders] & (table.document_of[holders] != table.document_of[at])
        holders, places = holders[elsewhere], places[elsewhere]
        held = np.unique(table.document_of[holders] * len(shared) + places) // len(shared)
        documents, counts = np.unique(held, return_counts=True)
        if not len(counts) or counts.max() / total < threshold:
            continue
        document = documents[counts.argmax()]
        inside, shares = np.unique(holders[table.document_of[holders] == document], return_counts=True)
        holder = table.passages[inside[shares.argmax()]].id
        found.append(Contained(table.passages[at].id, holder, float(counts.max() / total)))
        is_left[at] = False
    return found


def find_twins(passages: Sequence[Passage], threshold: float) -> list[tuple[str, str]]:
    """Pairs of documents (groups) of which one is, by at least `threshold`, like the other or inside it."""
    texts: defaultdict[str, list[str]] = defaultdict(list)
    for passage in sorted(passages, key=lambda one: one.id):
        texts[passage.group].append(passage.text)
    names = sorted(texts)
    similar = find_near_duplicates(("\n".join(texts[name]) for name in names), threshold)
    twins = {(names[match.duplicate_of], names[match.text]) for match in similar if match.duplicate_of is not None}
    return sorted(twins | _documents_inside(SharedShingles(passages), threshold))


def merge(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Union-find over pairs of groups: each group in them -> the smallest name of its cluster."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for one, two in pairs:
        low, high = sorted((root(one), root(two)))
        parent[high] = low
    return {name: root(name) for name in sorted(parent)}


def _documents_inside(table: SharedShingles, threshold: float) -> set[tuple[str, str]]:
    """Pairs of which the smaller document lies in the larger one by `threshold`, counting only distinctive shingles."""
    import numpy as np

    n = len(table.documents)
    shingle = np.repeat(np.arange(table.n_shingles), np.diff(table.firsts))
    held = shingle * n + table.document_of[table.holder]  # in order, since holders are in that of their documents
    is_first = _changes(held)
    shingle, document = shingle[is_first], table.document_of[table.holder][is_first]
    is_common = np.bincount(shingle, minlength=table.n_shingles)[shingle] > DISTINCTIVE_DOCUMENTS
    size = table.size - np.bincount(document[is_common], minlength=n)
    shingle, document = shingle[~is_common], document[~is_common]
    parts = [np.zeros(0, np.int64)]
    for step in range(1, DISTINCTIVE_DOCUMENTS):
        same = shingle[step:] == shingle[:-step]
        parts.append(document[:-step][same] * n + document[step:][same])
    pairs, counts = np.unique(np.concatenate(parts), return_counts=True)
    one, two = pairs // n, pairs % n
    smaller = np.minimum(size[one], size[two])
    is_twin = (smaller >= MIN_DISTINCTIVE) & (counts >= threshold * smaller)
    return {(table.documents[a], table.documents[b]) for a, b in zip(one[is_twin], two[is_twin], strict=True)}


def _index(
    texts: Sequence[str], document_of: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Passage and number of every shared shingle, by number; how many distinct shingles each passage and each document has.

    Passages must be numbered document by document: then a shingle is shared where its document changes.
    """
    import numpy as np

    n_documents = int(document_of.max(initial=-1)) + 1
    hashes, passage = _shingles(texts)
    again = _may_repeat(hashes)
    total = np.bincount(passage[~again], minlength=len(texts))
    size = np.bincount(document_of, total, n_documents).astype(np.int64)
    hashes, passage = hashes[again], passage[again]
    order = np.argsort(hashes, kind="stable")   # passages are in their order already
    hashes, passage = hashes[order], passage[order]
    is_first = _changes(hashes) | _changes(passage)
    hashes, passage = hashes[is_first], passage[is_first]
    total += np.bincount(passage, minlength=len(texts))
    new_hash = _changes(hashes)
    run = np.cumsum(new_hash) - 1
    new_document = new_hash | _changes(document_of[passage])
    size += np.bincount(document_of[passage][new_document], minlength=n_documents)
    documents = np.bincount(run, weights=new_document)
    is_shared = documents[run] > 1 if len(run) else new_hash
    return passage[is_shared], np.cumsum(_changes(run[is_shared])) - 1, total, size


def _may_repeat(hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """True for every hash that occurs twice, and for few others: most occur once, and need not be sorted with their passages.

    Hashes that share a place in a table of four places for each (at most 256 MB): all but the last one there see that it is not theirs.
    """
    import numpy as np

    size = 1 << min(26, max(16, (4 * len(hashes)).bit_length()))
    place, number = (hashes & np.uint64(size - 1)).astype(np.int64), np.arange(len(hashes), dtype=np.int32)
    last = np.zeros(size, np.int32)
    last[place] = number
    taken = np.zeros(size, np.bool_)
    taken[place[last[place] != number]] = True
    return taken[place]


def _changes(values: NDArray[np.uint64] | NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where a value differs from the one before; true at the first."""
    import numpy as np

    changes = np.ones(len(values), np.bool_)
    changes[1:] = values[1:] != values[:-1]
    return changes


def _shingles(texts: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """All shingles of all texts, and the number of the text of each."""
    import numpy as np

    parts, counts = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for batch in batches(texts):
        hashes, offsets = shingle_batch(batch)
        parts.append(hashes)
        counts.append(np.diff(offsets))
    return np.concatenate(parts), np.repeat(np.arange(len(texts)), np.concatenate(counts))
