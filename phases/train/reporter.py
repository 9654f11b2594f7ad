"""How far training is: progress events for the terminal, one line a report in progress.jsonl for the charts."""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from forge.phase import Context
from forge.phases.train.distributed import local_rank


class Reporter:
    """Counts tokens and seconds of one stage and tells both ends. `total` is what both stages have in steps.

    The log survives a kill: it lies in ctx.work, and a resumed stage first cuts what it will train again.
    """

    def __init__(self, ctx: Context, stage: str, steps: int, *, before: int, total: int, every: int) -> None:
        self.ctx, self.stage, self.steps = ctx, stage, steps
        self.before, self.total, self.every = before, total, every
        self._log = ctx.work / "progress.jsonl"
        self._tokens, self._started, self._first = 0, time.monotonic(), 0

    def start(self, step: int) -> None:
        """Begin, or go on, after `step` finished steps. Of several processes only the first of a machine writes."""
        if local_rank():
            return
        kept = [line for line in self._lines() if line["stage"] != self.stage or line["step"] <= step]
        self._log.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._tokens, self._started, self._first = 0, time.monotonic(), step

    def step(self, step: int, loss: float, tokens: int, grad_norm: float, **more: float) -> None:
        """Count a finished step of `tokens` tokens; every n-th is reported. more: further numbers for progress.jsonl."""
        self._tokens += tokens
        if step % self.every and step != self.steps:
            return
        seconds = max(time.monotonic() - self._started, 1e-9)
        speed = self._tokens / seconds
        eta = (self.steps - step) * seconds / max(step - self._first, 1)
        line = {
            "stage": self.stage, "step": step, "steps": self.steps, "loss": round(loss, 4), "grad_norm": round(grad_norm, 4),
            "tokens_per_second": round(speed, 1), "seconds": round(seconds, 1), "eta_seconds": round(eta, 1),
            "memory_gib": used_gib(), **{name: round(value, 4) for name, value in more.items()},
        }
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.ctx.progress(
            self.before + step, self.total, f"{self.stage} {step}/{self.steps}",
            loss=round(loss, 4), tokens_per_second=round(speed), eta_seconds=round(eta), **{name: round(value, 4) for name, value in more.items()},
        )

    def keep(self, *paths: Path) -> None:
        """Have a sealed checkpoint kept, and the log as it is now with it."""
        for path in (*paths, *([self._log] if self._log.exists() else [])):
            self.ctx.keep(path)

    def publish(self, target: Path) -> None:
        """Copy the whole log to the artifact."""
        if local_rank():
            return
        self._log.touch()
        shutil.copyfile(self._log, target)

    def _lines(self) -> list[dict[str, Any]]:
        if not self._log.exists():
            return []
        lines = self._log.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1]]  # after the last newline: nothing, or a line torn by a kill


def used_gib() -> float:
    """The most memory so far: what torch has taken of the GPU (CUDA graphs hold theirs unseen by its count of allocations), or of this process."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return float(round(torch.cuda.max_memory_reserved() / 1024**3, 2))
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2, 2)
