"""Calls a server as fast as it allows: more at once while it answers, half when it refuses, waiting as long as it says.

Two rules work together. Where the server advertises its limits, Pace spends them evenly: without it, refusals and the
waits after them cost about a fifth of the throughput. Below that, additive increase and multiplicative decrease (Chiu
and Jain 1989), the rule of TCP, finds a limit that nobody told us and shares it with others.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from forge.errors import ForgeError, Interrupted

START_IN_FLIGHT = 8
MAX_WAIT_SECONDS = 120.0
"""A server's retry-after is obeyed up to this; the official client obeys it without a bound and may hang for a day."""
MAX_ATTEMPTS = 16
"""Of 200 items in a storm that refuses two calls in five, ten attempts gave one up in one run of fifty; sixteen in one of ten thousand."""
FIRST_BACKOFF_SECONDS, LAST_BACKOFF_SECONDS = 0.5, 20.0
CHECK_SECONDS = 1.0

PACE_SHARE = 0.98
"""How much of an advertised limit is used: clocks differ."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Busy(Exception):
    """The server refuses for now (429, 529, 5xx): try again after `seconds`, or after a growing pause when it is None."""

    def __init__(self, reason: str, seconds: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.seconds = reason, seconds


class _Stopped(Exception):
    """An item that was not asked, or not again, because the work ends."""


@dataclass(frozen=True)
class Failed:
    """An item that was given up, with the last reason."""

    reason: str


class Pace:
    """Token buckets that mirror a server's: each limit refills evenly within a minute and starts as the server says."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self._lock = clock, threading.Lock()
        self._limits: dict[str, float] = {}
        self._levels: dict[str, float] = {}
        self._at = clock()

    def learn(self, kind: str, per_minute: float, remaining: float) -> None:
        """The server's limit of a kind; what remains counts only the first time or when it is less than we think."""
        with self._lock:
            self._refill()
            known = kind in self._limits
            self._limits[kind] = per_minute
            self._levels[kind] = min(self._levels[kind], remaining) if known else remaining

    def take(self, costs: Mapping[str, float]) -> float:
        """Spend the costs and return the seconds until they are really there: whoever asks later waits behind.

        So every call waits once. Had it to ask again when it wakes, all that wait would wake for each that may go.
        """
        with self._lock:
            self._refill()
            waits = [0.0]
            for kind in costs.keys() & self._limits.keys():
                self._levels[kind] -= min(costs[kind], self._limits[kind])
                waits.append(-self._levels[kind] / self._rate(kind))
            return max(waits)

    def give_back(self, kind: str, cost: float) -> None:
        """Return what was taken and not used: output is charged at its most and corrected afterwards."""
        with self._lock:
            if kind in self._limits:
                self._levels[kind] = min(self._limits[kind], self._levels[kind] + cost)

    def _rate(self, kind: str) -> float:
        return PACE_SHARE * self._limits[kind] / 60

    def _refill(self) -> None:
        now = self.clock()
        for kind, limit in self._limits.items():
            self._levels[kind] = min(limit, self._levels[kind] + (now - self._at) * self._rate(kind))
        self._at = now


@dataclass
class Limiter(Generic[Item, Answer]):
    """Runs `call(item)` for many items. A call raises Busy to be tried again; anything else it raises ends the work:
    nothing more is called, what is under way is answered and handed out, then the exception is raised."""

    call: Callable[[Item], Answer]
    most: int
    attempts: int = MAX_ATTEMPTS
    sleep: Callable[[float], None] = time.sleep
    pace: Pace = field(default_factory=Pace)
    costs: Callable[[Item], Mapping[str, float]] = lambda item: {}
    check: Callable[[], None] = lambda: None
    """Called about once a second by the thread that reads the answers; what it raises ends the work."""

    def __post_init__(self) -> None:
        self._allowed = float(min(START_IN_FLIGHT, self.most))
        self._lock = threading.Lock()
        self._resume_at = 0.0
        self._stopping = False
        self._jitter = random.Random(7)

    def run(self, items: Sequence[Item]) -> Iterator[tuple[Item, Answer | Failed]]:
        """(item, answer) in the order of completion."""
        waiting = list(reversed(items))
        running: dict[Future[Answer | Failed], Item] = {}
        done: SimpleQueue[Future[Answer | Failed]] = SimpleQueue()
        fatal: BaseException | None = None
        self._stopping = False
        with ThreadPoolExecutor(self.most, thread_name_prefix="teacher") as threads:
            try:
                while running or (waiting and fatal is None):
                    while waiting and fatal is None and len(running) < int(self._allowed):
                        future = threads.submit(self._persist, waiting[-1])
                        running[future] = waiting.pop()
                        future.add_done_callback(done.put)
                    for future in _arrived(done):
                        item, error = running.pop(future), future.exception()
                        if error is None:
                            yield item, future.result()
                        elif not isinstance(error, _Stopped):
                            fatal = fatal or error
                    fatal = fatal or self._checked()
                    self._stopping = fatal is not None
            finally:
                self._stopping = True
                threads.shutdown(wait=True, cancel_futures=True)
        if fatal is not None:
            raise fatal

    def start_alone(self) -> None:
        """Let the next run begin with one call, with nothing else under way."""
        with self._lock:
            self._allowed = 1.0

    def _checked(self) -> BaseException | None:
        """What check() raised, for work that is told to stop."""
        try:
            self.check()
        except (ForgeError, Interrupted) as error:
            return error
        return None

    def _persist(self, item: Item) -> Answer | Failed:
        reason = ""
        for attempt in range(self.attempts):
            self._await_turn(item)
            try:
                answer = self.call(item)
            except Busy as busy:
                reason = busy.reason
                self._slow_down(busy.seconds if busy.seconds is not None else self._pause(attempt))
                if self._stopping:
                    raise _Stopped from busy
                continue
            with self._lock:
                self._allowed = min(float(self.most), self._allowed + 1.0 / self._allowed)
            return answer
        return Failed(f"given up after {self.attempts} attempts: {reason}")

    def _await_turn(self, item: Item) -> None:
        ready_at = time.monotonic() + self.pace.take(self.costs(item))
        while (seconds := max(self._resume_at, ready_at) - time.monotonic()) > 0:
            if self._stopping:
                raise _Stopped
            self.sleep(min(seconds, CHECK_SECONDS))

    def _slow_down(self, seconds: float) -> None:
        """Halve once for each wave of refusals: calls that were under way when the first came back say nothing new."""
        with self._lock:
            now = time.monotonic()
            if now >= self._resume_at:
                self._allowed = max(1.0, self._allowed / 2)
            self._resume_at = max(self._resume_at, now + min(seconds, MAX_WAIT_SECONDS))

    def _pause(self, attempt: int) -> float:
        with self._lock:
            jitter = 0.75 + self._jitter.random() / 2
        return min(LAST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0**attempt) * jitter


def _arrived(done: SimpleQueue[Future[Any]]) -> list[Future[Any]]:
    """The futures that are done, at least one unless a second has passed. wait() would watch each of them anew for each answer."""
    try:
        first = done.get(timeout=CHECK_SECONDS)
    except Empty:
        return []
    return [first, *(done.get() for _ in range(done.qsize()))]
