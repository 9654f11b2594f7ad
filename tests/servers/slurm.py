"""A real SLURM on this machine for tests: munged, slurmctld and one slurmd for each node, with fake GPUs, in a temporary folder.

    with cluster() as slurm:
        slurm.run("sinfo")           # any of its programs; SLURM_CONF and PATH are set for this process too
        slurm.stop_controller()

Nodes are processes of this host. A node has two GPUs: character devices that do nothing, so that SLURM sets
CUDA_VISIBLE_DEVICES as it does for real ones. Everything ends with the `with`, jobs included. Needs root (slurmd starts jobs
as their owners) and Debian's packages slurmctld slurmd slurm-client munge slurm-wlm-basic-plugins.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.programs import REQUIRED, program
from tests.servers.databases import free_port

INSTALL = "apt-get install slurmctld slurmd slurm-client munge slurm-wlm-basic-plugins"
START_SECONDS = 30.0
NULL_DEVICE = os.makedev(1, 3)

CONFIG = """\
ClusterName=forge-tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={place}/state
SlurmctldPidFile={place}/slurmctld.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdPidFile={place}/slurmd-%n.pid
SlurmdLogFile={place}/slurmd-%n.log
SlurmdSpoolDir={place}/spool-%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=0,sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MinJobAge={min_job_age}
KillWait={kill_wait}
MessageTimeout=5
GresTypes=gpu
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=short Nodes=ALL MaxTime=30 State=UP
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cores} Boards=1 SocketsPerBoard=1 CoresPerSocket={cores} ThreadsPerCore=1 RealMemory=90000 Gres=gpu:h200:2"


