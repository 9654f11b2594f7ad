"""torch and its friends, set up to be quiet, offline and deterministic."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path

QUIET = ("transformers", "trl", "peft")


def prepare_libraries(threads: int, seed: int, cache: Path) -> int:
    """Fix threads and seed, allow only deterministic kernels, no network, no telemetry, no bars; returns how many GPUs there are.

    Must run before the first import of transformers: huggingface_hub reads its environment once, when it is imported.
    """
    os.environ |= {
        "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_CACHE": str(cache), "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error",
    }
    for module in QUIET:  # deprecations that trl's own defaults raise
        warnings.filterwarnings("ignore", category=FutureWarning, module=module)
    logging.getLogger("trl").setLevel(logging.ERROR)  # it warns of padding-free rows in batches of one
    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    gpus = keep_one_gpu()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(not torch.cuda.is_available())  # on a GPU they are slow, or missing, and kernels differ anyway
    # Deterministic mode also fills fresh memory with NaN, which no kernel of ours reads: 45 % of a tuning step (2026-11-20).
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.manual_seed(seed)
    return gpus


def keep_one_gpu() -> int:
    """Let a process that no launcher started see one GPU only; returns how many there are.

    transformers would wrap the model in nn.DataParallel, which trl refuses. Several GPUs at once were slower than one when they were
    measured (2 H200, DDP: 0.58 times one, 2026-11-21); what was found to cause it is mended, but not measured again.
    """
    import torch

    there = int(torch.cuda.device_count())
    if there > 1 and "WORLD_SIZE" not in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return there


def pick_device() -> str:
    """"cuda" where there is one, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def pick_precision(planned: str, device: str) -> tuple[str, str]:
    """The precision that is used, "bf16" or "fp32", and why.

    A CPU without bfloat16 units emulates them: 213 tokens/s against 4,600 in fp32 (2.1 M parameters, Zen 3, 2026-11-20).
    fp32 holds every bf16 value, so falling back costs nothing but the speed that was not there.
    """
    import torch

    if planned in ("fp32", "float32"):
        return "fp32", "the plan asks for it"
    if device == "cuda" or torch.cpu._is_avx512_bf16_supported():
        return "bf16", "the plan asks for it and the machine has the units"
    return "fp32", f"the plan asks for {planned}, which this CPU would emulate 20 times slower"
