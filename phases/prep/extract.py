"""Reads one file into its document record and passages. Runs in a child process (see pool.py)."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import Field

from forge import private
from forge.corpus import locate
from forge.errors import ExtractError, ForgeError, MissingAccess
from forge.phases.prep.balance import Tally, clean
from forge.phases.prep.cut import Cut, cut
from forge.phases.prep.masking import Find, mask_pieces, masked_label
from forge.phases.prep.members import MAX_DEPTH, Budget, LimitBroken, Status, Unpacked
from forge.phases.prep.route import Route, Router
from forge.phases.prep.seat import FILE_BYTES, Seat, remove
from forge.phases.prep.sidecars import assign, endings
from forge.protocols import Embedded, Option, Reading
from forge.records import Balance, CorpusEntry, Document, Passage, Piece, Record, Source, digest
from forge.registry import require

CHARACTERS_PER_TOKEN = 4
MAX_CHARACTERS = 64_000_000
"""Output of one file: a bound on memory, far above any book (War and Peace has 2.6 million)."""

MAX_CHARACTERS_IN_ALL = 128_000_000
"""Of a file with all files inside it."""


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
    """Opens, routes, extracts, cuts and balances files, and the files inside them.

    options: what extractors are told by the settings (Reading.options). masked: without secrets and personal data,
    which `find` finds.
    """

    def __init__(
        self, extractors: Mapping[str, Any], *, words: int, words_max: int, options: Mapping[str, Option] | None = None, masked: bool = True,
        find: Find = private.find,
    ) -> None:
        self.extractors, self.router, self.endings = extractors, Router(extractors), endings(extractors)
        self.words, self.words_max, self.options, self.masked, self.find = words, words_max, options or {}, masked, find
        if masked:
            private.find("")  # the rules are read once here, not in every child

    def read_job(self, job: ReadJob, root: Path, seat: Seat) -> tuple[Result, ...]:
        """read() for a file of the corpus at `root` and its sidecars."""
        sidecars = {ending: (one, locate(root, one)) for ending, one in job.sidecars.items()}
        return self.read(job.entry, locate(root, job.entry), sidecars=sidecars, seat=seat)

    def read(
        self, entry: CorpusEntry, path: Path, *, sidecars: Mapping[str, tuple[CorpusEntry, Path]] | None = None, seat: Seat | None = None
    ) -> tuple[Result, ...]:
        """The file's result, then one for each file inside it, in order; every fault is a status with a reason.

        Sidecars get no result here unless they lie inside the file. seat: where to work; a temporary folder unless told.
        """
        if seat is None:
            with TemporaryDirectory() as folder:
                return self.read(entry, path, sidecars=sidecars, seat=Seat(Path(folder)))
        one = _OneFile(entry, path, sidecars or {}, Budget(entry.size + sum(each.size for each, _ in (sidecars or {}).values())))
        try:
            for changed, place in ((entry, path), *one.sidecars.values()):
                _check_unchanged(changed, place)
            return tuple(self._walk(one, seat))
        except LimitBroken as error:
            route = self.router.route(path, entry.path)
            return (ended(entry, "refused", _one_line(error), route.media_type, route.extractor),)
        except ExtractError as error:
            return (ended(entry, "refused" if error.refused else "failed", _one_line(error)),)

    def _walk(self, one: _OneFile, seat: Seat) -> Iterator[Result]:
        """One file and all that comes out of it. Raises LimitBroken when that is too much."""
        unpacked = Unpacked(seat.folder / f"level-{one.depth}", one.entry.path, one.budget)
        try:
            yield self._outer(one, unpacked, seat)
            yield from self._members(one, unpacked, seat)
        finally:
            remove(unpacked.folder)

    def _outer(self, one: _OneFile, unpacked: Unpacked, seat: Seat) -> Result:
        result = self._read(one, unpacked, seat)
        document = result.document
        if seat.end_processes() and document.status != "failed":
            return ended(one.entry, "failed", "its extractor left a process running", document.media_type, document.extractor)
        one.budget.characters += document.chars
        if one.budget.characters > MAX_CHARACTERS_IN_ALL:
            raise LimitBroken(f"more than {MAX_CHARACTERS_IN_ALL:,} characters of text in all", next="unpack it into the corpus", refused=True)
        if document.status == "refused":
            unpacked.members.clear()
        return _holding(result, unpacked)

    def _members(self, one: _OneFile, unpacked: Unpacked, seat: Seat) -> Iterator[Result]:
        written = {member.name: member for member in unpacked.members if not member.why}
        groups = assign(written, self.endings)
        mains = {other: name for name, parts in groups.items() for other in parts.values()}
        for member in unpacked.members:
            if member.why:
                yield ended(member.entry, member.status, member.why)
            elif member.name in mains:
                yield ended(member.entry, "skipped", f"read with {mains[member.name]}")
            elif member.entry.path in seat.avoid:
                yield ended(member.entry, "failed", seat.avoid[member.entry.path])
            elif one.depth == MAX_DEPTH:
                yield ended(member.entry, "refused", f"lies more than {MAX_DEPTH} files deep")
            else:
                seat.begin(member.entry.path)
                sidecars = {ending: (written[name].entry, unpacked.path(written[name])) for ending, name in groups.get(member.name, {}).items()}
                inner = _OneFile(member.entry, unpacked.path(member), sidecars, one.budget, one.depth + 1, member.note)
                yield from self._walk(inner, seat)

    def _read(self, one: _OneFile, unpacked: Unpacked, seat: Seat) -> Result:
        entry, route = one.entry, Route("")
        try:
            route = self.router.route(one.path, entry.path)
            if not route.extractor:
                return ended(entry, "skipped", route.reason, media_type=route.media_type)
            return self._extract(one, route, unpacked, seat)
        except (MemoryError, LimitBroken):
            raise  # the pool tries the file once more in a fresh process; a limit is for the whole file
        except ExtractError as error:
            reason = _without_place(_one_line(error), one.path)
            return ended(entry, "refused" if error.refused else "failed", reason, route.media_type, route.extractor)
        except MissingAccess as error:
            reason = f"{error.fact}: {error.next}"
            return ended(entry, "failed", reason, route.media_type, route.extractor)
        except _Unbalanced as error:
            return ended(entry, "failed", error.fact).model_copy(update={"fault": (error.fact, error.why, error.next)})
        except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever a library raises on a broken file costs that file only
            return ended(entry, "failed", _without_place(_told(error), one.path), route.media_type, route.extractor)

    def _extract(self, one: _OneFile, route: Route, unpacked: Unpacked, seat: Seat) -> Result:
        entry, plugin = one.entry, self.extractors[route.extractor]
        require(tuple(getattr(plugin, "requires", ())), f"extractor {route.extractor}")
        tally = Tally()
        reading = Reading(
            route.media_type, name=entry.path, options=self.options, scratch=seat.scratch(),
            sidecars={ending: path for ending, (_, path) in one.sidecars.items()},
        )
        taken = _taken(plugin.extract(one.path, reading), tally, unpacked)
        pieces = list(mask_pieces(taken, tally, self.find) if self.masked else taken)
        cuts = cut(pieces, words=self.words, words_max=self.words_max)
        try:
            balance = tally.balance((each.text for each in cuts), entry.path)
        except ForgeError as error:
            raise _Unbalanced(error.fact, why=error.why, next=error.next) from error
        losses = dict(sorted(tally.losses.items()))
        if not balance.kept:
            reason = "no text" + _detail(balance, tally)
            return ended(entry, "skipped", reason, route.media_type, route.extractor, balance).model_copy(update={"losses": losses})
        document = _document(entry, route, "ok", "; ".join(filter(None, (_losses(tally), one.note))), balance)
        return Result(document=document, passages=_passages(document, cuts), losses=losses)


@dataclass(frozen=True)
class _OneFile:
    """A file to read, how deep it lies, and what it and all around it may still unpack to."""

    entry: CorpusEntry
    path: Path
    sidecars: Mapping[str, tuple[CorpusEntry, Path]]
    budget: Budget
    depth: int = 0
    note: str = ""


def _holding(result: Result, unpacked: Unpacked) -> Result:
    """The result of a file that holds others: it says how many, and is no loss when it has no text of its own."""
    if not unpacked.members:
        return result
    document, count = result.document, len(unpacked.members)
    update: dict[str, Any] = {"reason": f"holds {count:,} file{'s' * (count != 1)}"}
    if document.status == "skipped":
        update["status"] = "ok"
        told = document.reason.removeprefix("no text").strip()
    else:
        told = document.reason
    update["reason"] += f"; {told}" if told else ""
    return result.model_copy(update={"document": document.model_copy(update=update)})


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


def _taken(pieces: Iterable[Piece | Embedded], tally: Tally, unpacked: Unpacked) -> Iterator[Piece]:
    for piece in pieces:
        if isinstance(piece, Embedded):
            unpacked.take(piece)
            continue
        if not isinstance(piece, Piece):
            raise ExtractError(f"its extractor yielded {type(piece).__name__}, not Piece or Embedded")
        taken = tally.take(piece)
        if tally.extracted > MAX_CHARACTERS:
            raise ExtractError(f"more than {MAX_CHARACTERS:,} characters of text", refused=True)
        if taken:
            yield taken


def _document(entry: CorpusEntry, route: Route, status: Status, reason: str, balance: Balance) -> Document:
    return Document(
        id=document_id(entry.path), source=Source(path=entry.path, sha256=entry.sha256), media_type=route.media_type,
        extractor=route.extractor, status=status, reason=masked_label(reason), chars=balance.extracted, balance=balance,
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


def _without_place(reason: str, path: Path) -> str:
    """A reason without the folder that the file lies in: it must not depend on the machine."""
    return reason.replace(f"{path.parent}/", "") if path.parent != Path(path.root) else reason


def _told(error: BaseException) -> str:
    """What a library said, as a reason."""
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return f"its extractor wrote a file of more than {FILE_BYTES >> 20:,} MiB"
    if isinstance(error, PermissionError):
        return clean(f"its extractor tried what it may not: {error}")[:300]
    return clean(f"{type(error).__name__}: {error}".strip().rstrip(":"))[:300]


def _losses(tally: Tally) -> str:
    return "; ".join(f"{count:,} x {what}" for what, count in sorted(tally.losses.items()))


def _detail(balance: Balance, tally: Tally) -> str:
    parts = [f"{count:,} characters of {reason}" for reason, count in balance.dropped.items()]
    parts += [_losses(tally)] if tally.losses else []
    return f" ({'; '.join(parts)})" if parts else ""


def _one_line(error: ForgeError) -> str:
    return clean("; ".join(part for part in (error.fact, error.why, error.next) if part))[:300]
