"""The adapter folded into its base: one Hugging Face folder that anybody can load without peft.

Float32 maths; stored in the base's own dtype. The tokenizer files are the base's, byte for byte: transformers 5 drops
added_tokens_decoder when it saves a tokenizer, and converters need it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.errors import ForgeError
from forge.phases.quantize.gguf_tokenizer import special_ids
from forge.phases.quantize.reference import ChatTokenizer, Reference, load_model
from forge.phases.quantize.rows import Row, encode_row
from forge.phases.quantize.tensors import list_tensors, load_tensor
from forge.records import Record, Verdict, write_json

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "vocab.json", "merges.txt", "tokenizer.model",
)
TORCH_TYPES = {"F64": "float32", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
RELATIVE_TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 3e-3}
"""Largest logit difference, as a share of the largest logit. float32 differs by the order of sums only (measured 3e-7 on
a 2-layer model); the others by the rounding of the stored weights (8 and 11 bits)."""
CHECKED_POSITIONS = 16


class MergeCheck(Record):
    """How the stored model compares with base + adapter. Differences are relative to the largest logit."""

    difference: float
    tolerance: float
    prompts: int
    dtype: str


def merge_adapter(base: Path, adapter: Path, target: Path, rows: list[Row]) -> MergeCheck:
    """Write the merged model to the folder `target` and compare it with base + adapter on the rows' prompts.

    adapter: or a whole model, where all weights were tuned; then there is nothing to merge.
    `target` appears under its name only when complete. Raises ForgeError for an adapter that is zero or not finite.
    """
    if is_whole(adapter):
        refuse_unchanged(base, adapter)
    else:
        refuse_empty_adapter(adapter)
    tokenizer = ChatTokenizer(base)
    prompts = [encode_row(row, tokenizer).prompt for row in rows]
    model, tuned = _merged(base, adapter, prompts, tokenizer)
    dtype = TORCH_TYPES[list_tensors(base)[0].dtype]
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    _save(model, base, partial, dtype)
    del model   # float32 weights of a 7B are 28 GB; twice is enough
    stored = Reference(load_model(partial), tokenizer)
    difference = max(
        relative_difference(expected, stored.logits(prompt, last=len(expected)))
        for prompt, expected in zip(prompts, tuned, strict=True)
    )
    shutil.rmtree(target, ignore_errors=True)   # complete, but of an attempt that was killed before it was noted
    partial.replace(target)
    return MergeCheck(
        difference=float(f"{difference:.3g}"), tolerance=RELATIVE_TOLERANCE[dtype], prompts=len(prompts), dtype=dtype
    )


def judge_merge(check: MergeCheck) -> Verdict:
    """Integrity: model/ answers as base + adapter did."""
    return Verdict(
        name="merge_logit_diff", kind="integrity", estimate=check.difference, n=check.prompts, threshold=check.tolerance,
        outcome="pass" if check.difference <= check.tolerance else "fail",
        evidence=f"largest logit difference of model/ ({check.dtype}) from base + adapter, as a share of the largest logit",
    )


def refuse_empty_adapter(adapter: Path) -> None:
    """Raise ForgeError when the adapter would change nothing or break everything."""
    import numpy as np

    changed = False
    for tensor in list_tensors(adapter, "adapter_model"):
        values = load_tensor(tensor)
        if not np.isfinite(values).all():
            raise ForgeError(
                f"the adapter's tensor {tensor.name} is not finite",
                why="training diverged", next="forge resume --from train --set train.learning_rate=<smaller>",
            )
        changed = changed or ("lora_A" not in tensor.name and bool(values.any()))
    if not changed:
        raise ForgeError(
            "the adapter is all zeros", why="lora_B never left its initial value: training changed nothing",
            next="forge logs --phase train",
        )


def is_whole(adapter: Path) -> bool:
    """Whether a tuned artifact is a model of its own, not an adapter."""
    return not (adapter / "adapter_config.json").is_file()


def refuse_unchanged(base: Path, tuned: Path) -> None:
    """Raise ForgeError when full tuning broke the weights or changed none."""
    import numpy as np

    before, changed = {tensor.name: tensor for tensor in list_tensors(base)}, False
    for tensor in list_tensors(tuned):
        values = load_tensor(tensor)
        if not np.isfinite(values).all():
            raise ForgeError(
                f"the tuned tensor {tensor.name} is not finite",
                why="training diverged", next="forge resume --from plan_fit --set plan_fit.learning_rate=<smaller>",
            )
        changed = changed or tensor.name not in before or not np.array_equal(values, load_tensor(before[tensor.name]))
    if not changed:
        raise ForgeError("the tuned weights are the base's", why="training changed nothing", next="forge logs --phase train")


def relative_difference(expected: Array, got: Array) -> float:
    """Largest absolute difference as a share of the largest absolute value."""
    import numpy as np

    return float(np.abs(expected - got).max() / max(float(np.abs(expected).max()), 1e-12))


def _merged(base: Path, adapter: Path, prompts: list[tuple[int, ...]], tokenizer: ChatTokenizer) -> tuple[Any, list[Array]]:
    """The merged model and the logits that base + adapter gave before merging."""
    from peft import PeftModel

    tuned = load_model(adapter) if is_whole(adapter) else PeftModel.from_pretrained(load_model(base), adapter)
    before = Reference(tuned, tokenizer)
    expected = [before.logits(prompt, last=min(CHECKED_POSITIONS, len(prompt))) for prompt in prompts]
    tuned = tuned.to("cpu")
    return tuned if is_whole(adapter) else tuned.merge_and_unload(safe_merge=True), expected


def _save(model: Any, base: Path, folder: Path, dtype: str) -> None:
    import torch

    model.to(getattr(torch, dtype)).save_pretrained(folder)
    for name in TOKENIZER_FILES:
        if (base / name).exists():
            shutil.copyfile(base / name, folder / name)
    _write_generation_config(folder)


def _write_generation_config(folder: Path) -> None:
    """Greedy, and stopping at the end of the turn: what the model was trained and measured with."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    special = special_ids(tokenizer, settings)
    pad = special.get("padding", special["eos"])
    write_json(
        folder / "generation_config.json",
        {"do_sample": False, "eos_token_id": sorted({special["eos"], pad}), "pad_token_id": pad},
    )
