"""Message Batches that survive a kill: the intent and the batch's id are on disk before anything waits for it.

Creating a batch is not idempotent. So an intent line (the custom ids, when) is written before the call and the id after
it. After a kill in between, the batches made since are looked through for one with just these custom ids; only when
there is none, also after a while, is it created again. Each item is an attempt with its line in the ledger; errored,
canceled and expired items are not billed (Anthropic's guide to batch processing) and are handed in again.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.errors import ForgeError
from forge.ledger import UNKNOWN, Ended
from forge.plugins.teachers._attempts import Desk, tokens, what
from forge.plugins.teachers._limiter import FIRST_BACKOFF_SECONDS, MAX_WAIT_SECONDS
from forge.protocols import TeacherRequest, TeacherResponse
from forge.records import digest

if TYPE_CHECKING:
    from anthropic import Anthropic

MOST_PER_BATCH = 10_000
"""The vendor takes 100,000 or 256 MB; smaller ones end sooner and lose less."""
MOST_BYTES = 200_000_000
FIRST_POLL_SECONDS, LAST_POLL_SECONDS = 1.0, 60.0
CLOCK_SKEW = timedelta(days=4)
"""This machine's clock may have been wrong by days when the intent was written; what is found must have the very same ids."""
CREATION_SECONDS = 60.0
"""How long a batch is looked for before its creation counts as failed: one listing too early proves nothing."""
ROUNDS = 5
"""How often an item is handed in that expired, was canceled or met an error of the server's own."""
PASSING_ERRORS = {"api_error", "overloaded_error", "rate_limit_error", "timeout_error"}
NO_MESSAGE = "an answer that is no message"
AT_ONCE = 256
"""Results that are written to the ledger in one transaction, and are then still to be journaled."""
GIVE_UP_SECONDS = 26 * 3600
"""A batch expires after 24 hours; two more for its last state to show."""


class Notes:
    """An append-only file of what was handed in: lines {"intent": …, "ids": [...], "at": …}, then {"intent": …, "batch": id},
    and {"intent": …, "closed": true} when every result was handed out, or there is none."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def intents(self) -> dict[str, dict[str, Any]]:
        """Intent -> its custom ids, time and (where known) batch id, in the order written, but for closed ones; a torn last line is left out."""
        found: dict[str, dict[str, Any]] = {}
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        for line in text.splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            found.setdefault(entry["intent"], {}).update(entry)
        return {intent: entry for intent, entry in found.items() if "ids" in entry and not entry.get("closed")}

    def write(self, **entry: Any) -> None:
        """Append a line and wait until it is on disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" * self._torn() + json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _torn(self) -> bool:
        if not self.path.exists() or self.path.stat().st_size == 0:
            return False
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() != b"\n"


