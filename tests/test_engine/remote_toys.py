"""Toy phases around a rented machine: read -> plan_it -> gate -> provision -> train (steps, checkpoints) -> polish. A life of an engine
is a forked process, so that kill -9 is kill -9 and costs no imports."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from forge import worker
from forge.config import GateSettings, RunSettings, resolve
from forge.errors import ForgeError, Interrupted
from forge.lease import as_provider
from forge.phase import Context, Output, Settings
from forge.pipeline import Pipeline
from forge.protocols import Offer
from forge.records import digest, write_json
from forge.registry import Registry
from forge.run import Run
from forge.testing import tiny_corpus
from tests.servers.rented import OFFER, Rented
from tests.test_engine.toys import Toy, toy_plan

STEPS, CHECKPOINT_STEPS = 8, 2


class ReadSettings(Settings):
    """Toy settings."""

    provider: str = Field("rented", description="whose machine is planned")
    deadline_seconds: int = Field(600, description="of the lease")


class PlanIt(Toy):
    """corpus -> data, plan."""

    name = "plan_it"
    reads = ("corpus",)
    writes = (Output(name="data", path="data.json"), Output(name="plan", path="plan.json"))
    settings = ReadSettings

    def run(self, settings: ReadSettings, ctx: Context) -> Mapping[str, float | str]:
        write_json(ctx.output("data"), sorted(path.name for path in ctx.corpus_root.iterdir()))
        plan = toy_plan(ctx.run_id, {"data": "x"}, usd_per_hour=OFFER.usd_per_hour)
        write_json(ctx.output("plan"), plan.model_copy(update={"provider": settings.provider, "deadline_seconds": settings.deadline_seconds}))
        return {}


class Provision(Toy):
    """plan + approval -> machine."""

    name = "provision"
    reads = ("plan", "approval")
    writes = (Output(name="machine", path="machine.json"),)

    def run(self, settings: Settings, ctx: Context) -> Mapping[str, float | str]:
        plan = json.loads(ctx.input("plan").read_text(encoding="utf-8"))
        offer: Offer = OFFER.model_copy(update={"provider": plan["provider"]})
        lease = ctx.lease(offer, plan["deadline_seconds"], f"lease-{ctx.input_sha256('plan')[:12]}")
        write_json(ctx.output("machine"), {"lease": lease.token})
        return {}


class TrainSettings(Settings):
    """Toy settings."""

    step_seconds: float = Field(0.0, description="how long a step takes")
    report_to: str = Field("", description="who is told, without an effect on the result")
    break_at: int = Field(0, description="before this step it raises; 0 = never")
    wait_at: int = Field(0, description="before this step it waits for a file `go` on its machine; 0 = never")


class Train(Toy):
    """data -> model, curve: a chain of hashes, with a checkpoint every other step."""

    name = "train"
    reads = ("plan", "approval", "machine", "data")
    writes = (Output(name="weights", path="weights"), Output(name="curve", path="curve.json"))
    where = "machine"
    settings = TrainSettings
    no_effect = ("report_to",)

    def run(self, settings: TrainSettings, ctx: Context) -> Mapping[str, float | str]:
        disk = ctx.work.parents[2]
        found = sorted(ctx.work.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
        state: dict[str, Any] = {"step": 0, "chain": "", "curve": []}
        if found:
            state = json.loads((found[-1] / "state.json").read_text(encoding="utf-8"))
        for step in range(state["step"] + 1, STEPS + 1):
            if step == settings.break_at:
                sys.stdout.write("words on standard output\n")
                sys.stdout.flush()
                raise RuntimeError("the toy broke")
            while step == settings.wait_at and not (disk / "go").exists():
                (disk / "waits").touch()
                self._check(ctx, state)
                time.sleep(0.005)
            self._check(ctx, state)
            time.sleep(settings.step_seconds)
            with (disk / "steps").open("a") as file:
                file.write(f"{step}\n")
            chain = digest(state["chain"], ctx.input("data").read_text(encoding="utf-8"), str(step))
            state = {"step": step, "chain": chain, "curve": [*state["curve"], int(chain[:4], 16)]}
            ctx.progress(step, STEPS, "train", loss=float(state["curve"][-1]))
            if step % CHECKPOINT_STEPS == 0:
                self._save(ctx, state)
        ctx.output("weights").mkdir()
        (ctx.output("weights") / "w.bin").write_text(state["chain"], encoding="utf-8")
        write_json(ctx.output("curve"), state["curve"])
        return {"loss": float(state["curve"][-1])}

    def _check(self, ctx: Context, state: dict[str, Any]) -> None:
        try:
            ctx.check_stop()
        except Interrupted:
            self._save(ctx, state)
            raise

    def _save(self, ctx: Context, state: dict[str, Any]) -> None:
        partial, target = ctx.work / ".partial", ctx.work / f"checkpoint-{state['step']}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        write_json(partial / "state.json", state)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        ctx.keep(target)


class Polish(Toy):
    """weights -> model, on the same machine."""

    name = "polish"
    reads = ("plan", "approval", "machine", "weights")
    writes = (Output(name="model", path="model.txt"),)
    where = "machine"

    def run(self, settings: Settings, ctx: Context) -> Mapping[str, float | str]:
        ctx.output("model").write_text((ctx.input("weights") / "w.bin").read_text(encoding="utf-8")[::-1], encoding="utf-8")
        return {}


class RemoteToys(Registry):
    """Only these phases, and the given providers."""

    toys: ClassVar[dict[str, Any]] = {toy.name: toy() for toy in (PlanIt, Provision, Train, Polish)}

    def __init__(self, plugin_dirs: tuple[Path, ...] = (), providers: Mapping[str, Any] | None = None) -> None:
        super().__init__(plugin_dirs)
        self.rented = dict(providers or {})

    def phase_names(self) -> tuple[str, ...]:
        return tuple(sorted(self.toys))

    def phase(self, name: str) -> Any:
        return self.toys[name]

    def names(self, kind: str) -> tuple[str, ...]:
        return tuple(self.rented) if kind == "provider" else super().names(kind)

    def plugin(self, kind: str, name: str, *, ready: bool = True) -> Any:
        return self.rented[name] if kind == "provider" else super().plugin(kind, name, ready=ready)


def run_job(job: Path) -> int:
    """What a machine's host calls: forge.worker with the toys."""
    setattr(worker, "Registry", RemoteToys)  # noqa: B010 - in a process of its own
    return worker.main(["worker", str(job)])


