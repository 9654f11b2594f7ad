"""The callback that reports steps, seals checkpoints, and turns a wish to stop into a checkpoint and a quiet end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forge.errors import Interrupted
from forge.phase import Context
from forge.phases.train.checkpoints import seal
from forge.phases.train.distributed import any_of, first_says, local_rank, wait_for_all
from forge.phases.train.pace import FEWEST_STEPS_SHARE, Pace, Watchdog, too_late
from forge.phases.train.reporter import Reporter
from forge.phases.train.schedule import shorten
from forge.store import write_durably


def make_watcher(ctx: Context, reporter: Reporter, step_tokens: Sequence[int], pace: Pace, replan: Path | None = None) -> Any:
    """A TrainerCallback. step_tokens: real tokens of every step, from the first. replan: where a shortened run is noted, so that it
    is as short when it is resumed. Raises OverBudget out of train() when training cannot end in time.
    """
    from transformers import TrainerCallback

    class Watcher(TrainerCallback):  # type: ignore[misc, unused-ignore]
        stopped = False
        told = pace.done
        watchdog = Watchdog(ctx.notice)

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.watchdog.alive()

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.watchdog.stop()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.watchdog.alive(pace.seconds_per_step())
            control.should_log |= state.global_step >= state.max_steps  # also a run of fewer steps than are between two lines has a loss
            if any_of(stop_asked(ctx)):
                self.stopped = state.global_step < state.max_steps
                control.should_save = control.should_training_stop = True

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **more: Any) -> None:
            if not logs or "loss" not in logs:
                return
            if state.is_world_process_zero:
                self.note(state, logs)
            if first_says(int(pace.calibrated)):
                self.keep_to_limit(args, state, more.get("lr_scheduler"))

        def note(self, state: Any, logs: dict[str, float]) -> None:
            tokens, steps = sum(step_tokens[self.told : state.global_step]), state.global_step - self.told
            self.told = state.global_step
            was = pace.calibrated
            pace.step(tokens, steps=max(1, steps))
            reporter.step(state.global_step, logs["loss"], tokens, logs.get("grad_norm", 0.0), **numbers_of(pace))
            if pace.calibrated and not was:
                ctx.notice(calibration(pace))

        def keep_to_limit(self, args: Any, state: Any, scheduler: Any) -> None:
            """Plan fewer steps when not all will fit, or stop when too few would."""
            fit = first_says(pace.affordable_steps() if pace.calibrated else 0)
            if fit >= state.max_steps:
                return
            if fit < FEWEST_STEPS_SHARE * pace.steps:
                self.watchdog.stop()
                raise too_late(fit, pace.steps, pace.limits.seconds, calibration(pace) if pace.calibrated else "")
            ctx.notice(f"{fit} of {pace.steps} steps fit into the machine's time: the rest is not trained, and the learning rate falls earlier")
            state.max_steps = args.max_steps = pace.steps = reporter.steps = fit
            shorten(scheduler, fit)
            if replan is not None and local_rank() == 0:
                write_durably(replan, f"{fit}\n")

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            wait_for_all()  # every process has written its part
            if state.is_world_process_zero or (args.save_on_each_node and state.is_local_process_zero):
                seal(folder, state.global_step)
            if state.is_world_process_zero:
                reporter.keep(folder, *([replan] if replan is not None and replan.exists() else []))
            wait_for_all()

    return Watcher()


def stop_asked(ctx: Context) -> bool:
    """Whether the user asked to stop."""
    try:
        ctx.check_stop()
    except Interrupted:
        return True
    return False


def numbers_of(pace: Pace) -> dict[str, float]:
    """What progress.jsonl has besides loss and speed: dollars so far and in all, and the share of the machine's limit."""
    projection = pace.project()
    spent = (time.monotonic() - pace.began) / 3600 * pace.limits.usd_per_hour
    found = {"usd": spent, "usd_projected": projection.usd} if pace.limits.usd_per_hour else {}
    return {**found, **({"share_of_limit": projection.share} if projection.share else {})}


def calibration(pace: Pace) -> str:
    """The line that is printed once the speed is known."""
    found = pace.project()
    share = f", {found.share:.0%} of what the machine can do" if found.share else ""
    usd = f", ${found.usd:.2f}" if found.usd else ""
    return f"{found.tokens_per_second:,.0f} real tokens a second{share}: done {found.seconds:.0f} s after the start of training{usd}"


def logged(history: Sequence[dict[str, Any]], key: str) -> list[tuple[int, float]]:
    """(step, value) of every log line that has the key."""
    return [(int(line["step"]), round(float(line[key]), 6)) for line in history if key in line]
