"""The dress rehearsal: train, merge, export, quantize and load, with the real tokenizer on a few real rows.

A tiny model of the same architecture goes through the very code that will run for hours, before anybody is asked to pay.
Its result is journalled, so a killed and resumed plan_fit does not rehearse twice.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from forge.errors import GateFailed
from forge.phase import Context, Rehearsal
from forge.phases.plan_fit.data import HASHED, SPLITS, TESTS, Data
from forge.phases.plan_fit.tables import load_tables
from forge.protocols import Offer, Prediction
from forge.records import (
    Chat,
    Example,
    KnownBase,
    Passage,
    Plan,
    Record,
    canonical_json,
    digest,
    write_json,
    write_jsonl,
)
from forge.store import hash_path

PHASES = ("train", "quantize")
ROWS = 16
PASSAGES = 16
STEPS = 4

Row = TypeVar("Row", Example, Passage)


def rehearse(ctx: Context, plan: Plan, data: Data, offer: Offer) -> Rehearsal:
    """Run the machine phases on 16 rows of each split. Raises GateFailed with the worker's own words when one fails."""
    journal = ctx.journal("rehearsal")
    inputs = write_inputs(ctx.work / "rehearsal", plan, data, offer)
    key = digest(*(f"{name} {hash_path(path)}" for name, path in sorted(inputs.items())))
    if (done := journal.get(key)) is not None:
        return Rehearsal.model_validate(done)
    ctx.progress(0, len(PHASES), "rehearsing training and export")
    found = ctx.rehearse(PHASES, inputs)
    if found.error:
        raise GateFailed(
            "the dress rehearsal failed", why=found.error,
            next="mend what it says, then forge resume; --set plan_fit.rehearse=false plans without one",
        )
    journal.put(key, found.model_dump(mode="json"))
    ctx.progress(len(PHASES), len(PHASES), "rehearsed")
    return found


def write_inputs(folder: Path, plan: Plan, data: Data, offer: Offer) -> dict[str, Path]:
    """Everything that train and quantize read, small: sampled rows, a tiny plan with its approval, a made-up eval."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.jsonl" for name in (*SPLITS, "pretrain", "pretrain_val", "predictions")}
    sampled = {name: sample_rows(data.rows(name)) for name in SPLITS}
    chats = {row.id: row for name in TESTS for row in data.splits[name]}
    for name, rows in sampled.items():
        write_jsonl(paths[name], rows)
    write_jsonl(paths["pretrain"], _sample(data.pretrain, PASSAGES))
    write_jsonl(paths["pretrain_val"], _sample(data.pretrain_val, PASSAGES // 4))
    write_jsonl(paths["predictions"], [_prediction(chats[row.id]) for name in TESTS for row in sampled[name]])
    given = {"tokenizer": data.tokenizer, "base_source": _tiny_base(folder / "base-source", data)}
    hashes = {name: hash_path(path) for name, path in {**paths, **given}.items() if name in HASHED}
    write_json(folder / "plan.json", tiny_plan(plan, hashes))
    approval = {"plan_sha256": hash_path(folder / "plan.json"), "who": "rehearsal", "kind": "rehearsal"}
    write_json(folder / "approval.json", approval)
    write_json(folder / "eval.json", {"verdicts": [], "counts": {}, "quality": "undecided", "headline": "a rehearsal"})
    write_json(folder / "machine.json", {"offer": offer.model_dump(mode="json"), "lease": "rehearsal"})
    made = {name: folder / f"{name}.json" for name in ("plan", "approval", "eval", "machine")}
    return {**paths, **made, **given}


def _tiny_base(folder: Path, data: Data) -> Path:
    """A tiny random model of the base's architecture in place of its gigabytes."""
    folder.mkdir(parents=True, exist_ok=True)
    model = data.contract.model or KnownBase(kind="scratch", name=data.contract.base)
    if model.kind != "scratch" and data.base_source is not None:
        shutil.copyfile(data.base_source / "tiny" / "config.json", folder / "config.json")
        model = model.model_copy(update={"kind": "random"})
    write_json(folder / "base.json", model)
    return folder


def tiny_plan(plan: Plan, hashes: dict[str, str]) -> Plan:
    """The same architecture, tokenizer, context and precision with one layer, a few steps and the sampled data."""
    lora = plan.lora.model_copy(update={"steps": STEPS, "examples_per_step": 4, "rank": 4, "alpha": 8})
    scratch = plan.scratch
    if scratch is not None:
        size = load_tables().scratch["tiny"]
        scratch = scratch.model_copy(
            update={
                "layers": size.layers, "hidden_size": size.hidden_size, "heads": size.heads, "kv_heads": size.kv_heads,
                "intermediate_size": size.intermediate_size, "steps": STEPS, "rows_per_step": 2,
            }
        )
    return plan.model_copy(update={"lora": lora, "scratch": scratch, "dry_run": True, "verdicts": (), "data": hashes, "sweep": None, "stages": ()})


def sample_rows(rows: Sequence[Example]) -> list[Example]:
    """The four longest rows, which show the worst case, and twelve more drawn by hash."""
    longest = sorted(rows, key=lambda row: (-len(canonical_json(row.body)), row.id))[: ROWS // 4]
    kept = {row.id for row in longest}
    return longest + _sample((row for row in rows if row.id not in kept), ROWS - len(longest))


def _sample(rows: Iterable[Row], count: int) -> list[Row]:
    return sorted(rows, key=lambda row: digest("rehearsal", row.id))[:count]


def _prediction(row: Example) -> Record:
    chat = row.body if isinstance(row.body, Chat) else Chat(prompt=(), completion=())
    answer = " ".join(turn.content for turn in chat.completion)
    return Prediction(
        id=row.id, split=row.split, group=row.group, prompt=chat.prompt, gold=answer, answerable=chat.answerable,
        names=row.names, answer_tokens=max(1, len(answer.split())), nll_base=1.0, nll_tuned=1.0, base=answer, tuned=answer,
        generated=True, subtopic=row.subtopic,
    )
