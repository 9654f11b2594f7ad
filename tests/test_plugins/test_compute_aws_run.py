"""A whole run through the command line, with its training, evaluation and export on an emulated EC2 machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.ec2 import Cloud, ec2_cloud
from tests.test_plugins.aws_world import NOTHING

GUIDE = Path(__file__).parents[2] / "examples" / "handbook" / "guide"
FORGE = """
import sys
from forge.cli.app import main
from forge.plugins.compute.aws import Aws
Aws.creation_seconds = Aws.confirm_seconds = Aws.pause_seconds = Aws.poll_seconds = 0.2
sys.argv[0] = "forge"
main()
"""

pytestmark = [pytest.mark.local, pytest.mark.slow]


def test_a_whole_run_is_approved_trains_at_aws_and_comes_back(tmp_path: Path) -> None:
    with ec2_cloud(tmp_path / "ec2") as cloud:
        (tmp_path / "forge.yaml").write_text(json.dumps({"aws": {"types": ["c5.large"], "my_ip": "203.0.113.7", "python": sys.executable}}), encoding="utf-8")
        waiting = forge(cloud, tmp_path, "run", str(GUIDE), "--dry-run", "--budget", "1", "--provider", "aws", "--id", "first", code=3)
        assert cloud.machines == [], "nothing is leased before a person has agreed"
        approval = re.search(r"forge approve first --plan ([0-9a-f]+)", " ".join(waiting.split()))
        assert approval
        forge(cloud, tmp_path, "approve", "first", "--plan", approval[1])
        forge(cloud, tmp_path, "resume", "first")
        assert len(cloud.machines) == 1
        assert cloud.left() == NOTHING
        status = json.loads(forge(cloud, tmp_path, "status", "first", "--json"))
        assert {phase["status"] for phase in status["phases"]} == {"done"}
        assert (round(status["spent_usd"] * 1e6), status["reserved_usd"]) == (cloud.bill(), 0)
    run = tmp_path / ".forge" / "runs" / "first"
    assert json.loads((run / "phases/provision/machine.json").read_text())["offer"]["name"] == "c5.large us-east-1"
    assert list((run / "phases" / "quantize").rglob("*.gguf"))


def forge(cloud: Cloud, folder: Path, *arguments: str, code: int = 0) -> str:
    """A command of its own process, with the emulated account; returns its output."""
    env = {**os.environ, **cloud.environment(), "FORGE_HOME": str(folder / ".forge"), "XDG_STATE_HOME": str(folder / "state")}
    done = subprocess.run([sys.executable, "-c", FORGE, *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr
