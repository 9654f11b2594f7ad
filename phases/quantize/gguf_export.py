"""A Hugging Face folder as one F16 GGUF file: numpy and gguf only, no torch, no download.

Tensor for tensor byte-identical to llama.cpp's own converter for the families in gguf_shape.ARCHITECTURES (measured
with llama.cpp 0c1e5709 on tiny llama, qwen2 and qwen3 models), which knows no tokenizer that was trained yesterday.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from forge.errors import ForgeError
from forge.phases.quantize.gguf_facts import GgufFile, read_facts
from forge.phases.quantize.gguf_shape import ModelShape, expected_tensors, read_shape, refuse
from forge.phases.quantize.gguf_tokenizer import read_tokenizer
from forge.phases.quantize.tensors import StoredTensor, list_tensors, load_f16, load_tensor

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

FREQUENCIES = "rope_freqs.weight"
BLOCK_VALUES = 4 << 20
"""Values of a matrix that are held at a time: 8 MB in F16, whatever the model's size."""
INFINITE = 0x7C00
"""float16 bits, without the sign, from which a value is infinite or no number."""


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
    tensors = plan_tensors(model, shape)
    partial = target.with_name(target.name + ".partial")
    _write(partial, model, shape, tensors, kind, name=name, license=license)
    facts = read_facts(partial, quantization=kind)
    if facts.parameters != sum(math.prod(one.shape) for one in tensors if one.name != FREQUENCIES):
        raise ForgeError(f"{target.name} does not hold the model's {len(tensors)} tensors when read back")
    partial.replace(target)
    return facts.model_copy(update={"name": target.name})


class Planned(NamedTuple):
    """One tensor of the file: its values when they are few (norms, biases: F32), else where they lie and in which order of rows."""

    name: str
    shape: tuple[int, ...]
    values: Array | None = None
    source: StoredTensor | None = None
    rows: Array | None = None


def plan_tensors(model: Path, shape: ModelShape) -> list[Planned]:
    """What goes into the file, in its order. Matrices stay on disk until they are written."""
    import gguf

    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, shape.architecture.upper()), shape.layers)
    found: dict[str, Planned] = {}
    for tensor in list_tensors(model):
        if tensor.name.endswith("rotary_emb.inv_freq") or (shape.tied and tensor.name == "lm_head.weight"):
            continue
        name = names.get_name(tensor.name, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise refuse(f"the tensor {tensor.name} has no place in a {shape.architecture} GGUF", "it would be lost")
        found[name] = _planned(name, tensor, shape)
    missing, extra = expected_tensors(shape) - set(found), set(found) - expected_tensors(shape)
    if missing or extra:
        raise refuse(
            f"the weights do not fit config.json: {len(missing)} missing, {len(extra)} unexpected",
            f"missing {sorted(missing)[:4]}, unexpected {sorted(extra)[:4]}",
        )
    if shape.rope["rope_type"] == "llama3":
        factors = llama3_frequency_factors(shape)
        found[FREQUENCIES] = Planned(FREQUENCIES, factors.shape, values=factors)
    return sorted(found.values(), key=lambda one: _file_order(one.name))


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


def _planned(name: str, tensor: StoredTensor, shape: ModelShape) -> Planned:
    """Where the tensor's values come from; vectors and norms are read now."""
    import numpy as np

    heads = shape.heads if "attn_q." in name else shape.kv_heads
    turned = shape.interleaves_rope and name.endswith(("attn_q.weight", "attn_q.bias", "attn_k.weight", "attn_k.bias"))
    order = permute_for_rope(np.arange(tensor.shape[0]), heads) if turned else None
    if len(tensor.shape) > 1 and not name.endswith("_norm.weight"):
        return Planned(name, tensor.shape, source=tensor, rows=order)
    values = np.ascontiguousarray(load_tensor(tensor), dtype=np.float32)
    if not np.isfinite(values).all():
        raise _unfit(name, tensor)
    return Planned(name, tensor.shape, values=values if order is None else values[order])


def _blocks(planned: Planned) -> Iterator[Array]:
    """The values as they are stored, a few rows at a time: F32 vectors, F16 matrices."""
    if planned.source is None:
        assert planned.values is not None
        yield planned.values
        return
    step = max(1, BLOCK_VALUES // math.prod(planned.shape[1:]))
    for start in range(0, planned.shape[0], step):
        stretch = slice(start, start + step)
        block = load_f16(planned.source, stretch if planned.rows is None else planned.rows[stretch])
        if (block.view("uint16") & 0x7FFF).max() >= INFINITE:
            raise _unfit(planned.name, planned.source)
        yield block


def _unfit(name: str, tensor: StoredTensor) -> ForgeError:
    largest = float(abs(load_tensor(tensor)).max())
    return ForgeError(f"the tensor {name} does not fit into F16", why=f"its largest value is {largest:g}")


def _file_order(name: str) -> tuple[int, int, str]:
    parts = name.split(".")
    return (1, int(parts[1]), name) if parts[0] == "blk" else (0, 0, name)


def _write(path: Path, model: Path, shape: ModelShape, tensors: list[Planned], kind: str, *, name: str, license: str) -> None:
    """No wall-clock time and no path goes in: the same model gives the same bytes. Holds a few rows of one tensor at a time."""
    import gguf

    writer = gguf.GGUFWriter(path, shape.architecture)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_size_label(gguf.size_label(sum(math.prod(one.shape) for one in tensors), 0, 0, 0))
    if license:
        writer.add_license(license)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _write_shape(writer, shape)
    _write_tokenizer(writer, model, shape)
    kinds = [_stored_as(one, kind) for one in tensors]
    for one, type_ in zip(tensors, kinds, strict=True):
        block, size = gguf.GGML_QUANT_SIZES[type_]
        writer.add_tensor_info(one.name, one.shape, _dtype(type_), math.prod(one.shape) // block * size, raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for one, type_ in zip(tensors, kinds, strict=True):
        _write_tensor(writer, one, type_)
    writer.close()


def _stored_as(planned: Planned, kind: str) -> Any:
    """Matrices in the file's type where their rows are whole blocks of it, else in F16; vectors and norms in F32."""
    import gguf

    types = gguf.GGMLQuantizationType
    if planned.source is None:
        return types.F32
    return types[kind] if planned.shape[-1] % gguf.GGML_QUANT_SIZES[types[kind]][0] == 0 else types.F16


def _dtype(type_: Any) -> Any:
    """The dtype under which gguf takes a tensor whose real type is told beside it; uint8 would mean a shape in bytes."""
    import numpy as np

    return np.dtype(np.float32 if type_.name == "F32" else np.float16)


def _write_tensor(writer: Any, planned: Planned, type_: Any) -> None:
    """One tensor, padded on both sides as gguf's own write_tensors_to_file does."""
    import gguf

    file, size = writer.fout[0], 0
    writer.write_padding(file, file.tell())
    for block in _blocks(planned):
        data = block if type_.name in ("F16", "F32") else gguf.quantize(block.astype("float32"), type_)
        data.tofile(file)
        size += data.nbytes
    writer.write_padding(file, size)


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
