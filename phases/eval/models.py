"""The base and the tuned model as one: likelihood of answers and greedy generation, in batches."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from forge.errors import ArtifactDamaged
from forge.records import Message

if TYPE_CHECKING:
    import torch

Which = Literal["base", "tuned"]
ADAPTER_CONFIG = "adapter_config.json"
PLAIN_TEMPLATE = "{% for message in messages %}{{ message['content'] + '\n\n' }}{% endfor %}"
"""For models that never learnt chats: the turns as paragraphs."""


class Encoded(NamedTuple):
    """A row as tokens: the prompt up to where the answer begins, the answer up to and with its end of turn."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


class Answer(NamedTuple):
    """What was generated. finished: it ended by itself, not at the limit."""

    text: str
    finished: bool


class Models:
    """The base with its adapter, loaded once; the adapter is switched off to ask the base. Where all weights were tuned: both models.

    The adapter stays unmerged, so what is measured is what was trained; the merged model is quantize's to compare.
    """

    def __init__(self, base: Path, adapter: Path | None, *, threads: int, precision: str) -> None:
        """adapter: None for a model by itself, which is then the tuned one; it cannot be asked as the base of anything."""
        os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # peft asks for a renamed attribute
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        torch.set_num_threads(threads)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.use_deterministic_algorithms(self.device == "cpu")  # on a GPU some are missing, and kernels differ anyway
        torch.utils.deterministic.fill_uninitialized_memory = False  # half the time, and nothing reads it
        self.tokenizer: Any = AutoTokenizer.from_pretrained(base)
        dtype = "bfloat16" if precision == "bf16" and self.device == "cuda" else "float32"
        model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
        self.base: Any = None
        if adapter and not (adapter / ADAPTER_CONFIG).is_file():  # all weights were tuned: a model of its own
            self.base, model, adapter = model.to(self.device).eval(), AutoModelForCausalLM.from_pretrained(adapter, dtype=dtype), None
        self.model: Any = (PeftModel.from_pretrained(model, adapter) if adapter else model).to(self.device).eval()

    def encode(self, prompt: Sequence[Message], answer: str) -> Encoded:
        """Tokens of a row in the chat template. Raises ArtifactDamaged for a template that ends no turn."""
        turns = [turn.model_dump() for turn in prompt]
        asked: list[int] = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        told = [*turns, {"role": "assistant", "content": answer}]
        whole: list[int] = self.tokenizer.apply_chat_template(told, return_dict=False)
        eos = self.tokenizer.eos_token_id
        if whole[: len(asked)] != asked or eos not in whole[len(asked) :]:
            raise ArtifactDamaged(
                "the chat template does not end an answer with the end-of-turn token",
                why=f"an answer is rendered as {self.tokenizer.decode(whole[len(asked):])[-60:]!r}", next="forge resume --from shape",
            )
        last = len(whole) - 1 - whole[::-1].index(eos)
        return Encoded(tuple(asked), tuple(whole[len(asked) : last + 1]))

    @property
    def context(self) -> int:
        """Tokens that the model can hold, prompt and answer together."""
        return int(getattr(self.model.config, "max_position_embeddings", 0) or 2048)

    def encode_prompt(self, prompt: Sequence[Message]) -> tuple[int, ...]:
        """Tokens of a conversation up to where the answer begins."""
        turns = [turn.model_dump() for turn in prompt]
        ids: list[int] = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        return tuple(ids)

    def encode_text(self, text: str) -> list[int]:
        """Tokens of plain text."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def cut(self, text: str, percent: int) -> str:
        """The first part of a text, by its tokens, at most as much as leaves half of the context to the question and the answer."""
        ids = self.encode_text(text)
        kept = ids[: min(len(ids), self.context // 2) * percent // 100]
        return str(self.tokenizer.decode(kept, skip_special_tokens=True))

    def continue_ids(self, prompts: Sequence[tuple[int, ...]], which: Which, count: int) -> list[tuple[int, ...]]:
        """The likeliest `count` tokens after prompts of one length, greedily; no end is taken for an answer."""
        import torch

        ids = torch.tensor([list(prompt) for prompt in prompts], device=self.device)
        with torch.no_grad(), self._as(which):
            told = self.model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, min_new_tokens=count, do_sample=False, num_beams=1,
                repetition_penalty=1.0, pad_token_id=self.tokenizer.pad_token_id,
            )
        return [tuple(row) for row in told[:, ids.shape[1] :].tolist()]

    def answer_losses(self, rows: Sequence[Encoded], which: Which) -> list[float]:
        """Summed negative log-likelihood of each answer and its end of turn, in nats."""
        import torch

        width = max(len(row.prompt) + len(row.answer) for row in rows)
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[*row.prompt, *row.answer] + [pad] * (width - len(row.prompt) - len(row.answer)) for row in rows])
        mask = torch.tensor([[1] * (n := len(row.prompt) + len(row.answer)) + [0] * (width - n) for row in rows])
        with torch.no_grad(), self._as(which):
            logits = self.model(input_ids=ids.to(self.device), attention_mask=mask.to(self.device), use_cache=False).logits
        return [_loss(logits[i], ids[i], row) for i, row in enumerate(rows)]

    def generate(self, rows: Sequence[Encoded], which: Which, max_new_tokens: int, *, temperature: float = 0.0, seed: int = 0) -> list[Answer]:
        """Answers, decoded without special tokens: greedy, or drawn at a temperature above 0.

        A base's generation_config may ask for a repetition penalty, also in greedy decoding (Qwen2.5: 1.05). It keeps a model from
        copying names out of the text (the medical NER guide lost its F1 to one), so there is none here.
        """
        import torch

        width, pad, eos = max(len(row.prompt) for row in rows), self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        ids = torch.tensor([[pad] * (width - len(row.prompt)) + list(row.prompt) for row in rows], device=self.device)
        mask = torch.tensor([[0] * (width - len(row.prompt)) + [1] * len(row.prompt) for row in rows], device=self.device)
        with torch.no_grad(), self._as(which):
            told = self.model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, num_beams=1, eos_token_id=eos, pad_token_id=pad,
                repetition_penalty=1.0, no_repeat_ngram_size=0, **self._how(temperature, seed),
            )
        return [self._answer(tokens, eos) for tokens in told[:, width:].tolist()]

    def _how(self, temperature: float, seed: int) -> dict[str, Any]:
        import torch

        if temperature <= 0:
            return {"do_sample": False}
        torch.manual_seed(seed)
        return {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}

    def _answer(self, tokens: list[int], eos: int) -> Answer:
        finished = eos in tokens
        kept = tokens[: tokens.index(eos)] if finished else tokens
        return Answer(self.tokenizer.decode(kept, skip_special_tokens=True), finished)

    def _as(self, which: Which) -> AbstractContextManager[Any]:
        if which == "tuned":
            return nullcontext()
        if self.base is not None:
            return self._with_base()
        found: AbstractContextManager[Any] = self.model.disable_adapter()
        return found

    @contextmanager
    def _with_base(self) -> Iterator[None]:
        tuned, self.model = self.model, self.base
        try:
            yield
        finally:
            self.model = tuned


def load_other(path: Path, base: Path, *, threads: int, precision: str) -> Models:
    """A model of somebody else: a folder with a model, or with an adapter of `base`. One without a chat template gets plain text."""
    adapter = (path / ADAPTER_CONFIG).is_file()
    found = Models(base if adapter else path, path if adapter else None, threads=threads, precision=precision)
    found.tokenizer.pad_token = found.tokenizer.pad_token or found.tokenizer.eos_token
    found.tokenizer.chat_template = found.tokenizer.chat_template or PLAIN_TEMPLATE
    return found


def _loss(logits: torch.Tensor, ids: torch.Tensor, row: Encoded) -> float:
    """logits: (tokens, vocabulary). The token at i is predicted from i - 1; summed in double precision."""
    import torch

    first, last = len(row.prompt), len(row.prompt) + len(row.answer)
    scores = torch.log_softmax(logits[first - 1 : last - 1].double(), dim=-1)
    return -float(scores.gather(1, ids[first:last, None].to(scores.device)).sum())
