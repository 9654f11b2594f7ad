"""Fake providers for plan_fit: a plugin folder whose machines are told as data, and what they were asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from forge.protocols import Offer

CODE = '''
import json
from pathlib import Path
from forge.errors import MissingAccess, NoCapacity
from forge.protocols import Need, Offer

FOLDER = Path(__file__).parent
class Stand:
    name = {name!r}
    requires = ()
    def quote(self, need):
        told = json.loads((FOLDER / "{name}.json").read_text())
        with (FOLDER / "{name}.asked").open("a") as file:
            file.write(need.model_dump_json() + "\\n")
        if told["broken"]:
            raise ConnectionError("the price list did not answer")
        return [Offer(**offer) for offer in told["offers"]]
    def find(self, scope):
        if json.loads((FOLDER / "{name}.json").read_text())["locked"]:
            raise MissingAccess("no login", why="{name} login was never run", next="{name} login")
        return []
    def preflight(self, offer):
        told = json.loads((FOLDER / "{name}.json").read_text())
        with (FOLDER / "{name}.preflights").open("a") as file:
            file.write(offer.name + "\\n")
        if offer.name in told["no_quota"]:
            raise NoCapacity("no quota for " + offer.name, why="0 of 8 vCPUs are allowed", next="ask for quota L-DB2E81BA")
        if told["locked"]:
            raise MissingAccess("the login may not start machines", why="ec2:RunInstances is denied", next="another login")
        return [f"{{offer.name}} may be started: dry run"]
provider = Stand()
'''


class Market:
    """Providers by name; change a stand and put() it again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)

    def put(self, name: str, *offers: Offer, no_quota: tuple[str, ...] = (), locked: bool = False, broken: bool = False) -> None:
        """Open a stand, or change its goods."""
        told = {"offers": [offer.model_dump(mode="json") for offer in offers], "no_quota": no_quota, "locked": locked, "broken": broken}
        (self.folder / f"{name}.json").write_text(json.dumps(told), encoding="utf-8")
        if not (self.folder / f"{name}.py").exists():
            (self.folder / f"{name}.py").write_text(CODE.format(name=name), encoding="utf-8")

    def lines(self, name: str, what: str) -> list[str]:
        """What a stand was asked ("asked", "preflights"), oldest first."""
        file = self.folder / f"{name}.{what}"
        return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def gpu(provider: str, name: str, usd_per_hour: float, **changes: Any) -> Offer:
    """A machine with an A10G unless told otherwise."""
    values: dict[str, Any] = {
        "provider": provider, "name": name, "usd_per_hour": usd_per_hour, "device": "cuda", "cores": 8, "memory_gib": 32, "gpu": "NVIDIA A10G",
        "gpu_memory_gib": 22.3, "bf16": True, "price_source": "list of 2026-07-20", **changes,
    }
    return Offer(**values)
