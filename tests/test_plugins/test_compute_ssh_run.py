"""A whole run through the command line, with its training, evaluation and export on a host over ssh, cut off in the middle of training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.servers.hosts import SshHost
from tests.test_plugins.ssh_world import until

GUIDE = Path(__file__).parents[2] / "examples" / "handbook" / "guide"
FORGE = """
import sys
from forge.cli.app import main
from forge.plugins.compute import ssh
ssh.provider = ssh.Ssh(alive_seconds=1.0, poll_seconds=0.5)
sys.argv[0] = "forge"
main()
"""
CUT_SECONDS = 5.0
"""Longer than a connection stands (three times alive_seconds)."""

pytestmark = [pytest.mark.local, pytest.mark.slow]


def test_a_whole_run_trains_on_a_host_through_a_partition_and_comes_back(tmp_path: Path) -> None:
    with SshHost(tmp_path / "host") as host:
        settings = {"host": f"root@{host.address}", "key": str(host.key), "known_host_key": host.public_host_key, "python": sys.executable}
        (tmp_path / "forge.yaml").write_text(json.dumps({"ssh": settings}), encoding="utf-8")
        env = {**os.environ, "FORGE_HOME": str(tmp_path / ".forge"), "XDG_STATE_HOME": str(tmp_path / "state")}
        command = [sys.executable, "-c", FORGE, "run", str(GUIDE), "--dry-run", "--provider", "ssh", "--id", "first"]
        with (tmp_path / "out").open("wb") as out:
            engine = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        try:
            until(lambda: engine.poll() is not None or "progress" in trained(host), 240)
            host.partition()
            time.sleep(CUT_SECONDS)
            jobs = [path.name for path in host.home.glob(".slm-forge/leases/*/jobs/train-*")]
            host.heal()
            code = engine.wait(240)
        finally:
            engine.kill()
        assert code == 0, (tmp_path / "out").read_text()
        assert len(jobs) == 1
        assert list(host.home.iterdir()) == []
    run = tmp_path / ".forge" / "runs" / "first"
    assert json.loads((run / "phases/provision/machine.json").read_text())["offer"]["name"] == f"root@{host.address} cpu"
    assert list((run / "phases" / "quantize").rglob("*.gguf"))
    told = [line for line in (run / "events.jsonl").read_text().splitlines() if '"train"' in line and '"notice"' in line]
    assert len({line.split('"text"')[1] for line in told}) == len(told), "nothing is told twice"


def trained(host: SshHost) -> str:
    """What the training job has told on the host."""
    return "".join(path.read_text() for path in host.home.glob(".slm-forge/leases/*/jobs/train-*/events.jsonl"))
