"""The chat template that ships, and how a row is rendered with it (as transformers does)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from forge.records import Chat, Example, Message

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (PAD, START, END)

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The template of github.com/openai/openai-python chatml.md, as every ChatML model on the Hub writes it."""

PLAIN = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
"""For bases that know no chat markers: roles in plain text, turns ended by the token that the base ends texts with (as Zephyr)."""
PLAIN_MARKERS = ("<|system|>", "<|user|>", "<|assistant|>")


@dataclass(frozen=True)
class ChatFormat:
    """A chat template with the tokens that it needs. markers: what no text of a row may hold."""

    source: str
    markers: tuple[str, ...]
    bos: str = ""
    eos: str = END

    @property
    def sha256(self) -> str:
        """sha256 of the bytes of chat_template.jinja."""
        return hashlib.sha256(self.source.encode("utf-8")).hexdigest()

    def render(self, turns: Sequence[Message], *, open_turn: bool = False) -> str:
        """The text of a conversation; open_turn adds the start of the assistant's answer. Raises jinja2.TemplateError."""
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        return str(_compiled(self.source).render(messages=messages, add_generation_prompt=open_turn, bos_token=self.bos, eos_token=self.eos))

    def render_row(self, example: Example) -> tuple[str, str]:
        """(prompt with the opened answer, whole row) of a chat example."""
        assert isinstance(example.body, Chat)
        return self.render(example.body.prompt, open_turn=True), self.render((*example.body.prompt, *example.body.completion))

    def holds_special(self, text: str) -> bool:
        """True when a text has a marker of the template, which would end a turn in the middle of it."""
        return any(token in text for token in self.markers)


SCRATCH = ChatFormat(CHATML, SPECIAL)
"""What a model from scratch is given."""


def template_sha256() -> str:
    """sha256 of the template of a model from scratch."""
    return SCRATCH.sha256


def render(turns: Sequence[Message], *, open_turn: bool = False) -> str:
    """The text of a conversation as a model from scratch reads it."""
    return SCRATCH.render(turns, open_turn=open_turn)


@lru_cache(maxsize=4)
def _compiled(source: str) -> Any:
    """The template in the environment of transformers 5.23 (utils/chat_template_utils.py)."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = lambda value, **kwargs: json.dumps(value, ensure_ascii=False, **kwargs)
    environment.globals["raise_exception"] = raise_exception
    return environment.from_string(source)
