"""The learning rate of an adapter: up over the first steps, then down a cosine to nothing; it can be told to end earlier."""

from __future__ import annotations

import math
from typing import Any

WARMUP_SHARE = 0.03
"""trl's and the QLoRA paper's."""


class Schedule:
    """Share of the learning rate at a step from 0. Its attributes are part of a checkpoint (torch's LambdaLR keeps them)."""

    def __init__(self, steps: int, *, constant: bool = False) -> None:
        self.steps, self.constant = steps, constant

    def __call__(self, step: int) -> float:
        """As transformers' cosine schedule with warm-up."""
        if self.constant:
            return 1.0
        warmup = math.ceil(WARMUP_SHARE * self.steps)
        if step < warmup:
            return step / max(1, warmup)
        return max(0.0, 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, self.steps - warmup))))


def make_scheduler(optimizer: Any, steps: int, *, constant: bool = False) -> Any:
    """The scheduler that a Trainer steps."""
    from torch.optim.lr_scheduler import LambdaLR

    return LambdaLR(optimizer, Schedule(steps, constant=constant))


def shorten(scheduler: Any, steps: int) -> None:
    """Let the schedule end at `steps`. scheduler: as the Trainer hands it out, wrapped or not."""
    inner = getattr(scheduler, "scheduler", scheduler)
    for schedule in inner.lr_lambdas:
        schedule.steps = steps
