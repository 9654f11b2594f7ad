"""A few passages of every kind of decision, for the eyes of whoever approves: what stays in each subtopic, what went and why, what stands out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, TypeVar

from forge.phases.audit.outliers import Outliers
from forge.phases.audit.sieve import Sieve
from forge.records import Passage, Record

PER_REASON, PER_SUBTOPIC, KEPT, STRANGEST = 8, 5, 20, 30
TEXT_CHARACTERS = 300


class Check(Record):
    """One decision to look at. `reason`: why it went, or which documents it stands out from; `text`: its beginning, masked."""

    id: str
    decision: Literal["kept", "dropped", "off_topic"]
    reason: str = ""
    detail: str = ""
    subtopic: str = ""
    path: str
    locator: str = ""
    text: str


def choose(sieve: Sieve, outliers: Outliers) -> list[Check]:
    """Evenly spread over each stratum; the same passages give the same choice."""
    return [*_kept(sieve.kept), *_dropped(sieve), *_off_topic(sieve.kept, outliers)]


def _kept(kept: Mapping[str, Passage]) -> Iterator[Check]:
    by_subtopic: defaultdict[str, list[Passage]] = defaultdict(list)
    for id in sorted(kept):
        by_subtopic[kept[id].meta.get("subtopic", "")].append(kept[id])
    most = PER_SUBTOPIC if len(by_subtopic) > 1 else KEPT
    for name in sorted(by_subtopic):
        yield from (_check(f"kept:{one.id}", "kept", one) for one in spread(by_subtopic[name], most))


def _dropped(sieve: Sieve) -> Iterator[Check]:
    by_reason = defaultdict(list)
    for drop in sorted(sieve.drops, key=lambda one: one.id):
        by_reason[drop.reason].append(drop)
    for reason in sorted(by_reason):
        for one in spread(by_reason[reason], PER_REASON):
            yield Check(
                id=f"dropped:{one.id}", decision="dropped", reason=reason, detail=one.detail, path=one.source.path, locator=one.source.locator, text=one.sample
            )


def _off_topic(kept: Mapping[str, Passage], outliers: Outliers) -> Iterator[Check]:
    first: dict[str, Passage] = {}
    for id in sorted(kept):
        first.setdefault(kept[id].source.path, kept[id])
    for outlier in outliers.found[:STRANGEST]:
        if passage := first.get(outlier.path):
            detail = f"{outlier.likeness:.0%} as similar to the other documents as is usual; its terms: {', '.join(outlier.terms)}"
            yield _check(f"off_topic:{passage.id}", "off_topic", passage, "its document stands out", detail)


def _check(id: str, decision: Literal["kept", "off_topic"], passage: Passage, reason: str = "", detail: str = "") -> Check:
    text = " ".join(passage.text.split())
    return Check(
        id=id, decision=decision, reason=reason, detail=detail, subtopic=passage.meta.get("subtopic", ""), path=passage.source.path,
        locator=passage.source.locator, text=text if len(text) <= TEXT_CHARACTERS else text[: TEXT_CHARACTERS - 1] + "…",
    )


T = TypeVar("T")


def spread(items: Sequence[T], most: int) -> Sequence[T]:
    """Up to `most` items, evenly spread."""
    return items[:: max(1, -(-len(items) // most))][:most] if items else items
