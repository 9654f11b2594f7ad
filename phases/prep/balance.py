"""Counts characters so that none gets lost unseen: extracted = kept + dropped(reason) + duplicate.

Only characters that are not white space count: joining paragraphs and wrapping lines then change nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from forge.errors import ForgeError
from forge.records import Balance, Piece

CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")
"""Control characters that are not white space: never text, and U+0000 cannot be stored by most readers."""

UNCLEAN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
SURROGATE = re.compile("[\ud800-\udfff]")
SPACE_CONTROL = str.maketrans({"\r": "\n", "\x0b": "\n", "\x0c": "\n", "\x1c": " ", "\x1d": " ", "\x1e": " ", "\x1f": " ", "\x85": "\n"})


def visible(text: str) -> int:
    """How many characters of `text` are not white space."""
    return len("".join(text.split()))


def clean(text: str) -> str:
    """Text that any UTF-8 reader can hold: no control characters, no half surrogates, \\n as the only line end."""
    if not UNCLEAN.search(text):
        return text
    text = text.replace("\r\n", "\n").translate(SPACE_CONTROL)
    return CONTROL.sub("", SURROGATE.sub("\ufffd", text))


class Tally:
    """What an extractor handed over, counted piece by piece as it arrives."""

    def __init__(self) -> None:
        self.extracted = 0
        self.dropped: Counter[str] = Counter()
        self.losses: Counter[str] = Counter()
        self.placeholders = 0
        """Characters that masking put in the place of dropped ones: in the passages, but not the file's."""

    def take(self, piece: Piece) -> Piece | None:
        """Count a piece; returns it clean, or None when it is not to be kept."""
        count = visible(piece.text)
        self.extracted += count
        if not count:
            self.losses.update([piece.dropped] if piece.dropped else [])
            return None
        if piece.dropped:
            self.dropped[piece.dropped] += count
            return None
        if controls := len(CONTROL.findall(piece.text)):
            self.dropped["control character"] += controls
        return piece.model_copy(update={"text": clean(piece.text), "heading": clean(piece.heading), "locator": clean(piece.locator)})

    def balance(self, kept: Iterable[str], name: str) -> Balance:
        """The closed balance of one file. Raises ForgeError, naming the file, when a character is unaccounted for."""
        balance = Balance(
            extracted=self.extracted, kept=sum(map(visible, kept)) - self.placeholders, dropped=dict(sorted(self.dropped.items()))
        )
        if not balance.holds:
            gone = balance.extracted - balance.kept - sum(balance.dropped.values())
            raise ForgeError(
                f"the characters of {name} do not add up: {balance.extracted:,} extracted, {balance.kept:,} kept, "
                f"{sum(balance.dropped.values()):,} dropped",
                why=f"{abs(gone):,} characters {'vanished' if gone > 0 else 'appeared'} between the extractor and the "
                "passages; an extractor whose pieces change while they are read does this",
                next="forge plugins check FILE tests an extractor by itself",
            )
        return balance
