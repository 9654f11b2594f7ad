"""Asks both models about every test row, batch by batch; a finished batch is in the journal and never asked again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from forge.journal import Journal
from forge.phase import Context
from forge.phases.eval.models import Encoded, Models, Which
from forge.phases.eval.select import stratified
from forge.protocols import Prediction, Task
from forge.records import Example, Extraction, Labelled, digest

TESTS = ("test_recall", "test_unseen", "test_abstain")
LOSS_BATCH = 16
ANSWER_BATCH = 32


class Caps(NamedTuple):
    """How many answers are generated: by the tuned model for each test, by the base for the first test that has rows."""

    recall: int
    unseen: int
    abstain: int
    base: int
    new_tokens: int


class Row(NamedTuple):
    """A test row, ready to be asked."""

    example: Example
    encoded: Encoded


def predict(models: Models, task: Task, examples: Sequence[Example], caps: Caps, ctx: Context) -> list[Prediction]:
    """Likelihood for every row, answers for a sample. Batches depend on nothing but the rows, so a kill changes nothing."""
    rows = [Row(example, models.encode(task.prompt(example), task.target(example))) for example in examples]
    asked = _sample(rows, caps, ctx.seed)
    recall = [row for row in asked if row.example.split == TESTS[0]]
    base_asked = (recall or [row for row in asked if row.example.split == TESTS[1]])[: caps.base]
    journal = ctx.journal("batches")
    work = [
        *(("loss", which, batch) for which in ("base", "tuned") for batch in batches(rows, LOSS_BATCH)),
        *(("answer", "tuned", batch) for batch in batches(asked, ANSWER_BATCH)),
        *(("answer", "base", batch) for batch in batches(base_asked, ANSWER_BATCH)),
    ]
    found: dict[tuple[str, str, str], Any] = {}
    for done, (kind, which, batch) in enumerate(work):
        ctx.check_stop()
        ctx.progress(done, len(work), f"{kind} of the {which} model")
        values = _ask(models, kind, which, batch, caps, journal)  # type: ignore[arg-type]
        found |= {(kind, which, row.example.id): value for row, value in zip(batch, values, strict=True)}
    scores = {which: _label_scores(models, task, asked, which, ctx) for which in ("base", "tuned")}
    ctx.progress(len(work), len(work), "measured")
    return [_with_labels(_prediction(row, task, found), scores) for row in rows]


def _label_scores(models: Models, task: Task, rows: Sequence[Row], which: Which, ctx: Context) -> dict[str, dict[str, float]]:
    """row id -> label -> log-probability that the answer begins with it, for tasks that have labels."""
    prefixes = getattr(task, "label_prefixes", None)
    if prefixes is None:
        return {}
    journal, found = ctx.journal("labels"), dict[str, dict[str, float]]()
    for batch in batches(rows, LOSS_BATCH):
        ctx.check_stop()
        key = digest("labels", which, *(row.example.id for row in batch))
        if key not in journal:
            journal.put(key, [_score_labels(models, task, row.example, prefixes(row.example), which) for row in batch])
        found |= {row.example.id: scores for row, scores in zip(batch, journal.get(key), strict=True)}
    return found


def _score_labels(models: Models, task: Task, example: Example, prefixes: dict[str, str], which: Which) -> dict[str, float]:
    """A beginning counts without the end of the turn unless it is the whole answer."""
    whole = task.target(example) in prefixes.values()
    rows = [models.encode(task.prompt(example), text) for text in prefixes.values()]
    rows = rows if whole else [row._replace(answer=row.answer[:-1]) for row in rows]
    losses = models.answer_losses(rows, which)
    return {label: round(-loss, 6) for label, loss in zip(prefixes, losses, strict=True)}


def _with_labels(row: Prediction, scores: dict[str, dict[str, dict[str, float]]]) -> Prediction:
    tuned, base = (scores[which].get(row.id, {}) for which in ("tuned", "base"))
    if not tuned:
        return row
    likeliest = min(base, key=lambda label: (-base[label], label))
    return row.model_copy(update={"label_scores": tuned, "others": {**row.others, "base_labels": likeliest}})


def batches(rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
    """Rows of about the same length together, so that little is padding."""
    ordered = sorted(rows, key=lambda row: (len(row.encoded.prompt) + len(row.encoded.answer), row.example.id))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def _sample(rows: Sequence[Row], caps: Caps, seed: int) -> list[Row]:
    by_test = dict(zip(TESTS, (caps.recall, caps.unseen, caps.abstain), strict=True))
    picked = {
        example.id
        for test, cap in by_test.items()
        for example in stratified([row.example for row in rows if row.example.split == test], cap, seed)
    }
    return [row for row in rows if row.example.id in picked]


def _ask(models: Models, kind: str, which: Which, batch: Sequence[Row], caps: Caps, journal: Journal) -> list[Any]:
    key = digest(kind, which, str(caps.new_tokens), *(row.example.id for row in batch))
    if key not in journal:
        encoded = [row.encoded for row in batch]
        if kind == "loss":
            journal.put(key, models.answer_losses(encoded, which))
        else:
            journal.put(key, [list(answer) for answer in models.generate(encoded, which, caps.new_tokens)])
    values: list[Any] = journal.get(key)
    return values


def _prediction(row: Row, task: Task, found: dict[tuple[str, str, str], Any]) -> Prediction:
    example = row.example
    tuned, base = (found.get(("answer", which, example.id)) for which in ("tuned", "base"))
    return Prediction(
        id=example.id, split=example.split, group=example.group, prompt=task.prompt(example), gold=task.target(example),
        answerable=getattr(example.body, "answerable", True), names=example.names, answer_tokens=len(row.encoded.answer),
        nll_base=round(found["loss", "base", example.id], 6), nll_tuned=round(found["loss", "tuned", example.id], 6),
        base=task.parse(base[0]) if base else "", tuned=task.parse(tuned[0]) if tuned else "", generated=tuned is not None,
        finished=bool(tuned[1]) if tuned else True, subtopic=example.subtopic,
        body=example.body if isinstance(example.body, Labelled | Extraction) else None,
    )
