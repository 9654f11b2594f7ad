"""Several GPUs: one process each, started by torchrun; the rows of a step are shared among them (packing.py, `multiple`).

When every GPU can hold the base, each has all of it and only the adapter's gradients travel (DDP). When none can, the layers are
split (FSDP2, through accelerate): a layer is gathered for its pass and forgotten after it.
"""

from __future__ import annotations

import os

FSDP_ENVIRONMENT = {
    "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT", "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}
"""What `accelerate launch --use_fsdp` sets. Layers are wrapped by the model's own list of indivisible modules."""


def use_fsdp() -> None:
    """Ask accelerate for FSDP2; before a trainer is made."""
    os.environ.update(FSDP_ENVIRONMENT)


def fsdp_asked() -> bool:
    """True in a process that was told to split the base."""
    return os.environ.get("ACCELERATE_USE_FSDP") == "true"
