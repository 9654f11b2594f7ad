"""How fast a machine trains, from the table of measured speeds."""

from __future__ import annotations

from forge.phases.plan_fit.tables import Speed, load_tables
from forge.protocols import Offer

TRAIN_FLOPS, FORWARD_FLOPS = 6, 2
"""Floating point operations per parameter and token (Kaplan et al. 2020, arXiv:2001.08361)."""


def tokens_per_second(parameters: int, offer: Offer, precision: str) -> tuple[float, str]:
    """Training tokens a second on a machine, and where the figure comes from."""
    speed = _speed(offer, precision)
    rate = speed.flops / (TRAIN_FLOPS * parameters)
    most = load_tables().speed.gpu_tokens_per_second_max
    return (min(rate, most) if offer.device == "cuda" else rate), speed.source


def adapter_tokens_per_second(parameters: int, offer: Offer, precision: str) -> float:
    """The same for training an adapter, in tokens that are no padding."""
    return tokens_per_second(parameters, offer, precision)[0] * _speed(offer, precision).adapter_share


def _speed(offer: Offer, precision: str) -> Speed:
    speeds = load_tables().speed
    if offer.device == "cpu":
        return speeds.cpu_bf16 if precision == "bf16" else speeds.cpu_fp32
    return next(speed for speed in speeds.gpu if speed.name in offer.gpu)
