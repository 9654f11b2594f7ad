"""Files and jobs in a job of Hugging Face, and the program in it that pushes what the jobs make."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from forge.errors import ForgeError, MachineLost, NoCapacity
from forge.plugins.compute import _hf_push, _hf_results
from forge.plugins.compute._agent_transport import AgentTransport
from forge.plugins.compute._channel import CALL_SECONDS, Failed, Host, HostChannel, Watch
from forge.plugins.compute._environment import LockedEnvironment, ReadyPython
from forge.plugins.compute._hf_hub import ATTEMPT
from forge.protocols import Resource

if TYPE_CHECKING:
    from forge.plugins.compute.hf_jobs import HfJobs, HfJobsSettings

FOLDER = "~/.slm-forge"
PUSH_SECONDS, LOOK_SECONDS = 300.0, 2.0
"""Pushed results: jobs end so long before the container (at most a tenth of its time), for the last push. How often what is new is looked for."""
NEWS_SECONDS = 30.0


class JobChannel(HostChannel):
    """A HostChannel whose machine may have to wait for hardware first, and on which a program may push what jobs make."""

    def __init__(self, provider: HfJobs, resource: Resource, transport: AgentTransport, settings: HfJobsSettings, poll_seconds: float) -> None:
        environment = ReadyPython(settings.python) if settings.python else LockedEnvironment(
            f"{FOLDER}/environments", Path(settings.lock).expanduser() if settings.lock else None
        )
        super().__init__(
            Host(transport), f"{FOLDER}/leases/{resource.lease}", watch=Watch(idle_seconds=provider.idle_seconds),
            poll_seconds=poll_seconds, environment=environment,
        )
        self._provider, self._resource, self._transport, self._settings = provider, resource, transport, settings
        self._read, self._asked = 0, -math.inf

    def prepare(self, tell: Callable[[str], None]) -> str:
        """Wait for the container, open the lease in it, and make its Python ready. Raises NoCapacity when no hardware came free in time."""
        self._wait(tell)
        self._open()
        python = super().prepare(tell)
        if self._provider.goes_on:
            self._push(python, tell)
        return python

    def news(self) -> list[str]:
        """What is new about pushing, asked for seldom."""
        if not self._provider.goes_on or time.monotonic() - self._asked < NEWS_SECONDS:
            return []
        self._asked = time.monotonic()
        told = self.read("push.log", self._read)
        self._read += len(told)
        return told.decode(errors="replace").splitlines()

    def _push(self, python: str, tell: Callable[[str], None]) -> None:
        """Have results pushed, and let jobs go on when nobody asks. Where that cannot be all is as with results=fetched."""
        try:
            self._start_pusher(python)
            self.watch = replace(self.watch, idle_seconds=0.0)
            return
        except MachineLost:
            raise
        except Failed as error:
            why = "its Python has no huggingface_hub" if error.code == _hf_push.NO_CLIENT else str(error)
        except Exception as error:  # noqa: BLE001 - whatever the Hub says: the job can do its work without
            why = f"{error.fact}: {error.why}" if isinstance(error, ForgeError) else f"{type(error).__name__}: {error}"
        tell(f"results of {self._resource.id} are not pushed, only fetched while it lives: {why}")

    def _start_pusher(self, python: str) -> None:
        provider = self._provider
        orders = {
            "root": self.root, "repo": provider.make_repository(provider.job(self._resource.id)), "sign": _hf_results.SIGN,
            "endpoint": provider.endpoint(), "token": provider.push_token(), "kept_seconds": 60 * self._settings.push_minutes,
            "look_seconds": LOOK_SECONDS, "timeout_seconds": self._settings.timeout_seconds, "environment": _hf_results.environment(os.environ),
        }
        argv, data = _hf_results.pusher(python, orders)
        self.host.patiently(lambda: b"".join(self._transport.stream(argv, [data], seconds=CALL_SECONDS)))

    def _wait(self, tell: Callable[[str], None]) -> None:
        ends, told = time.monotonic() + 60 * self._settings.start_minutes, False
        while not self._transport.is_up():
            if time.monotonic() > ends:
                raise NoCapacity(
                    f"the job {self._resource.id} did not come up in {self._settings.start_minutes:g} min",
                    why=f"it is {str(self._provider.job(self._resource.id).status.stage).lower()}",
                    next="forge resume, or --set hf-jobs.flavors=[…] for other hardware",
                )
            if not told:
                tell(f"waiting for {self._resource.id} on Hugging Face; nothing is billed until it runs")
                told = True
            time.sleep(min(self.poll_seconds, 1.0))

    def _open(self) -> None:
        """Idempotent; the time that is left is the Hub's, which has counted since the job began to run."""
        job = self._provider.job(self._resource.id)
        ran = (job.durations.running_secs if job.durations else None) or 0
        labels, gpus = job.labels or {}, self._provider.gpus(str(job.flavor))
        seconds = float((job.environment or {}).get("FORGE_AGENT_SECONDS", 0))
        push = min(PUSH_SECONDS, seconds / 10) if self._provider.goes_on else 0.0
        self.host.call("open", {
            "root": self.root, "token": self._resource.lease, "run": self._resource.run, "attempt": int(labels.get(ATTEMPT, "1")),
            "deadline_seconds": max(0.0, seconds - push - ran),
            "gpus": list(range(gpus)), "wanted_gpus": gpus,
        })
