"""The callback that reports steps, seals checkpoints, and turns a wish to stop into a checkpoint and a quiet end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forge.errors import Interrupted
from forge.phase import Context
from forge.phases.train.checkpoints import seal
from forge.phases.train.reporter import Reporter


def make_watcher(ctx: Context, reporter: Reporter, step_tokens: Sequence[int], done: int) -> Any:
    """A TrainerCallback. step_tokens: real tokens of every step, from the first; done: steps of an earlier attempt."""
    from transformers import TrainerCallback

    class Watcher(TrainerCallback):  # type: ignore[misc, unused-ignore]
        stopped = False
        told = done

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            try:
                ctx.check_stop()
            except Interrupted:
                self.stopped = state.global_step < state.max_steps
                control.should_save = control.should_training_stop = True

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
            if logs and "loss" in logs and state.is_world_process_zero:
                tokens = sum(step_tokens[self.told : state.global_step])
                self.told = state.global_step
                reporter.step(state.global_step, logs["loss"], tokens, logs.get("grad_norm", 0.0))

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                seal(Path(args.output_dir) / f"checkpoint-{state.global_step}", state.global_step)

    return Watcher()


def logged(history: Sequence[dict[str, Any]], key: str) -> list[tuple[int, float]]:
    """(step, value) of every log line that has the key."""
    return [(int(line["step"]), round(float(line[key]), 6)) for line in history if key in line]
