"""Masks secrets and personal data in what an extractor gave, before it is cut: nothing that prep writes or caches holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

from forge import private
from forge.phases.prep.balance import Tally, visible
from forge.records import Piece

BATCH_CHARACTERS = 200_000
"""Pieces that are looked through together: what spans several (a key with a paragraph for each line) is then found whole."""

JOINT = "\n"

Find = Callable[[str], list[private.Hit]]


def mask_pieces(pieces: Iterable[Piece], tally: Tally, find: Find = private.find) -> Iterator[Piece]:
    """The pieces without anything private. In the tally its characters are dropped as "masked email" and so on.

    What stands in its place are not the file's characters: the balance leaves placeholders out.
    """
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if size >= BATCH_CHARACTERS:
            yield from _mask_batch(batch, tally, find)
            batch, size = [], 0
    yield from _mask_batch(batch, tally, find)


def _mask_batch(pieces: list[Piece], tally: Tally, find: Find) -> Iterator[Piece]:
    hits = find(JOINT.join(piece.text for piece in pieces))
    for hit in hits:
        tally.losses[f"masked {hit.kind.replace('_', ' ')}"] += 1
    labels = {label for piece in pieces for label in (piece.heading, piece.locator)}
    clean = {label: label for label in labels}
    if find(JOINT.join(sorted(labels))):
        clean = {label: private.apply(label, find(label)) for label in labels}
    start = place = 0
    for piece in pieces:
        stop = start + len(piece.text)
        text, place = _mask_one(piece.text, start, hits, place, tally)
        heading, locator = clean[piece.heading], clean[piece.locator]
        if text != piece.text or heading != piece.heading or locator != piece.locator:
            piece = piece.model_copy(update={"text": text, "heading": heading, "locator": locator})
        yield piece
        start = stop + len(JOINT)


def _mask_one(text: str, start: int, hits: list[private.Hit], place: int, tally: Tally) -> tuple[str, int]:
    """(the masked text of a piece that begins at `start`, the first hit that reaches behind it).

    A hit over several pieces has its placeholder in the first; in the others its characters are just gone.
    """
    stop, parts, end = start + len(text), [], start
    while place < len(hits) and hits[place].start < stop:
        hit = hits[place]
        first, last = max(hit.start, start), min(hit.end, stop)
        if first < last:
            placeholder = hit.placeholder if hit.start >= start else ""
            parts += [text[end - start : first - start], placeholder]
            tally.dropped[f"masked {hit.kind.replace('_', ' ')}"] += visible(text[first - start : last - start])
            tally.placeholders += visible(placeholder)
            end = last
        if hit.end > stop:
            break
        place += 1
    return "".join([*parts, text[end - start :]]) if parts else text, place


@lru_cache(maxsize=1024)
def masked_label(text: str) -> str:
    """A heading, place, file name or reason without anything private in it."""
    return private.mask(text)[0] if text else text
