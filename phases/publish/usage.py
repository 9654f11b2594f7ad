"""What training took, as the card says it: operations from the trained tokens, energy by the table in configs/energy.yaml.

Made from the plan and train.json only, so that the card of a resumed run is the same; what was metered or billed is in the report.
"""

from __future__ import annotations

from typing import Any

from forge.config import load_data
from forge.records import Plan, Record

TRAINED, ADAPTED = 6, 4
"""Operations for a parameter and token: forward and backward; adapter training leaves out most weight gradients (configs/models.yaml)."""
JOULES_PER_KWH = 3.6e6


class Usage(Record):
    """operations: of training, floating point. kwh: at the wall, estimated; None when nothing was reported that it could rest on."""

    operations: float | None = None
    kwh: float | None = None
    grams_co2: float | None = None
    device: str = ""
    flops: float = 0.0
    watts: float = 0.0
    overhead: float = 0.0
    grams_per_kwh: float = 0.0


def estimate_usage(plan: Plan, parameters: int, pretrain_tokens: int | None, lora_tokens: int | None) -> Usage:
    """Operations, then seconds at the device's sustained speed, then energy at its rated power with the machine around it."""
    if not pretrain_tokens and not lora_tokens:
        return Usage()
    operations = parameters * (TRAINED * (pretrain_tokens or 0) + (TRAINED if plan.tuning == "full" else ADAPTED) * (lora_tokens or 0))
    device, flops, watts = _device(plan)
    table = load_data("energy")
    kwh = operations / flops * watts * table["overhead"] / JOULES_PER_KWH
    return Usage(
        operations=float(operations), kwh=float(f"{kwh:.2g}"), grams_co2=float(f"{kwh * table['grams_per_kwh']:.2g}"), device=device, flops=flops,
        watts=float(watts), overhead=float(table["overhead"]), grams_per_kwh=float(table["grams_per_kwh"]),
    )


def _device(plan: Plan) -> tuple[str, float, float]:
    """(name, sustained operations a second, watts) of one GPU, or of one CPU core; more of them are faster and draw more alike."""
    speed, watts = load_data("models")["speed"], load_data("energy")["watts"]
    name = plan.gpu or next((str(row["name"]) for row in speed["gpu"] if row["name"] and row["name"].lower() in plan.offer.lower()), "")
    if name:
        return name, float(_row(speed["gpu"], name)["flops"]), float(_row(watts["gpu"], name)["watts"])
    core = "cpu_bf16" if plan.precision == "bf16" else "cpu_fp32"
    return "one CPU core", float(speed[core]["flops"]), float(watts["cpu_core"])


def _row(rows: Any, name: str) -> Any:
    return next(row for row in rows if row["name"].lower() in name.lower())