@dataclass(frozen=True)
class Batches:
    """The batches of one teacher. price: a request's worst case. read: the response in a message; None when it is none."""

    client: Anthropic
    notes: Notes
    desk: Desk
    name: str
    parameters: Callable[[TeacherRequest], dict[str, Any]]
    price: Callable[[TeacherRequest], int]
    read: Callable[[TeacherRequest, Any], TeacherResponse | None]

    def answer(self, requests: Sequence[TeacherRequest]) -> Iterator[TeacherResponse]:
        """The responses to all requests; batches handed in by an earlier process are collected first.

        Items that the server did not get to (expired, canceled, its own errors) are handed in again, up to ROUNDS times.
        Raises OverBudget when not even one of those left fits.
        """
        waiting = {request.key: request for request in requests}
        rounds: Counter[str] = Counter()
        for intent, batch in self._earlier(waiting):
            yield from self._collect(intent, batch, waiting, rounds)
        while waiting:
            part = _as_many(waiting.values())
            intent, sent = self._intend(part)
            yield from self._collect(intent, self._create(intent, sent), waiting, rounds)

    def _earlier(self, waiting: Mapping[str, TeacherRequest]) -> Iterator[tuple[str, str]]:
        """(intent, batch) of what was handed in and not collected; intents that never arrived are closed."""
        for intent, entry in self.notes.intents().items():
            if not any(key in waiting for key in entry["ids"]):
                continue
            if batch := entry.get("batch") or self._find(entry):
                if "batch" not in entry:
                    self.notes.write(intent=intent, batch=batch)
                yield intent, batch
            else:
                self._give_up(intent, "not sent: the server has no such batch")

    def _intend(self, requests: Sequence[TeacherRequest]) -> tuple[str, list[TeacherRequest]]:
        """An intent for as many requests as the budget allows: ledger lines first, then the note."""
        now = datetime.now(UTC).isoformat()
        intent = digest("batch", now, *(request.key for request in requests))[:16]
        worst = {request.key: self.price(request) for request in requests}
        lines = self.desk.meter.begin(worst, what(self.name, requests[0]), batch=intent)
        sent = [request for request in requests if request.key in lines]
        self.notes.write(intent=intent, ids=[request.key for request in sent], at=now)
        return intent, sent

    def _create(self, intent: str, requests: Sequence[TeacherRequest]) -> str:
        """The batch's id, noted. Raises ForgeError, and closes the intent, when the server refuses it for good."""
        import anthropic

        body: Any = [{"custom_id": _custom_id(request.key), "params": self.parameters(request)} for request in requests]
        try:
            batch = self._persist(
                lambda: self.client.messages.batches.create(requests=body), before_again=lambda: self._find(self.notes.intents()[intent])
            )
        except anthropic.APIStatusError as error:
            self._give_up(intent, f"refused: HTTP {error.status_code}")
            raise ForgeError(
                f"the teacher {self.name} refuses the batch", why=f"HTTP {error.status_code}: {error.message}"[:300],
                next="forge resume, when that is mended; nothing was billed",
            ) from error
        identity = str(batch if isinstance(batch, str) else batch.id)
        self.notes.write(intent=intent, batch=identity)
        return identity

    def _collect(self, intent: str, batch: str, waiting: dict[str, TeacherRequest], rounds: Counter[str]) -> Iterator[TeacherResponse]:
        """The batch's results, in the ledger before they are handed out; what is to be asked again stays in `waiting`."""
        self._await_end(batch)
        lines, ids = self.desk.meter.under_way(intent), {_custom_id(key): key for key in self.notes.intents()[intent]["ids"]}
        results = self._persist(lambda: list(self.client.messages.batches.results(batch)))
        for start in range(0, len(results), AT_ONCE):
            part = [(key, line.result) for line in results[start : start + AT_ONCE] if (key := ids.pop(line.custom_id, ""))]
            yield from self._book(part, lines, waiting, rounds)
        missing = f"the batch {batch} has no result for it"
        self.desk.meter.end([Ended(lines[key], f"{UNKNOWN}: {missing}", None) for key in ids.values() if key in lines])
        for key in ids.values():
            if waiting.pop(key, None):
                yield TeacherResponse(key=key, error=missing)
        self.notes.write(intent=intent, closed=True)

    def _book(
        self, results: Sequence[tuple[str, Any]], lines: Mapping[str, int], waiting: dict[str, TeacherRequest], rounds: Counter[str]
    ) -> Iterator[TeacherResponse]:
        responses, ended = [], []
        for key, result in results:
            request = waiting.get(key)
            if result.type != "succeeded":
                ended.append(Ended(lines.get(key, 0), _why(result), 0))
                rounds[key] += 1
                if request and (rounds[key] >= ROUNDS or not _is_passing(result)):
                    responses.append(TeacherResponse(key=key, error=_why(result)))
            elif request:
                response = self.read(request, result.message)
                ended.append(_answered(lines.get(key, 0), response))
                responses.append(response or TeacherResponse(key=key, error=NO_MESSAGE))
        self.desk.meter.end([one for one in ended if one.line])
        for response in responses:
            del waiting[response.key]
            yield response

    def _give_up(self, intent: str, why: str) -> None:
        """The server made no batch of this intent: nothing is billed."""
        lines = self.desk.meter.under_way(intent).values()
        self.desk.meter.end([Ended(line, why, 0) for line in lines])
        self.notes.write(intent=intent, closed=True)

    def _await_end(self, batch: str) -> None:
        pause, give_up_at = FIRST_POLL_SECONDS, time.monotonic() + GIVE_UP_SECONDS
        while (shown := self._persist(lambda: self.client.messages.batches.retrieve(batch))).processing_status != "ended":
            if time.monotonic() > give_up_at:
                raise ForgeError(f"the batch {batch} has not ended", why="it should have expired after 24 hours", next="forge resume collects it when it has")
            self.desk.wait(pause, f"waiting for batch {batch}: {shown.request_counts.processing:,} of its requests are in progress")
            pause = min(LAST_POLL_SECONDS, pause * 1.5)

    def _find(self, entry: Mapping[str, Any]) -> str:
        """The batch made from an intent whose id was never noted, or "" when there is none, also after CREATION_SECONDS."""
        give_up_at = time.monotonic() + CREATION_SECONDS
        while not (found := self._look(entry)) and time.monotonic() < give_up_at:
            self.desk.wait(CREATION_SECONDS / 6, "looking for a batch whose creation was not confirmed")
        return found

    def _look(self, entry: Mapping[str, Any]) -> str:
        """One look at the server's list. A batch in progress shows no ids, so it is awaited."""
        since, wanted = datetime.fromisoformat(entry["at"]) - CLOCK_SKEW, {_custom_id(key) for key in entry["ids"]}
        newest_first = self._persist(lambda: list(takewhile(lambda one: one.created_at >= since, self.client.messages.batches.list(limit=100))))
        for batch in newest_first:
            counts = batch.request_counts
            size = counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
            if size != len(wanted):
                continue
            self._await_end(batch.id)
            ids = {line.custom_id for line in self._persist(lambda found=batch.id: list(self.client.messages.batches.results(found)))}  # type: ignore[misc]
            if ids == wanted:
                return str(batch.id)
        return ""

    def _persist(self, call: Callable[[], Any], before_again: Callable[[], Any] = lambda: None) -> Any:
        """The call's value; tried again while the server is only busy. before_again: looks whether a call without an answer has worked."""
        import anthropic

        for attempt in range(60):
            try:
                return call()
            except (anthropic.RateLimitError, anthropic.InternalServerError, anthropic.APIConnectionError) as error:
                refused = isinstance(error, anthropic.APIStatusError)
                after = error.response.headers.get("retry-after", "") if isinstance(error, anthropic.APIStatusError) else ""
                pause = float(after) if after.replace(".", "", 1).isdigit() else FIRST_BACKOFF_SECONDS * 2.0 ** min(attempt, 6)
                self.desk.wait(min(pause, MAX_WAIT_SECONDS), "")
                if not refused and (done := before_again()):
                    return done
        raise ForgeError("the teacher anthropic does not answer", why="60 attempts in a row were refused", next="forge resume goes on where it stopped")


