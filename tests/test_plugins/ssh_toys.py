"""The toy phases of tests/test_engine/remote_toys.py on a machine over ssh: training keeps checkpoints that take time to write and fetch."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from forge.context import FolderContext
from forge.errors import ForgeError, Interrupted
from forge.phase import Context, Settings
from forge.plugins.compute.ssh import Ssh
from forge.records import digest, write_json
from forge.run import Run
from tests.servers.hosts import SshHost
from tests.test_engine.remote_toys import (
    STEPS,
    Provision,
    RemoteToys,
    Train,
    TrainSettings,
    life,
    new_run,
    run_job,
    work_on,
)
from tests.test_plugins.ssh_world import NEED, until

PYTHON = """#!/bin/sh
if [ "$2" = forge.worker ]; then
  cd {root} && exec {python} -c "import sys; from pathlib import Path; from tests.test_plugins.ssh_toys import job; sys.exit(job(Path(sys.argv[1])))" "$3"
fi
exec {python} "$@"
"""


class HostSettings(TrainSettings):
    """Toy settings."""

    checkpoint_bytes: int = Field(1000, description="size of a checkpoint")
    hold_at: int = Field(0, description="in the middle of writing the checkpoint of this step it waits while there is a file `hold` on its machine")


class HostTrain(Train):
    """Train, with a checkpoint of some size that is written in two halves."""

    settings = HostSettings

    def run(self, settings: Settings, ctx: Context) -> Mapping[str, float | str]:
        assert isinstance(settings, HostSettings)
        self.chosen, say = settings, ctx.progress

        def progress(done: float, total: float | None = None, note: str = "", **numbers: float) -> None:
            say(done, total, note, **numbers)
            ctx.notice(f"step {done:g}")

        setattr(ctx, "progress", progress)  # noqa: B010 - every step is told: progress is thinned out in the run's log
        return super().run(settings, ctx)

    def _save(self, ctx: Context, state: dict[str, Any]) -> None:
        assert isinstance(ctx, FolderContext)
        partial, target, disk = ctx.work / ".partial", ctx.work / f"checkpoint-{state['step']}", ctx.work.parents[2]
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        with (partial / "weights.bin").open("wb") as file:
            file.write(os.urandom(self.chosen.checkpoint_bytes // 2))
            file.flush()
            while state["step"] == self.chosen.hold_at and (disk / "hold").exists():
                (disk / "holds").touch()
                time.sleep(0.01)
            file.write(os.urandom(self.chosen.checkpoint_bytes // 2))
        write_json(partial / "state.json", state)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        ctx.keep(target)


class HostProvision(Provision):
    """plan + approval -> machine: what the provider quotes now."""

    def run(self, settings: Settings, ctx: Context) -> Mapping[str, float | str]:
        offer = ctx.use("provider", "ssh").quote(NEED)[0]
        lease = ctx.lease(offer, 600, f"lease-{ctx.input_sha256('plan')[:12]}")
        write_json(ctx.output("machine"), {"lease": lease.token})
        return {}


def use_host_toys() -> None:
    """These phases instead of the other ones; in a process of its own, since it is not undone."""
    RemoteToys.toys = {**RemoteToys.toys, "train": HostTrain(), "provision": HostProvision()}


def job(path: Path) -> int:
    """forge.worker with these phases."""
    use_host_toys()
    return run_job(path)


def worker_python(folder: Path) -> str:
    """A Python for the host whose forge.worker knows the toys."""
    script = folder / "python"
    script.write_text(PYTHON.format(root=Path(__file__).parents[2], python=sys.executable))
    script.chmod(0o755)
    return str(script)


class Engine:
    """A run over the toys on one host; each life is a process of its own."""

    def __init__(self, folder: Path, provider: Ssh, host: SshHost) -> None:
        self.provider, self.host, self.pid = provider, host, 0
        new_run(folder).close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def work(self, **values: Any) -> str:
        """One life to its end."""
        return life(lambda: self._work(**values))

    def begin(self, **values: Any) -> None:
        """A life that goes on beside the test."""
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._work(**values)
                self.said.write_text("done")
            except (ForgeError, Interrupted) as error:
                self.said.write_text(f"{type(error).__name__}: {error}")
            finally:
                os._exit(0)

    def kill(self) -> None:
        """kill -9; nothing when the life is over."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0

    def end(self) -> str:
        """What the life that was begun came to."""
        os.waitpid(self.pid, 0)
        self.pid = 0
        return self.said.read_text()

    @property
    def said(self) -> Path:
        return self.folder / "said"

    @property
    def folder(self) -> Path:
        """The run's."""
        run = Run.open("toy")
        run.close()
        return run.folder

    @property
    def disk(self) -> Path:
        """The lease's folder on the host."""
        (found,) = (self.host.home / ".slm-forge" / "leases").glob("lease-*")
        return found

    def steps(self) -> list[int]:
        """Steps that were made on the machine, in order."""
        return [int(line) for line in (self.disk / "steps").read_text().split()]

    def told(self) -> list[int]:
        """Steps that the run's log has, in order."""
        events = [json.loads(line) for line in (self.folder / "events.jsonl").read_text().splitlines()]
        return [int(event["text"].split()[1]) for event in events if event["event"] == "notice" and event["text"].startswith("step ")]

    def curve_is_right(self) -> bool:
        """Whether the result is that of an undisturbed training."""
        data, chain, curve = (self.folder / "phases/plan_it/data.json").read_text(), "", []
        for step in range(1, STEPS + 1):
            chain = digest(chain, data, str(step))
            curve.append(int(chain[:4], 16))
        found: list[int] = json.loads((self.folder / "phases/train/curve.json").read_text())
        return found == curve

    def until_there(self, name: str, seconds: float = 90.0) -> None:
        """Wait for a file on the lease's disk."""
        until(lambda: any((self.host.home / ".slm-forge").glob(f"leases/lease-*/{name}")), seconds)

    def _work(self, **values: Any) -> None:
        use_host_toys()
        work_on({"ssh": self.provider}, plan_it__provider="ssh", **values)  # type: ignore[dict-item]  # toys of the other provider
