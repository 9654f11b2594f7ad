"""ChatML: the chat template that ships, and how a row is rendered with it (as transformers does)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
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


def template_sha256() -> str:
    """sha256 of the bytes of chat_template.jinja."""
    return hashlib.sha256(CHATML.encode("utf-8")).hexdigest()


def render(turns: Sequence[Message], *, open_turn: bool = False) -> str:
    """The text of a conversation; open_turn adds the start of the assistant's answer."""
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    return str(_compiled().render(messages=messages, add_generation_prompt=open_turn))


def render_row(example: Example) -> tuple[str, str]:
    """(prompt with the opened answer, whole row) of a chat example."""
    assert isinstance(example.body, Chat)
    return render(example.body.prompt, open_turn=True), render((*example.body.prompt, *example.body.completion))


def holds_special(text: str) -> bool:
    """True when a text has a marker of the template, which would end a turn in the middle of it."""
    return any(token in text for token in SPECIAL)


@lru_cache(maxsize=1)
def _compiled() -> Any:
    """The template in the environment of transformers 5.23 (utils/chat_template_utils.py)."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(CHATML)
