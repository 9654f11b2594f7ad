"""Runs a command and says what it took: wall and CPU seconds, and the memory of the whole process tree."""

from __future__ import annotations

import resource
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

SAMPLE_SECONDS = 0.02


class Taken(NamedTuple):
    """wall, cpu: seconds; peak: bytes of resident memory, summed over the tree (shared pages count once per process)."""

    wall: float
    cpu: float
    peak: int
    code: int


def run(argv: Sequence[str] | str, env: Mapping[str, str], cwd: Path, log: Path) -> Taken:
    """Run a command to its end; a string goes through the shell. Its output goes to `log`."""
    before, began, peak = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic(), 0
    with log.open("wb") as output:
        child = subprocess.Popen(argv, shell=isinstance(argv, str), env=dict(env), cwd=cwd, stdout=output, stderr=subprocess.STDOUT)
        while child.poll() is None:
            peak = max(peak, tree_bytes(child.pid))
            time.sleep(SAMPLE_SECONDS)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Taken(wall, cpu, peak, child.returncode)


def tree_bytes(pid: int) -> int:
    """Resident memory of a process and all below it."""
    total = 0
    with suppress(psutil.Error):
        top = psutil.Process(pid)
        for process in (top, *top.children(recursive=True)):
            with suppress(psutil.Error):
                total += process.memory_info().rss
    return total