class Cluster:
    """A running SLURM. place: its folder. nodes: their names."""

    def __init__(self, place: Path, nodes: tuple[str, ...]) -> None:
        self.place, self.nodes = place, nodes
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, *argv: str) -> str:
        """What one of SLURM's programs prints. Raises CalledProcessError."""
        return subprocess.run(argv, env=self.environment(), capture_output=True, text=True, check=True, timeout=60).stdout

    def environment(self) -> dict[str, str]:
        """The environment in which programs find this cluster."""
        return {**os.environ, "SLURM_CONF": str(self.place / "slurm.conf")}

    def stop_controller(self) -> None:
        """End slurmctld; jobs go on. Not by SIGKILL: it saves its state every five seconds, and would forget newer jobs."""
        self._end("slurmctld")

    def start_controller(self) -> None:
        """Start slurmctld again with the state that it has saved."""
        self._start("slurmctld", ["slurmctld", "-D", "-f", str(self.place / "slurm.conf")])
        _until(lambda: "UP" in self._said("scontrol", "ping"), self.place)

    def kill_node(self, name: str) -> None:
        """End a node as a power cut does: its slurmd, and every job on it."""
        self._end(name, signal.SIGKILL)
        for pid in self._stepds(name):
            _kill_tree(pid)

    def start_node(self, name: str) -> None:
        """Start a node's slurmd."""
        self._start(name, ["slurmd", "-D", "-f", str(self.place / "slurm.conf"), "-N", name])

    def wait_for(self, state: str, *, nodes: int) -> None:
        """Wait until so many nodes are in a state ("idle", "drained")."""
        _until(lambda: self._said("sinfo", "-h", "-N", "-p", "main", "-o", "%t").split().count(state) == nodes, self.place)

    def _boot(self, host: str) -> None:
        (self.place / "munge").chmod(0o755)
        key = self.place / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        self._start("munged", [
            "munged", "--foreground", f"--key-file={key}", f"--socket={self.place}/munge/socket", f"--pid-file={self.place}/munge/pid",
            f"--log-file={self.place}/munge/log", f"--seed-file={self.place}/munge/seed",
        ])
        _until(lambda: (self.place / "munge" / "socket").exists(), self.place)
        self.start_controller()
        for name in self.nodes:
            self.start_node(name)
        self.wait_for("idle", nodes=len(self.nodes))

    def _start(self, name: str, command: list[str]) -> None:
        path = program(command[0], f"/usr/sbin/{command[0]}", install=INSTALL)
        with (self.place / f"{name}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                [path, *command[1:]], env=self.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _end(self, name: str, number: int = signal.SIGTERM) -> None:
        daemon = self._daemons.pop(name, None)
        if daemon is None:
            return
        daemon.send_signal(number)
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def _close(self) -> None:
        with suppress(subprocess.SubprocessError):
            self.run("scancel", "--user=root", "--signal=KILL", "--full")
        for name in self.nodes:
            for pid in self._stepds(name):
                _kill_tree(pid)
        for name in (*self.nodes, "slurmctld", "munged"):
            self._end(name)

    def _stepds(self, node: str) -> list[int]:
        """The processes that watch a node's jobs: slurmstepd forks from slurmd and names its node on its command line or spool."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and _reads(entry / "comm").startswith("slurmstepd") and str(self.place) in _reads(entry / "environ") + _reads(entry / "cmdline"):
                found.append(int(entry.name))
        return found

    def _said(self, *argv: str) -> str:
        try:
            return self.run(*argv)
        except subprocess.SubprocessError:
            return ""


@contextmanager
def cluster(
    *, nodes: int = 2, cores: int = 2, min_job_age: int = 300, kill_wait: int = 2, monkeypatch: pytest.MonkeyPatch | None = None
) -> Iterator[Cluster]:
    """A cluster of so many nodes, idle. min_job_age, kill_wait: seconds, SLURM's MinJobAge and KillWait.

    monkeypatch: sets SLURM_CONF for this process.
    """
    for name in ("munged", "slurmctld", "slurmd", "sbatch"):
        program(name, f"/usr/sbin/{name}", install=INSTALL)
    if os.geteuid():
        (pytest.fail if REQUIRED else pytest.skip)("slurmd starts jobs as their owners: needs root")
    place = Path(tempfile.mkdtemp(prefix="slurm-"))
    place.chmod(0o755)
    found = Cluster(place, tuple(f"n{number + 1}" for number in range(nodes)))
    try:
        _configure(place, found.nodes, cores, min_job_age, kill_wait)
        if monkeypatch:
            monkeypatch.setenv("SLURM_CONF", str(place / "slurm.conf"))
        found._boot(os.uname().nodename)
        yield found
    finally:
        found._close()
        shutil.rmtree(place, ignore_errors=True)


def _configure(place: Path, nodes: tuple[str, ...], cores: int, min_job_age: int, kill_wait: int) -> None:
    host = os.uname().nodename.split(".")[0]
    for folder in ("munge", "state", *(f"spool-{name}" for name in nodes)):
        (place / folder).mkdir()
    lines = [NODE.format(name=name, host=host, port=free_port(), cores=cores) for name in nodes]
    text = CONFIG.format(host=host, port=free_port(), place=place, nodes="\n".join(lines), min_job_age=min_job_age, kill_wait=kill_wait)
    (place / "slurm.conf").write_text(text, encoding="utf-8")
    for number in range(2):
        os.mknod(place / f"gpu{number}", 0o666 | 0o020000, NULL_DEVICE)
    (place / "gres.conf").write_text(f"NodeName=n[1-{len(nodes)}] Name=gpu Type=h200 File={place}/gpu[0-1]\n", encoding="utf-8")


def _kill_tree(pid: int) -> None:
    from forge.plugins.compute import _supervise

    for one in [*_supervise.descendants(pid), pid]:
        _supervise.send_signal(one, signal.SIGKILL)


def _reads(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _until(condition: Callable[[], bool], place: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > end:
            logs = "\n".join(f"{path.name}: {_reads(path)[-600:]}" for path in sorted(place.glob("*.log")) + sorted(place.glob("*.out")))
            raise TimeoutError(f"SLURM did not get there in {START_SECONDS:g} s\n{logs}")
        time.sleep(0.05)
