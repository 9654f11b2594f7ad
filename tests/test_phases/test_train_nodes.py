"""Two machines, each a network namespace with a disk of its own, train one split model over gloo and go on after one of them lost its process.

Each of the two attempts starts four processes that import torch (10 s each, on an idle core).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from forge.phases.train.checkpoints import latest_checkpoint
from forge.phases.train.shards import holds_shards
from tests.programs import REQUIRED, program
from tests.test_phases.test_train_several import Training, known_inputs, rank_process

pytestmark = pytest.mark.local
ROOT = Path(__file__).resolve().parents[2]
HEAD = "10.87.41.1"
SETTINGS = {"checkpoint_steps": 2, "log_steps": 1, "parallel": "fsdp", "gpus": 1}


class Nodes:
    """Two namespaces on one wire; `start` runs the train phase in one of them, in a folder of its own."""

    def __init__(self, folder: Path, inputs: dict[str, Path]) -> None:
        self.ip = program("ip", "/sbin/ip", "/usr/sbin/ip", install="apt-get install iproute2")
        if os.geteuid() != 0:
            (pytest.fail if REQUIRED else pytest.skip)("network namespaces need root")
        self.folder, self.names = folder, [f"node{os.getpid()}x{number}" for number in (0, 1)]
        (folder / "inputs.json").write_text(json.dumps({name: str(path) for name, path in inputs.items()}))

    def open(self) -> None:
        for name in self.names:
            self._ip("netns", "add", name)
        self._ip("link", "add", "wire0", "netns", self.names[0], "type", "veth", "peer", "name", "wire1", "netns", self.names[1])
        for number, name in enumerate(self.names):
            for command in (f"addr add 10.87.41.{number + 1}/24 dev wire{number}", f"link set wire{number} up", "link set lo up"):
                self._ip("-n", name, *command.split())

    def close(self) -> None:
        for name in self.names:
            subprocess.run([self.ip, "netns", "del", name], check=False, capture_output=True)

    def start(self, number: int) -> subprocess.Popen[str]:
        environment = {**os.environ, "FORGE_NODES": "2", "FORGE_NODE_RANK": str(number), "FORGE_HEAD": f"{HEAD}:29517", "OMP_WAIT_POLICY": "PASSIVE"}
        return subprocess.Popen(
            [self.ip, "netns", "exec", self.names[number], sys.executable, "-m", "tests.test_phases.node_training", str(self.folder / "inputs.json"),
             str(self.place(number)), json.dumps(SETTINGS)],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )

    def place(self, number: int) -> Path:
        return self.folder / f"machine-{number}"

    def both(self) -> list[dict[str, Any]]:
        return [told(child) for child in [self.start(0), self.start(1)]]

    def _ip(self, *arguments: str) -> None:
        subprocess.run([self.ip, *arguments], check=True, capture_output=True)


def told(child: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = child.communicate(timeout=500)
    assert out.strip(), err[-3000:]
    found: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return found


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(tmp_path, known_inputs(tmp_path / "inputs"))
    made.open()
    yield made
    made.close()


def test_two_machines_train_a_split_model_and_go_on_after_a_kill_to_the_model_of_one_process(nodes: Nodes) -> None:
    children = [nodes.start(0), nodes.start(1)]
    while not all(latest_checkpoint(nodes.place(number) / "work" / "lora") for number in (0, 1)):
        assert all(child.poll() is None for child in children), told(children[0])
        time.sleep(0.01)
    os.kill(rank_process(nodes.place(1), 1), signal.SIGKILL)
    first, second = (told(child) for child in children)
    assert second["error"] == "training stopped: process 1 (GPU 0 of machine 1) was killed by SIGKILL"
    assert first["error"].startswith("training stopped: process 0 (GPU 0 of machine 0) ended with code 1")

    resumed = nodes.both()
    assert all("tuning goes on after step" in " ".join(one["notices"]) for one in resumed)
    assert "2 processes on 2 machines, FSDP2: train.parallel=fsdp" in resumed[0]["notices"]
    found = latest_checkpoint(nodes.place(1) / "work" / "lora")
    assert found is not None
    assert holds_shards(found[1])
    assert {file.name for file in found[1].glob("*.distcp")} == {"__1_0.distcp"}

    alone = Training(nodes.folder / "alone", {name: Path(path) for name, path in json.loads((nodes.folder / "inputs.json").read_text()).items()}).run()
    adapters = [load_file(nodes.place(number) / "out" / "adapter" / "adapter_model.safetensors") for number in (0, 1)]
    for name, weight in alone.adapter().items():
        assert adapters[0][name].equal(adapters[1][name])
        assert adapters[0][name].allclose(weight, rtol=1e-2, atol=2e-4), name
