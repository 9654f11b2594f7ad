"""What there is to say of each passage by itself: in shards beside each other where the run wants that (run.shards), else when it is asked for.

The answers are the same to the byte, whatever the number of shards. Audit's CPU time on 20,000 small documents (43,400 passages, 46 MB, bench/audit):

    20 %  what is private in a text                                          in shards
    49 %  one look: damage, language, quality, references, citations         in shards
    13 %  copies, and documents that share text                              in the engine
     9 %  subtopics and outliers                                             in the engine
     9 %  reading, lines that documents repeat, labels of speakers, writing   in the engine

Hashing words for near-duplicates is 4 % (bench/dedup has the kernel alone); in shards it would bring back as many bytes as went out. On
a cluster every map is an array that waits in the queue: there are two.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from forge import private
from forge.citations import scrub
from forge.executor import each
from forge.phases.audit.language import SILENT, Voice, listen
from forge.phases.audit.prose import PROSE, prose_of
from forge.phases.audit.quality import Signals, hard_signal, soft_signals, without_stop_words
from forge.phases.audit.references import is_list
from forge.records import Passage

Spread = Callable[[Callable[[Any], Any], Sequence[Any]], "Iterator[Any] | None"]
"""Context.map_shards: what a function gives for each shard of the items, or None when the work is to be done here."""

_MAY_CITE = re.compile(r"\[[1-9]|(?:1[89]|20)\d\d[a-z]?[^()]{0,40}\)|10\.\d{4}|[Pp][Mm](?:[Ii][Dd]|[Cc])")
"""Every mark of a citation holds one of these; looking for the marks themselves takes 14 times as long."""


def here(function: Callable[[Any], Any], items: Sequence[Any]) -> None:
    """A Spread that leaves the work to this process."""


# --- what is private -------------------------------------------------------------------------------------------


class Hidden(NamedTuple):
    """What is private in some texts. masked: all of them without it, () when there is nothing; placeholders: those of the first, by name."""

    masked: tuple[str, ...] = ()
    placeholders: dict[str, int] = {}  # noqa: RUF012 - never changed


Texts = tuple[str, tuple[str, ...]]
"""A passage's id, its text and what is written beside it."""


def find_private(items: Sequence[Texts], spread: Spread = here) -> Callable[[Texts], Hidden]:
    """Tells what is private in each of the items."""
    shards = spread(_hide_shard, items)
    if shards is None:
        return lambda item: hide(item[1])
    found = {id: hidden for shard in shards for id, hidden in shard}
    return lambda item: found.get(item[0], Hidden())


def hide(texts: tuple[str, ...]) -> Hidden:
    """The texts masked, where there is anything to mask. One look for all: those beside the first are short, looks are not free."""
    masked = tuple(private.mask(text)[0] for text in texts) if private.find("\n".join(texts)) else ()
    return Hidden(masked, dict(private.counts((masked or texts)[:1])))


def _hide_shard(items: Sequence[Texts]) -> list[tuple[str, Hidden]]:
    found = ((id, hide(texts)) for id, texts in each(items, _name))
    return [(id, hidden) for id, hidden in found if hidden != Hidden()]


# --- what one look tells ----------------------------------------------------------------------------------------


class Look(NamedTuple):
    """damage: why a passage must go at once, and nothing else is known of it then. signals: as of an English text."""

    damage: str
    voice: Voice = SILENT
    signals: Signals = {}  # noqa: RUF012 - never changed
    listed: str = ""
    uncited: str | None = None


class Looks:
    """One look at each passage, taken in shards before the first question, or here bit by bit as it is asked."""

    def __init__(self, passages: Iterable[Passage], spread: Spread = here) -> None:
        shards = spread(_look_shard, [(one.id, one.text, _kind(one), _heading(one)) for one in passages])
        self._found: dict[str, Look] | None = None if shards is None else {id: look for shard in shards for id, look in shard}
        self._prose: dict[str, str] = {}

    def damage(self, passage: Passage) -> str:
        """Why the passage must go by itself, or ""."""
        return self._found[passage.id].damage if self._found is not None else hard_signal(passage.text)

    def voice(self, passage: Passage) -> Voice:
        """Which language its prose speaks."""
        return self._found[passage.id].voice if self._found is not None else listen(self._prose_of(passage))

    def signals(self, passage: Passage, *, english: bool) -> Signals:
        """Its signals of poor quality."""
        if self._found is None:
            return soft_signals(passage.text, self._prose_of(passage), "en" if english else "", _kind(passage))
        found = self._found[passage.id].signals
        return found if english else without_stop_words(found)

    def listed(self, passage: Passage) -> str:
        """What shows that it is a list of references, or ""."""
        return self._found[passage.id].listed if self._found is not None else is_list(passage.text, _heading(passage))[1]

    def uncited(self, passage: Passage) -> str | None:
        """Its text without marks of citations; None when it has none."""
        return self._found[passage.id].uncited if self._found is not None else _uncited(passage.text, _kind(passage))

    def _prose_of(self, passage: Passage) -> str:
        if passage.id not in self._prose:
            self._prose[passage.id] = prose_of(passage.text)
        return self._prose[passage.id]


def _look_shard(items: Sequence[tuple[str, str, str, str]]) -> list[tuple[str, Look]]:
    return [(id, _look(text, kind, heading)) for id, text, kind, heading in each(items, _name)]


def _look(text: str, kind: str, heading: str) -> Look:
    if damage := hard_signal(text):
        return Look(damage)
    prose = prose_of(text)
    return Look("", listen(prose), soft_signals(text, prose, "en", kind), is_list(text, heading)[1], _uncited(text, kind))


def _uncited(text: str, kind: str) -> str | None:
    if kind not in PROSE or not _MAY_CITE.search(text):
        return None
    shorter = scrub(text)
    return None if shorter == text else shorter


def _kind(passage: Passage) -> str:
    return passage.meta.get("kind", "prose")


def _heading(passage: Passage) -> str:
    return passage.meta.get("heading", "")


def _name(item: Sequence[Any]) -> str:
    return f"passage {item[0]}"
