"""`forge` over toy phases: the real command line, pipeline, store, gate and ledger, with phases that take no time.

In-process: the `forge` fixture. As a program: python -m tests.test_cli.toy_forge ARGS.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from typing import Any

from pydantic import Field

from forge import registry
from forge.phase import Context, Output, Settings
from forge.records import write_json
from forge.registry import PHASE_GROUP
from tests.test_engine.toys import Buy, Close, Finish, Read, Toy, toy_plan


class SlowSettings(Settings):
    """A phase that takes its time."""

    items: int = Field(3, ge=0, description="how many items")
    seconds_per_item: float = Field(0.0, ge=0, description="seconds that an item takes")


class Slow(Toy):
    """words -> slow; says how far it is and can be stopped between items."""

    name = "slow"
    reads = ("words",)
    writes = (Output(name="slow", path="slow.json"),)
    settings = SlowSettings

    def run(self, settings: SlowSettings, ctx: Context) -> Mapping[str, float | str]:
        for number in range(settings.items):
            ctx.check_stop()
            time.sleep(settings.seconds_per_item)
            ctx.progress(number + 1, settings.items, f"item {number}")
        write_json(ctx.output("slow"), settings.items)
        return {"summary": f"{settings.items:,} items, one after the other"}


class PlanSettings(Settings):
    """What the toy plan costs."""

    usd_per_hour: float = Field(0.0, ge=0, description="dollars an hour")


class PaidPlan(Toy):
    """A plan that may cost money."""

    name = "plan_it"
    settings = PlanSettings
    reads = ("bought", "slow")
    writes = (Output(name="plan", path="plan.json"), Output(name="speed", path="speed.json", telemetry=True))

    def run(self, settings: PlanSettings, ctx: Context) -> Mapping[str, float | str]:
        write_json(ctx.output("plan"), toy_plan("toy", {"bought": ctx.input_sha256("bought")}, usd_per_hour=settings.usd_per_hour))
        write_json(ctx.output("speed"), {})
        return {}


TOYS: dict[str, Toy] = {toy.name: toy() for toy in (Read, Slow, Buy, PaidPlan, Finish, Close)}


class ToyPoint:
    """An entry point that is already loaded."""

    def __init__(self, toy: Toy) -> None:
        self.toy = toy

    def load(self) -> Toy:
        return self.toy


def points_with_toys(original: Any) -> Any:
    """The registry's look-up with the toys in place of the real phases."""

    def points(group: str) -> dict[str, EntryPoint]:
        toys: dict[str, Any] = {name: ToyPoint(toy) for name, toy in TOYS.items()}
        return toys if group == PHASE_GROUP else original(group)

    return points


if __name__ == "__main__":
    registry._points = points_with_toys(registry._points)
    from forge.cli.app import main

    main()
