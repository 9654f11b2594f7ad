"""Files and jobs on a cluster of SkyPilot, and what was written down when it was launched."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

from forge.errors import MachineLost, NoCapacity
from forge.plugins.compute._channel import Host, HostChannel, Watch
from forge.plugins.compute._sky_ssh import PinnedAlias
from forge.plugins.compute._state import private_folder
from forge.protocols import Resource

FOLDER = "~/.slm-forge"
POLL_SECONDS = 2.0
NAME = re.compile(r"forge-(?P<lease>.+)-(?P<attempt>[0-9]+)")

Cluster = Callable[[str], dict[str, Any] | None]
Environment = Callable[[HostChannel, Callable[[str], None]], str]


class SkyChannel(HostChannel):
    """A HostChannel to a cluster: waits for one that is being launched, learns its host key once, opens the lease there."""

    def __init__(self, resource: Resource, cluster: Cluster, environment: Environment, *, idle_seconds: float, start_minutes: float) -> None:
        """cluster(name): how SkyPilot lists it now; None when it does not."""
        self._cluster, self._resource, self._start_minutes = cluster, resource, start_minutes
        super().__init__(
            Host(PinnedAlias(resource.id, private_folder("sky", resource.id))), f"{FOLDER}/leases/{resource.lease}", watch=Watch(idle_seconds=idle_seconds),
            poll_seconds=POLL_SECONDS, environment=environment,
        )

    def prepare(self, tell: Callable[[str], None]) -> str:
        """Wait until the cluster is up, and make its Python ready. Raises MachineLost, NoCapacity."""
        self._wait(tell)
        note, attempt = note_of(self._resource.id), NAME.fullmatch(self._resource.id)
        gpus = len(self.host.probe(FOLDER)["gpus"])
        self.host.call("open", {
            "root": self.root, "token": self._resource.lease, "run": self._resource.run, "attempt": int(attempt["attempt"]) if attempt else 1,
            "deadline_seconds": float(note.get("deadline_seconds", 0.0)), "gpus": list(range(gpus)), "wanted_gpus": gpus,
        })
        return super().prepare(tell)

    def _wait(self, tell: Callable[[str], None]) -> None:
        ends, told = time.monotonic() + 60 * self._start_minutes, False
        while (row := self._cluster(self._resource.id)) is None or row["status"] != "UP":
            status = "gone" if row is None else str(row["status"]).lower()
            if row is None or row["status"] in ("STOPPED", "AUTOSTOPPING"):
                raise MachineLost(f"the cluster {self._resource.id} is {status}", why="SkyPilot says so", next="forge resume")
            if time.monotonic() > ends:
                raise NoCapacity(f"the cluster {self._resource.id} did not come up in {self._start_minutes:g} min", why=f"it is {status}", next="forge resume")
            if not told:
                tell(f"waiting for SkyPilot to bring {self._resource.id} up")
                told = True
            time.sleep(self.poll_seconds)


def note_of(name: str) -> dict[str, Any]:
    """What this machine wrote down when it launched the cluster."""
    path = private_folder("sky", name) / "lease.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found
