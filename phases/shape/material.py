"""What shape has once every row is on its side: from here on pairs of a teacher and ready-made data go the same way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from forge.phases.shape.own_tokenizer import OwnTokenizer
from forge.phases.shape.template import SCRATCH, ChatFormat
from forge.records import Example, KnownBase, Passage, Split

Rows = dict[Split, list[Example]]


@dataclass
class Material:
    """Rows as chats, text for the base, and how this kind of rows is checked.

    originals: the rows with their own bodies, by id, where they are no chats: what is written. prune: takes out rows that
    lost what makes them a test. ready: what importing read and left out.
    """

    rows: Rows
    pretrain: list[Passage]
    pretrain_val: list[Passage]
    abstention: str
    system_prompt: str
    base: KnownBase
    folder: Path | None
    own: OwnTokenizer | None
    leakage: Callable[[Rows, Sequence[Passage]], dict[str, float]]
    prune: Callable[[Rows], None] = lambda rows: None
    task: Literal["chat", "label", "extract", "detect"] = "chat"
    ready: dict[str, int] = field(default_factory=dict)
    reviewed: dict[str, int] = field(default_factory=dict)
    originals: dict[str, Example] = field(default_factory=dict)

    @property
    def chat(self) -> ChatFormat:
        """The chat template that ships."""
        return self.own.chat if self.own else SCRATCH
