"""Files and jobs on a machine that is reached by running programs there: over ssh, or a cluster's login node.

A transport only runs a program with bytes in and bytes out. What runs is always the same one: the machine's python3 with
plugins/compute/_host.py on its standard input, so that nothing has to be installed there, no two versions can meet, and no
argument of ours passes a shell. Every verb of it may be repeated; breaks are therefore waited out here.

    channel = HostChannel(SshTransport(target), "~/.slm-forge/leases/" + token, patience_seconds=60)
    channel.call("open", {...the lease...})        once, in start()
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from forge.errors import ForgeError, MachineLost, UsageError

CALL_SECONDS = 120.0
"""Longest that a verb without a transfer may take; the machine hangs otherwise."""
PATIENCE_SECONDS = 60.0


class Broken(Exception):
    """A transport's connection failed, or may have: the program may or may not have run. Asked again by the channel."""


class Failed(Exception):
    """The program ran and failed, or could not be started. code: its exit code; text: what it wrote to stderr."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"exit code {code}: {text}")
        self.code, self.text = code, text


class Transport(Protocol):
    """Runs programs on one machine. where: the machine's name in messages; login: what a person types before a command there."""

    where: str
    login: str

    def stream(self, argv: Sequence[str], stdin: Iterable[bytes], *, seconds: float | None) -> Iterator[bytes]:
        """Start argv, feed it stdin, and yield what it writes.

        seconds: ends the call when it takes longer; None for transfers. Raises Broken when the connection failed, Failed when
        the program did, and ForgeErrors for what no waiting mends (host key, login).
        """
        ...

    def close(self) -> None:
        """Let go of connections; the transport can be used again."""
        ...


@dataclass(frozen=True)
class Watch:
    """How jobs of a channel are watched on the machine itself, whether or not anybody is there to ask.

    idle_seconds: a job ends with ABANDONED when the channel was not used for so long; 0 = never.
    grace_seconds: between the request to stop and the end. A job is asked to stop so long before the lease's deadline (at most
    a tenth of the lease), so that it has ended by then, with PAST_DEADLINE.
    notice: a command that is run every notice_seconds; success means that the machine is taken back: PREEMPTED.
    at_end: a command that is run after ABANDONED and PAST_DEADLINE (("shutdown", "-h", "now")).
    """

    idle_seconds: float = 1800.0
    grace_seconds: float = 30.0
    notice: tuple[str, ...] = ()
    notice_seconds: float = 5.0
    at_end: tuple[str, ...] = ()


@dataclass
class Host:
    """The verbs of _host.py on one machine. python: what runs them; any from 3.8 on."""

    transport: Transport
    python: str = "python3"
    patience_seconds: float = PATIENCE_SECONDS
    tell: Callable[[str], None] = field(default=lambda text: None)

    def call(self, verb: str, request: Mapping[str, Any], *, seconds: float = CALL_SECONDS) -> Any:
        """Run a verb and return its answer; repeated while the connection breaks, up to patience_seconds: then MachineLost."""
        ...

    def probe(self, folder: str) -> dict[str, Any]:
        """What the machine has: python, cores, memory_gib, disk_gib free at `folder`, gpus, system, boot. Writes nothing there."""
        ...


class HostChannel:
    """forge.protocols.Channel over a transport. Everything lies below `root`, which may begin with "~/".

    environment(channel, tell) -> str: makes the machine's Python ready (forge.plugins.compute._environment); without one the
    transport's python3 must be able to run jobs.
    """

    durable = False

    def __init__(
        self, host: Host, root: str, *, watch: Watch | None = None, poll_seconds: float = 2.0,
        environment: Callable[[HostChannel, Callable[[str], None]], str] | None = None,
    ) -> None:
        """Nothing is asked of the machine yet. poll_seconds, durable: as in forge.protocols.Channel."""
        ...

    # prepare, put, get, read, spawn, poll, path, stop as in forge.protocols.Channel
