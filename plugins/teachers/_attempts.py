"""Every attempt of a paid teacher in the ledger: a line with its worst case before it is sent, its outcome and cost after it.

What is known to cost nothing is written down as nothing: the server's own refusals, and requests that never left this
machine. A connection that breaks after the request was sent, a timeout, or a proxy's 502 (which says nothing about the
server behind it) leaves the line at its worst case.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from forge.errors import OverBudget
from forge.ledger import UNKNOWN, Ended, Meter, Wait
from forge.plugins.teachers._limiter import Failed, Limiter
from forge.protocols import TeacherRequest, TeacherResponse, Usage

TIMEOUTS = {408, 504}
IN_BETWEEN = {500, 502, 503}
"""Statuses that a proxy sends in words of its own when it lost the server."""


class NoMeter:
    """For teachers that cost nothing, and for tests without a ledger."""

    def begin(self, worst: Mapping[str, int], what: str, batch: str = "") -> dict[str, int]:
        """Lines that nobody keeps."""
        return dict.fromkeys(worst, 0)

    def end(self, ended: Sequence[Ended]) -> None:
        """Nothing to write down."""

    def under_way(self, batch: str) -> dict[str, int]:
        """Nothing is known of earlier processes."""
        return {}


def sleep(seconds: float, note: str) -> None:
    """Wait, for a teacher that belongs to no run."""
    time.sleep(seconds)


@dataclass(frozen=True)
class Desk:
    """Where a teacher reports to: the run's ledger, and how it waits without ignoring a user who wants to stop."""

    meter: Meter = field(default_factory=NoMeter)
    wait: Wait = sleep

    def check(self) -> None:
        """Raises Interrupted when the user asked to stop."""
        self.wait(0.0, "")


@dataclass
class UnderWay:
    """One attempt under way; whoever learns of its end says so, else it ends as unknown."""

    outcome: str = f"{UNKNOWN}: the answer could not be read"
    micro: int | None = None
    usage: Usage = field(default_factory=Usage)

    def refused(self, reason: str) -> None:
        """It cost nothing."""
        self.outcome, self.micro = reason, 0

    def unknown(self, reason: str) -> None:
        """It may have been billed."""
        self.outcome, self.micro = f"{UNKNOWN}: {reason}", None

    def answered(self, outcome: str, micro: int, usage: Usage) -> None:
        """It was answered, and billed."""
        self.outcome, self.micro, self.usage = outcome, micro, usage

    def failed(self, status: int, own_words: bool) -> None:
        """The server answered with an error status; own_words: in the API's own form, so that the API itself refused."""
        if status in TIMEOUTS or (status in IN_BETWEEN and not own_words):
            self.unknown(f"HTTP {status}")
        else:
            self.refused(f"refused: HTTP {status}")


@contextmanager
def attempt(desk: Desk, teacher: str, request: TeacherRequest, worst: int) -> Iterator[UnderWay]:
    """A line for one request, begun here and ended when the block is left, however it is left. Raises OverBudget before it."""
    line = desk.meter.begin({request.key: worst}, what(teacher, request))[request.key]
    made = UnderWay()
    try:
        yield made
    finally:
        desk.meter.end([Ended(line, made.outcome, made.micro, tokens(made.usage))])


def what(teacher: str, request: TeacherRequest) -> str:
    """What a line is for, as `forge cost` groups it."""
    return f"teacher {teacher}, {request.kind}"


def tokens(usage: Usage) -> dict[str, int]:
    """Tokens by kind, without the kinds that were not used."""
    counts = {"input": usage.input_tokens, "output": usage.output_tokens, "cache_read": usage.cached_input_tokens}
    return {kind: count for kind, count in counts.items() if count}


def is_own_error(body: bytes) -> bool:
    """Whether an error's body is the API's own: {"error": {...}} as Anthropic and OpenAI write it."""
    try:
        value = json.loads(body)
    except ValueError:
        return False
    return isinstance(value, dict) and isinstance(value.get("error"), dict)


def answers(limiter: Limiter[TeacherRequest, TeacherResponse], requests: Sequence[TeacherRequest]) -> Iterator[TeacherResponse]:
    """All responses. Where the cap refuses an attempt while others are under way, those are awaited and what they did not cost is spent.

    A round may bring nothing although there is room, when what was under way was turned away and cost nothing. Raises OverBudget
    only when the cap refused an attempt with no other one under way.
    """
    waiting, alone = list(requests), False
    while waiting:
        done: set[str] = set()
        try:
            for request, answer in limiter.run(waiting):
                done.add(request.key)
                yield TeacherResponse(key=request.key, error=answer.reason) if isinstance(answer, Failed) else answer
            return
        except OverBudget:
            if alone and not done:
                raise
            alone = not done
            if alone:
                limiter.start_alone()
            waiting = [request for request in waiting if request.key not in done]
