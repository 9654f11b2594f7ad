"""What the Hub's hardware is, what it costs, and what an attempt was asked for with."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

from forge.plugins.compute._hf_hub import label
from forge.plugins.compute._state import private_folder, write_private
from forge.protocols import Lease, Need, Offer
from forge.records import Record

if TYPE_CHECKING:
    from huggingface_hub import JobHardwareInfo, JobInfo

UNIT = "forge-unit"
UNIT_SECONDS = {"second": 1, "minute": 60, "hour": 3600}
NO_BF16 = {"T4", "V100", "P100"}
GIB_PER_GB = 1e9 / 2**30


def offer_of(hardware: JobHardwareInfo, image: str) -> Offer | None:
    """The offer for one flavor; None for what we cannot use or price."""
    chip = hardware.accelerator
    if hardware.unit_label not in UNIT_SECONDS or (chip and chip.type != "gpu"):
        return None
    gpus = int(number(chip.quantity)) if chip else 0
    return Offer(
        provider="hf-jobs", name=hardware.name, usd_per_hour=hardware.unit_cost_usd * 3600 / UNIT_SECONDS[hardware.unit_label],
        device="cuda" if chip else "cpu", cores=int(number(hardware.cpu)), memory_gib=round(number(hardware.ram) * GIB_PER_GB, 1),
        gpu=f"{chip.manufacturer} {chip.model}" if chip else "", gpus=max(1, gpus),
        gpu_memory_gib=round(number(chip.vram) * GIB_PER_GB / max(1, gpus), 1) if chip else 0.0, bf16=bool(chip and chip.model not in NO_BF16),
        image=image, reason=hardware.pretty_name, price_source=f"Hugging Face, list_jobs_hardware, {time.strftime('%Y-%m-%d', time.gmtime())}",
    )


def fits(offer: Offer, hardware: JobHardwareInfo, need: Need) -> bool:
    if need.gpu and offer.device != "cuda":
        return False
    disk = number(hardware.ephemeral_storage) * GIB_PER_GB
    memory = offer.gpu_memory_gib if offer.device == "cuda" else offer.memory_gib
    return memory >= max(need.memory_gib, need.gpu_memory_gib if offer.device == "cuda" else 0.0) and (not disk or disk >= need.disk_gib)


def number(text: str) -> float:
    """The number in "46 GB", "12 vCPU" or "1"; 0 when there is none ("N/A")."""
    found = re.search(r"[0-9.]+", text)
    return float(found[0]) * (1000 if "TB" in text else 1) if found else 0.0


def cost(job: JobInfo) -> int:
    if job.durations and job.durations.running_secs is not None:
        seconds = float(job.durations.running_secs)
    elif job.started_at and job.finished_at:
        seconds = (job.finished_at - job.started_at).total_seconds()
    else:
        return 0
    return units(seconds, str((job.labels or {}).get(UNIT, "0-minute")))


def units(seconds: float, unit: str) -> int:
    """Begun units in micro-dollars."""
    micro, _, label = unit.partition("-")
    return math.ceil(seconds / UNIT_SECONDS[label]) * int(micro)


class StartNote(Record):
    """What an attempt was, or will be, asked for with. asked: seconds since 1970. unit: the price as a label."""

    word: str
    attempt: int
    asked: float
    deadline_seconds: float
    unit: str

    def most(self) -> int:
        """The most that it can have cost by now, in micro-dollars."""
        passed = time.time() - self.asked
        return units(min(passed, self.deadline_seconds) if passed >= 0 else self.deadline_seconds, self.unit)


def start_note(lease: Lease, unit: str) -> tuple[StartNote, bool]:
    """The attempt's note, and whether it is new. Kept until the lease is settled."""
    path = private_folder("hf-jobs") / f"{label(lease.token)}.{lease.attempt}"
    known = StartNote.model_validate_json(path.read_text(encoding="utf-8")) if path.exists() else None
    note = StartNote(
        word=known.word if known else token_hex(16), attempt=lease.attempt, asked=known.asked if known else time.time(),
        deadline_seconds=lease.deadline_seconds, unit=unit,   # of this offer: an earlier one of the attempt may not have been to be had
    )
    write_private(path, note.model_dump_json().encode())
    return note, known is None


def notes(lease: str) -> list[Path]:
    return sorted(private_folder("hf-jobs").glob(f"{label(lease)}.*"))


def words() -> dict[str, tuple[str, int]]:
    """The words of all attempts that were noted here and are not settled -> (label of the lease, attempt)."""
    found = {}
    for path in private_folder("hf-jobs").glob("*.*[0-9]"):
        if not path.name.startswith("."):
            note = StartNote.model_validate_json(path.read_text(encoding="utf-8"))
            found[note.word] = (path.name.rpartition(".")[0], note.attempt)
    return found
