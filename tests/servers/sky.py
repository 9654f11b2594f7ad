"""SkyPilot for tests: a program `sky` whose clusters are machines with a real sshd (hosts.py), and an `ssh` that knows their aliases.

What it prints is taken from SkyPilot 0.14.1. Seen for real, with a small catalog and a local EC2 (moto): `gpus list -a -o json`,
`check -o json`, `status -o json` with a cluster in INIT and with none, `launch` that finds no capacity, `launch` without access,
`down` of an unknown cluster, the lines about its server that stand before the JSON, `status -v -o json` with the task's text, and `cost-report -o json`. From
its source only: a launch that succeeds and a cluster in UP (no machine of ours gets through its setup).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from tests.servers.hosts import SshHost

CLIENT = """#!{python} -IS
import json, sys, urllib.request
argv = sys.argv[1:]
files = {{word: open(word).read() for word in argv if word.endswith(".yaml")}}
told = urllib.request.urlopen("{url}", json.dumps({{"argv": argv, "files": files}}).encode(), timeout=300).read()
told = json.loads(told)
sys.stdout.write(told["out"]); sys.stderr.write(told["err"]); sys.exit(told["code"])
"""
SSH = """#!/bin/sh
exec {ssh} -F {config} "$@"
"""
STARTING = (
    "\x1b[2mFailed to connect to SkyPilot API server at http://127.0.0.1:46580. Starting a local server.\x1b[0m\n"
    "\x1b[32m\u2713 SkyPilot API server started. \x1b[0m\x1b[0m\n"
)
NO_CAPACITY = (
    "sky.exceptions.ResourcesUnavailableError: Failed to acquire resources in all zones in us-east-1 for {AWS(g5.xlarge, mem=16.0, {'A10G': 1}, "
    "disk_size=100)}. \n\n\x1b[33m\u21ba\x1b[0m Trying other potential resources.\n\x1b[31m\u2a2f\x1b[0m Failed to provision resources.\n"
)
NO_ACCESS = "sky.exceptions.NoCloudAccessError: Cloud access is not set up. Run: \x1b[1msky check\x1b[0m\n"
RATE = 1.006


def row(cloud: str, instance: str | None, gpu: str, count: float, memory: float | None, price: float, spot: float | None, region: str) -> dict[str, Any]:
    """One row of the price list."""
    return {
        "cloud": cloud, "instance_type": instance, "accelerator_name": gpu, "accelerator_count": count, "cpu_count": 4.0, "device_memory": memory,
        "memory": 16.0, "price": price, "spot_price": spot, "region": region,
    }


CATALOG = [
    row("AWS", "g5.xlarge", "A10G", 1.0, 24.0, RATE, 0.42, "us-east-1"), row("AWS", "g4dn.xlarge", "T4", 1.0, None, 0.526, 0.19, "us-west-2"),
    row("Lambda", "gpu_1x_a10", "A10", 1.0, 24.0, 0.75, None, "us-east-1"), row("GCP", None, "T4", 1.0, 16.0, 0.35, 0.11, "us-central1"),
    row("GCP", "tpu-host", "tpu-v5e", 1.0, None, 1.2, None, "us-central1"), row("RunPod", "1x_RTX4090_SECURE", "RTX4090", 1.0, 23.98828125, 0.69, 0.35, "US"),
]


@dataclass
class Cluster:
    """One cluster: its machine and the watch that runs on it."""

    name: str
    host: SshHost
    launched: float
    task: dict[str, Any]
    autostop: int
    status: str = "INIT"
    job: subprocess.Popen[bytes] | None = None
    ended: float | None = None


@dataclass
class SkyCloud:
    """What the program's server knows. Flags make it fail."""

    folder: Path
    program: Path = Path()
    clusters: dict[str, Cluster] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    access: tuple[str, ...] = ("AWS",)
    capacity: bool = True
    lost: int = 0          # launches that are done, and whose answer is lost
    slow: float = 0.0      # seconds that a launch takes
    deaf_downs: int = 0    # downs that fail

    def up(self) -> list[str]:
        """Clusters that bill."""
        self.look()
        return [one.name for one in self.clusters.values() if one.ended is None]

    def bill(self, run: str = "") -> int:
        """Micro-dollars of the clusters of a run: begun from launch to end, at least a minute, with the disk."""
        rate = RATE + 100 * 0.17 / 730
        mine = [one for one in self.clusters.values() if not run or one.task["envs"]["FORGE_RUN"] == run]
        return sum(-int(-(round(rate, 6) * max(60.0, self.seconds(one)) / 3600 * 1e6) // 1) for one in mine)

    def seconds(self, one: Cluster) -> int:
        """How long it was there, as `cost-report` counts."""
        return int((one.ended or time.time()) - one.launched)

    def look(self) -> None:
        """A cluster whose jobs have ended is idle, and taken down: `--down -i`."""
        for one in list(self.clusters.values()):
            if one.ended is None and one.job is not None and one.job.poll() is not None:
                self.down(one)

    def down(self, one: Cluster) -> None:
        """The machine is gone."""
        if one.job is not None:
            one.job.kill()
            one.job.wait()
        one.host.__exit__(None, None, None)
        one.ended = one.ended or time.time()
        self._write_config()

    # --- commands -----------------------------------------------------------------------------------------------

    def answer(self, argv: Sequence[str], files: dict[str, str]) -> tuple[int, str, str]:
        """Exit code, standard output and standard error of a call."""
        self.calls.append(" ".join(argv[:2]))
        self.look()
        if argv[0] == "gpus":
            wanted = argv[argv.index("--infra") + 1] if "--infra" in argv else ""
            rows = [one for one in CATALOG if wanted in ("", one["cloud"].lower())]
            return 0, STARTING + json.dumps({gpu: [one for one in rows if one["accelerator_name"] == gpu] for gpu in {one["accelerator_name"] for one in rows}}, indent=2), ""
        if argv[0] == "check":
            return 0, json.dumps({"default": {cloud: ["compute", "storage"] for cloud in self.access}}, indent=2), ""
        if argv[0] == "launch":
            return self.launch(argv, yaml.safe_load(next(iter(files.values()))))
        if argv[0] == "status":
            names = [word for word in argv[1:] if word not in ("-o", "json", "--refresh", "-v")]
            rows = [self.told(one, verbose="-v" in argv) for one in self.clusters.values() if one.ended is None and (not names or one.name in names)]
            return 0, ("" if rows or not names else f"Cluster(s) not found: {names[0]}.\n") + json.dumps(rows, indent=2), ""
        if argv[0] == "down":
            return self.take_down(argv[-1])
        if argv[0] == "cost-report":
            report = [{"name": one.name, "launched_at": int(one.launched), "duration": self.seconds(one), "num_nodes": 1, "cluster_hash": f"hash-{one.name}-{one.launched}", "status": one.status if one.ended is None else "TERMINATED"} for one in self.clusters.values()]
            return 0, json.dumps(report, indent=2), ""
        return 2, "", f"Error: No such command {argv[0]!r}."

    def launch(self, argv: Sequence[str], task: dict[str, Any]) -> tuple[int, str, str]:
        name = argv[argv.index("-c") + 1]
        assert {"-y", "-d", "--down", "-i"} <= {*argv}
        assert argv[argv.index("--wait-for") + 1] == "jobs", "by default an open ssh connection keeps a cluster"
        if not self.access:
            return 1, "", NO_ACCESS
        if not self.capacity:
            return 1, f"YAML to run: task.yaml\nRunning on cluster: {name}\n", NO_CAPACITY
        one = self.clusters.get(name)
        if one is None or one.ended is not None:
            host = SshHost(self.folder / f"{name}-{len(self.clusters)}")
            host.__enter__()
            one = self.clusters[name] = Cluster(name, host, time.time(), task, int(argv[argv.index("-i") + 1]))
            self._write_config()
        time.sleep(self.slow)
        if one.job is None:
            environment = ["env", f"HOME={host.home}", "PATH=/usr/local/bin:/usr/bin:/bin"]
            one.job = subprocess.Popen([*host._enter(), *environment, "bash", "-c", task["run"]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        one.status = "UP"
        if self.lost:
            self.lost -= 1
            return 1, "", "sky.exceptions.ApiServerConnectionError: Could not connect to SkyPilot API server at http://127.0.0.1:46580.\n"
        return 0, f"Running on cluster: {name}\nJob submitted, ID: 1\n", ""

    def take_down(self, name: str) -> tuple[int, str, str]:
        if self.deaf_downs:
            self.deaf_downs -= 1
            return 1, "", f"Terminating cluster {name}...failed. Please check the logs and try again.\n"
        one = self.clusters.get(name)
        if one is None or one.ended is not None:
            return 0, f"Cluster(s) not found: \x1b[1m{name}\x1b[0m.\nCluster(s) not found (tip: see `sky status`).\n", ""
        self.down(one)
        return 0, f"Terminating cluster {name}...done.\n", ""

    def told(self, one: Cluster, *, verbose: bool) -> dict[str, Any]:
        """A record as `status -o json` has it."""
        resources = one.task["resources"]
        return {
            "name": one.name, "launched_at": int(one.launched), "last_use": "", "status": one.status, "autostop": one.autostop, "to_down": True,
            "owner": None, "metadata": None, "cluster_hash": "d11cab46", "cluster_ever_up": one.status == "UP", "status_updated_at": 0, "user_hash": "fcd1e5cf",
            "user_name": "root", "workspace": "default", "last_creation_yaml": yaml.safe_dump(one.task) if verbose else None, "last_creation_command": None, "is_managed": False,
            "init_kind": None, "nodes": 1, "cloud": "AWS", "region": resources["infra"].partition("/")[2], "accelerators": "{'A10G': 1}", "labels": {},
        }

    def _write_config(self) -> None:
        """As SkyPilot writes it: no host key is checked."""
        blocks = [
            f"Host {one.name}\n  HostName {one.host.address}\n  User root\n  IdentityFile {one.host.key}\n  IdentitiesOnly yes\n"
            "  StrictHostKeyChecking no\n  UserKnownHostsFile=/dev/null\n  GlobalKnownHostsFile=/dev/null\n  Port 22\n"
            for one in self.clusters.values() if one.ended is None
        ]
        (self.folder / "ssh_config").write_text("".join(blocks), encoding="utf-8")


@contextmanager
def sky_cloud(folder: Path) -> Iterator[SkyCloud]:
    """The programs in folder/bin, and everything that they start, until the end of the block."""
    folder.mkdir(parents=True)
    state, lock = SkyCloud(folder), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                code, out, err = state.answer(told["argv"], told["files"])
            data = json.dumps({"code": code, "out": out, "err": err}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    (folder / "bin").mkdir()
    state.program = folder / "bin" / "sky"
    ssh = shutil.which("ssh") or "/usr/bin/ssh"
    texts = {
        state.program: CLIENT.format(python=sys.executable, url=f"http://127.0.0.1:{server.server_port}"),
        folder / "bin" / "ssh": SSH.format(ssh=ssh, config=folder / "ssh_config"),
    }
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
    (folder / "ssh_config").touch()
    try:
        yield state
    finally:
        for one in state.clusters.values():
            if one.ended is None:
                state.down(one)
        server.shutdown()
        server.server_close()


__all__ = ["RATE", "SkyCloud", "sky_cloud"]
