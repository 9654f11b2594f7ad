"""Everything that the plan is computed from, read once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from forge.phase import Context
from forge.records import DataContract, Example, Pair, Passage, read_jsonl, read_record
from forge.review.decisions import reviewed_pairs

TESTS = ("test_recall", "test_unseen", "test_abstain")
SPLITS = ("train", "val", *TESTS)
HASHED = (*SPLITS, "pretrain", "pretrain_val", "tokenizer", "shape")
"""The artifacts whose hashes the plan names: what was approved is what is trained and tested on."""


@dataclass(frozen=True)
class Data:
    """The kept passages, the accepted pairs, the rows of every split and what shape promised about them."""

    clean: tuple[Passage, ...]
    pairs: tuple[Pair, ...]
    splits: dict[str, tuple[Example, ...]]
    pretrain: tuple[Passage, ...]
    pretrain_val: tuple[Passage, ...]
    contract: DataContract
    tokenizer: Path

    @cached_property
    def passages(self) -> dict[str, Passage]:
        """The kept passages by id."""
        return {passage.id: passage for passage in self.clean}

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
    return Data(
        clean=_read(ctx, "clean", Passage),
        pairs=tuple(reviewed_pairs(ctx).pairs),
        splits={name: _read(ctx, name, Example) for name in SPLITS},
        pretrain=_read(ctx, "pretrain", Passage),
        pretrain_val=_read(ctx, "pretrain_val", Passage),
        contract=read_record(ctx.input("shape"), DataContract),
        tokenizer=ctx.input("tokenizer"),
    )


def data_hashes(ctx: Context) -> dict[str, str]:
    """The content hash of each artifact that training and testing will read."""
    return {name: ctx.input_sha256(name) for name in HASHED}


def _read(ctx: Context, name: str, kind: Any) -> tuple[Any, ...]:
    return tuple(read_jsonl(ctx.input(name), kind))
