"""The merged model under transformers, in float32: what every GGUF file is compared with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.records import Message, Record

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

SMALL_MODEL_PARAMETERS = 100_000_000
GPU_ROOM = 1.3


class GreedyAnswer(Record):
    """Ids of a greedy answer without the token that ended it, and its text."""

    ids: tuple[int, ...]
    text: str


class ChatTokenizer:
    """The tokenizer that users get from AutoTokenizer, with its chat template."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.end_of_turn: int = self.tokenizer.eos_token_id
        added = self.tokenizer.added_tokens_decoder.items()
        self.markers: dict[int, str] = {number: token.content for number, token in added if token.special}

    def render(self, turns: tuple[Message, ...], *, open_answer: bool) -> str:
        """The chat template's text; `open_answer` ends it where the model continues."""
        messages = [turn.model_dump() for turn in turns]
        text: str = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=open_answer)
        return text

    def encode(self, text: str) -> list[int]:
        """Ids of a text, markers recognized, nothing added."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def text(self, token: int) -> str:
        """The text of one token as its vocabulary has it."""
        return str(self.tokenizer.convert_ids_to_tokens(token))

    def normalize(self, text: str) -> str:
        """The text after the tokenizer's normalizer (NFC for Qwen), which llama.cpp does not apply."""
        normalizer = self.tokenizer.backend_tokenizer.normalizer
        return str(normalizer.normalize_str(text)) if normalizer else text


class Reference:
    """Float32 logits and greedy answers, on the GPU when there is one."""

    def __init__(self, model: Any, tokenizer: ChatTokenizer) -> None:
        self.device = _device_for(model)
        self.model, self.tokenizer = model.to(self.device).eval(), tokenizer

    def logits(self, ids: tuple[int, ...], *, last: int) -> Array:
        """(last, vocabulary) float32: scores after each of the last tokens."""
        import torch

        with torch.inference_mode():
            scores = self.model(torch.tensor([ids], device=self.device), logits_to_keep=last).logits
        values: Array = scores[0].float().cpu().numpy()
        return values

    def generate(self, prompt: tuple[int, ...], *, limit: int) -> GreedyAnswer:
        """The greedy answer of at most `limit` tokens, as model.generate gives it to users."""
        import torch

        ids = torch.tensor([prompt], device=self.device)
        with torch.inference_mode():
            out = self.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False)
        stops = self.model.generation_config.eos_token_id
        stops = stops if isinstance(stops, list) else [stops]
        answer = [int(token) for token in out[0, len(prompt) :]]
        if answer and answer[-1] in stops:
            answer.pop()
        return GreedyAnswer(ids=tuple(answer), text=self.tokenizer.tokenizer.decode(answer))


def load_model(folder: Path) -> Any:
    """The causal language model in `folder`, float32, on the CPU."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def use_threads(parameters: int) -> int:
    """Threads for a model of this size, also set for torch: sums then have one order, and small ones are faster with one."""
    import torch

    threads = 1 if parameters < SMALL_MODEL_PARAMETERS else len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    return threads


def _device_for(model: Any) -> str:
    """The GPU when float32 weights and the activations of one row fit into what is free there."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    free_bytes, _ = torch.cuda.mem_get_info()
    return "cuda" if free_bytes > GPU_ROOM * 4 * model.num_parameters() else "cpu"
