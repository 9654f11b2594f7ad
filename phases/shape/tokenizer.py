"""A byte-level BPE tokenizer for a model from scratch, in a folder that transformers and llama.cpp both read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from forge.phases.shape.template import CHATML, END, PAD, SPECIAL
from forge.records import write_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SMALL_CORPUS_CHARS = 1_000_000
VOCAB_SMALL, VOCAB_LARGE, VOCAB_DRY = 2048, 4096, 512
VOCAB_LEAST = 256 + len(SPECIAL)
"""All bytes and the special tokens: below that a text could not be written."""


def choose_vocab_size(chars: int, wanted: int, *, dry_run: bool) -> int:
    """Entries of the vocabulary: the setting, or by the size of the text."""
    if dry_run:
        return VOCAB_DRY
    return max(VOCAB_LEAST, wanted) if wanted else VOCAB_SMALL if chars < SMALL_CORPUS_CHARS else VOCAB_LARGE


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE over the texts; llama.cpp knows its way of splitting as "gpt-2". Same texts, same tokenizer.

    The vocabulary is smaller than asked for when the texts have too few pairs to merge.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    special = [AddedToken(token, special=True, normalized=False) for token in SPECIAL]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=special, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, max_length: int) -> None:
    """tokenizer.json, tokenizer_config.json and chat_template.jinja: what AutoTokenizer reads."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=True)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": PAD,
        "bos_token": None,
        "unk_token": None,
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        "padding_side": "right",
    }
    write_json(folder / "tokenizer_config.json", config)
    (folder / "chat_template.jinja").write_text(CHATML, encoding="utf-8", newline="\n")


def count_tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
    """Tokens of each text, special tokens in it counted as one."""
    return [len(encoding.ids) for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)]
