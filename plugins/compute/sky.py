"""Every other cloud, through SkyPilot's program `sky`: called in a process of its own, never imported.

SkyPilot ends a cluster that is idle, which is no deadline: a job that hangs is never idle. What it runs for us is therefore no
training but a watch (_sky_watch.py), which ends at the lease's deadline or when nobody asks any more; then the cluster is
idle, SkyPilot takes it down from within, and a machine that is still up ten minutes later powers itself off. Training goes
over ssh, as on any host. What stays SkyPilot's: between the start of an instance and the end of its own setup nothing on it
knows of an end; an engine that lives takes it down then, and a later sweep finds it in SkyPilot's database.

A cluster is named forge-<lease>-<attempt>; starting that name again is the same cluster. What it lists comes from SkyPilot's
own database, on this machine or its API server, brought up to date with the clouds (`--refresh`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import Field

from forge.errors import ForgeError, MissingAccess, NoCapacity
from forge.ledger import MICRO
from forge.phase import Requirement, Settings
from forge.plugins.compute import _sky_channel
from forge.plugins.compute._channel import HostChannel
from forge.plugins.compute._environment import LockedEnvironment, ReadyPython
from forge.plugins.compute._sky_offers import fits, offers_of
from forge.plugins.compute._state import private_folder, write_private
from forge.protocols import Lease, Need, Offer, Resource

PREFIX = "forge-"
STATES: Mapping[str, Any] = {"INIT": "starting", "UP": "live", "STOPPED": "stopping", "AUTOSTOPPING": "stopping"}
AUTODOWN = ("--down", "-i", "1", "--wait-for", "jobs")
"""A minute after the watch has ended; without --wait-for our own ssh connection would count as work."""
WATCH_GRACE_SECONDS = 120.0
POWER_OFF_SECONDS = 600.0
"""After the watch has ended, SkyPilot has this long to take the machine down before it powers itself off."""

QUESTION_SECONDS = 180.0
"""Longest for a question; the first one of a day starts SkyPilot's server (12 s here) and loads catalogs."""
KEPT_SECONDS = 600.0
OURS = ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "HF_TOKEN")
"""Keys of ours that SkyPilot, whose server outlives this process, has no use for."""


class SkySettings(Settings):
    """SkyPilot: `uv tool install 'skypilot[aws,gcp,lambda]'`, then `sky check`. Clouds and logins are SkyPilot's own."""

    program: str = Field("sky", description="the program `sky`; a path when it is installed in a place of its own")
    infra: tuple[str, ...] = Field((), description="clouds that may be used (aws, lambda, gcp/us-central1); empty = all that SkyPilot knows")
    disk_gib: int = Field(100, gt=0, description="size of the machine's disk in GiB")
    python: str = Field("", description="a Python on the machine's image that has slm-forge; empty: an environment is made there from the lock file")
    lock: str = Field("", description="lock file with hashes for that environment; empty: the one that ships (Linux x86-64, CUDA)")
    start_minutes: float = Field(30.0, gt=0, description="longest wait for a machine to come up, in minutes")
    idle_minutes: float = Field(15.0, gt=0, description="minutes without a word from the engine after which jobs and then the machine end")


