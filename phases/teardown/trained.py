"""The report's tables of a sweep and of stages, from train.json and eval.json."""

from __future__ import annotations

from typing import Any

from forge.phases.teardown.view import View
from forge.records import Record


class Grid(Record):
    """A table of texts with a heading and a sentence; `marked` is the number of the row that was chosen, or -1."""

    title: str
    about: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: int = -1


def grids(view: View) -> list[Grid]:
    """The tables that this run has: none for a plain one."""
    found = [_sweep(view.train.get("sweep")), *_stages(view.eval.get("stages"))]
    return [grid for grid in found if grid is not None and grid.rows]


def _sweep(told: Any) -> Grid | None:
    if not isinstance(told, dict):
        return None
    tried = told.get("candidates") or []
    rows = tuple(
        (
            str(one["name"]), f"{one['train_loss']:.4f}", f"{one['val_loss']:.4f}", f"{one['low']:.4f} to {one['high']:.4f}", f"{one['behind']:+.4f}",
            f"{one['behind_low']:+.4f} to {one['behind_high']:+.4f}", f"after step {one['stopped_at']}" if one["stopped_at"] else "",
        )
        for one in tried
    )
    names = [row[0] for row in rows]
    chosen = str(told.get("chosen", ""))
    return Grid(
        title="Which adapter was chosen", about=f"{told.get('why', '')}. Losses in nats per answer token on {told.get('validation_rows', 0)} validation rows.",
        head=("adapter", "training loss", "validation loss", "interval", "behind the best", "interval", "stopped"), rows=rows,
        marked=names.index(chosen) if chosen in names else -1,
    )


def _stages(told: Any) -> list[Grid]:
    if not isinstance(told, dict):
        return []
    models = [str(name) for name in told.get("models", [])]
    table = tuple(
        (str(row["stage"]), str(row["rows"]), *(f"{one['mean']:.3f} ({one['low']:.3f} to {one['high']:.3f})" for one in (row["nats_per_token"][name] for name in models)))
        for row in told.get("table", [])
    )
    prompts = tuple(
        (str(row["question"]), *(f"{row['nats_per_token'][name]:.2f} · {row['answers'].get(name, '–')}" for name in models)) for row in told.get("prompts", [])
    )
    titles = tuple(name.replace("_", " ") for name in models)
    return [
        Grid(title="What each stage taught", about="Nats per answer token on each stage's questions, with intervals; lower is better.", head=("questions of", "rows", *titles), rows=table),
        Grid(title="Prompt by prompt", about="Score (nats per answer token, lower is better) and answer of each model.", head=("question", *titles), rows=prompts),
    ]
