"""kill -9 at ten random moments of pretraining and tuning ends with the weights of a run that nobody touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.test_phases.tiny_training import make_inputs

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.local, pytest.mark.fault]


def run(inputs: Path, folder: Path, kills: int) -> Any:
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tests.test_phases.killed_training", str(inputs), str(folder), str(kills), "11"], cwd=ROOT, timeout=280, check=False,
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_ten_kills_change_no_byte_of_the_weights(tmp_path: Path) -> None:
    paths = make_inputs(tmp_path / "inputs", steps=30, lora_steps=40)
    (tmp_path / "inputs.json").write_text(json.dumps({name: str(path) for name, path in paths.items()}))
    undisturbed, disturbed = run(tmp_path / "inputs.json", tmp_path / "a", 0), run(tmp_path / "inputs.json", tmp_path / "b", 10)
    assert undisturbed["code"] == disturbed["code"] == 0
    assert disturbed["killed"] >= 3   # a child may finish before its moment comes; what it left is then taken up again
    assert disturbed["hashes"] == undisturbed["hashes"]