def new_run(folder: Path, run_id: str = "toy") -> Run:
    """A run over a tiny corpus, below FORGE_HOME."""
    return Run.create(tiny_corpus(folder / "corpus", {"a.txt": "a b", "b.txt": "c"}), dry_run=False, run_id=run_id)


def work_on(
    clouds: Mapping[str, Rented], *, until: str = "", stop: Callable[[], bool] = lambda: False, plugin_dirs: tuple[Path, ...] = (),
    agree: bool = True, **values: Any,
) -> None:
    """One `forge resume` over the toys, in this process; agree: what the person at the gate says."""
    run = Run.open("toy")
    registry = RemoteToys(plugin_dirs, clouds)
    sections = {"run": RunSettings, "gate": GateSettings, **{toy.name: toy.settings for toy in registry.toys.values()}}
    flags = [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in {"run__budget_usd": 5, **values}.items()]
    config = resolve(sections, environment={}, folder=Path("/nonexistent"), flags=flags)
    for cloud in clouds.values():
        as_provider(cloud)
    try:
        with run.lock():
            run.remember(config)
            Pipeline(run, registry, config, ask=lambda plan, sha256: agree, stop_requested=stop).execute(until)
    finally:
        run.close()


def life(work: Callable[[], None]) -> str:
    """Work in a process of its own; returns "done", "killed", or the error that ended it."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = "done"
        try:
            work()
        except (ForgeError, Interrupted) as error:
            said = f"{type(error).__name__}: {error}"
        except BaseException:  # noqa: BLE001 - a forked child of the test must not go on as the test
            said = traceback.format_exc()
        finally:
            os.write(write, said.encode()[:60_000])
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        said = file.read()
    _, status = os.waitpid(pid, 0)
    return "killed" if os.WIFSIGNALED(status) else said


def kill_at(number: int) -> Callable[[str], None]:
    """A step that kills its process with the n-th call."""
    count = [0]

    def step(name: str) -> None:
        count[0] += 1
        if count[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return step


def artifacts() -> dict[str, str]:
    """sha256 of every artifact that does not carry times or hosts."""
    run = Run.open("toy")
    try:
        return {one.name: one.sha256 for one in run.store.all() if not one.telemetry}
    finally:
        run.close()


def money() -> tuple[int, int, int]:
    """Settled, reserved, cap: micro-dollars, straight from the database."""
    run = Run.open("toy")
    with sqlite3.connect(run.folder / "state.db") as db:
        settled, reserved = db.execute("SELECT COALESCE(SUM(actual), 0), COALESCE(SUM(CASE WHEN actual IS NULL THEN reserved END), 0) FROM spend").fetchone()
    run.close()
    return int(settled), int(reserved), 5_000_000


def steps(cloud: Rented) -> list[list[int]]:
    """The steps that were made on each machine, in order."""
    return [
        [int(line) for line in (cloud.disk(name) / "steps").read_text().split()] if (cloud.disk(name) / "steps").exists() else []
        for name in cloud.machines()
    ]
