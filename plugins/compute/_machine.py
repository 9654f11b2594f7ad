"""What this machine has: cores, memory and NVIDIA GPUs, each within what this process may use."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from forge.config import load_data
from forge.protocols import Offer

GIB = 1024**3
NVIDIA_SMI_SECONDS = 20.0
BF16_CAPABILITY = 8.0
"""bfloat16 tensor cores came with Ampere (CUDA C++ programming guide, arithmetic instructions)."""


def cpu_offer() -> Offer:
    """The CPU, with the reason why no GPU stands before it."""
    cores, memory = _cores(), _memory_gib()
    return Offer(
        provider="local", name="cpu", usd_per_hour=_usd_per_hour(), device="cpu", cores=cores, memory_gib=memory,
        bf16=_cpu_has_bf16(),
        reason=f"this machine: {cores} cores, {memory:g} GiB; {_why_no_gpu()}",
    )


def gpu_offers() -> list[Offer]:
    """The GPUs that the installed torch can use, largest memory first."""
    if not _torch_has_cuda():
        return []
    cores, memory = _cores(), _memory_gib()
    offers = [
        Offer(
            provider="local", name=f"gpu-{index}", usd_per_hour=_usd_per_hour(), device="cuda", cores=cores,
            memory_gib=memory, gpu=name, gpu_memory_gib=round(mib / 1024, 1), bf16=capability >= BF16_CAPABILITY,
            reason=f"this machine's {name}",
        )
        for index, name, mib, capability in _nvidia_gpus()
    ]
    return sorted(offers, key=lambda offer: (-offer.gpu_memory_gib, offer.name))


def _nvidia_gpus() -> list[tuple[int, str, int, float]]:
    """(index, name, MiB, compute capability) of each GPU that nvidia-smi lists; none when the tool is missing or fails."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=index,name,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in answer.splitlines() if line.strip()]
    good = [row for row in rows if len(row) == 4 and row[0].isdigit() and row[2].isdigit()]
    return [(int(row[0]), row[1], int(row[2]), _number(row[3])) for row in good]


def _why_no_gpu() -> str:
    if shutil.which("nvidia-smi") is None:
        return "no GPU (nvidia-smi is not on PATH)"
    if not _nvidia_gpus():
        return "no GPU (nvidia-smi lists none)"
    return "also has a GPU" if _torch_has_cuda() else "its GPU is not used: the installed torch is built for CPU only"


def _number(text: str) -> float:
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else 0.0


def _cpu_has_bf16() -> bool:
    """Native bfloat16 products; without them bf16 autocast was 20 times slower than fp32 (AMD Zen 3, 2026-11-20)."""
    flags = re.search(r"^flags\s*:(.*)$", read_text("/proc/cpuinfo"), re.MULTILINE)
    return bool(flags and {"avx512_bf16", "amx_bf16"} & set(flags[1].split()))


def _torch_has_cuda() -> bool:
    """False when the installed torch says "+cpu" in its version; torch itself is not imported here."""
    try:
        return not version("torch").endswith("+cpu")
    except PackageNotFoundError:
        return True


def _cores() -> int:
    """Cores that this process may use: its affinity mask, cut by a cgroup's CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = read_text("/sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit():
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def _memory_gib() -> float:
    """Memory that this process may use: MemTotal, cut by a cgroup's limit. GiB, one decimal."""
    total = re.search(r"^MemTotal:\s+(\d+) kB", read_text("/proc/meminfo"), re.MULTILINE)
    limits = [int(total[1]) * 1024] if total else [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if (text := read_text(name)).isdigit():
            limits.append(int(text))
    return round(min(limits) / GIB, 1)


def _usd_per_hour() -> float:
    return float(load_data("prices")["machines"]["local"]["usd_per_hour"])


def read_text(path: str) -> str:
    """A small system file, "" when this kernel has none."""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
