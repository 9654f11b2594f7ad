"""python -m tests.test_phases.killed_training INPUTS.json FOLDER KILLS SEED: train in children that are killed with -9 at random moments.

A program of its own, since it forks after torch was imported: a child is in its first step at once, so that kills hit training and
not imports. Prints the hashes of what the last, undisturbed child wrote, and how many children were killed at work.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

from forge.context import FolderContext, InputFile
from forge.phases.train import TrainSettings, phase
from forge.phases.train.runtime import prepare_libraries
from forge.registry import Registry
from forge.store import hash_path
from forge.testing import CountingMoney

RESULTS = ("base", "adapter", "train.json")
LONGEST_LIFE_SECONDS = 3.0


def train(inputs: dict[str, Path], folder: Path) -> None:
    """Run the phase, going on from what an earlier child left."""
    ctx = FolderContext(
        folder, run_id="test", seed=7, dry_run=False, writes=phase.writes, registry=Registry(), money=CountingMoney(),
        inputs={name: InputFile(path=str(path), sha256=hash_path(path)) for name, path in inputs.items()},
        emit=lambda kind, fields: None,
    )  # fmt: skip
    phase.run(TrainSettings(checkpoint_steps=2, log_steps=1), ctx)


def child(inputs: dict[str, Path], folder: Path) -> int:
    """The id of a process that trains."""
    if pid := os.fork():
        return pid
    try:
        train(inputs, folder)
    except BaseException:  # noqa: BLE001 - told, and the exit code says it
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main() -> None:
    """Kill so many children, then let one finish."""
    given, folder, kills, seed = sys.argv[1:5]
    inputs = {name: Path(path) for name, path in json.loads(Path(given).read_text()).items()}
    prepare_libraries(1, 7, Path(folder) / "cache")
    import peft  # noqa: F401
    import trl  # noqa: F401

    moments, killed = random.Random(int(seed)), 0
    for _ in range(int(kills)):
        pid = child(inputs, Path(folder))
        time.sleep(moments.uniform(0.05, LONGEST_LIFE_SECONDS))
        os.kill(pid, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    code = os.waitpid(child(inputs, Path(folder)), 0)[1]
    hashes = {name: hash_path(Path(folder) / "out" / name) for name in RESULTS} if code == 0 else {}
    sys.stdout.write(json.dumps({"code": code, "killed": killed, "hashes": hashes}) + "\n")


if __name__ == "__main__":
    main()
