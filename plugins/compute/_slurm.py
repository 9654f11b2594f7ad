"""SLURM's own programs: asked, read, and what their refusals mean.

Everything is read from squeue and sinfo with formats of our own: they need no accounting database, and their letters have
meant the same since 14.03 (the JSON output changes with every release).
"""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Literal, NamedTuple

from forge.errors import MissingAccess, NoCapacity
from forge.plugins.compute import _supervise

ANSWER_SECONDS, QUOTE_SECONDS = 60.0, 10.0
PREFIX = "forge-"
QUEUE_FORMAT = "%i|%T|%j|%k|%S|%e|%M|%N|%r|%Z"
"""Job id, state, name, comment, start, end, time used, nodes, reason, working folder."""
NODES_FORMAT = "%P|%c|%m|%G|%l|%t|%D"
"""Partition, cores, MiB of memory, generic resources, time limit, state, nodes: one line for each kind of node."""

WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT", "POWER_UP_NODE")
RUNNING = ("RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING")
ENDING = ("COMPLETING", "STAGE_OUT")
UNREACHABLE = ("unable to contact", "timed out", "connection", "zero bytes", "communication", "not responding", "try again", "temporarily")

Stage = Literal["starting", "live", "stopping", "gone"]


class Unanswered(OSError):
    """SLURM did not answer, so what it has done is not known."""


class QueuedJob(NamedTuple):
    """One line of squeue. state: SLURM's word. start, end: its times of the last start, "N/A" before. used: "1-02:03:04"."""

    id: str
    state: str
    name: str
    comment: str
    start: str
    end: str
    used: str
    nodes: str
    reason: str
    folder: str

    @property
    def stage(self) -> Stage:
        """The state in our words."""
        if self.state in WAITING:
            return "starting"
        if self.state in RUNNING:
            return "live"
        return "stopping" if self.state in ENDING else "gone"


class NodeKind(NamedTuple):
    """Nodes of a partition that are alike. gpus: of each node; gpu: their type as the site calls it. limit: seconds, 0 = none."""

    partition: str
    default: bool
    cores: int
    memory_gib: float
    gpu: str
    gpus: int
    limit: float
    nodes: int


def queued() -> list[QueuedJob]:
    """All jobs of ours that SLURM remembers, the ended ones of the last minutes (MinJobAge) too. Raises Unanswered."""
    lines = ask(["squeue", "--me", "--array", "--noheader", "--states=all", f"--format={QUEUE_FORMAT}"]).splitlines()
    rows = [QueuedJob(*line.split("|", 9)) for line in lines if line.count("|") >= 9]
    return [row for row in rows if row.name.startswith(PREFIX)]


def node_kinds() -> list[NodeKind]:
    """What the partitions consist of, nodes that are down or drained left out. Raises Unanswered."""
    found = []
    for line in ask(["sinfo", "--noheader", f"--format={NODES_FORMAT}"], QUOTE_SECONDS).splitlines():
        partition, cores, memory, gres, limit, state, nodes = line.strip().split("|")
        if not re.match(r"down|drain|drng|fail|maint|unk|boot|inval", state):
            gpu, gpus = gpus_in(gres)
            found.append(NodeKind(
                partition.rstrip("*"), partition.endswith("*"), _number(cores), math.floor(_number(memory) / 102.4) / 10, gpu, gpus, seconds_of(limit),
                _number(nodes),
            ))
    return found


def submit(arguments: Sequence[str]) -> str:
    """Hand in a job; returns its id. Raises NoCapacity when SLURM refuses it, Unanswered when the outcome is not known."""
    try:
        return ask(["sbatch", "--parsable", *arguments]).strip().partition(";")[0]
    except subprocess.CalledProcessError as error:
        said = said_in(error)
        raise NoCapacity(
            "SLURM refuses the job", why=said,
            next="forge config show slurm   # partition, account, gres and time have to be what the site allows (sinfo, sacctmgr show assoc)",
        ) from error


def would_start(arguments: Sequence[str]) -> str:
    """What SLURM says about a job that is not handed in ("to start at … on nodes …"). Raises NoCapacity when it would refuse it."""
    try:
        done = subprocess.run(["sbatch", "--test-only", *arguments], capture_output=True, text=True, timeout=QUOTE_SECONDS, check=True, env=_environment())
    except subprocess.CalledProcessError as error:
        raise NoCapacity("SLURM would refuse the job", why=said_in(error), next="forge config show slurm") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unanswered(f"sbatch: {error}") from error
    return re.sub(r"^sbatch: Job \d+ to start", "SLURM would start it", done.stderr.strip())


def cancel(*arguments: str) -> None:
    """End jobs; those that have ended are fine. Raises Unanswered."""
    try:
        ask(["scancel", *arguments])
    except subprocess.CalledProcessError as error:
        if "invalid job id" not in said_in(error).lower() and "already completing" not in said_in(error).lower():
            raise


def ask(argv: Sequence[str], seconds: float = ANSWER_SECONDS) -> str:
    """What a program of SLURM's prints. It dies with this process, so that no submission comes after a kill -9 of ours.

    Raises MissingAccess without the program, Unanswered when the controller cannot be reached, CalledProcessError when it says no.
    """
    if shutil.which(argv[0]) is None:
        raise MissingAccess(f"{argv[0]} is not installed here", why="SLURM's programs are not on the PATH", next="run forge on a login node of the cluster")
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=seconds, check=True, stdin=subprocess.DEVNULL, errors="replace", env=_environment(),
            preexec_fn=_die_with_us if sys.platform == "linux" else None,
        )
    except subprocess.TimeoutExpired as error:
        raise Unanswered(f"{argv[0]} gave no answer in {seconds:g} seconds") from error
    except subprocess.CalledProcessError as error:
        if "configuration source" in said_in(error):   # the programs are installed, and belong to no cluster
            raise MissingAccess(
                f"{argv[0]} knows no cluster", why=said_in(error), next="run forge on a login node of the cluster, or set SLURM_CONF"
            ) from error
        if any(word in said_in(error).lower() for word in UNREACHABLE) or error.returncode < 0:
            raise Unanswered(f"{argv[0]}: {said_in(error) or 'killed'}") from error
        raise
    return done.stdout


def said_in(error: subprocess.CalledProcessError) -> str:
    """The last line of what a program complained about, without its own name."""
    lines = [line.strip() for line in str(error.stderr).splitlines() if line.strip()]
    return re.sub(r"^\w+: (error: )?", "", lines[-1]) if lines else ""


def seconds_of(text: str) -> float:
    """SLURM's times ("5:00", "1-02:03:04", "infinite") in seconds; 0 for none.

    >>> seconds_of("1-02:03:04"), seconds_of("5:00"), seconds_of("infinite")
    (93784.0, 300.0, 0.0)
    """
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if not found:
        return 0.0
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def gpus_in(gres: str) -> tuple[str, int]:
    """Type and number in "gpu:h200:8(S:0-1),lustre:1"; ("", 0) without GPUs."""
    found = re.search(r"\bgpu:(?:([^:,()]+):)?(\d+)", gres)
    return (found[1] or "gpu", int(found[2])) if found else ("", 0)


def _number(text: str) -> int:
    found = re.match(r"\d+", text)   # "128+": nodes of the line differ, this is the least
    return int(found[0]) if found else 0


def _environment() -> dict[str, str]:
    """Ours without what a SLURM job finds in its own: sbatch would take that for what we ask."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SLURM_") or name == "SLURM_CONF"}


def _die_with_us() -> None:
    _supervise.die_with_parent(signal.SIGKILL)
