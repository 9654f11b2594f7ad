"""The knobs of plan_fit."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from forge.phase import Settings
from forge.phases.plan_fit.training import SweepSettings


class PlanFitSettings(Settings):
    """What a person may want to decide before the plan is made; everything else is computed from the data."""

    name: str = Field("", description="the model's name; default: the corpus folder's name and the model's size")
    provider: str = Field(
        "auto", description="where to train: a compute provider's name; auto: here when this machine is enough, else the cheapest machine of all providers that fits"
    )
    max_hourly_usd: float = Field(0.0, ge=0, description="dollars an hour that a machine may cost, at most; 0: only the budget limits it")
    spot: Literal["never", "auto", "only"] = Field(
        "never", description="machines that may be taken away at any time, for less: auto compares them too, with what going on elsewhere costs"
    )
    size: Literal["auto", "tiny", "small", "base"] = Field(
        "auto", description="size of a scratch model; auto: by the machine"
    )
    epochs: float = Field(0.0, ge=0, le=50, description="passes over the training rows at most; 0: by model size")
    tuning: Literal["lora", "full"] = Field(
        "lora", description="lora: an adapter is trained; full: all weights of a small base, with ten times the GPU memory, at a tenth of the adapter's learning rate"
    )
    rank: int = Field(0, ge=0, le=512, description="rank of the adapter, alpha twice as much; 0: by model size")
    learning_rate: float = Field(0.0, ge=0, lt=1, description="of the adapter; 0: by model size")
    sweep: SweepSettings | None = Field(
        None, description="try a grid of adapters in one process: {rank: [..], learning_rate: [..], halving: yes|no}; chosen on validation rows"
    )
    train_minutes: float = Field(
        0.0, ge=0,
        description="minutes that training may take on the planned machine, at most half of them for a scratch base; 0: what all passes take, 4 to 15, on a CPU or from scratch; 120 for a pretrained base on a GPU",
    )
    quantizations: tuple[Literal["F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M"], ...] = Field(
        ("F16", "Q8_0", "Q4_K_M"), description="GGUF files to make"
    )
    hub: str = Field("local", description="where to publish: local (a folder) or a hub's name")
    visibility: Literal["local", "private", "public"] = Field("local", description="who may see what is published")
    rehearse: bool = Field(True, description="rehearse training and export on a few rows before the gate")
    grader: str = Field(
        "", description="a paid teacher that grades a random sample of the pairs again (anthropic); empty: synth's judge and the exact checks decide"
    )
    grader_model: str = Field("", description="the grader's model, best a stronger one than wrote the pairs; empty: the teacher's default")
    grader_endpoint: str = Field("", description="where the grader is reached: a base URL; empty: the vendor's")
    curve: bool = Field(True, description="probe whether the pairs teach anything and more would help, with a count model; about two seconds")
