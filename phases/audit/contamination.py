"""Finds items of evaluation sets in passages, whatever their case, spaces, punctuation or markup.

    13 words and more   any 13 words in a row (the length of GPT-3's report, Brown et al. 2020, appendix C)
    5 to 12 words       the whole item in a row; from 8 words on also 70 % of its 8-word runs
    fewer               too little to tell: counted as unchecked, never as clean

In scripts written without spaces a character counts as a word.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from forge import private
from forge.phases.audit.evaluation_sets import Item
from forge.phases.audit.prose import UNSPACED
from forge.phases.audit.shingles import mix, word_ids, words
from forge.records import Passage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Hashes = NDArray[np.uint64]

RUN = 13
SHORT_RUN, COVERAGE = 8, 0.7
MIN_WORDS = 5
"""Shorter questions ("What is a mutex?") are headings of any handbook."""
TEXTS_PER_BATCH = 1_000
SAMPLES = 10
SIEVE_BITS = 20
"""A table of 1 MB tells for almost every run of words that no item has it."""

_UNSPACED = re.compile(f"([{UNSPACED}])")
_INSIDE = re.compile(r"['’ʼ`´\u00ad\u200b-\u200f\u2060\ufeff]")


class Found(NamedTuple):
    """An item in a text. rule: "13 words in a row", "the whole item", "70 % of its 8-word runs"; words: what was found, normalised."""

    text: int
    place: str
    rule: str
    words: str


class EvaluationIndex:
    """Runs of words of all items, as 64-bit hashes: looked up for many texts at once.

    items: how many were added; unchecked: how many of them are too short to be looked for.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self.places: list[str] = []
        self.unchecked = self.items = 0
        self._runs: defaultdict[int, list[tuple[Hashes, int]]] = defaultdict(list)
        self._short: dict[int, int] = {}
        batch: list[Item] = []
        for item in items:
            batch.append(item)
            if len(batch) == TEXTS_PER_BATCH:
                self._add(batch)
                batch = []
        self._add(batch)
        self._tables = {length: _Table(runs) for length, runs in self._runs.items()}
        self._runs.clear()

    def search(self, texts: Sequence[str]) -> list[Found]:
        """At most one Found for each text: the first item, by the strictest rule that holds."""
        normal = [normalize(text) for text in texts]
        runs = _Runs(normal)
        found: dict[int, Found] = {}
        for length in sorted(self._tables, reverse=True):
            hashes, at = runs.of(abs(length))
            hits, entries = self._tables[length].find(hashes)
            matches = self._covered(hits, entries, at, runs) if length == -SHORT_RUN else zip(at[hits].tolist(), entries, strict=True)
            for word, item in matches:
                text, first = runs.place(word)
                if text not in found:
                    shown = " ".join(words(normal[text])[first : first + abs(length)])
                    found[text] = Found(text, self.places[item], _rule(length), shown)
        return [found[text] for text in sorted(found)]

    def _covered(self, hits: NDArray[np.int64], entries: list[int], at: NDArray[np.int64], runs: _Runs) -> list[tuple[int, int]]:
        seen: defaultdict[tuple[int, int], dict[int, int]] = defaultdict(dict)
        for hit, entry in zip(hits.tolist(), entries, strict=True):
            item, run = divmod(entry, RUN)
            seen[runs.place(int(at[hit]))[0], item].setdefault(run, int(at[hit]))
        return [(min(found.values()), item) for (_, item), found in sorted(seen.items()) if len(found) >= COVERAGE * self._short[item]]

    def _add(self, items: Sequence[Item]) -> None:
        first = len(self.places)
        self.items += len(items)
        self.places += [item.place for item in items]
        owners = [first + number for number, item in enumerate(items) for _ in item.parts]
        runs = _Runs([normalize(part) for item in items for part in item.parts])
        checked = {owner for part, owner in enumerate(owners) if self._add_part(part, owner, runs)}
        self.unchecked += len(items) - len(checked)

    def _add_part(self, part: int, owner: int, runs: _Runs) -> bool:
        length = runs.length(part)
        if length < MIN_WORDS:
            return False
        if length >= RUN:
            self._runs[RUN].append((runs.own(part, RUN), owner))
            return True
        self._runs[length].append((runs.own(part, length), owner))
        if length > SHORT_RUN and owner not in self._short:
            own = runs.own(part, SHORT_RUN)
            self._short[owner] = len(own)
            for number in range(len(own)):
                self._runs[-SHORT_RUN].append((own[number : number + 1], owner * RUN + number))
        return True


def search(index: EvaluationIndex, texts: Sequence[str], tick: Callable[[], None] = lambda: None) -> list[Found]:
    """What EvaluationIndex.search finds, over any number of texts in batches."""
    found: list[Found] = []
    for start in range(0, len(texts), TEXTS_PER_BATCH):
        tick()
        batch = index.search(texts[start : start + TEXTS_PER_BATCH])
        found += [one._replace(text=one.text + start) for one in batch]
    return found


