"""Several processes that train together, one for each GPU: who they are, what they agree on, and how gradients meet.

A step's rows are dealt to the processes (packing.py, `multiple`); each adds up its share of the loss, and the gradients are averaged
once a step, before they are clipped. That is all that DistributedDataParallel would do for a LoRA adapter, without its wrapper:
under it dynamo compiled every layer again, and two H200 made 0.58 times one (2026-11-21). Wishes to stop, limits and failures are
agreed on over gloo, on the CPU, so that no one waits for a GPU because of them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

BUCKET = 2**26
"""Gradients that travel together: 256 MiB in float32."""
PATIENCE_MINUTES = 20
"""A collective that takes longer has lost a process; loading in turn (shards.py) is the longest wait of a healthy run."""


def processes() -> int:
    """How many processes train together (one without a launcher)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process' number among all of them."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """This process' number on its machine: the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def processes_here() -> int:
    """How many of them are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def share_of_step(tokens: int) -> int:
    """The most tokens that a process has of a step with so many; the shares are equal up to a fiftieth (packing.py)."""
    return tokens if processes() == 1 else math.ceil(1.02 * tokens / processes())


def join(device: str) -> None:
    """Meet the other processes; before a trainer is made. device: "cuda" or "cpu". Nothing without a launcher."""
    if processes() == 1 and "RANK" not in os.environ:
        return
    import torch

    if device == "cuda":
        torch.cuda.set_device(local_rank())
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", timeout=timedelta(minutes=PATIENCE_MINUTES))


def leave() -> None:
    """Part from the others."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def any_of(claim: bool) -> bool:
    """Whether it is true for any process. All have to ask."""
    return max(told(int(claim))) > 0


def told(number: int) -> list[int]:
    """The number of every process, by rank. All have to ask."""
    if processes() == 1:
        return [number]
    import torch

    mine = torch.tensor([number], dtype=torch.int64)
    theirs = [torch.zeros_like(mine) for _ in range(processes())]
    torch.distributed.all_gather(theirs, mine)
    return [int(one) for one in theirs]


def first_says(number: int) -> int:
    """The first process' number, for all. All have to ask."""
    return told(number)[0]


def wait_for_all() -> None:
    """Until every process is here."""
    told(0)


def one_disk(folder: Path) -> bool:
    """Whether all processes see the same folder. All have to ask."""
    if processes() == processes_here():
        return True
    mark = folder / ".seen-by-the-first"
    folder.mkdir(parents=True, exist_ok=True)
    if rank() == 0:
        mark.touch()
    wait_for_all()
    seen = not any_of(not mark.exists())
    if rank() == 0:
        mark.unlink()
    return seen


def from_first(value: Any) -> Any:
    """What the first process has, a Python object, for all. All have to ask."""
    import torch

    box = [value]
    torch.distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def share_start(weights: Sequence[Any]) -> None:
    """Let all begin with the first process' values: random ones of two GPUs need not agree."""
    import torch

    for weight in weights:
        torch.distributed.broadcast(weight.data, src=0)


def share_gradients(weights: Sequence[Any]) -> None:
    """Replace every gradient by its mean over all processes, added up in float32."""
    import torch

    gradients = [weight.grad for weight in weights if weight.grad is not None]
    for bucket in _buckets(gradients):
        flat = torch.cat([one.reshape(-1).float() for one in bucket])
        torch.distributed.all_reduce(flat)
        flat /= processes()
        torch._foreach_copy_(bucket, [part.view_as(one) for part, one in zip(flat.split([one.numel() for one in bucket]), bucket, strict=True)])


def _buckets(gradients: Sequence[Any]) -> list[list[Any]]:
    buckets: list[list[Any]] = []
    room = 0
    for one in gradients:
        if one.numel() > room:
            buckets.append([])
            room = BUCKET
        buckets[-1].append(one)
        room -= one.numel()
    return buckets
