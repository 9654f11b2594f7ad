"""A job on a lease of several nodes: started on the first one, it starts its command on each by srun, and asks all of them to stop.

    python -P -m forge.plugins.compute._slurm_nodes start ARGV...     on the first node
    python -P -m forge.plugins.compute._slurm_nodes node ARGV...      on each, by srun

srun kills all tasks at once when it gets SIGTERM itself (22.05: "forcing job termination"), so a wish to stop goes through its standard
input, which it passes on to every task. What SLURM itself ends (scancel, preemption) is asked by SLURM on every node, and has KillWait
(30 seconds by default) to save; else it goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from forge.plugins.compute import _supervise

FIRST_PORT, PORTS = 20000, 12000   # below the ports that Linux gives to outgoing connections
LAST_NODE_SECONDS, TICK_SECONDS = 60.0, 0.2
"""How long a node that was asked to stop waits for the others to save: srun ends all when the first ends with an error."""
LATE_SECONDS = 5.0
"""How much later than the other nodes SLURM may signal this one."""
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Codes of a job that was asked to end: SLURM's SIGTERM goes to every process of the job, not to the holder alone."""
STOP, MODULE = b"stop\n", "forge.plugins.compute._slurm_nodes"


def slurm_id() -> str:
    """The id of the SLURM job that this process is in, as squeue shows it: "12", "12_3" for a task of an array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID", "0")


def on_each_node(argv: list[str]) -> list[str]:
    """The command as it is started on a lease of several nodes. Unchanged on one node."""
    return argv if _nodes() == 1 else [sys.executable, "-P", "-m", MODULE, "start", *argv]


def nodes_environment() -> dict[str, str]:
    """What tells a job that the lease has several nodes: how many, and where they meet (the first one's name and a port); empty for one."""
    if _nodes() == 1:
        return {}
    port = FIRST_PORT + int(re.sub(r"\D", "", slurm_id())) % PORTS   # another one for another job on the same node
    return {"FORGE_NODES": f"{_nodes()}", "FORGE_HEAD": f"{os.environ.get('SLURMD_NODENAME', os.uname().nodename)}:{port}"}


def head_address(rank: int, named: str) -> str:
    """The first node as this one reaches it: where srun came from, since SLURM's names of nodes need not be known to a resolver.

    The first node itself may take its own name for the loopback (Debian's /etc/hosts), where no other one can reach it.
    """
    found = os.environ.get("SLURM_LAUNCH_NODE_IPADDR") or named
    if rank == 0 and found.startswith("127."):
        found = _address_towards(os.environ.get("SLURM_JOB_NODELIST", "")) or found
    return f"[{found}]" if ":" in found else found


def _address_towards(nodes: str) -> str:
    """This node's address on the way to the last of these nodes ("n[1-4]"); "" when that is not known."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            names = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=False).stdout.split()
            probe.connect((names[-1], 9))   # sends nothing
        except (OSError, IndexError):
            return ""
        return str(probe.getsockname()[0])


def start_nodes(argv: list[str]) -> int:
    """Run the command on each node; SIGTERM asks all of them to stop. The code says that they were stopped if and only if that came:
    srun says 0 for tasks that SLURM has killed, and those that it ends after another one's failure end with SIGTERM's.
    """
    srun = subprocess.Popen(
        ["srun", f"--nodes={_nodes()}", f"--ntasks={_nodes()}", "--ntasks-per-node=1", *_cores(), "--export=ALL", "--kill-on-bad-exit=1", "--wait=0",
         "--overlap", "--unbuffered", sys.executable, "-P", "-m", MODULE, "node", *argv],
        stdin=subprocess.PIPE, start_new_session=True,   # SIGTERM to our group is not for srun
        preexec_fn=lambda: _supervise.die_with_parent(signal.SIGKILL),
    )
    assert srun.stdin is not None
    stdin, stops = srun.stdin.fileno(), list[int]()

    def stop(number: int, frame: FrameType | None) -> None:
        stops.append(number)
        _say(stdin, STOP)

    signal.signal(signal.SIGTERM, stop)
    code = _code(srun.wait())
    until = time.monotonic() + LATE_SECONDS
    while code in STOPPED and not stops and time.monotonic() < until:
        time.sleep(TICK_SECONDS)
    if stops:
        return code or STOPPED[1]
    return 1 if code in STOPPED else code


def run_on_node(argv: list[str], rank: int, nodes: int) -> int:
    """Run a node's command. One that was asked to stop lets the others save before its code makes srun end them."""
    wakeup = _supervise.wake_on_signals()
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, preexec_fn=lambda: _supervise.die_with_parent(signal.SIGKILL))
    listening, asked = [0, wakeup], False
    while child.poll() is None:
        ready, _, _ = select.select(listening, [], [], 1.0)
        heard = os.read(0, 4096) if 0 in ready else STOP
        if not heard:   # srun is gone, and ends us
            listening = [wakeup]
        if (0 in ready and STOP in heard) or (wakeup in ready and signal.SIGTERM in os.read(wakeup, 4096)):
            asked = True
            _supervise.send_signal(child.pid, signal.SIGTERM)
    ended = [Path(".job") / f"ended-{slurm_id()}.{os.environ.get('SLURM_RESTART_COUNT', '0')}.{os.environ.get('SLURM_STEP_ID', '0')}-{one}" for one in range(nodes)]
    ended[rank].touch()
    until = time.monotonic() + LAST_NODE_SECONDS
    while asked and not all(one.exists() for one in ended) and time.monotonic() < until:
        time.sleep(TICK_SECONDS)
    return _code(child.returncode)


