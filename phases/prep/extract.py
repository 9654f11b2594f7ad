"""Reads one file into its document record and passages. Runs in a child process (see pool.py)."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from forge.errors import ExtractError, ForgeError, MissingAccess
from forge.phases.prep.balance import Tally, clean
from forge.phases.prep.cut import Cut, cut
from forge.phases.prep.route import Route, Router
from forge.protocols import Option, Reading
from forge.records import Balance, CorpusEntry, Document, Passage, Piece, Record, Source, digest
from forge.registry import require

CHARACTERS_PER_TOKEN = 4
MAX_CHARACTERS = 64_000_000
"""Output of one file: a bound on memory, far above any book (War and Peace has 2.6 million)."""

Status = Literal["ok", "skipped", "refused", "failed"]


class Result(Record):
    """How one file ended. `losses` counts what has no characters (pages without text); `fault` is a bug to stop for."""

    document: Document
    passages: tuple[Passage, ...] = ()
    losses: dict[str, int] = Field(default_factory=dict)
    fault: tuple[str, str, str] | None = None


class ReadJob(Record):
    """A file with the files that are read with it: what one call of the reader is about.

    sidecars: by what follows the main file's stem in lower case (".dbf", ".data/rdb/refs.myd"); see sidecars.py.
    """

    entry: CorpusEntry
    sidecars: dict[str, CorpusEntry] = Field(default_factory=dict)

    @property
    def key(self) -> str:
        """What the result depends on besides the settings: the path and all bytes that are read."""
        parts = (part for ending, one in sorted(self.sidecars.items()) for part in (ending, one.sha256))
        return f"{self.entry.sha256}:{digest(*parts)[:16] if self.sidecars else ''}:{self.entry.path}"


class Reader:
    """Opens, routes, extracts, cuts and balances files.

    options: what extractors are told by the settings (Reading.options).
    """

    def __init__(
        self, extractors: Mapping[str, Any], *, words: int, words_max: int, options: Mapping[str, Option] | None = None
    ) -> None:
        self.extractors, self.router = extractors, Router(extractors)
        self.words, self.words_max, self.options = words, words_max, options or {}

    def read(self, entry: CorpusEntry, path: Path) -> tuple[Result, ...]:
        """The file's result, then one for each file inside it; every fault is a status with a reason."""
        return (self._read(entry, path),)

    def _read(self, entry: CorpusEntry, path: Path) -> Result:
        route = Route("")
        try:
            _check_unchanged(entry, path)
            route = self.router.route(path, entry.path)
            if not route.extractor:
                return ended(entry, "skipped", route.reason, media_type=route.media_type)
            return self._extract(entry, path, route)
        except MemoryError:
            raise  # the pool counts it and tries the file once more in a fresh process
        except ExtractError as error:
            return ended(entry, "refused" if error.refused else "failed", _one_line(error), route.media_type, route.extractor)
        except MissingAccess as error:
            reason = f"{error.fact}: {error.next}"
            return ended(entry, "failed", reason, route.media_type, route.extractor)
        except _Unbalanced as error:
            return ended(entry, "failed", error.fact).model_copy(update={"fault": (error.fact, error.why, error.next)})
        except Exception as error:  # noqa: BLE001  # whatever a library raises on a broken file costs that file only
            reason = f"{type(error).__name__}: {error}".strip().rstrip(":")
            return ended(entry, "failed", clean(reason)[:300], route.media_type, route.extractor)

    def _extract(self, entry: CorpusEntry, path: Path, route: Route) -> Result:
        plugin = self.extractors[route.extractor]
        require(tuple(getattr(plugin, "requires", ())), f"extractor {route.extractor}")
        tally = Tally()
        handed_over = plugin.extract(path, Reading(route.media_type, name=entry.path, options=self.options))
        pieces = list(_taken(handed_over, tally))
        cuts = cut(pieces, words=self.words, words_max=self.words_max)
        try:
            balance = tally.balance((one.text for one in cuts), entry.path)
        except ForgeError as error:
            raise _Unbalanced(error.fact, why=error.why, next=error.next) from error
        if not balance.kept:
            reason = "no text" + _detail(balance, tally)
            result = ended(entry, "skipped", reason, route.media_type, route.extractor, balance)
            return result.model_copy(update={"losses": dict(tally.losses)})
        document = _document(entry, route, "ok", _losses(tally), balance)
        return Result(document=document, passages=_passages(document, cuts), losses=dict(sorted(tally.losses.items())))


def ended(
    entry: CorpusEntry, status: Status, reason: str, media_type: str = "", extractor: str = "", balance: Balance | None = None
) -> Result:
    """The result of a file that gives no passages."""
    return Result(document=_document(entry, Route(media_type, extractor), status, reason, balance or Balance()))


class _Unbalanced(ForgeError):
    """The characters of a file do not add up: a bug in an extractor or in prep, never to be passed over."""


def _check_unchanged(entry: CorpusEntry, path: Path) -> None:
    """Raise ExtractError unless the bytes are those that were listed. Never blocks on a FIFO, never follows a link."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise ExtractError(f"cannot be opened ({error.strerror})") from error
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ExtractError("is no longer a regular file")
        if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
            raise ExtractError("changed since the corpus was listed", next="run again when nothing writes to the corpus")


def _taken(pieces: Iterator[Piece], tally: Tally) -> Iterator[Piece]:
    for piece in pieces:
        if not isinstance(piece, Piece):
            raise ExtractError(f"its extractor yielded {type(piece).__name__}, not Piece")
        taken = tally.take(piece)
        if tally.extracted > MAX_CHARACTERS:
            raise ExtractError(f"more than {MAX_CHARACTERS:,} characters of text", refused=True)
        if taken:
            yield taken


def _document(entry: CorpusEntry, route: Route, status: Status, reason: str, balance: Balance) -> Document:
    return Document(
        id=document_id(entry.path), source=Source(path=entry.path, sha256=entry.sha256), media_type=route.media_type,
        extractor=route.extractor, status=status, reason=reason, chars=balance.extracted, balance=balance,
    )


def document_id(path: str) -> str:
    """The id of the document at a path: 64 bits of its hash."""
    return digest("document", path)[:16]


def _passages(document: Document, cuts: list[Cut]) -> tuple[Passage, ...]:
    """Passages with ids that sort in reading order. `tokens` is an estimate (characters / 4): no tokenizer exists yet."""
    return tuple(
        Passage(
            id=f"{document.id}-{ordinal:06d}", source=document.source.model_copy(update={"locator": one.locator}),
            group=document.id, text=one.text, tokens=max(1, len(one.text) // CHARACTERS_PER_TOKEN),
            meta={"heading": one.heading, "kind": one.kind},
        )
        for ordinal, one in enumerate(cuts)
    )


def _losses(tally: Tally) -> str:
    return "; ".join(f"{count:,} x {what}" for what, count in sorted(tally.losses.items()))


def _detail(balance: Balance, tally: Tally) -> str:
    parts = [f"{count:,} characters of {reason}" for reason, count in balance.dropped.items()]
    parts += [_losses(tally)] if tally.losses else []
    return f" ({'; '.join(parts)})" if parts else ""


def _one_line(error: ForgeError) -> str:
    return clean("; ".join(part for part in (error.fact, error.why, error.next) if part))[:300]
