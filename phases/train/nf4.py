"""A frozen base in 4 bits (QLoRA, arXiv:2305.14314) for GPUs that bfloat16 does not fit, and the base that it really was.

The merge trap: NF4 changes a weight by 9 % of its norm. An adapter trained on rounded weights and merged into the original ones
gives a model that nobody trained (measured: 9.2 times the adapter away, training research 1.6), and merged back into 4 bits the
adapter is lost. So the rounded weights, written out in full precision, become the run's base: what is evaluated, merged and
exported is base + adapter as trained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from forge.errors import MissingAccess

if TYPE_CHECKING:
    import torch


def freeze_in_nf4(model: Any, device: str) -> int:
    """Turn every Linear of the layers into 4 bits on `device` (double quantized scales, bfloat16 products); returns how many."""
    import torch

    bitsandbytes = load_bitsandbytes()
    count = 0
    for layer in model.model.layers:
        for parent in (layer.self_attn, layer.mlp):
            for name, module in list(parent.named_children()):
                if type(module) is torch.nn.Linear:
                    setattr(parent, name, _four_bits(module, bitsandbytes, device))
                    count += 1
    return count


def rounded_weight(module: Any) -> torch.Tensor:
    """The weight (out, in) that a 4-bit Linear computes with, in bfloat16."""
    import torch

    functional = load_bitsandbytes().functional
    weight: torch.Tensor = functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
    return weight.to(torch.bfloat16)


def restore_rounded(model: Any) -> int:
    """Replace every 4-bit Linear by an ordinary one with the rounded weight; returns how many. The inverse of freezing, less its error.

    model: a causal language model whose adapter has been taken off (PeftModel.unload).
    """
    import torch

    count = 0
    for layer in model.model.layers:
        for parent in (layer.self_attn, layer.mlp):
            for name, module in list(parent.named_children()):
                if type(module).__name__ == "Linear4bit":
                    plain = torch.nn.Linear(module.in_features, module.out_features, bias=module.bias is not None, device="meta")
                    plain.weight = torch.nn.Parameter(rounded_weight(module), requires_grad=False)
                    plain.bias = module.bias
                    setattr(parent, name, plain)
                    count += 1
    return count


def load_bitsandbytes() -> Any:
    """The library. Raises MissingAccess when it is not installed."""
    try:
        import bitsandbytes
    except ImportError as error:
        raise MissingAccess(
            "4-bit training needs bitsandbytes", why=str(error), next='pip install "slm-forge[qlora]", or forge resume --set train.precision=bf16'
        ) from error
    return bitsandbytes


def _four_bits(module: Any, bitsandbytes: Any, device: str) -> Any:
    import torch

    made = bitsandbytes.nn.Linear4bit(
        module.in_features, module.out_features, bias=module.bias is not None, compute_dtype=torch.bfloat16,
        compress_statistics=True, quant_type="nf4", device="meta",
    )
    made.weight = bitsandbytes.nn.Params4bit(
        module.weight.data.to(torch.bfloat16), requires_grad=False, compress_statistics=True, quant_type="nf4"
    ).to(device)
    made.bias = None if module.bias is None else torch.nn.Parameter(module.bias.data.to(device), requires_grad=False)
    return made
