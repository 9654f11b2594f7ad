"""A sweep whose candidates are trained beside each other on several machines (forge.parts), instead of in one process.

Each is a part: the phase with a plan that has this candidate alone, over the same base. The phase then finds them finished in its work
folder and only compares. Nothing passes between candidates, so on a CPU the bytes are those of one process; on a GPU, where one process
would train all in the same passes, sums of floats come in another order (docs/training.md says by how much).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from forge.phases.train.checkpoints import latest_checkpoint
from forge.records import Plan

BASE = "base"
"""The part that trains the base from scratch, before the candidates."""


def groups(plan: Plan) -> tuple[tuple[str, ...], ...]:
    """The parts of a plan; none without a sweep, and none for one that drops the weaker half on the way: that needs all in one place."""
    if plan.sweep is None or plan.sweep.halving or len(plan.sweep.candidates) < 2:
        return ()
    candidates = tuple(one.name for one in plan.sweep.candidates)
    return ((BASE,), candidates) if plan.scratch is not None else (candidates,)


def narrowed(plan: Plan, part: str) -> Plan:
    """The plan of one part."""
    if part in ("", BASE) or plan.sweep is None:
        return plan
    alone = tuple(one for one in plan.sweep.candidates if one.name == part)
    return plan.model_copy(update={"sweep": plan.sweep.model_copy(update={"candidates": alone})})


def any_finished(folder: Path, names: Sequence[str], steps: int) -> bool:
    """Whether a candidate lies in `folder` that was trained to the end by itself."""
    found = [latest_checkpoint(folder / name) for name in names]
    return any(one is not None and one[0] == steps for one in found)
