#!/usr/bin/env python3
"""Passes recorded as CUDA graphs against the same passes asked for one kernel at a time: losses, speed, memory, and a resumed run.

    python bench/train/graphs.py                          7B shape, rows of at most 1,900 tokens, bf16, FP8 and NF4, on one GPU
    python bench/train/graphs.py --tiny                   does it run? on a CPU nothing is recorded

The product's own functions on random weights (bench/gpu_train.py), 108 examples a step. resumed: a second trainer goes on from the checkpoint of
the recorded run's middle, with recordings of its own. apart: the largest relative difference of a step's loss.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.gpu_train import GIB, SHAPES, lora, make_base, make_examples, make_tokenizer

PER_STEP, WARM = 108, 3


def main() -> None:
    """Print a line for each precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=["bf16", "fp8", "nf4"], choices=["bf16", "fp8", "nf4"])
    parser.add_argument("--size", default="7b", choices=list(SHAPES))
    parser.add_argument("--row-tokens", type=int, default=1900)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--tiny", action="store_true")
    ask = parser.parse_args()
    __import__("logging").getLogger("trl").setLevel("ERROR")
    print(f"{'base':6s} {'':10s} {'tok/s':>8s} {'ready s':>8s} {'torch GiB':>10s} {'GPU GiB':>8s}  losses")
    for precision in ask.only:
        compare(precision, ask)


def compare(precision: str, ask: argparse.Namespace) -> None:
    """Plain, recorded, and recorded from the middle on."""
    with tempfile.TemporaryDirectory() as folder:
        found = {
            "plain": run(precision, ask, Path(folder) / "plain", graphed=False),
            "recorded": run(precision, ask, Path(folder) / "recorded", graphed=True),
            "resumed": run(precision, ask, Path(folder) / "recorded", graphed=True, resume=True),
        }
    apart = {name: max(abs(a / b - 1) for a, b in zip(one, found["plain"][-len(one) :], strict=True)) for name, one in found.items() if name != "plain"}
    print(f"{precision:6s} apart from plain: recorded {apart['recorded']:.3%}, resumed {apart['resumed']:.3%}", flush=True)


def run(precision: str, ask: argparse.Namespace, folder: Path, *, graphed: bool, resume: bool = False) -> list[float]:
    """The losses of all steps; prints the rest."""
    import torch

    from forge.phases.train.packing import pack_steps
    from forge.phases.train.tuner import Numbers, adapt, make_trainer, train_on, trial_step
    from forge.phases.train.ways import Way

    cuda = torch.cuda.is_available() and not ask.tiny
    shape, steps = SHAPES["tiny" if ask.tiny else ask.size], ask.steps
    examples, lengths = make_examples(shape["vocab_size"], 2000)
    way = Way("cuda" if cuda else "cpu", precision, cuda, ask.row_tokens, 0, {}, graphed=graphed and cuda)  # type: ignore[arg-type]
    model = adapt(make_base(shape, way.device), lora(32), way, seed=0)
    packed = pack_steps(lengths, steps, PER_STEP, 0, way.row_tokens)
    numbers = Numbers(steps, 1e-4, 0, steps // 2, 1)
    trainer = make_trainer(model, make_tokenizer(), examples, packed, numbers, way, folder, learning_rate_schedule="constant")
    began = time.perf_counter()
    trial_step(trainer, packed, lengths, print)
    ready = time.perf_counter() - began
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    clock = _clock(steps, cuda)
    trainer.add_callback(clock)
    train_on(trainer, None, folder / f"checkpoint-{steps // 2}" if resume else None)
    rate = sum(packed.tokens[WARM : steps // 2]) / clock.seconds if not resume else 0.0
    free, total = torch.cuda.mem_get_info() if cuda else (0, 0)
    held = torch.cuda.max_memory_reserved() / GIB if cuda else 0.0
    found = [line["loss"] for line in trainer.state.log_history if "loss" in line][steps // 2 if resume else 0 :]
    name = "resumed" if resume else "recorded" if graphed else "plain"
    print(f"{precision:6s} {name:10s} {rate:8,.0f} {ready:8.1f} {held:10.1f} {(total - free) / GIB:8.1f}  {' '.join(f'{loss:.4f}' for loss in found)}", flush=True)
    _forget(trainer)
    return found


def _forget(trainer: Any) -> None:
    import gc

    import torch

    trainer.model.get_base_model().model.__dict__.pop("forward", None)
    trainer.optimizer = trainer.lr_scheduler = trainer.model = trainer.model_wrapped = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _clock(steps: int, cuda: bool) -> Any:
    """Seconds from the end of the warm-up to the checkpoint in the middle."""
    import torch
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc, unused-ignore]
        seconds, began = 1.0, 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step in (WARM, steps // 2) and cuda:
                torch.cuda.synchronize()
            if state.global_step == WARM:
                self.began = time.perf_counter()
            elif state.global_step == steps // 2:
                self.seconds = time.perf_counter() - self.began

    return Clock()


if __name__ == "__main__":
    main()
