"""A cloud for tests: its machines are files, so that it outlives the process that asked for them; it fails on demand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from forge.errors import NoCapacity
from forge.protocols import Lease, Need, Offer, Resource

OFFER = Offer(provider="fake", name="gpu.large", usd_per_hour=2.0, device="cuda", cores=8, memory_gib=64)
BILL = 1_500_000
"""What each machine costs, in micro-dollars, however long it was up."""


class Cloud:
    """Idempotent by (token, attempt), as EC2 is by ClientToken. `step` is called before and after everything it does."""

    name: ClassVar[str] = "fake"
    requires: ClassVar[tuple[Any, ...]] = ()

    def __init__(self, folder: Path, step: Callable[[str], None] = lambda name: None) -> None:
        self.folder, self.step = folder, step
        folder.mkdir(parents=True, exist_ok=True)
        self.creation_seconds, self.confirm_seconds = 0.15, 0.05
        self.lost_answers = self.hidden_looks = self.deaf_stops = self.broken_looks = 0
        self.empty = self.never_made = False
        self.started: list[str] = []

    def quote(self, need: Need) -> list[Offer]:
        """One offer."""
        return [OFFER]

    def start(self, lease: Lease) -> Resource:
        """A machine, or the one that this token and attempt made before."""
        self.step("before start")
        if self.empty:
            raise NoCapacity("no machine to be had")
        name = f"i-{lease.token}-{lease.attempt}"
        self.started.append(name)
        if not self.never_made and not self._path(name).exists():
            self._put(name, Resource(provider="fake", id=name, lease=lease.token, run=lease.run, state="live"))
        self.step("after start")
        if self.lost_answers:
            self.lost_answers -= 1
            raise ConnectionResetError("the answer was lost")
        return self._get(name)

    def find(self, scope: str) -> list[Resource]:
        """What it lists; `hidden_looks` times nothing, as if a machine was too new; `broken_looks` times an error."""
        self.step("before find")
        if self.broken_looks:
            self.broken_looks -= 1
            raise TimeoutError("the list cannot be had")
        if self.hidden_looks:
            self.hidden_looks -= 1
            return []
        return [one for one in self.machines() if one.state != "gone" and scope in ("all", one.lease, one.run)]

    def stop(self, resource: Resource) -> None:
        """The machine is gone, unless the cloud is deaf."""
        self.step("before stop")
        if self.deaf_stops:
            self.deaf_stops -= 1
            raise ConnectionError("the request was refused")
        self._put(resource.id, self._get(resource.id).model_copy(update={"state": "gone"}))
        self.step("after stop")

    def stop_command(self, resource: Resource) -> str:
        """What a person would type."""
        return f"fakecloud terminate {resource.id}"

    def channel(self, resource: Resource, root: Path) -> Any:
        """None is needed here."""
        return None

    def settle(self, resource: Resource) -> int:
        """Every machine that this lease had costs the same."""
        self.step("before settle")
        return BILL if self._path(resource.id).exists() else 0

    def machines(self) -> list[Resource]:
        """All that ever were."""
        return [Resource.model_validate_json(path.read_text(encoding="utf-8")) for path in sorted(self.folder.glob("*.json"))]

    def up(self) -> list[str]:
        """What runs, and bills."""
        return [one.id for one in self.machines() if one.state != "gone"]

    def bill(self) -> int:
        """What the cloud will charge, in micro-dollars."""
        return BILL * len(self.machines())

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _get(self, name: str) -> Resource:
        return Resource.model_validate(json.loads(self._path(name).read_text(encoding="utf-8")))

    def _put(self, name: str, resource: Resource) -> None:
        self._path(name).write_text(resource.model_dump_json(), encoding="utf-8")
