"""Hosts of the user's as a provider: any Linux machine with sshd and a python3.

A lease is a folder on the host, so find() tells what exists without asking any run's records:

    FOLDER/leases/<token>/         lease.json, jobs and their files; removed by stop()
    FOLDER/environments/<lock>*    Pythons made from lock files; kept for the next run

The host itself is the user's: it is never powered off, and nothing else is written on it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from forge.errors import ForgeError, MachineLost, MissingAccess, NoCapacity, UsageError
from forge.ledger import MICRO
from forge.phase import Requirement, Settings
from forge.plugins.compute._channel import Host, HostChannel, Watch
from forge.plugins.compute._environment import LockedEnvironment, ReadyPython
from forge.plugins.compute._ssh import KEY_TYPES, SshTransport, Target
from forge.plugins.compute._state import private_folder, write_private
from forge.protocols import ENVIRONMENT_GIB, Lease, Need, Offer, Resource

PROBE_SECONDS = 20.0
SHORT_PATIENCE_SECONDS = 5.0
"""For what is asked before or after the work: whether a host is there at all."""
HELD_SECONDS = 120.0
"""A lease that was asked within this time has a living engine."""
GRACE_SECONDS = 5.0
BF16_CAPABILITY = 8.0
LEAST_DISK_GIB = 0.1
TAKEN_SHARE = 0.1
"""A GPU of whose memory others use more than this is not offered, unless it is named."""


class SshSettings(Settings):
    """How to reach the hosts, and what may be used there."""

    host: str | tuple[str, ...] = Field("", description="user@name[:port], or an alias of ~/.ssh/config; several: a list, or with commas")
    key: str = Field("", description="file of the private key; empty: what ssh itself would take")
    known_host_key: str = Field("", description='the host key that is accepted ("ssh-ed25519 AAAA…", several with commas, each after its host\'s name if they differ); empty: those of known_hosts')
    python: str = Field("", description="a Python on the host that has slm-forge and its extras; empty: an environment is made there from the lock file")
    lock: str = Field("", description="lock file with hashes for that environment; empty: the one that ships (Linux x86-64, CUDA)")
    folder: str = Field("~/.slm-forge", description="folder on the host that leases and environments lie in")
    usd_per_hour: float = Field(0.0, ge=0, description="what an hour of a lease costs you, in USD")
    idle_minutes: float = Field(30.0, ge=0, description="a job ends, after a last checkpoint, when no engine has asked for it so long; 0: only its deadline ends it")
    gpus: str = Field("", description='GPUs that may be used, by index ("0,1"); empty: all that are free; "none": the CPU only')
    patience_minutes: float = Field(10.0, ge=0, description="how long a host that does not answer is waited for before its work counts as lost")


class Ssh:
    """Hosts over ssh."""

    name: ClassVar[str] = "ssh"
    requires: ClassVar[tuple[Requirement, ...]] = ()
    settings: ClassVar[type[Settings]] = SshSettings
    creation_seconds: ClassVar[float] = 0.0
    confirm_seconds: ClassVar[float] = 0.0
    """A lease is a folder on the host: what is not listed is not there."""

    def __init__(self, settings: SshSettings | None = None, *, alive_seconds: float = 5.0, poll_seconds: float = 2.0) -> None:
        """alive_seconds: a connection that is silent for three times this is broken."""
        self._settings = settings or SshSettings()
        self._alive_seconds, self._poll_seconds = alive_seconds, poll_seconds
        self._facts: dict[str, dict[str, Any]] = {}

    @property
    def idle_seconds(self) -> float | None:
        """How long a job goes on when nobody asks for it; None when only its deadline ends it."""
        return 60 * self._settings.idle_minutes or None

    def configured(self, settings: SshSettings) -> Ssh:
        """A provider with these settings; asks nobody."""
        return Ssh(settings, alive_seconds=self._alive_seconds, poll_seconds=self._poll_seconds)

    def unready(self) -> str:
        """Why it cannot be used from here, without asking a network; "" when nothing is missing."""
        return "" if self._settings.host else "no host is named: put ssh: {host: user@name} into forge.yaml"

    def quote(self, need: Need) -> list[Offer]:
        """What the hosts that answer have: their GPUs, largest first, then their CPUs. Spends nothing, writes nothing there.

        Raises MissingAccess for an unknown or changed host key and a refused login, NoCapacity when no host can be used.
        """
        offers: list[Offer] = []
        why: list[ForgeError] = []
        for name in self._hosts():
            try:
                self._facts[name] = self._ask(name).probe(self._settings.folder, seconds=PROBE_SECONDS)
                offers += self._offers(name, need)
            except MissingAccess:
                raise
            except (MachineLost, NoCapacity) as error:
                why.append(error)
        if not offers and why:
            raise why[0]
        return sorted(offers, key=lambda offer: (offer.device == "cpu", -offer.gpu_memory_gib * offer.gpus, offer.name))

    def preflight(self, offer: Offer) -> list[str]:
        """What was proven about the offer's host. Raises MissingAccess or NoCapacity."""
        name = _host_of(offer)
        facts = self._facts[name] = self._ask(name).probe(self._settings.folder, seconds=PROBE_SECONDS)
        version = ".".join(map(str, facts["python"]))
        return [
            f"{name}: login and host key accepted, Python {version}, {facts['disk_gib']:g} GiB free at {facts['folder']}",
            f"environment: {self._settings.python or 'made there from the lock file, or kept from an earlier run'}",
        ]

    def start(self, lease: Lease) -> Resource:
        """Open the lease on the offer's host; idempotent by token and attempt. Raises NoCapacity when its GPUs are taken."""
        name = _host_of(lease.offer)
        if name not in self._hosts():
            raise NoCapacity(f"{name} is not among the hosts", why=f"ssh.host names {', '.join(self._hosts()) or 'none'}", next=f"--set ssh.host={name}")
        request = {
            "root": self._root(lease.token), "token": lease.token, "run": lease.run, "attempt": lease.attempt, "deadline_seconds": lease.deadline_seconds,
            "usd_per_hour": lease.offer.usd_per_hour, "wanted_gpus": lease.offer.gpus if lease.offer.device == "cuda" else 0,
            "gpus": self._free_gpus(name, lease.offer) if lease.offer.device == "cuda" else [],
        }
        try:
            opened = self._ask(name).call("open", request)
        except MachineLost as error:
            raise ConnectionError(f"{error.fact}: {error.why}") from error   # it may have opened it: find() tells
        resource = self._resource(name, {**opened, "state": "live", "asked_seconds": 0.0})
        if not self._bill(resource).exists():   # what it comes to when the host loses its disk
            write_private(self._bill(resource), json.dumps({"billed_seconds": lease.deadline_seconds}).encode())
        return resource

    def find(self, scope: str) -> list[Resource]:
        """Leases on the hosts, of a token, a run or "all". A folder whose lease is over is listed until stop() has removed it."""
        if not self._hosts():
            raise MissingAccess("ssh has no host", next="--set ssh.host=user@name")
        found, silent = [], []
        for name in self._hosts():
            try:
                leases = self._ask(name).call("leases", {"folder": self._settings.folder}, seconds=PROBE_SECONDS)
            except MachineLost as error:
                silent.append(error)
                continue
            found += [self._resource(name, lease) for lease in leases if lease["state"] != "kept" and scope in ("all", lease["token"], lease["run"])]
        if silent and not found:
            raise silent[0]
        return found

    def stop(self, resource: Resource) -> None:
        """End all jobs of the lease with everything they started, keep its bill here, remove its folder. Idempotent.

        A folder with results that nobody fetched stays, for 30 days or until the same run goes on.
        """
        name, token = _parts(resource)
        host, root = self._ask(name), {"root": self._root(token)}
        ended = host.call("end", {**root, "grace_seconds": GRACE_SECONDS}, seconds=300.0)
        if ended["there"]:
            write_private(self._bill(resource), json.dumps(ended).encode())
            host.call("remove", root, seconds=600.0)

    def stop_command(self, resource: Resource) -> str:
        """Ends all jobs of the lease within a second, by the watchers on the host."""
        name, token = _parts(resource)
        return f"{self._transport(name).login} touch {self._root(token)}/.stop"

    def channel(self, resource: Resource, root: Path) -> HostChannel:
        """Files and jobs in the lease's folder on the host."""
        name, token = _parts(resource)
        host = Host(self._transport(name), self._python(), patience_seconds=60 * self._settings.patience_minutes)
        return HostChannel(
            host, self._root(token), watch=Watch(idle_seconds=60 * self._settings.idle_minutes), poll_seconds=self._poll_seconds, environment=self._environment(),
        )

    def settle(self, resource: Resource) -> int:
        """Hourly rate times the time that the lease was open by the host's clock, in micro-dollars, rounded up.

        The whole time until its deadline when the host has lost the lease's folder, and its clock with it.
        """
        if not self._settings.usd_per_hour or "/" not in resource.id:   # an id of ours names the host: without one nothing was opened
            return 0
        bill = self._bill(resource)
        if not bill.exists():
            raise ForgeError(f"how long {resource.id} was open is not known here", why="it was ended from another machine")
        seconds = float(json.loads(bill.read_text(encoding="utf-8"))["billed_seconds"])
        return math.ceil(self._settings.usd_per_hour * seconds / 3600 * MICRO)

    # --- hosts --------------------------------------------------------------------------------------------------

    def _hosts(self) -> list[str]:
        given = self._settings.host
        names = given.split(",") if isinstance(given, str) else given
        return [name.strip() for name in names if name.strip()]

    def _transport(self, name: str) -> SshTransport:
        user, _, address = name.rpartition("@")
        match = re.fullmatch(r"\[(?P<v6>[^]]+)\](?::(?P<v6port>\d+))?|(?P<host>[^:]+)(?::(?P<port>\d+))?|(?P<bare>[0-9a-fA-F:]+)", address)
        if match is None:
            raise UsageError(f"{name!r} is not a host", next="ssh.host is user@name[:port], or an alias of ~/.ssh/config")
        host, port = match["v6"] or match["host"] or match["bare"], int(match["v6port"] or match["port"] or 0)
        target = Target(
            host, user=user, port=port, key=Path(self._settings.key).expanduser() if self._settings.key else None,
            host_keys=tuple(_pinned(self._settings.known_host_key, host)), user_config=True, setting="ssh.known_host_key",
        )
        return SshTransport(target, alive_seconds=self._alive_seconds)

    def _ask(self, name: str) -> Host:
        """For questions that are not worth waiting long for."""
        return Host(self._transport(name), self._python(), patience_seconds=SHORT_PATIENCE_SECONDS)

    def _python(self) -> str:
        return self._settings.python or "python3"

    def _environment(self) -> ReadyPython | LockedEnvironment:
        if self._settings.python:
            return ReadyPython(self._settings.python)
        return LockedEnvironment(f"{self._settings.folder}/environments", Path(self._settings.lock).expanduser() if self._settings.lock else None)

    def _root(self, token: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}", token):
            raise UsageError(f"{token!r} is not a lease token")
        return f"{self._settings.folder}/leases/{token}"

    def _bill(self, resource: Resource) -> Path:
        return private_folder("ssh", "bills") / hashlib.sha256(resource.id.encode()).hexdigest()[:32]

    def _resource(self, name: str, lease: Mapping[str, Any]) -> Resource:
        """One that is over is no machine any more, but a folder that is still to be removed."""
        live = lease["state"] == "live"
        return Resource(
            provider=self.name, id=f"{name}/{lease['token']}/{lease['attempt']}", lease=lease["token"], state="live" if live else "stopping", address=name,
            run=lease["run"], held=live and lease["asked_seconds"] < HELD_SECONDS, overdue=lease["seconds_left"] <= 0, kind="machine" if live else "folder",
        )

    # --- offers -------------------------------------------------------------------------------------------------

    def _offers(self, name: str, need: Need) -> Iterator[Offer]:
        facts = self._facts[name]
        self._refuse(name, facts, need)
        common: dict[str, Any] = {
            "provider": self.name, "usd_per_hour": self._settings.usd_per_hour, "cores": facts["cores"], "memory_gib": facts["memory_gib"], "price_source": "ssh.usd_per_hour",
        }
        kinds: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for gpu in self._usable(facts):
            kinds.setdefault((gpu["name"], gpu["memory_mib"]), []).append(gpu)
        for (gpu_name, mib), gpus in kinds.items():
            for count in sorted({1, len(gpus)}, reverse=True):
                offer = Offer(
                    **common, name=f"{name} {count}x{gpu_name}", device="cuda", gpu=gpu_name, gpu_memory_gib=round(mib / 1024, 1), gpus=count,
                    bf16=min(gpu["capability"] for gpu in gpus) >= BF16_CAPABILITY, reason=f"your host {name}",
                )
                if offer.gpu_memory_gib >= (need.gpu_memory_gib or need.memory_gib):
                    yield offer
        if not need.gpu and facts["memory_gib"] >= need.memory_gib:
            yield Offer(**common, name=f"{name} cpu", device="cpu", bf16=facts["cpu_flags"], reason=f"your host {name}: {facts['cores']} cores, {facts['memory_gib']:g} GiB")

    def _refuse(self, name: str, facts: Mapping[str, Any], need: Need) -> None:
        if facts["system"] != "linux":
            raise NoCapacity(f"{name} runs {facts['system']}", why="ending a job with all it started reads /proc: hosts must run Linux")
        if not facts["writable"]:
            raise NoCapacity(f"{name} does not let us write to {facts['folder']}", next="--set ssh.folder=PATH names another folder on the host")
        needed = self._needed_disk_gib(facts, need)
        if facts["disk_gib"] < needed:
            raise NoCapacity(f"the disk of {name} is too full", why=f"{facts['disk_gib']:g} GiB are free at {facts['folder']}, {needed:g} are needed", next=f"free some space on {name}")

    def _needed_disk_gib(self, facts: Mapping[str, Any], need: Need) -> float:
        environment = self._environment()
        is_there = isinstance(environment, ReadyPython) or environment.name() in facts["environments"]
        return max(need.disk_gib - ENVIRONMENT_GIB * is_there, LEAST_DISK_GIB)

    def _usable(self, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
        wanted = self._settings.gpus.strip()
        named = {int(word) for word in wanted.split(",") if word.strip().isdigit()}
        free = [gpu for gpu in facts["gpus"] if not gpu["held"]]
        if wanted:
            return [gpu for gpu in free if gpu["index"] in named]
        return [gpu for gpu in free if gpu["used_mib"] <= TAKEN_SHARE * gpu["memory_mib"]]

    def _free_gpus(self, name: str, offer: Offer) -> list[int]:
        facts = self._ask(name).probe(self._settings.folder, seconds=PROBE_SECONDS)
        return [gpu["index"] for gpu in self._usable({**facts, "gpus": [{**gpu, "held": False} for gpu in facts["gpus"]]}) if gpu["name"] == offer.gpu]


def _host_of(offer: Offer) -> str:
    return offer.name.split(" ", 1)[0]


def _parts(resource: Resource) -> tuple[str, str]:
    """Host and token of a resource's id."""
    name, _, rest = resource.id.partition("/")
    return name, rest.split("/")[0] or resource.lease


def _pinned(text: str, host: str) -> Iterator[str]:
    """The keys that are accepted for a host: those without a name, and those that follow its name."""
    for entry in re.split(r"[,\n]", text):
        words = entry.split()
        if words and (words[0].startswith(KEY_TYPES) or words[0].strip("[]").split("]:")[0] == host):
            yield entry.strip()


provider = Ssh()
