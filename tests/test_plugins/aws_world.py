"""A run of toy phases on emulated EC2 machines. Whatever its process does at AWS or on a machine can be counted, and end it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from forge import worker
from forge.phase import Context, Output, Settings
from forge.plugins.compute._aws_api import Account
from forge.plugins.compute.aws import Aws, AwsSettings
from forge.protocols import Need, Offer, Resource
from forge.records import digest
from tests.servers.ec2 import Cloud
from tests.test_engine import remote_toys
from tests.test_engine.remote_toys import PlanIt, Provision, RemoteToys, money, work_on
from tests.test_engine.toys import Toy

REPOSITORY = Path(__file__).parents[2]
NEED = Need(parameters=1000, memory_gib=1, gpu=False, seconds=60)
NOTHING = {"instances": 0, "keys": 0, "groups": 0, "volumes": 0}
Step = Callable[[str], None]

WORKER = """#!/bin/sh
if [ "$1" = -m ]; then
  cd {repository} && exec {python} -c 'import sys; from pathlib import Path; from tests.test_plugins.aws_world import run_job; sys.exit(run_job(Path(sys.argv[1])))' "$3"
fi
exec {python} "$@"
"""
"""A Python whose forge.worker knows the toy phases."""


class StepAws(Aws):
    """The provider with short times, and a step before and after everything that it does: "before run_instances" ..."""

    creation_seconds, confirm_seconds = 0.05, 0.02
    boot_seconds, look_seconds, pause_seconds, poll_seconds = 60.0, 1.0, 0.05, 0.05
    notice_seconds, retry_seconds, patience_seconds, alive_seconds = 0.1, 0.01, 5.0, 1.0

    def __init__(self, settings: AwsSettings) -> None:
        super().__init__(settings)
        self.step: Step = lambda name: None

    def _account(self, region: str) -> Account:
        if region not in self._accounts:
            self._accounts[region] = StepAccount(self._settings, region)
        account = self._accounts[region]
        assert isinstance(account, StepAccount)
        account.step = lambda name: self.step(name)
        return account

    checked: bool = True

    def _environment(self) -> Any:
        """Unless `checked`, the machine's Python is taken as it is: asking it takes a second."""
        return super()._environment() if self.checked else lambda channel, tell: self._settings.python

    def channel(self, resource: Resource, root: Path) -> Any:
        return StepChannel(super().channel(resource, root), lambda name: self.step(name))


class StepAccount(Account):
    """Calls with a step around each."""

    step: Step = staticmethod(lambda name: None)

    def _ask(self, client: Any, service: str, operation: str, request: Mapping[str, Any]) -> dict[str, Any]:
        self.step(f"before {operation}")
        answer = super()._ask(client, service, operation, request)
        self.step(f"after {operation}")
        return answer

    def pages(self, operation: str, key: str, *, once: bool = False, **request: Any) -> Iterator[dict[str, Any]]:
        self.step(f"before {operation}")
        found = list(super().pages(operation, key, once=once, **request))
        self.step(f"after {operation}")
        return iter(found)


class StepChannel:
    """A channel with a step around each verb; files are told by where they go."""

    def __init__(self, channel: Any, step: Step) -> None:
        self.channel, self.step = channel, step
        self.poll_seconds, self.durable = channel.poll_seconds, channel.durable

    def __getattr__(self, verb: str) -> Any:
        inner = getattr(self.channel, verb)

        def stepped(*args: Any, **more: Any) -> Any:
            place = next((str(one).split("/")[0] for one in reversed(args) if isinstance(one, str) and "/" in one), "")
            self.step(f"before {verb} {place}".strip())
            answer = inner(*args, **more)
            self.step(f"after {verb} {place}".strip())
            return answer

        return stepped


def new_provider(folder: Path, **settings: Any) -> StepAws:
    """Small machines, whose Python runs the toys."""
    worker = folder / "worker-python"
    worker.write_text(WORKER.format(repository=REPOSITORY, python=sys.executable), encoding="utf-8")
    worker.chmod(0o755)
    return StepAws(AwsSettings(**{"types": ("c5.large",), "my_ip": "203.0.113.7", "python": str(worker), **settings}))


def plan_on(patch: pytest.MonkeyPatch, offer: Offer) -> None:
    """The toys' plan names this offer."""
    patch.setattr(remote_toys, "OFFER", offer)


def go(provider: Aws, **values: Any) -> None:
    """One `forge resume` over the toys on AWS, in this process."""
    work_on({"aws": provider}, **{"plan_it__provider": "aws", **values})   # type: ignore[dict-item]


def mill(provider: Aws) -> None:
    """The same over plan, machine and mill alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote_toys, "RemoteToys", MillToys)
        go(provider)


READS = ("describe_", "path", "read", "poll")


class KillAtEachStep:
    """Ends the process at the first step that none before it has died at; `seen` says where. Reads change nothing: after them only."""

    def __init__(self, place: Path) -> None:
        self.place, self.stage = place, "begin"
        place.mkdir(exist_ok=True)

    def __call__(self, name: str) -> None:
        when, operation = name.split()[:2]
        self.stage = {"create_security_group": "up", "prepare": "work", "poll": "work", "terminate_instances": "down"}.get(operation, self.stage)
        note = self.place / f"{self.stage}, {name}".replace("/", "-")
        if (when == "before" and operation.startswith(READS)) or note.exists():
            return
        note.touch()
        kill_self()

    def seen(self) -> list[str]:
        return sorted(note.name for note in self.place.iterdir())


def kill_self() -> None:
    """kill -9 of the controller."""
    os.kill(os.getpid(), signal.SIGKILL)


class Mill(Toy):
    """data -> flour: one quick phase on a machine, for runs that are killed at every step."""

    name = "mill"
    reads = ("machine", "data")
    writes = (Output(name="flour", path="flour.txt"),)
    where = "machine"

    def run(self, settings: Settings, ctx: Context) -> Mapping[str, float | str]:
        ctx.output("flour").write_text(digest(ctx.input("data").read_text(encoding="utf-8")), encoding="utf-8")
        return {}


class MillToys(RemoteToys):
    """Plan, machine, mill."""

    toys: ClassVar[dict[str, Any]] = {toy.name: toy() for toy in (PlanIt, Provision, Mill)}


def run_job(job: Path) -> int:
    """forge.worker with all toys, on a machine."""
    AllToys.toys = {**RemoteToys.toys, **MillToys.toys}
    setattr(worker, "Registry", AllToys)  # noqa: B010 - in a process of its own
    return worker.main(["worker", str(job)])


class AllToys(RemoteToys):
    """What a machine can run."""


def books_are_right(cloud: Cloud) -> None:
    """Nothing is left at AWS, what was settled is its bill, and the cap holds."""
    assert cloud.left() == NOTHING
    settled, reserved, cap = money()
    assert (settled, reserved) == (cloud.bill(), 0)
    assert settled <= cap