class Sky:
    """Clusters of one machine each."""

    name: ClassVar[str] = "sky"
    requires: ClassVar[tuple[Requirement, ...]] = ()
    settings: ClassVar[type[Settings]] = SkySettings
    creation_seconds: ClassVar[float] = 120.0
    """A launch waits in the queue of SkyPilot's server before the cluster is in its database."""

    def __init__(self, settings: SkySettings | None = None) -> None:
        self._settings = settings or SkySettings()
        self._kept: dict[str, tuple[float, Any]] = {}

    @property
    def idle_seconds(self) -> float:
        """When a job that nobody asks for ends."""
        return 60 * self._settings.idle_minutes

    def configured(self, settings: SkySettings) -> Sky:
        """The provider with these settings."""
        return Sky(settings)

    def unready(self) -> str:
        """Why it cannot be used from here, without asking a network; "" when nothing is missing."""
        return "" if self._is_there() else "SkyPilot is not installed: uv tool install 'skypilot[aws]'"

    def quote(self, need: Need) -> list[Offer]:
        """The GPUs of all clouds that SkyPilot has prices of, cheapest first; none when the program is not installed."""
        if not self._is_there():
            return []
        if self._settings.disk_gib < need.disk_gib:
            raise NoCapacity(f"sky.disk_gib is {self._settings.disk_gib}", why=f"{need.disk_gib:g} GiB are needed", next=f"--set sky.disk_gib={math.ceil(need.disk_gib)}")
        offers = [one for row in self._catalog() for one in offers_of(row, self._settings.infra, self._settings.disk_gib) if fits(one, need)]
        return sorted(offers, key=lambda offer: (offer.usd_per_hour, offer.name))

    def preflight(self, offer: Offer) -> list[str]:
        """Whether SkyPilot has access to the offer's cloud. Raises NoCapacity when not; nothing is started."""
        cloud = offer.name.partition("/")[0]
        enabled = {name.lower() for clouds in self._check().values() for name, may in clouds.items() if "compute" in may}
        if cloud not in enabled:
            why = f"it has access to {', '.join(sorted(enabled)) or 'no cloud'}"
            raise NoCapacity(f"SkyPilot has no access to {cloud}", why=why, next=f"{self._settings.program} check {cloud} tells what is missing")
        return [f"SkyPilot has access to {cloud}; quota and capacity show at the start", "prices are SkyPilot's catalog, the disk is estimated"]

    def start(self, lease: Lease) -> Resource:
        """Launch the cluster, or go on with the one of that name. Raises NoCapacity when no zone has the machine: it is then down again."""
        name = cluster_name(lease)
        if found := [one for one in self._clusters() if one["name"] == name and one["status"] == "UP"]:
            return self._resource(found[0])
        folder = private_folder("sky", name)
        before = _sky_channel.note_of(name).get("before") or [str(row["cluster_hash"]) for row in self._report(name)]
        note = {"run": lease.run, "deadline_seconds": lease.deadline_seconds, "usd_per_hour": lease.offer.usd_per_hour, "before": before}
        write_private(folder / "lease.json", json.dumps(note).encode())
        write_private(folder / "task.yaml", yaml.safe_dump(self._task(lease)).encode())
        done = self._sky("launch", "-y", "-d", "-c", name, *AUTODOWN, str(folder / "task.yaml"), seconds=60 * self._settings.start_minutes)
        if done.returncode:
            self._explain_launch(name, done)
        found = [one for one in self._clusters() if one["name"] == name]
        if not found:
            raise RuntimeError(f"SkyPilot launched {name} and does not list it")
        return self._resource(found[0])

    def find(self, scope: str) -> list[Resource]:
        """Clusters of a lease token, a run id or "all", as SkyPilot has them after asking the clouds."""
        if not self._is_there():
            raise _not_installed(self._settings.program)
        found = [self._resource(one) for one in self._clusters() if _sky_channel.NAME.fullmatch(one["name"])]
        return [one for one in found if scope in ("all", one.lease, one.run)]

    def stop(self, resource: Resource) -> None:
        """Take the cluster down. Idempotent; find() tells when it is gone."""
        done = self._sky("down", "-y", resource.id, seconds=600.0)
        if done.returncode and "not found" not in done.stdout + done.stderr:
            raise ForgeError(f"SkyPilot did not take {resource.id} down", why=_last_words(done), next=self.stop_command(resource))

    def stop_command(self, resource: Resource) -> str:
        """SkyPilot's own."""
        return f"{shlex.quote(self._settings.program)} down -y {resource.id}"

    def channel(self, resource: Resource, root: Path) -> HostChannel:
        """Files and jobs over ssh, by the alias that SkyPilot has written into ~/.ssh/config."""
        settings = self._settings
        environment = ReadyPython(settings.python) if settings.python else LockedEnvironment(
            f"{_sky_channel.FOLDER}/environments", Path(settings.lock).expanduser() if settings.lock else None
        )
        return _sky_channel.SkyChannel(resource, self.cluster, environment, idle_seconds=self.idle_seconds, start_minutes=settings.start_minutes)

    def settle(self, resource: Resource) -> int:
        """Price times the time that SkyPilot counts from launch to end, at least a minute, in micro-dollars, rounded up."""
        names = [resource.id] if _sky_channel.NAME.fullmatch(resource.id) else [path.name for path in private_folder("sky").glob(f"{PREFIX}{_safe(resource.lease)}-*")]
        return sum(self._cost(name) for name in names)

    def _cost(self, name: str) -> int:
        """A name that was launched twice has two rows; those of an earlier run of the same name are not this lease's."""
        note = _sky_channel.note_of(name)
        rows = [row for row in self._report(name) if str(row["cluster_hash"]) not in note.get("before", ())]
        if rows and "usd_per_hour" not in note:
            raise ForgeError(f"the price of {name} is not known here", why="it was leased from another machine")
        seconds = sum(max(60.0, float(row["duration"] or 0.0)) for row in rows)
        return math.ceil(float(note.get("usd_per_hour", 0.0)) * seconds / 3600 * MICRO)

    def _report(self, name: str) -> list[dict[str, Any]]:
        return [row for row in self._json("cost-report", "--days", "30", "--all") if row["name"] == name]

    # --- sky ----------------------------------------------------------------------------------------------------

    def cluster(self, name: str) -> dict[str, Any] | None:
        """One cluster as SkyPilot lists it, without asking the cloud."""
        found: list[dict[str, Any]] = self._json("status", "-o", "json", name) if self._is_there() else []
        return next((one for one in found if one["name"] == name), None)

    def _clusters(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._json("status", "--refresh", "-v")   # -v: with the task that it was launched with
        return found

    def _catalog(self) -> list[dict[str, Any]]:
        """Rows of SkyPilot's price list; one cloud at a time when some are named."""
        clouds = sorted({infra.partition("/")[0] for infra in self._settings.infra})
        tables = [self._keep(f"gpus {cloud}", "gpus", "list", "-a", *(("--infra", cloud) if cloud else ())) for cloud in clouds or [""]]
        return [row for table in tables for rows in table.values() for row in rows]

    def _check(self) -> dict[str, dict[str, list[str]]]:
        found: dict[str, dict[str, list[str]]] = self._keep("check", "check")
        return found

    def _keep(self, key: str, *arguments: str) -> Any:
        """An answer that is good for some minutes."""
        since, answer = self._kept.get(key, (-math.inf, None))
        if time.monotonic() - since > KEPT_SECONDS:
            answer = self._json(*arguments)
            self._kept[key] = time.monotonic(), answer
        return answer

    def _json(self, *arguments: str) -> Any:
        done = self._sky(*arguments, *(() if "-o" in arguments else ("-o", "json")), seconds=QUESTION_SECONDS)
        if done.returncode:
            raise RuntimeError(f"sky {arguments[0]}: {_last_words(done)}")
        return parse_json(done.stdout)

    def _sky(self, *arguments: str, seconds: float) -> subprocess.CompletedProcess[str]:
        env = {name: value for name, value in os.environ.items() if name not in OURS}
        env |= {"SKYPILOT_DISABLE_USAGE_COLLECTION": "1", "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}
        try:
            return subprocess.run(
                [shutil.which(self._settings.program) or self._settings.program, *arguments], env=env, capture_output=True, text=True, check=False,
                timeout=seconds, stdin=subprocess.DEVNULL,
            )
        except FileNotFoundError as error:
            raise _not_installed(self._settings.program) from error

    def _is_there(self) -> bool:
        return shutil.which(self._settings.program) is not None

    def _explain_launch(self, name: str, done: subprocess.CompletedProcess[str]) -> None:
        """Raise what a launch that failed means; a cluster that may be half there is taken down before anything is called nothing."""
        text = done.stdout + done.stderr
        if "NoCloudAccessError" in text or "Cloud access is not set up" in text:
            raise MissingAccess("SkyPilot has no access to a cloud", why=_last_words(done), next=f"{self._settings.program} check")
        if "ResourcesUnavailableError" in text or "NotSupportedError" in text or "does not support" in text:
            self.stop(Resource(provider=self.name, id=name, lease="", state="live"))
            if not any(one["name"] == name for one in self._clusters()):
                raise NoCapacity("SkyPilot found no such machine now", why=_reason(text), next="forge resume --from plan_fit plans another machine")
        raise RuntimeError(f"sky launch: {_last_words(done)}")

    def _task(self, lease: Lease) -> dict[str, Any]:
        infra, instance, *spot = lease.offer.name.split(" ")
        watch = Path(__file__).with_name("_sky_watch.py").read_text(encoding="utf-8")
        seconds = [lease.deadline_seconds, self.idle_seconds + WATCH_GRACE_SECONDS, POWER_OFF_SECONDS]
        arguments = " ".join(f"{number:.0f}" for number in seconds)
        return {
            "name": cluster_name(lease), "num_nodes": 1, "envs": {"FORGE_RUN": lease.run},
            "resources": {"infra": infra, "instance_type": instance, "disk_size": self._settings.disk_gib, "use_spot": bool(spot)},
            "run": f"exec python3 - {arguments} {_sky_channel.FOLDER}/leases/{_safe(lease.token)} <<'FORGE'\n{watch}\nFORGE\n",
        }

    def _resource(self, row: Mapping[str, Any]) -> Resource:
        name = str(row["name"])
        note, told = _sky_channel.note_of(name), re.search(r"FORGE_RUN: ['\"]?([^'\"\s]+)", str(row.get("last_creation_yaml") or ""))
        deadline = float(note.get("deadline_seconds", math.inf))
        return Resource(
            provider=self.name, id=name, lease=_lease_of(name), state=STATES.get(str(row["status"]), "live"), address=name,
            run=str(note.get("run") or (told[1] if told else "")), overdue=time.time() - float(row["launched_at"]) > deadline + POWER_OFF_SECONDS,
        )


def cluster_name(lease: Lease) -> str:
    """The cluster of an attempt."""
    return f"{PREFIX}{_safe(lease.token)}-{lease.attempt}"


def parse_json(text: str) -> Any:
    """The JSON in what sky prints: lines about its server may stand before it, and it may say NaN."""
    lines = text.splitlines()
    start = next((number for number, line in enumerate(lines) if line[:1] in "[{" and line[:1]), None)
    if start is None:
        raise RuntimeError(f"sky did not answer in JSON: {text[-200:]!r}")
    return json.loads("\n".join(lines[start:]))


def _safe(token: str) -> str:
    """Names of clusters hold letters, digits, dashes, dots and underscores; clouds shorten them at will."""
    return token if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,40}", token) else hashlib.sha256(token.encode()).hexdigest()[:24]


def _lease_of(name: str) -> str:
    found = _sky_channel.NAME.fullmatch(name)
    return found["lease"] if found else name


def _reason(text: str) -> str:
    found = re.search(r"ResourcesUnavailableError: (.+)|NotSupportedError: (.+)", text)
    return (found[1] or found[2]).strip()[:300] if found else text.strip()[-300:]


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    text = re.sub(r"\x1b\[[0-9;]*m", "", f"{done.stdout}\n{done.stderr}")
    lines: Sequence[str] = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[-1] if lines else f"exit code {done.returncode}")[:300]


def _not_installed(program: str) -> MissingAccess:
    return MissingAccess(f"there is no program {program}", why="SkyPilot is not installed", next="uv tool install 'skypilot[aws]', or --set sky.program=PATH")


provider = Sky()
