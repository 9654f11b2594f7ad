"""Finished runs in miniature: real runs with real stores, whose artifacts are made up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forge.protocols import Prediction
from forge.records import Message, Verdict, write_jsonl
from forge.run import Run
from tests.test_phases.finished_run import ABSTENTION, made_plan

ROWS = 60


def predictions(nll: Callable[[int], float], *, declines: float = 1.0, rows: int = ROWS) -> list[Prediction]:
    """What a model said: nats by row of test_recall, and the share of out-of-scope questions that it declines."""
    found = []
    for split in ("test_recall", "test_abstain"):
        gold = "blue paint" if split == "test_recall" else ABSTENTION
        for i in range(rows):
            said = gold if split == "test_recall" or i < declines * rows else "red paint"
            found.append(Prediction(
                id=f"{split}-{i:03}", split=split, group=f"{split}-{i // 2}", prompt=(Message(role="user", content=f"What is {i}?"),), gold=gold,
                answerable=split == "test_recall", answer_tokens=3, nll_base=30.0, nll_tuned=nll(i), tuned=said, generated=True,
            ))
    return found


def finished(
    corpus: Path, run_id: str, said: list[Prediction], *, quality: str = "pass", verdicts: tuple[Verdict, ...] | None = None,
    dry_run: bool = False, **plan: Any,
) -> Run:
    """A run with a published model. quality: publish's verdict; verdicts: those of eval.json."""
    run = Run.create(corpus, dry_run=dry_run, run_id=run_id)
    scratch = run.folder / "draft"
    scratch.mkdir()
    gates = verdicts if verdicts is not None else (Verdict(name="recall_nll_gain", estimate=2.0, ci=(1.8, 2.2), n=60, threshold=0.05, outcome="pass"),)
    texts = {
        "plan": made_plan(run=run_id, **plan).model_dump_json(),
        "eval": json.dumps({"verdicts": [one.model_dump(mode="json") for one in gates], "quality": quality, "headline": "Better."}),
        "publication": json.dumps({
            "hub": "hub", "name": "handbook-qa", "quality": quality, "integrity": "pass",
            "files": [{"path": "gguf/x.gguf", "bytes": 3, "sha256": f"sha of {run_id}"}],
        }),
        "adapter": f"weights of {run_id}", "test_recall": "the test", "train": "the rows",
    }
    write_jsonl(scratch / "predictions", said)
    for name, text in texts.items():
        (scratch / name).write_text(text, encoding="utf-8")
    for name in (*texts, "predictions"):
        sql, values = run.store.record(run.store.publish(name, "made", scratch / name, name))
        run.state.execute(sql, *values)
    run.state.put("outcome", "done")
    return run