def for_node(argv: list[str], rank: int) -> list[str]:
    """What a node runs: the first one the command itself; the others its worker in folders of their own, or nothing for a phase
    that needs one node only (it says `every_node` otherwise).
    """
    job = Path(argv[-1])
    if rank == 0 or job.name != "job.json":
        return argv
    from forge.registry import Registry

    told: dict[str, Any] = json.loads(job.read_text(encoding="utf-8"))
    registry = Registry(tuple(Path(folder) for folder in told["plugin_dirs"]))
    if not all(getattr(registry.phase(one["name"]), "every_node", False) for one in told["phases"]):
        return ["true"]
    for one in told["phases"]:
        one["folder"] += f".node{rank}"
    own = job.parent / f"node{rank}" / job.name
    own.parent.mkdir(exist_ok=True)
    _supervise.replace(own, json.dumps(told))
    return [*argv[:-1], str(own)]


def bring_failure(own: list[str], argv: list[str]) -> None:
    """Let the engine read why another node's worker failed: the first one, which srun ends then, says nothing."""
    theirs, ours = (Path(one[-1]).with_name("result.json") for one in (own, argv))
    if theirs.exists() and not ours.exists():
        _supervise.replace(ours, theirs.read_text(encoding="utf-8"))


def main(argv: list[str]) -> int:
    """Do what the first argument says."""
    if argv[0] == "start":
        return start_nodes(argv[1:])
    rank = int(os.environ.get("SLURM_NODEID", "0"))
    named, _, port = os.environ["FORGE_HEAD"].rpartition(":")
    os.environ |= {"FORGE_NODE_RANK": str(rank), "FORGE_HEAD": f"{head_address(rank, named)}:{port}"}
    own = for_node(argv[1:], rank)
    code = run_on_node(own, rank, _nodes())
    if code:
        bring_failure(own, argv[1:])
    return code


def _nodes() -> int:
    """How many nodes the SLURM job has."""
    return int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))


def _cores() -> list[str]:
    """srun does not take over sbatch's cores a task since 22.05 (sbatch(1), --cpus-per-task): each would be bound to one core."""
    cores = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return [f"--cpus-per-task={cores}"] if cores else []


def _say(pipe: int, word: bytes) -> None:
    try:
        os.write(pipe, word)
    except BrokenPipeError:
        return   # it has ended


def _code(returncode: int) -> int:
    return returncode if returncode >= 0 else 128 - returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
