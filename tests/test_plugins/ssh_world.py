"""A provider `ssh` that reaches a host of tests/servers/hosts.py, with times that suit a test."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forge.plugins.compute._channel import HostChannel
from forge.plugins.compute.ssh import Ssh, SshSettings
from forge.protocols import Lease, Need, Offer, Resource
from tests.servers.hosts import SshHost

NEED = Need(parameters=1_000_000, memory_gib=0.1, gpu=False, seconds=60)


def reach(host: SshHost, /, *, poll_seconds: float = 0.2, **settings: Any) -> Ssh:
    """The provider, set up for one host; a silent connection is broken after three seconds."""
    given = {"host": f"root@{host.address}", "key": str(host.key), "known_host_key": host.public_host_key, **settings}
    return Ssh(SshSettings(**given), alive_seconds=1.0, poll_seconds=poll_seconds)


def lease(host: SshHost, token: str = "lease-1", seconds: int = 600, attempt: int = 1, **offer: Any) -> Lease:
    """A lease of the host's CPU."""
    given: dict[str, Any] = {"provider": "ssh", "name": f"root@{host.address} cpu", "usd_per_hour": 0.0, "device": "cpu", "cores": 1, "memory_gib": 1}
    return Lease(token=token, run="run-a", offer=Offer(**{**given, **offer}), deadline_seconds=seconds, attempt=attempt)


def opened(host: SshHost, provider: Ssh, seconds: int = 600, token: str = "lease-1") -> tuple[Resource, HostChannel]:
    """A lease and its channel."""
    resource = provider.start(lease(host, token, seconds))
    return resource, provider.channel(resource, Path())


def ended(channel: HostChannel, job: str, seconds: float = 90.0) -> int:
    """The job's exit code, waited for."""
    end = time.monotonic() + seconds
    while (code := channel.poll(job)) is None:
        assert time.monotonic() < end, f"{job} did not end in {seconds:g} s"
        time.sleep(0.2)
    return code


def until(holds: Callable[[], bool], seconds: float = 90.0) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"did not happen in {seconds:g} s"
        time.sleep(0.05)
