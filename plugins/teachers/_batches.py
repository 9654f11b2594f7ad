"""Message Batches that survive a kill: the intent and the batch's id are on disk before anything waits for it.

Creating a batch is not idempotent. So an intent line (the custom ids, when) is written before the call and the id after
it. After a kill in between, the batches made since are looked through for one with just these custom ids; only when
there is none is it created again. Errored, canceled and expired items are not billed and count as failed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.errors import ForgeError
from forge.plugins.teachers._limiter import FIRST_BACKOFF_SECONDS, MAX_WAIT_SECONDS
from forge.protocols import TeacherRequest, TeacherResponse
from forge.records import digest

if TYPE_CHECKING:
    from anthropic import Anthropic

MOST_PER_BATCH = 10_000
"""The vendor takes 100,000 or 256 MB; smaller ones end sooner and lose less."""
FIRST_POLL_SECONDS, LAST_POLL_SECONDS = 1.0, 60.0
CLOCK_SKEW = timedelta(minutes=5)
GIVE_UP_SECONDS = 26 * 3600
"""A batch expires after 24 hours; two more for its last state to show."""

Parameters = Callable[[TeacherRequest], dict[str, Any]]
Read = Callable[[TeacherRequest, Any], TeacherResponse]


class Notes:
    """An append-only file of what was handed in: lines {"intent": …, "ids": [...], "at": …}, then {"intent": …, "batch": id}."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def intents(self) -> dict[str, dict[str, Any]]:
        """Intent -> its custom ids, time and (where known) batch id, in the order written; a torn last line is left out."""
        found: dict[str, dict[str, Any]] = {}
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        for line in text.splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            found.setdefault(entry["intent"], {}).update(entry)
        return {intent: entry for intent, entry in found.items() if "ids" in entry and not entry.get("gone")}

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


def answer(client: Anthropic, requests: Sequence[TeacherRequest], parameters: Parameters, read: Read, notes: Notes) -> Iterator[TeacherResponse]:
    """The responses to all requests, batch by batch; those handed in by an earlier process are collected first."""
    waiting = {request.key: request for request in requests}
    for intent, entry in notes.intents().items():
        mine = [key for key in entry["ids"] if key in waiting]
        if mine and (batch := entry.get("batch") or _find(client, entry)):
            if "batch" not in entry:
                notes.write(intent=intent, batch=batch)
            yield from _collect(client, batch, [waiting.pop(key) for key in mine], read)
        elif mine:
            notes.write(intent=intent, gone=True)
    rest = list(waiting.values())
    for start in range(0, len(rest), MOST_PER_BATCH):
        part = rest[start : start + MOST_PER_BATCH]
        yield from _collect(client, _create(client, part, parameters, notes), part, read)


def _create(client: Anthropic, requests: Sequence[TeacherRequest], parameters: Parameters, notes: Notes) -> str:
    now = datetime.now(UTC).isoformat()
    intent = digest("batch", now, *(request.key for request in requests))[:16]
    notes.write(intent=intent, ids=[request.key for request in requests], at=now)
    body: Any = [{"custom_id": _custom_id(request.key), "params": parameters(request)} for request in requests]
    batch = _persist(lambda: client.messages.batches.create(requests=body), before_again=lambda: _find(client, notes.intents()[intent]))
    identity = str(batch if isinstance(batch, str) else batch.id)
    notes.write(intent=intent, batch=identity)
    return identity


def _collect(client: Anthropic, batch: str, requests: Sequence[TeacherRequest], read: Read) -> Iterator[TeacherResponse]:
    _await_end(client, batch)
    by_id = {_custom_id(request.key): request for request in requests}
    for line in _persist(lambda: list(client.messages.batches.results(batch))):
        request = by_id.pop(line.custom_id, None)
        if request is None:
            continue
        if line.result.type == "succeeded":
            yield read(request, line.result.message)
        else:
            yield TeacherResponse(key=request.key, error=_why(line.result))
    for request in by_id.values():
        yield TeacherResponse(key=request.key, error=f"the batch {batch} has no result for it")


def _await_end(client: Anthropic, batch: str) -> None:
    pause, give_up_at = FIRST_POLL_SECONDS, time.monotonic() + GIVE_UP_SECONDS
    while _persist(lambda: client.messages.batches.retrieve(batch)).processing_status != "ended":
        if time.monotonic() > give_up_at:
            raise ForgeError(f"the batch {batch} has not ended", why="it should have expired after 24 hours", next="forge resume collects it when it has")
        time.sleep(pause)
        pause = min(LAST_POLL_SECONDS, pause * 1.5)


def _find(client: Anthropic, entry: dict[str, Any]) -> str:
    """The batch made from an intent whose id was never noted, or "". A batch in progress shows no ids, so it is awaited."""
    since, wanted = datetime.fromisoformat(entry["at"]) - CLOCK_SKEW, {_custom_id(key) for key in entry["ids"]}
    for batch in _persist(lambda: list(client.messages.batches.list(limit=100))):
        counts = batch.request_counts
        size = counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
        if batch.created_at < since or size != len(wanted):
            continue
        _await_end(client, batch.id)
        ids = {line.custom_id for line in _persist(lambda found=batch.id: list(client.messages.batches.results(found)))}  # type: ignore[misc]
        if ids == wanted:
            return str(batch.id)
    return ""


def _persist(call: Callable[[], Any], before_again: Callable[[], Any] = lambda: None) -> Any:
    """The call's value; tried again for as long as the server is only busy. before_again may find that it has worked after all."""
    import anthropic

    for attempt in range(60):
        try:
            return call()
        except (anthropic.RateLimitError, anthropic.InternalServerError, anthropic.APIConnectionError) as error:
            after = error.response.headers.get("retry-after", "") if isinstance(error, anthropic.APIStatusError) else ""
            pause = float(after) if after.replace(".", "", 1).isdigit() else FIRST_BACKOFF_SECONDS * 2.0 ** min(attempt, 6)
            time.sleep(min(pause, MAX_WAIT_SECONDS))
            if done := before_again():
                return done
    raise ForgeError("the teacher anthropic does not answer", why="60 attempts in a row were refused", next="forge resume goes on where it stopped")


def _custom_id(key: str) -> str:
    """The vendor allows 64 characters; a key is a sha256 in hexadecimal."""
    return key[:64]


def _why(result: Any) -> str:
    if result.type == "errored":
        return f"errored: {result.error.error.message}"[:300]
    return f"{result.type} before it was answered"
