"""What the real run would take, told by a rehearsal: its counts scaled from the sample to the whole corpus.

A rehearsal reads part of the files, asks about part of the passages and trains a tiny model. The shares are known, so the
real counts follow; how many pairs a passage gives is taken from the handbook corpus. The P90 is wide accordingly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from forge.phases.plan_fit.choice import choose
from forge.phases.plan_fit.data import SPLITS, TESTS, Data
from forge.phases.plan_fit.forecast import Row, forecast_rows
from forge.phases.plan_fit.settings import PlanFitSettings
from forge.protocols import Offer
from forge.records import DataContract, Document

PAIRS_PER_PASSAGE = 9.0
"""Offline teacher: 2,237 pairs and 410 abstentions from 245 passages (examples/handbook, 2026-11-21)."""
TRAIN_SHARE = 0.75
TEST_SHARE = 0.25
TOKENS_OF_REAL_VOCABULARY = 0.54
"""Tokens with the real vocabulary over those with the rehearsal's 512 (examples/handbook, 2026-11-21)."""
SMALL_VOCABULARY, LARGE_VOCABULARY = 2048, 4096
LARGE_CORPUS_CHARS = 1_000_000


def outlook_rows(data: Data, offer: Offer, settings: PlanFitSettings, documents: Sequence[Document]) -> list[Row]:
    """The forecast of the run that is rehearsed, phase by phase."""
    whole = _whole(data, files_share(documents)) if data.contract.task == "chat" else _whole_ready(data)
    return forecast_rows(whole, choose(whole, offer, settings, dry_run=False), offer)


def files_share(documents: Sequence[Document]) -> float:
    """The share (0..1] of the corpus' text files that the rehearsal read, by number of files."""
    read = sum(document.status == "ok" for document in documents)
    left_out = sum(document.status == "skipped" and "sample" in document.reason for document in documents)
    return read / (read + left_out) if read else 1.0


def _whole(data: Data, share: float) -> Data:
    passages = len(data.clean) / share
    chars = sum(len(passage.text) for passage in data.clean) / share
    counts = {name: int(passages * PAIRS_PER_PASSAGE * _portion(name)) for name in SPLITS}
    row_tokens = TOKENS_OF_REAL_VOCABULARY * data.train_tokens / max(1, len(data.splits["train"]))
    contract = data.contract.model_copy(
        update={
            "counts": counts,
            "tokens": {name: int(count * row_tokens) for name, count in counts.items()},
            "pretrain_tokens": int(data.contract.pretrain_tokens * TOKENS_OF_REAL_VOCABULARY / share),
            "vocab_size": LARGE_VOCABULARY if chars > LARGE_CORPUS_CHARS else SMALL_VOCABULARY,
        }
    )
    return replace(data, splits={name: _repeated(data, name, count) for name, count in counts.items()}, contract=_checked(contract))


def _whole_ready(data: Data) -> Data:
    """Ready-made data: the rehearsal's rows are a known share of all examples."""
    contract, sampled = data.contract, sum(data.contract.counts.values())
    times = max(1.0, contract.ready.get("examples", sampled) / max(1, sampled))
    counts = {name: int(count * times) for name, count in contract.counts.items()}
    larger = contract.model_copy(
        update={
            "counts": counts,
            "tokens": {name: int(tokens * times * TOKENS_OF_REAL_VOCABULARY) for name, tokens in contract.tokens.items()},
            "pretrain_tokens": int(contract.pretrain_tokens * TOKENS_OF_REAL_VOCABULARY * times), "vocab_size": SMALL_VOCABULARY,
        }
    )
    return replace(data, splits={name: _repeated(data, name, counts.get(name, 0)) for name in SPLITS}, contract=_checked(larger))


def _portion(split: str) -> float:
    return TEST_SHARE / len(TESTS) if split in TESTS else TRAIN_SHARE if split == "train" else 0.06


def _repeated(data: Data, split: str, count: int) -> tuple[Any, ...]:
    """As many rows as the real split would have; only their number is used."""
    return (data.splits[split][0],) * count if data.splits[split] else ()


def _checked(contract: DataContract) -> DataContract:
    return DataContract.model_validate(contract.model_dump())
