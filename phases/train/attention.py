"""Attention over packed rows without a flash-attention wheel: torch's own varlen kernel, and the same sums on a CPU.

The examples of a packed row follow each other without padding; `cu_seq_lens_q` says where each begins. No mask is built, so
the fast kernels stay usable and nothing grows with the square of the row.
"""

from __future__ import annotations

import inspect
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

NAME = "torch_varlen"


def register_varlen() -> str:
    """Make "torch_varlen" an attention implementation of transformers; returns the name.

    No mask function is registered under it, so transformers builds none (training research, 1.2).
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
    return NAME


def packed_attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any = None, scaling: float | None = None,
    dropout: float = 0.0, cu_seq_lens_q: torch.Tensor | None = None, max_length_q: int | None = None, **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each example. query, key, value: (batch, heads, tokens, head size); returns (batch, tokens, heads, size)."""
    import torch

    batch, heads, tokens, size = query.shape
    if cu_seq_lens_q is None:  # a plain batch: every row is one sequence
        cu_seq_lens_q = torch.arange(0, (batch + 1) * tokens, tokens, dtype=torch.int32, device=query.device)
        max_length_q = tokens
    flat = [part.transpose(1, 2).reshape(batch * tokens, part.shape[1], size) for part in (query, key, value)]
    attend = _on_gpu if query.is_cuda else _on_cpu
    out = attend(flat[0], flat[1], flat[2], cu_seq_lens_q, int(max_length_q or tokens), scaling)
    return out.view(batch, tokens, heads, size), None


def _on_gpu(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, starts: torch.Tensor, longest: int, scaling: float | None) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters  # torch 2.11 and 2.13 name their options differently
    options: dict[str, Any] = {"is_causal": True} if "is_causal" in known else {"window_size": (-1, 0)}
    if scaling is not None and "scale" in known:
        options["scale"] = scaling
    if "enable_gqa" in known:
        options["enable_gqa"] = True
    elif query.shape[1] != key.shape[1]:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    out: torch.Tensor = varlen_attn(query, key, value, starts, starts, longest, longest, **options)
    return out


def _on_cpu(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, starts: torch.Tensor, longest: int, scaling: float | None) -> torch.Tensor:
    """One call of torch's attention for each example; float32 sums in a fixed order."""
    import torch

    groups, bounds = query.shape[1] // key.shape[1], starts.tolist()
    parts = []
    for first, last in pairwise(bounds):
        one = [part[first:last].transpose(0, 1)[None] for part in (query, key, value)]
        out = torch.nn.functional.scaled_dot_product_attention(one[0], one[1], one[2], is_causal=True, scale=scaling, enable_gqa=groups > 1)
        parts.append(out[0].transpose(0, 1))
    return torch.cat(parts)
