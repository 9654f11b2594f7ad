"""A small pipeline of real files for engine tests: read -> buy (paid, per item) -> plan_it -> gate -> finish."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from forge.config import Config, GateSettings, RunSettings, resolve
from forge.errors import OverBudget
from forge.phase import Context, Estimate, Output, Requirement, Settings
from forge.pipeline import Pipeline
from forge.records import LoraPlan, Plan, ScratchBase, digest, write_json
from forge.registry import Registry
from forge.run import Run


class Toy:
    """What the toy phases share."""

    VERSION: ClassVar[int] = 1
    summary: ClassVar[str] = "a toy"
    where: ClassVar[Literal["engine", "machine"]] = "engine"
    libraries: ClassVar[tuple[str, ...]] = ()
    requires: ClassVar[tuple[Requirement, ...]] = ()
    always: ClassVar[bool] = False
    settings: ClassVar[type[Settings]] = Settings

    def estimate(self, settings: Any, ctx: Context) -> Estimate:
        return Estimate(seconds_p50=1, seconds_p90=2)

    def undo(self, settings: Any, ctx: Context) -> None:
        return None


class ReadSettings(Settings):
    """Toy settings."""

    upper: bool = Field(False, description="write upper case")


class Read(Toy):
    """corpus -> words."""

    name = "read"
    reads = ("corpus",)
    writes = (Output(name="words", path="words.json"),)
    settings = ReadSettings
    runs = 0

    def run(self, settings: ReadSettings, ctx: Context) -> Mapping[str, float | str]:
        Read.runs += 1
        files = sorted(path for path in ctx.corpus_root.rglob("*") if path.is_file())
        words = [word for path in files for word in path.read_text(encoding="utf-8").split()]
        write_json(ctx.output("words"), [word.upper() for word in words] if settings.upper else words)
        return {"words": len(words)}


class BuySettings(Settings):
    """Toy settings."""

    micro_usd: int = Field(10, description="price of an item")


class Buy(Toy):
    """words -> bought; every word is paid for once."""

    name = "buy"
    reads = ("words",)
    writes = (Output(name="bought", path="bought.json"),)
    settings = BuySettings
    calls: ClassVar[list[str]] = []
    fail_after = -1

    def estimate(self, settings: BuySettings, ctx: Context) -> Estimate:
        words = len(json.loads(ctx.input("words").read_text(encoding="utf-8")))
        usd = 1.5 * words * settings.micro_usd / 1e6
        return Estimate(seconds_p50=1, seconds_p90=2, usd_p50=usd, usd_p90=2 * usd, basis=f"{words} words")

    def run(self, settings: BuySettings, ctx: Context) -> Mapping[str, float | str]:
        words = json.loads(ctx.input("words").read_text(encoding="utf-8"))
        journal = ctx.journal("calls", durable=True)
        for number, word in enumerate(words):
            ctx.check_stop()
            key = digest(word, str(number))
            if key in journal:
                continue
            reservation = ctx.money.reserve(key, settings.micro_usd, "a word")
            if len(Buy.calls) == Buy.fail_after:
                raise RuntimeError("the toy broke")
            Buy.calls.append(word)
            ctx.money.settle(reservation, max(0, settings.micro_usd - 3))
            journal.put(key, word[::-1])
        write_json(ctx.output("bought"), sorted(value for _, value in journal.items()))
        return {"bought": len(words)}


class PlanIt(Toy):
    """bought -> plan."""

    name = "plan_it"
    reads = ("bought",)
    writes = (Output(name="plan", path="plan.json"), Output(name="speed", path="speed.json", telemetry=True))

    def run(self, settings: Settings, ctx: Context) -> Mapping[str, float | str]:
        write_json(ctx.output("plan"), toy_plan(ctx.run_id, {"bought": ctx.input_sha256("bought")}))
        write_json(ctx.output("speed"), {"seconds": id(ctx)})
        return {}


class Finish(Toy):
    """plan + approval -> model."""

    name = "finish"
    reads = ("plan", "approval", "bought", "speed")
    writes = (Output(name="model", path="model"),)
    runs = 0

    def run(self, settings: Settings, ctx: Context) -> Mapping[str, float | str]:
        Finish.runs += 1
        folder = ctx.output("model")
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "weights.bin").write_bytes(ctx.input("bought").read_bytes())
        (folder / "config.json").write_text("{}", encoding="utf-8")
        return {}


class Close(Toy):
    """Writes the report, always."""

    name = "close"
    reads = ("run_record", "model")
    optional = reads
    writes = (Output(name="report", path="report.txt", telemetry=True),)
    always = True

    def run(self, settings: Settings, ctx: Context) -> Mapping[str, float | str]:
        ctx.output("report").write_text(ctx.input("run_record").read_text(encoding="utf-8"), encoding="utf-8")
        return {}


class ToyRegistry(Registry):
    """Only the toys."""

    toys: ClassVar[dict[str, Any]] = {toy.name: toy() for toy in (Read, Buy, PlanIt, Finish, Close)}

    def phase_names(self) -> tuple[str, ...]:
        return tuple(sorted(self.toys))

    def phase(self, name: str) -> Any:
        return self.toys[name]


def toy_plan(run: str, data: dict[str, str], *, usd_per_hour: float = 0.0) -> Plan:
    """A plan with every field filled."""
    scratch = ScratchBase(
        hidden_size=256, layers=1, heads=4, kv_heads=2, intermediate_size=512, vocab_size=512, context=128, steps=1,
        rows_per_step=1, learning_rate=0.001,
    )
    lora = LoraPlan(
        rank=8, alpha=16, target_modules="all-linear", learning_rate=0.001, epochs=1, steps=1, examples_per_step=1, max_length=128
    )
    return Plan(
        run=run, name="toy", task="chat", base="scratch", base_license="apache-2.0", architecture="llama", parameters=1, scratch=scratch,
        lora=lora, precision="bf16", seed=7, dry_run=False, system_prompt="s", abstention="a", teacher="offline", provider="local",
        offer="cpu", usd_per_hour=usd_per_hour, deadline_seconds=60, cost_p50_usd=usd_per_hour, cost_p90_usd=usd_per_hour, budget_usd=1,
        quantizations=("Q8_0",), hub="hub", visibility="local", verdicts=(), thresholds={}, data=data, reasons={},
    )


def toy_config(registry: Registry, **values: Any) -> Config:
    """Settings for the toys: toy_config(registry, run__budget_usd=1, read__upper=True)."""
    sections = {"run": RunSettings, "gate": GateSettings, **{toy.name: toy.settings for toy in ToyRegistry.toys.values()}}
    flags = [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in {"run__budget_usd": 1, **values}.items()]
    return resolve(sections, environment={}, folder=Path("/nonexistent"), flags=flags)


def run_toys(run: Run, *, ask: Any = None, until: str = "", rerun_from: str = "", confirm: Any = None, stop: Any = None, **values: Any) -> None:
    """One `forge run` over the toys."""
    registry = ToyRegistry()
    config = toy_config(registry, **values)
    with run.lock():
        run.remember(config)
        Pipeline(
            run, registry, config, ask=ask, rerun_from=rerun_from, confirm=confirm, stop_requested=stop or (lambda: False)
        ).execute(until)


__all__ = ["Buy", "Finish", "OverBudget", "Read", "ToyRegistry", "run_toys", "toy_config", "toy_plan"]
