"""What must be true of the rows before training and of the adapter after it. A guard that fails stops the run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from forge.errors import GateFailed
from forge.phase import Context
from forge.phases.train.packing import IGNORED, Encoded, labels_of
from forge.records import Plan

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

APPROVED = ("train", "val", "pretrain", "pretrain_val", "tokenizer", "base_source")
ENOUGH_STEPS = 20
"""Fewer steps say nothing about whether the loss falls: a dry run takes four."""


def check_data(plan: Plan, ctx: Context) -> None:
    """Raise GateFailed unless the data are, byte for byte, the data of the approved plan."""
    for name in APPROVED:
        approved, given = plan.data.get(name, ""), ctx.input_sha256(name)
        if approved != given:
            raise GateFailed(
                "the data changed after approval",
                why=f"{name} has sha256 {given[:12]}, the approved plan names {approved[:12] or 'none'}",
                next="forge resume --from plan_fit, then approve the new plan",
            )


def check_rows(
    examples: Sequence[Encoded], rows: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> dict[str, bool | None]:
    """Check the encoded rows that the trainer really uses against those that were given. Raises GateFailed.

    rows: columns prompt and completion. `max_length` is in tokens.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    enforce("no_row_lost", len(examples) == len(rows), f"{len(rows)} rows were given, {len(examples)} are left")
    for index, (example, row) in enumerate(zip(examples, rows, strict=True)):
        ids, labels = list(example.ids), labels_of(example)
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        told = f"row {index}: {tokenizer.decode(ids)[:120]!r}"
        enforce("eos_in_labels", eos in labels, f"the template does not end the answer with {tokenizer.eos_token}; {told}")
        enforce("single_bos", bos is None or ids[:2] != [bos, bos], told)
        enforce("prompt_masked", ids[: len(prompt)] == prompt and all(label == IGNORED for label in labels[: len(prompt)]), told)
        enforce("no_truncation", len(ids) <= max_length, f"{len(ids)} tokens, the plan allows {max_length}; {told}")
    return dict.fromkeys(("no_row_lost", "eos_in_labels", "single_bos", "prompt_masked", "no_truncation"), True)


def check_training(
    weights: Mapping[str, torch.Tensor], losses: Sequence[float], val_losses: Sequence[float]
) -> dict[str, bool | None]:
    """Check what came out; `loss_fell` is None after too few steps to tell. Raises GateFailed."""
    for name, weight in sorted(weights.items()):
        enforce("adapter_not_zero", bool(weight.any()), f"{name} is all zero: it was never trained")
    enforce("losses_finite", all(map(math.isfinite, [*losses, *val_losses])), "a loss is not a number")
    fell = None
    if len(losses) >= ENOUGH_STEPS:
        tenth = max(1, len(losses) // 10)
        before, after = sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
        fell = after < before
        enforce("loss_fell", fell, f"mean loss of the first tenth {before:.3f}, of the last {after:.3f}")
    return {"adapter_not_zero": True, "losses_finite": True, "loss_fell": fell}


def enforce(guard: str, holds: bool, why: str) -> None:
    """Raise GateFailed naming the guard unless it holds."""
    if not holds:
        raise GateFailed(
            f"training guard {guard} failed", why=why, next="forge show train; mend the rows in shape, then forge resume --from shape"
        )
