"""SkyPilot's catalog as offers."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from forge.protocols import Need, Offer

DISK_USD_PER_GIB_HOUR = 0.17 / 730
"""Catalogs have no price for disks: the dearest of the usual ones (GCP pd-ssd, $0.17 a GiB and month, 2026-11)."""

NO_BF16 = {"T4", "T4g", "V100", "V100-32GB", "P100", "P4", "K80", "M60"}
NOT_NVIDIA = ("tpu", "inferentia", "trainium", "gaudi", "mi", "npu")
GPU_GIB: Mapping[str, float] = {
    "T4": 16, "V100": 16, "V100-32GB": 32, "P100": 16, "A10": 24, "A10G": 24, "L4": 24, "L40": 48, "L40S": 48, "A100": 40, "A100-80GB": 80,
    "H100": 80, "H100-SXM": 80, "H200": 141, "H200-SXM": 141, "B200": 180, "RTX3090": 24, "RTX4090": 24, "RTX5090": 32, "RTXA6000": 48, "A6000": 48,
}
"""GiB of one GPU, for catalogs that do not say."""


def offers_of(row: Mapping[str, Any], infra: Sequence[str], disk_gib: int) -> Iterator[Offer]:
    """The machine of a row on demand and at spot price; none outside `infra`, without an instance type or an NVIDIA GPU."""
    gpu, count = str(row["accelerator_name"]), float(row["accelerator_count"] or 0)
    place = f"{str(row['cloud']).lower()}/{row['region']}"
    allowed = not infra or any(place == one or place.startswith(f"{one}/") for one in infra)
    if not allowed or not row["instance_type"] or count < 1 or count % 1 or gpu.lower().startswith(NOT_NVIDIA):
        return
    memory = row["device_memory"] or GPU_GIB.get(gpu, 0.0)
    for spot, price in ((False, row["price"]), (True, row["spot_price"])):
        if price and not math.isnan(price):
            yield Offer(
                provider="sky", name=f"{place} {row['instance_type']}{' spot' if spot else ''}", spot=spot, region=str(row["region"]),
                usd_per_hour=round(price + disk_gib * DISK_USD_PER_GIB_HOUR, 6), device="cuda", cores=int(row["cpu_count"] or 0),
                memory_gib=float(row["memory"] or 0.0), gpu=gpu, gpus=int(count), gpu_memory_gib=round(float(memory), 1), bf16=gpu not in NO_BF16,
                reason=f"{row['cloud']} through SkyPilot", price_source=f"SkyPilot's catalog, {time.strftime('%Y-%m-%d', time.gmtime())}; disk estimated",
            )


def fits(offer: Offer, need: Need) -> bool:
    """Whether one of its GPUs has the memory."""
    return offer.gpu_memory_gib >= (need.gpu_memory_gib or need.memory_gib)
