"""llama.cpp's source as `make setup` leaves it: its converter, and the real vocabularies that its own tests use."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).resolve().parents[1] / ".wheelhouse" / "llama.cpp"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
STRING, ARRAY = 8, 9
LAYOUTS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
ENDS = {"qwen2": ("<|im_end|>", "<|endoftext|>"), "llama-bpe": ("<|eot_id|>", "<|end_of_text|>")}


def llama_source() -> Path:
    """The folder; without it CI fails, and a developer's test is skipped with the way to get it."""
    if not (SOURCE / "convert_hf_to_gguf.py").is_file():
        if os.environ.get("FORGE_ALL_PROGRAMS"):
            pytest.fail("llama.cpp's source is missing: make setup")
        pytest.skip("needs llama.cpp's source: make setup")
    return SOURCE


def converter_for_any_vocabulary(folder: Path) -> Path:
    """The converter, told to take a vocabulary of today for GPT-2's: it knows real ones by their hash only."""
    folder.mkdir(parents=True, exist_ok=True)
    source = llama_source()
    (folder / "convert_hf_to_gguf.py").write_text(
        f"import runpy, sys\nsys.path[:0] = [{str(source)!r}, {str(source / 'gguf-py')!r}]\n"
        "from conversion import base\nbase.TextModel.get_vocab_base_pre = lambda self, tokenizer: 'gpt-2'\n"
        f"runpy.run_path({str(source / 'convert_hf_to_gguf.py')!r}, run_name='__main__')\n", encoding="utf-8",
    )
    return folder


def write_real_tokenizer(folder: Path, pre: str) -> int:
    """The tokenizer files of a real vocabulary ("qwen2", "llama-bpe"), rebuilt from llama.cpp's test file; its size."""
    from forge.phases.quantize.gguf_tokenizer import CONTROL, NORMAL, SPLIT_PATTERNS, USER_DEFINED

    arrays = read_arrays(llama_source() / "models" / f"ggml-vocab-{pre}.gguf")
    tokens, types, merges = (arrays[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type", "merges"))
    ordinary = {token: number for number, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind == NORMAL}
    added = [
        {"id": number, "content": token, "special": kind == CONTROL, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        for number, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind in (CONTROL, USER_DEFINED)
    ]
    pattern = {name: regex for regex, name in SPLIT_PATTERNS.items()}[pre]
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "NFC"} if pre == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]}, "post_processor": None,   # real Llama-3 adds bos here
        "decoder": {**level, "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": pre == "llama-bpe", "vocab": ordinary, "merges": merges},
    }
    end, pad = ENDS[pre]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end, "pad_token": pad, "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHATML.replace("<|im_end|>", end), encoding="utf-8")
    return len(tokens)


def read_arrays(file: Path) -> dict[str, list[Any]]:
    """The arrays of a GGUF header; gguf's own reader takes 10 CPU seconds for a vocabulary like these."""
    data, at = file.read_bytes(), 24

    def take(layout: str) -> Any:
        nonlocal at
        (value,) = struct.unpack_from(f"<{layout}", data, at)
        at += struct.calcsize(layout)
        return value

    def value(kind: int) -> Any:
        nonlocal at
        if kind != STRING:
            return take(LAYOUTS[kind])
        size = take("Q")
        at += size
        return data[at - size : at].decode("utf-8")

    found: dict[str, list[Any]] = {}
    for _ in range(struct.unpack_from("<Q", data, 16)[0]):
        key, kind = value(STRING), take("I")
        if kind == ARRAY:
            inner, count = take("I"), take("Q")
            found[key] = [value(inner) for _ in range(count)]
        else:
            value(kind)
    return found
