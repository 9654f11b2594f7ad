"""Is training as fast as planned, and will it end in time? Measured after a few steps, with the answer acted upon.

The published run checked its speed in padded tokens and so blessed a run that wasted 93 % of them. Here the tokens are real, and
beside the speed stands the share of the machine's own limit (a measured product of large matrices).
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

CALIBRATION_STEPS = 20
WARM_STEPS = 3
"""Not measured: compile, and memory that is taken for the first time."""
SHARE_FOR_TRAINING = 0.7
"""Of the lease's deadline; evaluation and export come after. plan_fit's deadline is twice the P90 of all three."""
FEWEST_STEPS_SHARE = 0.5
"""A run that could not make half of its steps is stopped: what came out would not be what was approved."""
SILENCE_FACTOR, SILENCE_SECONDS = 20.0, 120.0


class Limits(NamedTuple):
    """What training is held against. seconds: until it must end (0: no limit); peak_flops: 0 when not measured."""

    seconds: float = 0.0
    usd_per_hour: float = 0.0
    flops_per_token: float = 0.0
    peak_flops: float = 0.0


class Projection(NamedTuple):
    """What a calibrated run will take from its first step on. share: useful operations over the machine's limit, None if unknown."""

    tokens_per_second: float
    seconds: float
    usd: float
    share: float | None


class Pace:
    """Times of the steps of one attempt. `clock` gives seconds and is replaced in tests."""

    def __init__(self, limits: Limits, steps: int, done: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits, self.steps, self.done, self._clock = limits, steps, done, clock
        self.began = clock()
        self._times: list[float] = []
        self._tokens: list[int] = []

    def step(self, tokens: int, *, steps: int = 1) -> None:
        """Note the end of `steps` steps with `tokens` real tokens."""
        now = self._clock()
        last = self._times[-1] if self._times else self.began
        self._times += [last + (now - last) * (number + 1) / steps for number in range(steps)]
        self._tokens += [tokens // steps] * steps

    @property
    def calibrated(self) -> bool:
        """True once enough steps were seen to tell."""
        return len(self._times) >= CALIBRATION_STEPS

    def seconds_per_step(self) -> float:
        """Median of the steps after the warm ones."""
        gaps = [after - before for before, after in zip(self._times[WARM_STEPS - 1 :], self._times[WARM_STEPS:], strict=False)]
        return statistics.median(gaps) if gaps else 0.0

    def project(self) -> Projection:
        """Speed now, and when all steps will be done, counted from the beginning of this attempt."""
        each, tokens = self.seconds_per_step(), self._tokens[WARM_STEPS:]
        rate = statistics.mean(tokens) / each if each and tokens else 0.0
        left = self.steps - self.done - len(self._times)
        seconds = self._times[-1] - self.began + left * each
        limit = self.limits
        share = rate * limit.flops_per_token / limit.peak_flops if limit.peak_flops else None
        return Projection(rate, seconds, seconds / 3600 * limit.usd_per_hour, share)

    def affordable_steps(self) -> int:
        """How many steps in all fit until the limit; all planned ones when there is none."""
        if not self.limits.seconds or not self.seconds_per_step():
            return self.steps
        spent = self._times[-1] - self.began
        more = math.floor((self.limits.seconds - spent) / self.seconds_per_step())
        return max(0, min(self.steps, self.done + len(self._times) + more))


class Watchdog:
    """Tells when no step has ended for much longer than a step takes: a hung collective, a dead disk, a stopped process."""

    def __init__(self, tell: Callable[[str], None], *, first_seconds: float = SILENCE_SECONDS) -> None:
        self._tell, self._patience = tell, first_seconds
        self._timer: threading.Timer | None = None
        self._last = time.monotonic()

    def alive(self, step_seconds: float = 0.0) -> None:
        """A step has ended; the next may take many times as long as the usual one."""
        self._last = time.monotonic()
        self._patience = max(SILENCE_SECONDS, SILENCE_FACTOR * step_seconds) if step_seconds else self._patience
        self._arm(self._patience)

    def stop(self) -> None:
        """Training has ended."""
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self, seconds: float) -> None:
        self.stop()
        self._timer = threading.Timer(seconds, self._silent)
        self._timer.daemon = True
        self._timer.start()

    def _silent(self) -> None:
        silent = time.monotonic() - self._last
        self._tell(f"no training step has ended for {silent:.0f} s; usual ones are far shorter (forge status --watch, or Ctrl-C to checkpoint)")
        self._arm(2 * silent)
