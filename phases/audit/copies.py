"""Takes repeated passages out, the best copy stays; and puts documents that share text into one group."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

from forge.phases.audit import datasketch_engine, dedup
from forge.phases.audit.sieve import Sieve
from forge.phases.audit.twins import find_contained, find_twins, merge
from forge.records import Document, Passage

ENGINES = {"exact": dedup.find_near_duplicates, "datasketch": datasketch_engine.find_near_duplicates}

CONTAINED_SHARE = 0.8
TWIN_SHARE = 0.5
WIDE_DOCUMENTS, WIDE_SHARE = 5, 0.1
"""A passage that more than 5 documents and more than 10 % of them repeat is common stock: its copies go, but it ties no groups."""

_TRUST = {"text": 0, "word": 1, "slides": 2, "pdf": 3, "image": 4, "sound": 5}
_KINDS = (
    ("text/", "text"),
    ("application/epub", "text"),
    ("application/json", "text"),
    ("wordprocessing", "word"),
    ("opendocument.text", "word"),
    ("msword", "word"),
    ("presentation", "slides"),
    ("pdf", "pdf"),
    ("image/", "image"),
    ("audio/", "sound"),
    ("video/", "sound"),
)


def best_first(passages: Sequence[Passage], documents: Sequence[Document]) -> list[Passage]:
    """By how far the document's format can be trusted to give clean text, then the longer, then by id."""
    trust = {document.source.path: _trust(document.media_type) for document in documents}
    return sorted(passages, key=lambda one: (trust.get(one.source.path, _TRUST["word"]), -len(one.text), one.id))


def drop_copies(
    sieve: Sieve, documents: Sequence[Document], *, engine: str, threshold: float
) -> list[tuple[str, str]]:
    """Drop exact, near and contained copies; returns (dropped, kept) ids of all of them."""
    copies = _drop_exact(sieve, best_first(list(sieve.kept.values()), documents))
    ordered = best_first(list(sieve.kept.values()), documents)
    for match in ENGINES[engine]((passage.text for passage in ordered), threshold):
        if match.duplicate_of is not None:
            kept = ordered[match.duplicate_of].id
            sieve.drop(ordered[match.text].id, "near_duplicate", dup_of=kept, similarity=match.similarity)
            copies.append((ordered[match.text].id, kept))
    ordered = best_first(list(sieve.kept.values()), documents)
    for one in find_contained(ordered, [passage.id for passage in reversed(ordered)], CONTAINED_SHARE):
        sieve.drop(
            one.id, "contained", "in the passages of another document", dup_of=one.holder, similarity=one.similarity
        )
        copies.append((one.id, one.holder))
    return copies


def merged_groups(passages: Sequence[Passage], copies: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Group -> group of its cluster, the smallest; over copied passages and twin documents. `passages`: all, also dropped ones."""
    group_of = {passage.id: passage.group for passage in passages}
    groups_by_kept: defaultdict[str, set[str]] = defaultdict(set)
    for dropped, kept in copies:
        groups_by_kept[kept].update((group_of[dropped], group_of[kept]))
    widest = max(WIDE_DOCUMENTS, WIDE_SHARE * len(set(group_of.values())))
    pairs = [
        (min(groups), group)
        for groups in groups_by_kept.values()
        if len(groups) <= widest
        for group in sorted(groups)
    ]
    return merge(pairs + find_twins(passages, TWIN_SHARE))


def clusters(group_of: Mapping[str, str]) -> list[list[str]]:
    """The groups that were merged, by cluster."""
    members: defaultdict[str, list[str]] = defaultdict(list)
    for group, cluster in sorted(group_of.items()):
        members[cluster].append(group)
    return [groups for groups in members.values() if len(groups) > 1]


def _drop_exact(sieve: Sieve, ordered: Sequence[Passage]) -> list[tuple[str, str]]:
    """Same text but for case and spaces."""
    first: dict[bytes, str] = {}
    copies = []
    for passage in ordered:
        key = hashlib.sha256(" ".join(passage.text.lower().split()).encode("utf-8", "surrogatepass")).digest()
        kept = first.setdefault(key, passage.id)
        if kept != passage.id:
            sieve.drop(passage.id, "exact_duplicate", dup_of=kept, similarity=1.0)
            copies.append((passage.id, kept))
    return copies


def _trust(media_type: str) -> int:
    return next((_TRUST[kind] for part, kind in _KINDS if part in media_type), _TRUST["word"])
