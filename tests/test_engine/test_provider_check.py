"""Every rule for providers of machines is tried out, and catches one that breaks it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from forge.errors import ForgeError
from forge.phase import Settings
from forge.plugins.compute.local import Local, LocalChannel
from forge.protocols import Lease, Need, Offer, Resource
from forge.provider_check import check_provider
from forge.registry import Registry


class Wire(LocalChannel):
    """A channel that can be spoiled."""


def with_channel(**methods: Any) -> type[Local]:
    """This machine with a channel that has something wrong."""
    spoiled = type("Spoiled", (Wire,), methods)

    class Own(Local):
        def channel(self, resource: Resource, root: Path) -> LocalChannel:
            super().channel(resource, root)
            channel: LocalChannel = spoiled(self, resource, root)
            return channel

    return Own


class NoConfigured(Local):
    settings = Settings


class Renamed(Local):
    settings = Settings

    def configured(self, settings: Settings) -> Any:
        other = Local()
        other.__dict__["name"] = "other"
        return other


class NegativeTimes(Local):
    confirm_seconds: ClassVar[float] = -1.0


class ListsForeign(Local):
    def find(self, scope: str) -> list[Resource]:
        return [Resource(provider=self.name, id="x", lease="x", state="live")]


class StopRaises(Local):
    def stop(self, resource: Resource) -> None:
        if resource.id == "check-nothing":
            raise KeyError(resource.id)
        super().stop(resource)


class SameNames(Local):
    def quote(self, need: Need) -> list[Offer]:
        return [*super().quote(need), *super().quote(need)]


class NoPrice(Local):
    def quote(self, need: Need) -> list[Offer]:
        return [offer.model_copy(update={"usd_per_hour": float("nan")}) for offer in super().quote(need)]


class TooSmall(Local):
    def quote(self, need: Need) -> list[Offer]:
        return [offer.model_copy(update={"memory_gib": 0.01}) for offer in super().quote(need)]


class TwoMachines(Local):
    def start(self, lease: Lease) -> Resource:
        self.count = getattr(self, "count", 0) + 1
        return super().start(lease).model_copy(update={"id": f"{lease.token}-{self.count}"})


class Anonymous(Local):
    def start(self, lease: Lease) -> Resource:
        return super().start(lease).model_copy(update={"run": ""})


class Unlisted(Local):
    def find(self, scope: str) -> list[Resource]:
        return [] if scope == "check" else super().find(scope)


class DearerEachTime(Local):
    def settle(self, resource: Resource) -> int:
        self.count = getattr(self, "count", 0) + 1
        return self.count


class StopsOnce(Local):
    def stop(self, resource: Resource) -> None:
        if resource.state == "gone":
            raise ValueError("it is gone")
        super().stop(resource)


def only_first(self: LocalChannel, local: Path, remote: str, sha256: str = "") -> None:
    if not self._inside(remote).exists():
        LocalChannel.put(self, local, remote, sha256)


def started_each_time(self: LocalChannel, job: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
    import subprocess

    folder = self._inside(f"jobs/{job}")
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / ".job").exists():
        subprocess.run(list(argv), cwd=folder, env={**os.environ, **env})
    LocalChannel.spawn(self, job, argv, env)


def with_our_environment(self: LocalChannel, job: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
    LocalChannel.spawn(self, job, argv, {**os.environ, **env})


def loses_a_file(self: LocalChannel, remote: str, local: Path) -> None:
    LocalChannel.get(self, remote, local)
    if local.is_dir():
        (local / "a.txt").unlink()


def makes_an_empty_one(self: LocalChannel, remote: str, local: Path) -> None:
    if self._inside(remote).exists():
        LocalChannel.get(self, remote, local)
    else:
        local.touch()


def never_ended(self: LocalChannel, job: str) -> int | None:
    return LocalChannel.poll(self, job) if job != "check-none" else None


BAD: dict[str, tuple[type[Local], str]] = {
    "settings that never reach it": (NoConfigured, "no configured()"),
    "another name with settings": (Renamed, "provider of another name"),
    "times below nothing": (NegativeTimes, "confirm_seconds is -1.0"),
    "lists what it was not asked for": (ListsForeign, "for a lease that never was"),
    "stop that raises": (StopRaises, "stop() of what is not there raises KeyError"),
    "offers of one name": (SameNames, "two offers have the same name"),
    "an offer without a price": (NoPrice, "costs nan an hour"),
    "an offer that does not fit": (TooSmall, "does not fit the need"),
    "two machines for a token": (TwoMachines, "start() twice made two machines"),
    "a machine that does not say whose it is": (Anonymous, "does not say whose it is"),
    "a run whose machines are not listed": (Unlisted, "find('check') does not list the machine"),
    "a bill that grows": (DearerEachTime, "costs more each time"),
    "an end that is not idempotent": (StopsOnce, "stop() of a machine that is gone raises ValueError"),
    "a file that is not replaced": (with_channel(put=only_first), "is the old one"),
    "a folder that comes back changed": (with_channel(get=loses_a_file), "came back changed"),
    "something for nothing": (with_channel(get=makes_an_empty_one), "raises nothing"),
    "reads from the start": (with_channel(read=lambda self, remote, offset: LocalChannel.read(self, remote, 0)), "does not begin at its offset"),
    "relative paths": (with_channel(path=lambda self, remote: remote), "it must be absolute"),
    "a job started twice": (with_channel(spawn=started_each_time), "a job id was started twice"),
    "our secrets in a job": (with_channel(spawn=with_our_environment), "no secret of ours"),
    "an exit code of its own": (with_channel(poll=lambda self, job: code and 1 if (code := LocalChannel.poll(self, job)) is not None else None), "said to have exited with 1"),
    "jobs that never were and run": (with_channel(poll=never_ended), "never started has no code -1"),
}


@pytest.fixture(autouse=True)
def only_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.plugins.compute.local.gpu_offers", list)


@pytest.mark.parametrize("wrong", BAD)
def test_a_provider_that_breaks_a_rule_is_caught_and_its_machine_ended(wrong: str, tmp_path: Path) -> None:
    kind, fact = BAD[wrong]
    with pytest.raises(ForgeError) as caught:
        list(check_provider(kind(tmp_path / "state")))
    assert fact in f"{caught.value.fact} {caught.value.why}"
    assert Local(tmp_path / "state").find("all") == []


def test_this_machine_keeps_every_rule(tmp_path: Path) -> None:
    assert [seen.name for seen in check_provider(Local(tmp_path / "state"))] == ["declares", "lists", "quotes", "starts", "files", "jobs", "ends"]


@pytest.mark.parametrize("name", Registry().names("provider"))
def test_every_provider_that_ships_keeps_the_rules_that_need_no_machine(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "HF_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("PATH", str(tmp_path))
    provider = Registry().plugin("provider", name, ready=False)
    monkeypatch.setattr(type(provider), "quote", lambda self, need: [])
    assert [seen.name for seen in check_provider(provider)] == ["declares", "lists", "quotes", "machine"]
