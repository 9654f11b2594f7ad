"""A model that one GPU cannot hold, split over all of them (FSDP2): each layer is gathered for its pass and forgotten after it.

torch's own fully_shard, not accelerate's: that one raises trained weights to float32, and keeps no checkpoint of an optimizer that
is not torch's. Frozen and trained weights, their moments and float32 copies are all cut alike, along the first dimension.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forge.phases.train.checkpoints import latest_checkpoint, verified_step
from forge.phases.train.distributed import (
    any_of,
    from_first,
    local_rank,
    processes,
    processes_here,
    rank,
    told,
    wait_for_all,
)


def in_turn(make: Callable[[], Any]) -> Any:
    """What `make` returns, one process of this machine after the other: its memory holds one whole model at a time."""
    made = None
    for number in range(max(1, processes_here())):
        if number == local_rank():
            made = make()
        wait_for_all()
    return made


def causal(model: Any) -> Any:
    """The causal language model itself, without its adapter's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def split_model(model: Any, device: str) -> Any:
    """Cut the model, whole on the CPU or the GPU, into shards on `device`; every process keeps its own. Returns the model.

    model: with its adapter, before an optimizer is made. Layers are groups of their own; embedding, last norm and head are one that
    stays gathered, since both ends of a pass need it.
    """
    import torch
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = torch.distributed.init_device_mesh(device, (processes(),))
    exact = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    for layer in causal(model).model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=exact)
    fully_shard(model, mesh=mesh, mp_policy=exact)
    return model


def is_split(model: Any) -> bool:
    """Whether split_model() has cut it."""
    import torch

    return isinstance(model, torch.distributed.fsdp.FSDPModule)


def local(weight: Any) -> Any:
    """This process' part of a weight that is split, the weight itself otherwise; shares its memory."""
    return weight.to_local() if hasattr(weight, "to_local") else weight


def whole(weight: Any) -> Any:
    """All of a weight, on every process. All have to ask for the same one."""
    return weight.full_tensor() if hasattr(weight, "full_tensor") else weight


def norm_over_shards(locals_: list[Any]) -> Any:
    """The norm of what all processes have together, a tensor: nothing waits for it."""
    import torch

    norms = torch.stack(torch._foreach_norm(locals_)) if locals_ else torch.zeros(1)
    square = norms.square().sum()
    torch.distributed.all_reduce(square)
    return square.sqrt()


def clip_shards(weights: Any, max_norm: float, norm_type: float = 2.0) -> Any:
    """torch.nn.utils.clip_grad_norm_ for split weights; returns the norm before."""
    import torch

    gradients = [local(weight.grad) for weight in weights if weight.grad is not None]
    norm = norm_over_shards(gradients)
    torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


def trained_weights(model: Any) -> dict[str, Any]:
    """Every trained weight in full by its name, on the CPU of the first process of each machine; empty elsewhere."""
    found = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            value = whole(weight.detach())
            if local_rank() == 0:
                found[name] = value.cpu()
    return found


METADATA = ".metadata"
"""What torch.distributed.checkpoint writes last: which file has which part."""
SCHEDULE, STATE = "scheduler.pt", "trainer_state.json"
KEPT = 2


def holds_shards(folder: Path) -> bool:
    """Whether a checkpoint is a split model's."""
    return (folder / METADATA).is_file()


def shared_checkpoint(root: Path, *, split: bool) -> tuple[int, Path] | None:
    """The newest checkpoint that every process sees whole, with its step; None without any. All have to ask.

    A split model cannot go on from one that is not; the other way round works.
    """
    found = latest_checkpoint(root)
    step = min(told(found[0] if found else 0))
    folder = root / f"checkpoint-{step}"
    usable = step > 0 and (not split or holds_shards(folder)) and verified_step(folder) == step
    return None if any_of(not usable) else (step, folder)


def save_split(root: Path, model: Any, optimizer: Any, scheduler: Any, state: Any, *, everywhere: bool) -> None:
    """Save a step as root/checkpoint-STEP: each process its part of the trained weights and of the optimizer's state, the first of all (of
    each machine when `everywhere`) what is the same for all. Older ones but one are removed. All have to call it.
    """
    import torch
    from torch.distributed import checkpoint

    folder = root / f"checkpoint-{state.global_step}"
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.save(_state(model, optimizer), checkpoint_id=str(folder))
    if everywhere:  # machines without a common disk: each can go on with its own parts
        metadata = from_first((folder / METADATA).read_bytes() if rank() == 0 else b"")
        if local_rank() == 0:
            (folder / METADATA).write_bytes(metadata)
    if rank() == 0 or (everywhere and local_rank() == 0):
        torch.save(scheduler.state_dict(), folder / SCHEDULE)
        state.save_to_json(str(folder / STATE))
        found = sorted(root.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
        for old in found[KEPT:]:
            shutil.rmtree(old)


def load_split(folder: Path, model: Any, optimizer: Any, scheduler: Any, step: int) -> None:
    """Put everything back in place, also with another number of processes when all files are here. All have to call it."""
    import torch
    from torch.distributed import checkpoint

    checkpoint.load(_state(model, optimizer), checkpoint_id=str(folder), no_dist=not torch.distributed.is_initialized())
    for weight in model.parameters():
        if weight.requires_grad:
            _moments(_plain(optimizer), weight)["step"].fill_(step)
    scheduler.load_state_dict(torch.load(folder / SCHEDULE, weights_only=False))  # our own file: the schedule is an object (schedule.py)
    for group, rate in zip(_plain(optimizer).param_groups, scheduler.get_last_lr(), strict=True):
        group["lr"] = rate


def _state(model: Any, optimizer: Any) -> dict[str, Any]:
    """Weights and moments by name, which share the real ones' memory; moments that are not there yet are made.

    Their step is the training's, and is not saved: a number that all have would lie in one process' file only.
    """
    inner = _plain(optimizer)
    state: dict[str, Any] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            state[f"weight.{name}"] = weight.detach()
            state |= {f"{key}.{name}": _like(weight, value) for key, value in _moments(inner, weight).items() if key != "step"}
    return state


def _moments(optimizer: Any, weight: Any) -> dict[str, Any]:
    import torch

    if hasattr(optimizer, "moments"):  # masters.py
        return dict(optimizer.moments(weight))
    state = optimizer.state[weight]
    if not state:
        state |= {"step": torch.zeros(()), "exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}
    return {key: state[key] for key in ("step", "exp_avg", "exp_avg_sq")}


def _like(weight: Any, value: Any) -> Any:
    """The value as a DTensor that is cut like the weight; as it is where nothing is cut."""
    from torch.distributed.tensor import DTensor

    if isinstance(value, DTensor) or not isinstance(weight, DTensor):
        return value
    return DTensor.from_local(value, weight.device_mesh, weight.placements, run_check=False, shape=weight.shape, stride=weight.stride())


def _plain(optimizer: Any) -> Any:
    """The optimizer itself, not accelerate's wrapper."""
    return getattr(optimizer, "optimizer", optimizer)
