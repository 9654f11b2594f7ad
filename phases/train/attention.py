"""Attention over packed rows without a flash-attention wheel: torch's own varlen kernel, and the same sums on a CPU.

The examples of a packed row follow each other without padding; `cu_seq_lens_q` says where each begins. No mask is built, so
the fast kernels stay usable and nothing grows with the square of the row.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

NAME = "torch_varlen"
KERNEL_CAPABILITY = (8, 0)
"""torch's varlen kernel wants an Ampere GPU and 16 bits (FlashAttention)."""


@functools.cache
def register_varlen() -> str:
    """Make "torch_varlen" an attention implementation of transformers; returns the name.

    No mask function is registered under it, so transformers builds none (training research, 1.2).
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, make_attention())
    return NAME


def make_attention() -> Callable[..., tuple[torch.Tensor, None]]:
    """The function that transformers calls. What differs between versions of torch is looked up here, outside of compiled layers."""
    import torch

    on_gpu = _gpu_kernel() if torch.cuda.is_available() and torch.cuda.get_device_capability() >= KERNEL_CAPABILITY else None
    half = (torch.bfloat16, torch.float16)

    def packed_attention(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any = None, scaling: float | None = None,
        dropout: float = 0.0, cu_seq_lens_q: torch.Tensor | None = None, max_length_q: int | None = None, **_: Any,
    ) -> tuple[torch.Tensor, None]:
        """Causal attention inside each example. query, key, value: (batch, heads, tokens, head size); returns (batch, tokens, heads, size)."""
        batch, heads, tokens, size = query.shape
        if cu_seq_lens_q is None or max_length_q is None:  # a plain batch: every row is one sequence
            cu_seq_lens_q = torch.arange(0, (batch + 1) * tokens, tokens, dtype=torch.int32, device=query.device)
            max_length_q = tokens
        query, key, value = (part.transpose(1, 2).reshape(batch * tokens, part.shape[1], size) for part in (query, key, value))
        if on_gpu is not None and query.is_cuda and query.dtype in half:
            out = on_gpu(query, key, value, cu_seq_lens_q, int(max_length_q), scaling)
        else:
            out = _one_by_one(query, key, value, cu_seq_lens_q, scaling)
        return out.view(batch, tokens, heads, size), None

    return packed_attention


def _gpu_kernel() -> Callable[..., torch.Tensor]:
    """torch.nn.attention.varlen, whose options torch 2.11 and 2.13 name differently."""
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    causal: dict[str, Any] = {"is_causal": True} if "is_causal" in known else {"window_size": (-1, 0)}
    scales, groups = "scale" in known, "enable_gqa" in known

    def attend(query: Any, key: Any, value: Any, starts: Any, longest: int, scaling: float | None) -> torch.Tensor:
        options = dict(causal)
        if scaling is not None and scales:
            options["scale"] = scaling
        if groups:
            options["enable_gqa"] = True
        elif query.shape[1] != key.shape[1]:
            times = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
        out: torch.Tensor = varlen_attn(query, key, value, starts, starts, longest, longest, **options)
        return out

    return attend


def _one_by_one(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, starts: torch.Tensor, scaling: float | None) -> torch.Tensor:
    """One call of torch's attention for each example; sums in a fixed order. For CPUs, float32, and GPUs without the kernel."""
    import torch

    groups, parts = query.shape[1] // key.shape[1], []
    for first, last in pairwise(starts.tolist()):
        one = [part[first:last].transpose(0, 1)[None] for part in (query, key, value)]
        out = torch.nn.functional.scaled_dot_product_attention(one[0], one[1], one[2], is_causal=True, scale=scaling, enable_gqa=groups > 1)
        parts.append(out[0].transpose(0, 1))
    return torch.cat(parts)
