"""A model that one GPU cannot hold, split over all of them (FSDP2): each layer is gathered for its pass and forgotten after it.

torch's own fully_shard, not accelerate's: that one raises trained weights to float32, and keeps no checkpoint of an optimizer that
is not torch's. Frozen and trained weights, their moments and float32 copies are all cut alike, along the first dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from forge.phases.train.distributed import local_rank, processes, processes_here, wait_for_all


def in_turn(make: Callable[[], Any]) -> Any:
    """What `make` returns, one process of this machine after the other: its memory holds one whole model at a time."""
    made = None
    for number in range(max(1, processes_here())):
        if number == local_rank():
            made = make()
        wait_for_all()
    return made


def split_model(model: Any, device: str) -> Any:
    """Cut the model, whole on the CPU or the GPU, into shards on `device`; every process keeps its own. Returns the model.

    model: with its adapter, before an optimizer is made. Layers are groups of their own; embedding, last norm and head are one that
    stays gathered, since both ends of a pass need it.
    """
    import torch
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = torch.distributed.init_device_mesh(device, (processes(),))
    exact = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    for layer in _causal(model).model.layers:
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


def save_shards(folder: Path, model: Any, optimizer: Any) -> None:
    """Write each process' part of the trained weights and of the optimizer's state (torch.distributed.checkpoint). All have to call it."""
    from torch.distributed import checkpoint

    checkpoint.save(_state(model, optimizer), checkpoint_id=str(folder))


def load_shards(folder: Path, model: Any, optimizer: Any) -> None:
    """Put them back in place, also with another number of processes when all files are here. All have to call it."""
    from torch.distributed import checkpoint

    checkpoint.load(_state(model, optimizer), checkpoint_id=str(folder))


def _state(model: Any, optimizer: Any) -> dict[str, Any]:
    """Weights and moments by name, as DTensors that share the real ones' memory; moments that are not there yet are made."""
    import torch

    inner = _plain(optimizer)
    state: dict[str, Any] = {}
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        state[f"weight.{name}"] = weight.detach()
        for key, value in _moments(inner, weight).items():
            state[f"{key}.{name}"] = value if value.dim() == 0 or not isinstance(weight, torch.distributed.tensor.DTensor) else _like(weight, value)
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
    """The value as a DTensor that is cut like the weight."""
    from torch.distributed.tensor import DTensor

    if isinstance(value, DTensor):
        return value
    return DTensor.from_local(value, weight.device_mesh, weight.placements, run_check=False, shape=weight.shape, stride=weight.stride())


def _plain(optimizer: Any) -> Any:
    """The optimizer itself, not accelerate's wrapper."""
    return getattr(optimizer, "optimizer", optimizer)


def _causal(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
