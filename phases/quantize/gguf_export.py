"""A Hugging Face folder as one F16 GGUF file: numpy and gguf only, no torch, no download.

Tensor for tensor byte-identical to llama.cpp's own converter for the families in gguf_shape.ARCHITECTURES (measured
with llama.cpp 0c1e5709 on tiny llama, qwen2 and qwen3 models), which knows no tokenizer that was trained yesterday.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.errors import ForgeError
from forge.phases.quantize.gguf_facts import GgufFile, read_facts
from forge.phases.quantize.gguf_shape import ModelShape, expected_tensors, read_shape, refuse
from forge.phases.quantize.gguf_tokenizer import read_tokenizer
from forge.phases.quantize.tensors import list_tensors, load_tensor

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


def export_f16(model: Path, target: Path, *, name: str, license: str) -> GgufFile:
    """Write `target` from the HF folder `model` and read it back; returns what the file's header says.

    The file appears under its name only when complete. Raises ForgeError for a model that this export does not know,
    a missing or unexpected tensor, or a weight that F16 cannot hold.
    """
    return _export(model, target, "F16", name=name, license=license)


def export_q8_0(model: Path, target: Path, *, name: str, license: str) -> GgufFile:
    """The same with 8 bits a weight, without llama.cpp: tensor for tensor what its quantizer makes of the F16 file (tested)."""
    return _export(model, target, "Q8_0", name=name, license=license)


def _export(model: Path, target: Path, kind: str, *, name: str, license: str) -> GgufFile:
    shape = read_shape(model)
    tensors = gguf_tensors(model, shape)
    partial = target.with_name(target.name + ".partial")
    _write(partial, model, shape, tensors, kind, name=name, license=license)
    facts = read_facts(partial, quantization=kind)
    if facts.parameters != sum(value.size for key, value in tensors.items() if key != "rope_freqs.weight"):
        raise ForgeError(f"{target.name} does not hold the model's {len(tensors)} tensors when read back")
    partial.replace(target)
    return facts.model_copy(update={"name": target.name})


def gguf_tensors(model: Path, shape: ModelShape) -> dict[str, Array]:
    """GGUF name -> values as they are stored (F32 for norms and biases, F16 for matrices), in file order."""
    import gguf

    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, shape.architecture.upper()), shape.layers)
    found: dict[str, Array] = {}
    for tensor in list_tensors(model):
        if tensor.name.endswith("rotary_emb.inv_freq") or (shape.tied and tensor.name == "lm_head.weight"):
            continue
        name = names.get_name(tensor.name, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise refuse(f"the tensor {tensor.name} has no place in a {shape.architecture} GGUF", "it would be lost")
        found[name] = _stored(name, load_tensor(tensor), shape)
    missing, extra = expected_tensors(shape) - set(found), set(found) - expected_tensors(shape)
    if missing or extra:
        raise refuse(
            f"the weights do not fit config.json: {len(missing)} missing, {len(extra)} unexpected",
            f"missing {sorted(missing)[:4]}, unexpected {sorted(extra)[:4]}",
        )
    if shape.rope["rope_type"] == "llama3":
        found["rope_freqs.weight"] = llama3_frequency_factors(shape)
    return dict(sorted(found.items(), key=lambda item: _file_order(item[0])))


def permute_for_rope(weight: Array, heads: int) -> Array:
    """Rows of a q or k projection from halves (transformers) to neighbouring pairs (llama.cpp's `llama`).

    weight: (heads * head_dim, ...). Without it the file loads, and its logits are off by 5 (measured).
    """
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def llama3_frequency_factors(shape: ModelShape) -> Array:
    """(head_dim / 2,) float32: how much each rotation is slowed. Formula: transformers modeling_rope_utils, "llama3"."""
    import numpy as np

    rope = shape.rope
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    context = rope["original_max_position_embeddings"]
    factors = []
    for frequency in 1.0 / rope["rope_theta"] ** (np.arange(0, shape.head_dim, 2, dtype=np.float32) / shape.head_dim):
        wavelength = 2 * math.pi / frequency
        if wavelength < context / high:
            factors.append(1.0)
        elif wavelength > context / low:
            factors.append(factor)
        else:
            smooth = (context / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, dtype=np.float32)


def _stored(name: str, values: Array, shape: ModelShape) -> Array:
    import numpy as np

    if shape.interleaves_rope and name.endswith(("attn_q.weight", "attn_q.bias")):
        values = permute_for_rope(values, shape.heads)
    if shape.interleaves_rope and name.endswith(("attn_k.weight", "attn_k.bias")):
        values = permute_for_rope(values, shape.kv_heads)
    single = values.ndim == 1 or name.endswith("_norm.weight")
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(values, dtype=np.float32 if single else np.float16)
    if not np.isfinite(stored).all():
        largest = float(np.abs(values).max())
        raise ForgeError(f"the tensor {name} does not fit into F16", why=f"its largest value is {largest:g}")
    return stored


def _file_order(name: str) -> tuple[int, int, str]:
    parts = name.split(".")
    return (1, int(parts[1]), name) if parts[0] == "blk" else (0, 0, name)


def _write(path: Path, model: Path, shape: ModelShape, tensors: dict[str, Array], kind: str, *, name: str, license: str) -> None:
    """No wall-clock time and no path goes in: the same model gives the same bytes."""
    import gguf

    writer = gguf.GGUFWriter(path, shape.architecture)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_size_label(gguf.size_label(sum(value.size for value in tensors.values()), 0, 0, 0))
    if license:
        writer.add_license(license)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _write_shape(writer, shape)
    _write_tokenizer(writer, model, shape)
    for key, values in tensors.items():
        _add(writer, key, values, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer: Any, key: str, values: Array, kind: str) -> None:
    """Matrices in the file's type, where their rows are whole blocks of it; everything else as it is."""
    import gguf

    type_ = gguf.GGMLQuantizationType[kind]
    if kind == "F16" or values.dtype != "float16" or values.shape[-1] % gguf.GGML_QUANT_SIZES[type_][0]:
        writer.add_tensor(key, values)
    else:
        writer.add_tensor(key, gguf.quantize(values.astype("float32"), type_), raw_dtype=type_)


def _write_shape(writer: Any, shape: ModelShape) -> None:
    import gguf

    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_freq_base(float(shape.rope["rope_theta"]))
    if shape.architecture == "llama":
        writer.add_rope_dimension_count(shape.head_dim)
        writer.add_vocab_size(shape.vocab)
    kind = shape.rope["rope_type"]
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(float(shape.rope["factor"]))
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(int(shape.rope["original_max_position_embeddings"]))


def _write_tokenizer(writer: Any, model: Path, shape: ModelShape) -> None:
    tokenizer = read_tokenizer(model, shape.vocab)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(tokenizer.pre)
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types(tokenizer.types)
    writer.add_token_merges(tokenizer.merges)
    for kind, number in sorted(tokenizer.special.items()):
        getattr(writer, {"padding": "add_pad_token_id", "unknown": "add_unk_token_id"}.get(kind, f"add_{kind}_token_id"))(number)
    writer.add_add_bos_token(tokenizer.add_bos)
    writer.add_chat_template(tokenizer.chat_template)
