"""The tokenizer that shape trains: every byte, the same bytes each time, and what transformers makes of its folder."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from forge.phases.shape.template import CHATML, END, PAD, SPECIAL, START, render, template_sha256
from forge.phases.shape.tokenizer import choose_vocab_size, count_tokens, save_tokenizer, train_tokenizer
from forge.records import Message

from .clock_world import clock_passages

TEXTS = [passage.text for passage in clock_passages()]
TURNS = (Message(role="system", content="You know clocks."), Message(role="user", content="What is it?"), Message(role="assistant", content="A clock."))
STRANGE = "naïve — 時計 🕰️\t\r\n  two  spaces \x00\x7f \u200d <b>&amp; 1,234.5"


def test_chatml_is_exactly_chatml() -> None:
    assert render(TURNS[:2], open_turn=True) == (
        "<|im_start|>system\nYou know clocks.<|im_end|>\n<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert render(TURNS).endswith("<|im_start|>assistant\nA clock.<|im_end|>\n")
    assert template_sha256() == hashlib.sha256(CHATML.encode()).hexdigest()


def test_the_opened_prompt_is_a_prefix_of_the_row() -> None:
    assert render(TURNS).startswith(render(TURNS[:2], open_turn=True))


def test_any_text_survives_a_round_trip() -> None:
    tokenizer = train_tokenizer(TEXTS, 400)
    ids = tokenizer.encode(STRANGE, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == STRANGE


def test_the_markers_are_single_tokens_with_the_first_ids() -> None:
    tokenizer = train_tokenizer(TEXTS, 400)
    assert [tokenizer.token_to_id(token) for token in SPECIAL] == [0, 1, 2]
    assert count_tokens(tokenizer, [f"{START}{END}{PAD}"]) == [3]


def test_even_no_text_gives_all_bytes() -> None:
    assert train_tokenizer([], 512).get_vocab_size() == 256 + len(SPECIAL)


@pytest.mark.parametrize(
    ("chars", "wanted", "dry_run", "size"),
    [(1000, 0, False, 2048), (2_000_000, 0, False, 4096), (1000, 1000, False, 1000), (1000, 10, False, 259), (1000, 0, True, 512)],
)
def test_the_vocabulary_follows_the_text_or_the_setting(chars: int, wanted: int, dry_run: bool, size: int) -> None:
    assert choose_vocab_size(chars, wanted, dry_run=dry_run) == size


def test_training_twice_in_fresh_processes_gives_the_same_bytes(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from forge.phases.shape.tokenizer import *\n"
        "texts = [Path(p).read_text(encoding='utf-8') for p in sys.argv[2:]]\n"
        "save_tokenizer(train_tokenizer(texts, 600), Path(sys.argv[1]), 512)\n"
    )
    files = sorted((Path(__file__).parents[2] / "examples" / "handbook" / "concepts").glob("*.md"))
    found = set()
    for number, threads in enumerate(("1", "2", "4")):
        folder = tmp_path / str(number)
        environment = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        subprocess.run([sys.executable, "-c", code, str(folder), *map(str, files)], check=True, env=environment, timeout=120)
        found.add(b"".join((folder / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")))
    assert len(found) == 1


@pytest.mark.local
def test_transformers_reads_the_folder_and_counts_the_same(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = train_tokenizer(TEXTS, 400)
    save_tokenizer(tokenizer, tmp_path, 512)
    loaded = AutoTokenizer.from_pretrained(str(tmp_path))
    assert (loaded.eos_token, loaded.pad_token, loaded.bos_token, loaded.model_max_length) == (END, PAD, None, 512)
    for text in [*TEXTS, STRANGE, render(TURNS)]:
        assert loaded(text)["input_ids"] == tokenizer.encode(text).ids
    messages = [turn.model_dump() for turn in TURNS]
    assert loaded.apply_chat_template(messages, tokenize=False) == render(TURNS)
    assert loaded.apply_chat_template(messages[:2], tokenize=False, add_generation_prompt=True) == render(TURNS[:2], open_turn=True)
    ids = loaded.apply_chat_template(messages, return_dict=False)
    assert ids == tokenizer.encode(render(TURNS), add_special_tokens=False).ids
