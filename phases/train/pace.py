"""Is training as fast as planned, and will it end in time? Measured after a few steps, with the answer acted upon.

The published run checked its speed in padded tokens and so blessed a run that wasted 93 % of them. Here the tokens are real, and
beside the speed stands the share of the machine's own limit (a measured product of large matrices).
"""

from __future__ import annotations

import json
import math
import statistics
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from forge.errors import OverBudget
from forge.phase import Context
from forge.records import Plan

CALIBRATION_STEPS = 20
WARM_STEPS = 3
"""Not measured: compile, and memory that is taken for the first time."""
SHARE_FOR_TRAINING = 0.7
"""Of the lease's deadline; evaluation and export come after. plan_fit's deadline is twice the P90 of all three."""
NO_TIME = 1e-3
"""Seconds where none are left: 0 stands for no limit."""
FEWEST_STEPS_SHARE = 0.5
"""A run that could not make half of its steps is stopped: what came out would not be what was approved."""
SILENCE_FACTOR, SILENCE_SECONDS = 20.0, 120.0
SAME_MOMENT_SECONDS = 1e-4
"""Steps that are told closer together were read back from the GPU at once."""


class Limits(NamedTuple):
    """What training is held against. seconds: until it must end (0: no limit); peak_flops: 0 when not measured."""

    seconds: float = 0.0
    usd_per_hour: float = 0.0
    flops_per_token: float = 0.0
    peak_flops: float = 0.0


def seconds_for(ctx: Context, deadline_seconds: float, steps: int, *, earlier: int = 0, in_all: int = 0) -> float:
    """How long this part of training may take: its share of what the machine has left, less what evaluation and export need after it.

    deadline_seconds: of the lease as planned, which counts where the machine does not say what is left. earlier, in_all: steps of
    the parts before it, and of all parts (stages, candidates).
    """
    in_all = max(in_all, steps)
    left = ctx.seconds_left()
    if left is None:
        return SHARE_FOR_TRAINING * deadline_seconds * steps / in_all
    return max(NO_TIME, left - (1 - SHARE_FOR_TRAINING) * deadline_seconds) * steps / max(steps, in_all - earlier)


def planned_steps(plan: Plan) -> int:
    """Optimizer steps of all adapters."""
    return plan.lora.steps * (len(plan.sweep.candidates) if plan.sweep else 1)


def leased_usd_per_hour(ctx: Context, plan: Plan) -> float:
    """What the leased machine costs, which may be an alternate of the planned one."""
    leased = json.loads(ctx.input("machine").read_text(encoding="utf-8")) if ctx.has_input("machine") else {}
    return float(leased.get("offer", {}).get("usd_per_hour", plan.usd_per_hour))


def too_late(fit: int, steps: int, seconds: float, why: str) -> OverBudget:
    """The error of a training of which too little would be made."""
    return OverBudget(
        f"training would not end in time: {fit} of {steps} steps fit into {seconds:.0f} s", why=why,
        next="forge resume --from plan_fit --set plan_fit.train_minutes=MINUTES, or plan a faster machine (--provider)",
    )


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


class Hold:
    """Holds a training that cannot be shortened (a base from nothing, a grid) against its time: told once, stopped when hopeless."""

    def __init__(self, ctx: Context, seconds: float, steps: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._ctx, self.seconds, self.steps, self._clock = ctx, seconds, steps, clock
        self._began = clock()
        self._points: list[tuple[float, int]] = []
        self._told = False

    def step(self, step: int) -> None:
        """Note that `step` steps are done; several may be told at once. Raises OverBudget when not even half of all will fit."""
        now = self._clock()
        if self._points and now - self._points[-1][0] < SAME_MOMENT_SECONDS:
            self._points[-1] = (self._points[-1][0], step)
            return
        self._points.append((now, step))
        if len(self._points) > WARM_STEPS + 1:
            self._judge(*self._points[WARM_STEPS - 1], *self._points[-2])

    def _judge(self, warm_at: float, warm: int, now: float, step: int) -> None:
        """By the steps between two moments at which all that was done had been told."""
        if step - warm < CALIBRATION_STEPS - WARM_STEPS:
            return
        each = (now - warm_at) / (step - warm)
        if (fit := step + math.floor((self.seconds - (now - self._began)) / each)) >= self.steps:
            return
        why = f"{each:.2f} s a step: all {self.steps} would take {now - self._began + each * (self.steps - step):.0f} s"
        if fit < FEWEST_STEPS_SHARE * self.steps:
            raise too_late(max(0, fit), self.steps, self.seconds, why)
        if not self._told:
            self._ctx.notice(f"{why}, and {self.seconds:.0f} s are left for it: it may have to go on on a machine that is leased anew")
            self._told = True


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
