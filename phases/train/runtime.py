"""torch and its friends, set up to be quiet, offline and deterministic."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path

QUIET = ("transformers", "trl", "peft")


def prepare_libraries(threads: int, seed: int, cache: Path) -> None:
    """Fix threads and seed, allow only deterministic kernels, no network, no telemetry, no bars.

    Must run before the first import of transformers: huggingface_hub reads its environment once, when it is imported.
    """
    os.environ |= {
        "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_CACHE": str(cache), "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error",
    }
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # rows of ever other lengths leave no holes; as measured in bench/
    for module in QUIET:  # deprecations that trl's own defaults raise
        warnings.filterwarnings("ignore", category=FutureWarning, module=module)
    logging.getLogger("trl").setLevel(logging.ERROR)  # it warns of padding-free rows in batches of one
    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(not torch.cuda.is_available())  # on a GPU they are slow, or missing, and kernels differ anyway
    # Deterministic mode also fills fresh memory with NaN, which no kernel of ours reads: 45 % of a tuning step (2026-11-20).
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.manual_seed(seed)


def count_gpus() -> int:
    """How many GPUs this process sees. Asks the driver, so that keep_one_gpu() can still hide some."""
    import torch

    return int(torch.cuda.device_count())


def keep_one_gpu() -> None:
    """Let this process see one GPU only, before anything has touched them: transformers would use nn.DataParallel, which trl refuses."""
    if count_gpus() > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]


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
