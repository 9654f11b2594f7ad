"""What a config.json says that GGUF must know, and a refusal for everything that llama.cpp would read differently."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forge.errors import ForgeError
from forge.records import Record

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
_YARN = frozenset({"factor", "original_max_position_embeddings"})
ROPE_TYPES = {
    "default": frozenset[str](),
    "linear": frozenset({"factor"}),
    "yarn": _YARN,
    "llama3": _YARN | {"low_freq_factor", "high_freq_factor"},
}
"""rope_type -> the parameters that the export can carry besides rope_theta."""
CONVERT_ELSEWHERE = "choose a llama, mistral, qwen2 or qwen3 base without this option, or convert model/ with llama.cpp's convert_hf_to_gguf.py"


class ModelShape(Record):
    """The numbers of one model. Names follow GGUF's keys; `rope` is transformers' dictionary of parameters."""

    architecture: str
    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    norm_epsilon: float
    tied: bool
    attention_bias: bool
    output_bias: bool
    mlp_bias: bool
    rope: dict[str, Any]

    @property
    def interleaves_rope(self) -> bool:
        """llama.cpp rotates neighbouring pairs for `llama`, halves (as transformers does) for the Qwen families."""
        return self.architecture == "llama"


def read_shape(folder: Path) -> ModelShape:
    """The shape of the model in `folder`. Raises ForgeError for an architecture or option that is not known here."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = (config.get("architectures") or ["?"])[0]
    if name not in ARCHITECTURES:
        raise refuse(f"there is no GGUF export for {name}", f"known: {', '.join(sorted(ARCHITECTURES))}")
    _refuse_options(config)
    qwen2, bias = name == "Qwen2ForCausalLM", bool(config.get("attention_bias"))
    heads = config["num_attention_heads"]
    return ModelShape(
        architecture=ARCHITECTURES[name],
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        feed_forward=config["intermediate_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        vocab=config["vocab_size"],
        context=config["max_position_embeddings"],
        norm_epsilon=config["rms_norm_eps"],
        tied=bool(config.get("tie_word_embeddings", False)),
        attention_bias=qwen2 or bias,
        output_bias=bias and not qwen2,
        mlp_bias=bool(config.get("mlp_bias")),
        rope=_rope(config),
    )


def expected_tensors(shape: ModelShape) -> set[str]:
    """The GGUF names of every tensor that a model of this shape has: no more, no less."""
    weights = ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down"]
    weights += ["attn_q_norm", "attn_k_norm"] if shape.architecture == "qwen3" else []
    biases = ["attn_q", "attn_k", "attn_v"] if shape.attention_bias else []
    biases += ["attn_output"] if shape.output_bias else []
    biases += ["ffn_gate", "ffn_up", "ffn_down"] if shape.mlp_bias else []
    layer = [f"{part}.weight" for part in weights] + [f"{part}.bias" for part in biases]
    names = {f"blk.{number}.{part}" for number in range(shape.layers) for part in layer}
    return names | {"token_embd.weight", "output_norm.weight"} | (set() if shape.tied else {"output.weight"})


def refuse(fact: str, why: str) -> ForgeError:
    """The error of every refusal: exporting on would give a file that loads and answers wrongly."""
    return ForgeError(fact, why=why, next=CONVERT_ELSEWHERE)


def _refuse_options(config: Mapping[str, Any]) -> None:
    if config.get("quantization_config"):
        raise refuse("the weights are already quantized", "GGUF is made from full-precision weights")
    if config.get("hidden_act", "silu") != "silu":
        raise refuse(f"hidden_act is {config['hidden_act']}", "llama.cpp computes silu for these architectures")
    window = config.get("sliding_window")
    uses_window = config.get("use_sliding_window", config["architectures"][0] == "MistralForCausalLM")
    if window and uses_window and window < config["max_position_embeddings"]:
        raise refuse(f"attention slides over {window} tokens", "the GGUF would attend to the whole context")
    if set(config.get("layer_types") or []) - {"full_attention"}:
        raise refuse("some layers do not use full attention", "the GGUF would attend to the whole context")
    if config["architectures"][0] == "Qwen3ForCausalLM" and config.get("attention_bias"):
        raise refuse("this Qwen3 has attention biases", "llama.cpp's qwen3 has none and would drop them")


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers 5 keeps all in rope_parameters; version 4 had rope_theta and rope_scaling."""
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    rope.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    rope["rope_type"] = rope.get("rope_type") or rope.pop("type", None) or "default"
    if rope["rope_type"] not in ROPE_TYPES:
        raise refuse(f"rope type {rope['rope_type']!r} is not known", f"known: {', '.join(ROPE_TYPES)}")
    if (rope.pop("partial_rotary_factor", None) or config.get("partial_rotary_factor") or 1.0) != 1.0:
        raise refuse("only a part of each head is rotated", "llama.cpp rotates whole heads for these architectures")
    given = {key for key, value in rope.items() if value is not None} - {"rope_type", "rope_theta"}
    if given != ROPE_TYPES[rope["rope_type"]]:
        raise refuse(f"rope {rope['rope_type']!r} has parameters {sorted(given)}", "the export would lose some")
    return rope
