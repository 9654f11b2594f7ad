"""The toys of tests/test_engine on Hugging Face Jobs: the real provider, whose steps are told, and a Python there that knows them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge.plugins.compute.hf_jobs import HfJobs, HfJobsSettings
from tests.servers.jobs_hub import JobsHub
from tests.servers.rented import Rented, host
from tests.test_engine.remote_toys import artifacts, life, money, new_run, run_job, work_on

ROOT = Path(__file__).resolve().parents[2]


def make_toys_python(path: Path) -> str:
    """This Python; `-m forge.worker` knows the toys there."""
    call = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pathlib import Path; from tests.test_engine.remote_toys import run_job; sys.exit(run_job(Path(sys.argv[1])))"
    path.write_text(f'#!/bin/sh\nif [ "$2" = forge.worker ]; then exec {sys.executable} -c "{call}" "$3"; fi\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return str(path)


def undisturbed(place: Path) -> dict[str, str]:
    """The artifacts of a run elsewhere to which nothing happens."""
    with pytest.MonkeyPatch.context() as patch, host(place / "cloud", run_job):
        patch.setenv("FORGE_HOME", str(place / "home"))
        new_run(place).close()
        assert life(lambda: work_on({"rented": Rented(place / "cloud")})) == "done"
        return artifacts()


class Stepped(HfJobs):
    """The real provider; `step` is called before and after what it and its channels do."""

    creation_seconds, confirm_seconds = 0.2, 0.05

    def __init__(self, python: str, step: Callable[[str], None] = lambda name: None, **settings: Any) -> None:
        super().__init__(HfJobsSettings(python=python, timeout_seconds=5.0, **settings))
        self.step = step
        for name in ("start", "find", "stop", "settle"):
            setattr(self, name, self.stepped(name, getattr(self, name)))

    def channel(self, resource: Any, root: Path) -> Any:
        channel = super().channel(resource, root)
        for name in ("prepare", "put", "get", "spawn", "stop"):
            setattr(channel, name, self.stepped(name, getattr(channel, name)))
        return channel

    def stepped(self, name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            self.step(f"before {name}")
            found = act(*args, **more)
            self.step(f"after {name}")
            return found

        return call


def on(site: HfJobs, **values: Any) -> str:
    """One life of an engine over the toys, with this provider."""
    clouds: dict[str, Any] = {"hf-jobs": site}
    return life(lambda: work_on(clouds, plan_it__provider="hf-jobs", **values))


def ends_as(hub: JobsHub, straight: dict[str, str]) -> None:
    """The results are those of an undisturbed run, no job is left, and the ledger holds what the Hub charges."""
    made = artifacts()
    assert {name: made[name] for name in ("weights", "curve", "model", "data")} == {name: straight[name] for name in ("weights", "curve", "model", "data")}
    assert (hub.up(), hub.processes()) == ([], [])
    settled, reserved, cap = money()
    assert (settled, reserved) == (hub.bill(), 0)
    assert 0 < settled <= cap


def steps(hub: JobsHub) -> list[list[int]]:
    """The steps that were made in each job."""
    found = [sorted(job.folder.glob("**/steps")) for job in hub.jobs.values()]
    return [[int(line) for line in paths[0].read_text().split()] if paths else [] for paths in found]