def describe_contamination(action: str, sets: Sequence[Mapping[str, Any]], hits: Sequence[Found], passages: Sequence[Passage]) -> dict[str, Any]:
    """What audit.json tells: counts by set, and evenly spread samples with the place of item and passage. Never a whole item."""
    rules = Counter(one.rule for one in hits)
    samples = [
        {"passage": passages[one.text].id, "path": passages[one.text].source.path, "locator": passages[one.text].source.locator, "item": one.place,
         "rule": one.rule, "words": private.mask(one.words)[0]}
        for one in hits[:: max(1, len(hits) // SAMPLES)][:SAMPLES]
    ]
    return {
        "action": action, "sets": list(sets), "passages": len(hits), "items_found": len({one.place for one in hits}),
        "by_rule": dict(sorted(rules.items())), "samples": samples,
    }


def normalize(text: str) -> str:
    """Small letters without accents and apostrophes; underscores are spaces, characters of scripts without spaces are words."""
    if text.isascii():
        return text.lower().replace("_", " ").replace("'", "").replace("`", "")
    plain = unicodedata.normalize("NFKD", _INSIDE.sub("", text)).casefold()
    plain = "".join(one for one in plain if not unicodedata.combining(one)) if not plain.isascii() else plain
    return _UNSPACED.sub(r" \1 ", plain).replace("_", " ")


def _rule(length: int) -> str:
    if length == RUN:
        return f"{RUN} words in a row"
    return "the whole item" if length > 0 else f"{COVERAGE:.0%} of its {SHORT_RUN}-word runs"


class _Runs:
    """Hashes of all runs of words in some normalised texts, of any length up to RUN."""

    def __init__(self, texts: Sequence[str]) -> None:
        import numpy as np

        self._ids, self._before = word_ids(texts)
        text_of = np.repeat(np.arange(len(texts)), np.diff(self._before))
        self._left = self._before[1:][text_of] - np.arange(len(self._ids))  # words from here to the end of the text
        padded = np.concatenate((self._ids, np.zeros(RUN, np.uint64)))
        self._sums, total = {}, np.zeros(len(self._ids), np.uint64)
        for length in range(1, RUN + 1):
            total = total + padded[length - 1 : length - 1 + len(self._ids)] * np.uint64(_constant(length))
            self._sums[length] = total

    def of(self, length: int) -> tuple[Hashes, NDArray[np.int64]]:
        """Hashes of all runs of `length` words, and the number of the word at which each starts."""
        import numpy as np

        at = np.flatnonzero(self._left >= length)
        return mix(self._sums[length][at]), at

    def length(self, text: int) -> int:
        """How many words a text has."""
        return int(self._before[text + 1] - self._before[text])

    def own(self, text: int, length: int) -> Hashes:
        """Hashes of the runs of one text."""
        first, last = int(self._before[text]), int(self._before[text + 1])
        return mix(self._sums[length][first : last - length + 1].copy())

    def place(self, word: int) -> tuple[int, int]:
        """(text, number in it) of a word."""
        import numpy as np

        text = int(np.searchsorted(self._before, word, side="right")) - 1
        return text, word - int(self._before[text])


class _Table:
    """Sorted hashes with their owners, behind a table of bits."""

    def __init__(self, runs: Sequence[tuple[Hashes, int]]) -> None:
        import numpy as np

        hashes = np.concatenate([own for own, _ in runs])
        owners = np.repeat(np.array([owner for _, owner in runs], np.int64), [len(own) for own, _ in runs])
        order = np.lexsort((owners, hashes))
        self._hashes, self._owners = hashes[order], owners[order]
        self._mask = np.uint64((1 << SIEVE_BITS) - 1)
        self._bits = np.zeros(1 << SIEVE_BITS, np.bool_)
        self._bits[(hashes & self._mask).astype(np.int64)] = True

    def find(self, hashes: Hashes) -> tuple[NDArray[np.int64], list[int]]:
        """Places in `hashes` that are in the table, and an owner of each: a place is repeated for every owner."""
        import numpy as np

        maybe = np.flatnonzero(self._bits[(hashes & self._mask).astype(np.int64)])
        first = np.searchsorted(self._hashes, hashes[maybe], side="left")
        count = np.searchsorted(self._hashes, hashes[maybe], side="right") - first
        hits = np.repeat(maybe, count)
        inside = np.arange(len(hits)) - np.repeat(np.cumsum(count) - count, count)
        return hits, self._owners[np.repeat(first, count) + inside].tolist()


def _constant(length: int) -> int:
    """An odd number for the word at each place of a run (splitmix64), so that the order of words counts."""
    value = (length * 0x9E3779B97F4A7C15) & (1 << 64) - 1
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & (1 << 64) - 1
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & (1 << 64) - 1
    return (value ^ (value >> 31)) | 1
