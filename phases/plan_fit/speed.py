"""How fast a machine trains: the table of measured speeds, the number of GPUs, and what earlier runs made on the same GPU."""

from __future__ import annotations

import math
from typing import NamedTuple

from forge.phases.plan_fit.tables import Speed, load_tables
from forge.protocols import Offer

TRAIN_FLOPS, FORWARD_FLOPS = 6, 2
"""Floating point operations per parameter and token (Kaplan et al. 2020, arXiv:2001.08361)."""


class Known(NamedTuple):
    """What earlier runs on the same kind of GPU tell: their tokens a second over the table's, and from how many runs."""

    factor: float = 1.0
    runs: int = 0

    def __str__(self) -> str:
        return f"x{self.factor:.2g} from {self.runs} earlier run{'' if self.runs == 1 else 's'} on such a GPU" if self.runs else ""


NOTHING_KNOWN = Known()


def tokens_per_second(parameters: int, offer: Offer, precision: str, known: Known = NOTHING_KNOWN) -> tuple[float, str]:
    """Training tokens a second on one GPU or CPU of a machine, and where the figure comes from."""
    speed = _speed(offer, precision)
    rate, most = speed.flops * known.factor / (TRAIN_FLOPS * parameters), load_tables().speed.gpu_tokens_per_second_max
    source = f"{speed.source}; {known}" if known.runs else speed.source
    return (min(rate, most) if offer.device == "cuda" else rate), source


def adapter_tokens_per_second(parameters: int, offer: Offer, precision: str, known: Known = NOTHING_KNOWN) -> float:
    """The same for training an adapter on all GPUs of the machine, in tokens that are no padding."""
    rate = tokens_per_second(parameters, offer, precision, known)[0]
    bound = offer.device == "cuda" and rate >= load_tables().speed.gpu_tokens_per_second_max
    return rate * _speed(offer, precision).adapter_share * (1.0 if bound else several_gpus(offer))


def several_gpus(offer: Offer) -> float:
    """How much faster all GPUs of the machine's nodes are than one."""
    gpus = offer.gpus * offer.nodes if offer.device == "cuda" else 1
    return float(load_tables().speed.doubled_gpus.factor ** math.log2(gpus)) if gpus > 1 else 1.0


def training_on(offer: Offer, *, alone: bool) -> Offer:
    """The machine as training uses it. alone: one GPU only, as a sweep, whose candidates share its passes, and a model from nothing do."""
    return offer.model_copy(update={"gpus": 1, "nodes": 1}) if alone else offer


def told_gpus(offer: Offer) -> str:
    """What the forecast assumes of several GPUs; "" for one."""
    if (times := several_gpus(offer)) == 1.0:
        return ""
    return f"{offer.gpus * offer.nodes} GPUs as {times:.2g} ({load_tables().speed.doubled_gpus.source})"


def _speed(offer: Offer, precision: str) -> Speed:
    speeds = load_tables().speed
    if offer.device == "cpu":
        return speeds.cpu_bf16 if precision == "bf16" else speeds.cpu_fp32
    return next(speed for speed in speeds.gpu if speed.name.lower() in offer.gpu.lower())   # SLURM's sites write "a100"
