"""A byte-level BPE tokenizer.json as GGUF metadata. What llama.cpp would split differently is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forge.phases.quantize.gguf_shape import refuse
from forge.records import Record

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # gguf.TokenType

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLIT_PATTERNS = {_WORDS + r"\p{N}{1,3}" + _REST: "llama-bpe", _WORDS + r"\p{N}" + _REST: "qwen2"}
"""The Split regex of tokenizer.json -> tokenizer.ggml.pre. llama.cpp's own converter knows vocabularies by a hash, which
a tokenizer trained yesterday cannot have; the structure decides the splitting, and the parity gate checks the result."""


class GgufTokenizer(Record):
    """What goes under tokenizer.ggml.*; tokens and types have one entry for each row of the embedding."""

    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    special: dict[str, int]
    add_bos: bool
    chat_template: str


def read_tokenizer(folder: Path, vocab_size: int) -> GgufTokenizer:
    """The tokenizer in `folder`, padded to `vocab_size`. Raises ForgeError for what is not byte-level BPE."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    settings = _read_json(folder / "tokenizer_config.json")
    if tokenizer["model"]["type"] != "BPE" or tokenizer["model"].get("byte_fallback"):
        raise refuse("the tokenizer is not byte-level BPE", f"tokenizer.json says {tokenizer['model']['type']}")
    normalizer = (tokenizer.get("normalizer") or {}).get("type")
    if normalizer not in (None, "NFC"):
        raise refuse(f"the tokenizer normalizes with {normalizer}", "llama.cpp would not")
    tokens, types = token_table(tokenizer, vocab_size)
    special = special_ids(tokenizer, settings)
    return GgufTokenizer(
        pre=pre_tokenizer(tokenizer),
        tokens=tokens,
        types=types,
        merges=tuple(_merge(pair) for pair in tokenizer["model"]["merges"]),
        special=special,
        add_bos=_adds_bos(tokenizer, special),
        chat_template=_chat_template(folder, settings),
    )


def pre_tokenizer(tokenizer: Mapping[str, Any]) -> str:
    """llama.cpp's name for the way this tokenizer.json splits text before merging."""
    declared = tokenizer.get("pre_tokenizer") or {}
    parts = declared.get("pretokenizers", [declared])
    kinds = [part.get("type") for part in parts]
    level = parts[-1]
    if kinds[-1] == "ByteLevel" and not level.get("add_prefix_space"):
        regex = level.get("use_regex", True)
        if kinds == ["ByteLevel"] and regex:
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and regex and parts[0].get("individual_digits"):
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and not regex:
            pattern = parts[0]["pattern"].get("Regex")
            if pattern in SPLIT_PATTERNS:
                return SPLIT_PATTERNS[pattern]
    raise refuse("the pre-tokenizer is not known", f"tokenizer.json has {json.dumps(declared)[:300]}")


def token_table(tokenizer: Mapping[str, Any], vocab_size: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Text and type of every token id below `vocab_size`; ids that nothing uses become [PAD<id>]."""
    texts = {number: text for text, number in tokenizer["model"]["vocab"].items()}
    types = dict.fromkeys(texts, NORMAL)
    for token in tokenizer["added_tokens"]:
        texts[token["id"]], types[token["id"]] = token["content"], marker_type(token)
    if max(texts) >= vocab_size:
        raise refuse(
            f"token {max(texts)} has no row in the embedding of {vocab_size}", "the tokenizer is larger than the model"
        )
    ids = range(vocab_size)
    return tuple(texts.get(i, f"[PAD{i}]") for i in ids), tuple(types.get(i, UNUSED) for i in ids)


def marker_type(token: Mapping[str, Any]) -> int:
    """CONTROL for markers. As NORMAL they would be split into letters: templates leak into answers, stops never fire."""
    if token.get("lstrip") or token.get("rstrip"):
        raise refuse(f"the token {token['content']!r} swallows spaces around it", "llama.cpp would keep them")
    looks_like_marker = token["content"].startswith("<|") and token["content"].endswith("|>")
    return CONTROL if token["special"] or looks_like_marker else USER_DEFINED


def special_ids(tokenizer: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, int]:
    """Ids for bos, eos, padding and unknown.

    bos is always written, because llama.cpp takes token 11 for it without the key; where the tokenizer names none, the
    document separator (padding) stands in, never config.json's bos_token_id, whose default of 1 means nothing here.
    """
    added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    keys = {"bos": "bos_token", "eos": "eos_token", "padding": "pad_token", "unknown": "unk_token"}
    found = {kind: _token_id(settings.get(key), added) for kind, key in keys.items()}
    special = {kind: number for kind, number in found.items() if number is not None}
    if "eos" not in special:
        raise refuse("the tokenizer names no eos_token", "a model without one never stops")
    special.setdefault("bos", special.get("padding", special["eos"]))
    return special


def _adds_bos(tokenizer: Mapping[str, Any], special: Mapping[str, int]) -> bool:
    """True when the post-processor puts one bos before a single text; anything else that it adds is refused."""
    post = tokenizer.get("post_processor") or {}
    templates = [part for part in post.get("processors", [post]) if part.get("type") == "TemplateProcessing"]
    if not templates:
        return False
    single = templates[0]["single"]
    before = [piece["SpecialToken"]["id"] for piece in single if "SpecialToken" in piece]
    if not before:
        return False
    ids = templates[0]["special_tokens"][before[0]]["ids"]
    if len(before) > 1 or "SpecialToken" not in single[0] or ids != [special["bos"]]:
        raise refuse("the tokenizer adds more than one bos to a text", f"its template is {json.dumps(single)[:200]}")
    return True


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str:
    file = folder / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):
        template = next((entry["template"] for entry in template if entry["name"] == "default"), None)
    if not template:
        raise refuse("the tokenizer has no chat template", "llama.cpp and Ollama would guess one")
    return str(template)


def _merge(pair: str | list[str]) -> str:
    """tokenizer.json writes "a b" or ["a", "b"]; a space inside a piece is moved up by 256, as gguf-py does."""
    if isinstance(pair, str):
        return pair
    return " ".join(piece.replace(" ", chr(ord(" ") + 256)) for piece in pair)


def _token_id(token: Any, added: Mapping[str, int]) -> int | None:
    return added.get(token["content"] if isinstance(token, dict) else token or "")


def _read_json(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return loaded