def _as_many(requests: Iterable[TeacherRequest]) -> list[TeacherRequest]:
    """From the first on, as many as one batch takes, by count and by bytes."""
    part: list[TeacherRequest] = []
    left = MOST_BYTES
    for request in requests:
        left -= 4_000 + sum(6 * len(passage.text) for passage in (request.passage, *request.context))   # JSON may need six bytes a letter
        if part and (left < 0 or len(part) == MOST_PER_BATCH):
            break
        part.append(request)
    return part


def _custom_id(key: str) -> str:
    """The vendor allows 64 characters; a key is a sha256 in hexadecimal."""
    return key[:64]


def outcome(response: TeacherResponse) -> str:
    """How an answered attempt is told in the ledger: "answered", or why its answer is of no use."""
    return f"answered: {response.error}" if response.error else "answered"


def _answered(line: int, response: TeacherResponse | None) -> Ended:
    if response is None:
        return Ended(line, f"{UNKNOWN}: {NO_MESSAGE}", None)
    return Ended(line, outcome(response), response.micro_usd, tokens(response.usage))


def _is_passing(result: Any) -> bool:
    """Whether the same request may go better next time: not when it was refused as invalid."""
    return result.type != "errored" or result.error.error.type in PASSING_ERRORS


def _why(result: Any) -> str:
    if result.type == "errored":
        return f"errored: {result.error.error.message}"[:300]
    return f"{result.type} before it was answered"
