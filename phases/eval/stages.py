"""What each stage of training left of the one before: base, every stage's model and the final one on the same prompts.

The likelihood of every test row is measured for each stage's adapter, and a few rows of each stage are answered by each. A stage was
kept when the final model is not significantly worse on its rows than the model that had just learnt them.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.phase import Context, Table
from forge.phases.eval.baselines import Answers
from forge.phases.eval.measure import LOSS_BATCH, Row, batches
from forge.phases.eval.models import Models
from forge.phases.eval.select import stratified
from forge.protocols import Prediction, Task
from forge.records import Example, Plan, Verdict, digest
from forge.stats import cluster_bootstrap, compare_counts

if TYPE_CHECKING:
    from forge.phases.eval import EvalSettings

BASE, FINAL = "base", "final"
QUESTIONS = ("test_recall", "test_unseen")
Losses = dict[str, dict[str, float]]
"""model -> row id -> summed nats of the expected answer."""


def measure_stages(
    plan: Plan, task: Task, examples: Sequence[Example], predictions: Sequence[Prediction], settings: EvalSettings, ctx: Context, *, answers: int,
    new_tokens: int,
) -> tuple[dict[str, Any], list[Verdict], Answers]:
    """The table (eval.json's "stages"), a verdict for each stage but the last, and the stage models' answers by row."""
    rows = [row for row in examples if row.split in QUESTIONS and row.stage]
    folder = ctx.input("stage_adapters")
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    shown = {row.id for stage in index for row in stratified([row for row in rows if row.stage == stage["name"]], answers, ctx.seed)}
    losses: Losses = {BASE: {row.id: row.nll_base for row in predictions}, FINAL: {row.id: row.nll_tuned for row in predictions}}
    said: Answers = {}
    for stage in index[:-1]:     # the last one's model is the final one, which was measured
        name = after(stage["name"])
        found, told = _ask(plan, task, rows, shown, folder / stage["folder"], name, settings, ctx, new_tokens)
        losses[name] = found
        for row, text in told.items():
            said.setdefault(row, {})[name] = text
    stages = [stage["name"] for stage in index]
    by_id = {row.id: row for row in predictions}
    return _table(stages, rows, losses, said, by_id, shown, plan.seed), measure_verdicts(stages, rows, losses, by_id, plan.seed), said


def tables(eval_json: Path) -> Iterator[Table]:
    """For `forge show`: nats per answer token of every model on every stage's questions, and each prompt that was answered by all."""
    found = json.loads(eval_json.read_text(encoding="utf-8")).get("stages")
    if not found:
        return
    models = found["models"]
    yield Table(name="stages", head=("questions of", "rows", *models), rows=tuple(
        (row["stage"], row["rows"], *(f"{one['mean']:.3f} ({one['low']:.3f} to {one['high']:.3f})" for one in (row["nats_per_token"][model] for model in models)))
        for row in found["table"]
    ))
    yield Table(name="prompts", head=("questions of", "question", *models), rows=tuple(
        (row["stage"], row["question"], *(f"{row['nats_per_token'][model]:.2f} {row['answers'].get(model, '')}".strip() for model in models))
        for row in found["prompts"]
    ))


def after(stage: str) -> str:
    """How the model that had just learnt a stage is called."""
    return f"after_{stage}"


def _ask(
    plan: Plan, task: Task, rows: Sequence[Example], shown: set[str], adapter: Path, name: str, settings: EvalSettings, ctx: Context, new_tokens: int
) -> tuple[dict[str, float], dict[str, str]]:
    """(nats by row, answers by row) of one stage's model; measured batches are in the journal."""
    models = Models(ctx.input("base_model"), adapter, threads=settings.threads, precision=plan.precision)
    journal = ctx.journal("stages")
    encoded = [Row(row, models.encode(task.prompt(row), task.target(row))) for row in rows]
    losses: dict[str, float] = {}
    for batch in batches(encoded, LOSS_BATCH):
        ctx.check_stop()
        ctx.progress(len(losses), len(rows), name.replace("_", " "))
        key = digest("stage loss", name, *(row.example.id for row in batch))
        if key not in journal:
            journal.put(key, models.answer_losses([row.encoded for row in batch], "tuned"))
        losses |= {row.example.id: round(float(nats), 6) for row, nats in zip(batch, journal.get(key), strict=True)}
    answers: dict[str, str] = {}
    for batch in batches([row for row in encoded if row.example.id in shown], LOSS_BATCH):
        ctx.check_stop()
        key = digest("stage answer", name, str(new_tokens), *(row.example.id for row in batch))
        if key not in journal:
            journal.put(key, [answer.text for answer in models.generate([row.encoded for row in batch], "tuned", new_tokens)])
        answers |= {row.example.id: task.parse(str(text)) for row, text in zip(batch, journal.get(key), strict=True)}
    return losses, answers


def _table(
    stages: Sequence[str], rows: Sequence[Example], losses: Losses, said: Answers, by_id: Mapping[str, Prediction], shown: set[str], seed: int
) -> dict[str, Any]:
    models = [BASE, *(after(stage) for stage in stages[:-1]), FINAL]
    table = [
        {"stage": stage, "rows": len(own), "nats_per_token": {model: _mean(own, losses[model], by_id, seed) for model in models}}
        for stage in stages if (own := [row for row in rows if row.stage == stage])
    ]
    prompts = []
    for row in sorted((row for row in rows if row.id in shown), key=lambda row: (stages.index(row.stage), row.id)):
        told = by_id[row.id]
        prompts.append({
            "id": row.id, "stage": row.stage, "question": told.prompt[-1].content if told.prompt else "", "expected": told.gold,
            "answers": {**({BASE: told.base} if told.base else {}), **said.get(row.id, {}), **({FINAL: told.tuned} if told.generated else {})},
            "nats_per_token": {model: round(losses[model][row.id] / max(1, told.answer_tokens), 4) for model in models},
        })
    return {"models": models, "table": table, "prompts": prompts}


def _mean(rows: Sequence[Example], nats: Mapping[str, float], by_id: Mapping[str, Prediction], seed: int) -> dict[str, float]:
    clusters: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        clusters[row.group or row.id].append((nats[row.id], by_id[row.id].answer_tokens))
    estimate, low, high = cluster_bootstrap(clusters, seed=seed)
    return {"mean": round(estimate, 4), "low": round(low, 4), "high": round(high, 4)}


def measure_verdicts(stages: Sequence[str], rows: Sequence[Example], losses: Losses, by_id: Mapping[str, Prediction], seed: int) -> list[Verdict]:
    """For each stage but the last whether the final model still has it. losses needs "after_STAGE" and "final"."""
    found = []
    for stage in stages[:-1]:
        clusters: dict[str, list[tuple[tuple[float, ...], tuple[float, ...]]]] = defaultdict(list)
        own = [row for row in rows if row.stage == stage]
        for row in own:
            tokens = float(by_id[row.id].answer_tokens)
            clusters[row.group or row.id].append(((losses[after(stage)][row.id], tokens), (losses[FINAL][row.id], tokens)))
        if not own:
            continue
        change = compare_counts(clusters, lambda sums: sums[0] / sums[1] if sums[1] else 0.0, seed=seed)
        outcome = "fail" if change.ci[0] > 0 else "pass" if change.ci[1] <= 0 else "undecided"
        found.append(Verdict(
            name=f"kept_{stage}", estimate=round(change.difference, 4), ci=(round(change.ci[0], 4), round(change.ci[1], 4)), n=len(own), outcome=outcome,
            kind="info", evidence="nats per answer token, final model less the one that had just learnt this stage; above zero: later stages overwrote it",
        ))
    return found
