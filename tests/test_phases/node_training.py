"""python -m tests.test_phases.node_training INPUTS.json FOLDER SETTINGS.json: the train phase on one of several machines.

A program of its own, since each machine is a network namespace. Says on the last line of its output how it ended.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from forge.context import FolderContext, InputFile
from forge.errors import ForgeError
from forge.phases.train import TrainSettings, phase
from forge.registry import Registry
from forge.store import hash_path
from forge.testing import CountingMoney


def main() -> None:
    """Train, or go on."""
    inputs = {name: Path(path) for name, path in json.loads(Path(sys.argv[1]).read_text()).items()}
    notices: list[str] = []
    ctx = FolderContext(
        Path(sys.argv[2]), run_id="test", seed=7, dry_run=False, writes=phase.writes, registry=Registry(), money=CountingMoney(),
        inputs={name: InputFile(path=str(path), sha256=hash_path(path)) for name, path in inputs.items()},
        emit=lambda kind, fields: notices.append(fields["text"]) if kind == "notice" else None,
    )  # fmt: skip
    try:
        told = dict(phase.run(TrainSettings(**json.loads(sys.argv[3])), ctx))
    except ForgeError as error:
        told = {"error": error.fact, "why": error.why}
    sys.stdout.write(json.dumps({**told, "notices": notices}) + "\n")


if __name__ == "__main__":
    main()
