"""Everything that the plan is computed from, read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from forge.phase import Context
from forge.protocols import Task
from forge.records import DataContract, Example, Pair, Passage, read_jsonl, read_record
from forge.review.decisions import reviewed_pairs
from forge.rows import as_chat

TESTS = ("test_recall", "test_unseen", "test_abstain")
SPLITS = ("train", "val", *TESTS)
HASHED = (*SPLITS, "pretrain", "pretrain_val", "tokenizer", "base_source", "shape")
"""The artifacts whose hashes the plan names: what was approved is what is trained and tested on."""


@dataclass(frozen=True)
class Data:
    """The kept passages, the accepted pairs, the rows of every split as chats and what shape promised about them.

    originals: the rows with their own bodies, for tasks other than chat.
    """

    clean: tuple[Passage, ...]
    pairs: tuple[Pair, ...]
    splits: dict[str, tuple[Example, ...]]
    pretrain: tuple[Passage, ...]
    pretrain_val: tuple[Passage, ...]
    contract: DataContract
    tokenizer: Path
    base_source: Path | None = None
    originals: dict[str, tuple[Example, ...]] = field(default_factory=dict)

    @cached_property
    def passages(self) -> dict[str, Passage]:
        """The kept passages by id."""
        return {passage.id: passage for passage in self.clean}

    def rows(self, split: str) -> tuple[Example, ...]:
        """The rows of a split with their own bodies."""
        return self.originals.get(split, self.splits[split])

    @property
    def train_tokens(self) -> int:
        """Tokens of all training rows, once, prompts included."""
        return self.contract.tokens.get("train", 0)

    @property
    def test_rows(self) -> int:
        """Rows of all tests together."""
        return sum(len(self.splits[name]) for name in TESTS)


def read_data(ctx: Context) -> Data:
    """Read the inputs of plan_fit. Raises ArtifactDamaged with file and line when one does not fit."""
    contract = read_record(ctx.input("shape"), DataContract)
    splits = {name: _read(ctx, name, Example) for name in SPLITS}
    return Data(
        clean=_read(ctx, "clean", Passage),
        pairs=tuple(reviewed_pairs(ctx).pairs),
        splits=splits if contract.task == "chat" else _as_chats(splits, ctx.use("task", contract.task)),
        originals={} if contract.task == "chat" else splits,
        pretrain=_read(ctx, "pretrain", Passage),
        pretrain_val=_read(ctx, "pretrain_val", Passage),
        contract=contract,
        tokenizer=ctx.input("tokenizer"),
        base_source=ctx.input("base_source"),
    )


def data_hashes(ctx: Context) -> dict[str, str]:
    """The content hash of each artifact that training and testing will read."""
    return {name: ctx.input_sha256(name) for name in HASHED}


def _as_chats(splits: Mapping[str, tuple[Example, ...]], task: Task) -> dict[str, tuple[Example, ...]]:
    return {name: tuple(as_chat(row, task) for row in rows) for name, rows in splits.items()}


def _read(ctx: Context, name: str, kind: Any) -> tuple[Any, ...]:
    return tuple(read_jsonl(ctx.input(name), kind))
