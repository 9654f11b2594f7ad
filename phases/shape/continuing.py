"""Going on from an earlier run (`base: run:ID`): its merged model is the base, and what it was taught is neither taught nor tested again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from forge.errors import UsageError
from forge.phase import Context
from forge.phases.shape.leakage import identical, near_identical, question
from forge.phases.shape.material import Rows
from forge.records import Chat, Example, Plan, Split, read_jsonl, read_record
from forge.run import Run

PREFIX = "run:"
TESTS: tuple[Split, ...] = ("test_recall", "test_unseen", "test_abstain")


def open_earlier(word: str) -> tuple[str, Path, Plan]:
    """(run id, folder of its merged model, its plan) of "run:ID". Raises UsageError for a run that has no model, or is a rehearsal."""
    run = Run.open(word.removeprefix(PREFIX))
    try:
        model, plan = run.store.get("model"), run.store.get("plan")
        if model is None or plan is None or run.dry_run:
            why = "it is a rehearsal" if run.dry_run else f"its state is {run.state.get('outcome', 'new')}"
            raise UsageError(f"run {run.id} has no model to go on from", why=why, next=f"forge resume {run.id}" if not run.dry_run else "forge runs")
        return run.id, run.store.open(model), read_record(run.store.open(plan), Plan)
    finally:
        run.close()


def taught_rows(run_id: str) -> list[Example]:
    """What an earlier run was trained on, and what the runs before it were, if it continued one itself."""
    run, found = Run.open(run_id), []
    try:
        train, plan = run.store.get("train"), run.store.get("plan")
        found = list(read_jsonl(run.store.open(train), Example)) if train else []
        before = read_record(run.store.open(plan), Plan).continues if plan else ""
    finally:
        run.close()
    return [*(taught_rows(before) if before else []), *found]


def leave_out_taught(rows: Rows, taught: Sequence[Example], ctx: Context) -> None:
    """Take out, in place, training rows that were taught before, and test rows that the earlier training would give away.

    A test row goes when its id, its whole document (test_unseen) or nearly its question was in the earlier training. Raises UsageError
    when nothing new is left to teach.
    """
    ids, groups = {row.id for row in taught}, {row.group for row in taught}
    before = {split: len(found) for split, found in rows.items()}
    rows["train"] = [row for row in rows["train"] if row.id not in ids]
    rows["test_unseen"] = [row for row in rows["test_unseen"] if row.group not in groups]
    known = [question(row) for row in taught if isinstance(row.body, Chat)]
    for split in TESTS:
        asked = [question(row) for row in rows[split]]
        given_away = identical(asked, known) | near_identical(asked, known)
        rows[split] = [row for number, row in enumerate(rows[split]) if number not in given_away and row.id not in ids]
    if not rows["train"]:
        raise UsageError(
            "there is nothing new to teach", why=f"all {before['train']:,} training rows were taught by the earlier run",
            next="add documents, or turn on other buckets: --set 'synth.buckets={method_discrimination: 0.3}'",
        )
    lost = ", ".join(f"{before[split] - len(rows[split]):,} of {split}" for split in rows if before[split] > len(rows[split]))
    ctx.notice(f"going on from an earlier run: {len(rows['train']):,} new training rows; left out as taught before: {lost or 'none'}")
