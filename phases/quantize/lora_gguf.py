"""The adapter alone as a GGUF file, for people who have the base already: `llama-cli -m base.gguf --lora adapter.gguf`.

Format: llama.cpp convert_lora_to_gguf.py (0c1e5709). llama.cpp multiplies by alpha / rank; rank-stabilised adapters, which
were trained with alpha / sqrt(rank), are stored with a larger alpha. Proven, not assumed: base + adapter in llama.cpp is
compared with the merged file.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.errors import ForgeError
from forge.phases.quantize.gguf_export import export_f16, permute_for_rope
from forge.phases.quantize.gguf_shape import ModelShape, read_shape, refuse
from forge.phases.quantize.llama import Llama
from forge.phases.quantize.tensors import list_tensors, load_tensor
from forge.records import Record, Verdict
from forge.store import hash_file

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

KEY = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight")
COMPARED_TOKENS = 32


class LoraFile(Record):
    """The adapter's file. rank: columns of its matrices; difference: of its logits from the merged file's."""

    name: str
    bytes: int
    sha256: str
    rank: int
    difference: float


def export_lora(adapter: Path, base: Path, target: Path, *, name: str) -> int:
    """Write `target` from a peft folder, F16; it appears under its name only when complete. Returns the rank.

    Raises ForgeError for what llama.cpp could not apply: DoRA, bias, weights other than plain LoRA matrices.
    """
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    if config.get("use_dora") or config.get("bias", "none") != "none" or config.get("rank_pattern") or config.get("alpha_pattern"):
        raise refuse("the adapter is not a plain LoRA", "llama.cpp applies one rank and one alpha to pairs of matrices")
    rank, shape = int(config["r"]), read_shape(base)
    alpha = float(config["lora_alpha"]) * (math.sqrt(rank) if config.get("use_rslora") else 1.0)
    _write(target, _tensors(adapter, shape), shape, alpha, name)
    return rank


def check_lora(
    llama: Llama, base: Path, file: Path, merged: Path, prompts: Sequence[tuple[int, ...]], limit: float | None
) -> tuple[float, Verdict]:
    """Integrity: base + adapter computes what the merged F16 file computes. The base's own F16 file is made and removed."""
    import numpy as np

    plain = file.with_name("base-F16.gguf")
    export_f16(base, plain, name="base", license="")
    context = max(len(ids) for ids in prompts) + 1
    answers = []
    for path, lora in ((merged, None), (plain, file)):
        llama.open(path, context_tokens=context, lora=lora)
        answers.append([llama.logits(list(ids), last=min(COMPARED_TOKENS, len(ids))) for ids in prompts])
    plain.unlink()
    largest = max(float(np.abs(a - b).max()) for a, b in zip(*answers, strict=True))
    passed = limit is not None and largest <= limit
    outcome: Any = "undecided" if limit is None else "pass" if passed else "fail"
    return largest, Verdict(
        name="lora_logit_diff", kind="integrity", estimate=float(f"{largest:.4g}"), n=len(prompts), threshold=limit, outcome=outcome,
        evidence="largest logit difference between the base with the adapter's file and the merged F16 file, both in llama.cpp",
    )


def describe_lora(file: Path, rank: int, difference: float) -> LoraFile:
    """What the report says about the file."""
    size, sha256 = file.stat().st_size, hash_file(file)
    return LoraFile(name=file.name, bytes=size, sha256=sha256, rank=rank, difference=float(f"{difference:.4g}"))


def _tensors(adapter: Path, shape: ModelShape) -> dict[str, Array]:
    """GGUF name -> float32 values; q and k of `llama` permuted along their outputs, as in the base's file."""
    import gguf

    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, shape.architecture.upper()), shape.layers)
    found: dict[str, Array] = {}
    for tensor in list_tensors(adapter, "adapter_model"):
        match = KEY.fullmatch(tensor.name)
        name = names.get_name(f"{match['layer']}.weight", try_suffixes=(".weight",)) if match else None
        if match is None or name is None:
            raise refuse(f"the adapter's tensor {tensor.name} has no place in a GGUF file", "only LoRA pairs on the model's matrices have")
        values = load_tensor(tensor).astype("float32")
        if match["side"] == "B" and shape.interleaves_rope and name.endswith(("attn_q.weight", "attn_k.weight")):
            values = permute_for_rope(values, shape.heads if "attn_q" in name else shape.kv_heads)
        found[f"{name}.lora_{match['side'].lower()}"] = values
    if not found:
        raise ForgeError("the adapter holds no matrices")
    return dict(sorted(found.items()))


def _write(target: Path, tensors: dict[str, Array], shape: ModelShape, alpha: float, name: str) -> None:
    import gguf
    import numpy as np

    partial = target.with_name(target.name + ".partial")
    writer = gguf.GGUFWriter(partial, shape.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_name(name)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    for key, values in tensors.items():
        writer.add_tensor(key, np.ascontiguousarray(values, dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(target)
