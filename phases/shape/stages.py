"""Which stage of training each row belongs to, for recipes that teach one thing after another (tone, then domain)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from pydantic import Field

from forge.errors import UsageError
from forge.phase import Context, Settings
from forge.phases.shape.material import Rows
from forge.records import Example, Split, StageData


class Stage(Settings):
    """One entry of shape.stages. A row belongs to the first stage that it fits; what fits none belongs to the last."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,30}$", description="what it teaches, in a word")
    sources: tuple[str, ...] = Field((), description="patterns of corpus paths (tone/*) whose questions are this stage's")
    buckets: tuple[str, ...] = Field((), description="buckets of pairs that are this stage's")
    epochs: float = Field(0.0, ge=0, le=50, description="passes over its rows; 0: by model size")
    rate: float = Field(1.0, gt=0, le=10, description="times the learning rate of the model's size")


def assign_stages(rows: Rows, path_of: Mapping[str, str], stages: Sequence[Stage], ctx: Context) -> None:
    """Write its stage into every row of every split, in place. path_of: passage id -> path in the corpus.

    Raises UsageError for a stage without training rows; a rehearsal's sample may miss one.
    """
    if not stages:
        return
    if len({stage.name for stage in stages}) < len(stages):
        raise UsageError("two entries of shape.stages have one name", next="name each stage differently")
    for split, found in rows.items():
        rows[split] = [row.model_copy(update={"stage": stage_of(row, path_of, stages)}) for row in found]
    empty = [stage.name for stage in stages if not any(row.stage == stage.name for row in rows["train"])]
    if empty and not ctx.dry_run:
        raise UsageError(
            f"stage {empty[0]} has no training rows", why=f"no row comes from {', '.join(_wanted(stages, empty[0])) or 'what the others leave'}",
            next="mend its sources or buckets in shape.stages; forge show RUN shape lists the buckets",
        )
    for name in empty:
        ctx.notice(f"stage {name} has no rows in this sample")


def stage_of(row: Example, path_of: Mapping[str, str], stages: Sequence[Stage]) -> str:
    """The first stage that the row fits, by bucket or by the path of its passage; else the last."""
    paths = [path_of[passage] for passage in row.origin if passage in path_of]
    for stage in stages:
        if row.bucket in stage.buckets or any(fnmatchcase(path, pattern) for path in paths for pattern in stage.sources):
            return stage.name
    return stages[-1].name


def stage_data(rows: Rows, tokens: Mapping[Split, Sequence[tuple[int, int]]], stages: Sequence[Stage]) -> tuple[StageData, ...]:
    """What each stage got of the training split; tokens: (prompt, whole row) of each row. Stages without rows are left out."""
    found = []
    for stage in stages:
        lengths = [whole for row, (_, whole) in zip(rows["train"], tokens["train"], strict=True) if row.stage == stage.name]
        if lengths:
            found.append(StageData(name=stage.name, rows=len(lengths), tokens=sum(lengths), epochs=stage.epochs, rate=stage.rate))
    return tuple(found)


def _wanted(stages: Sequence[Stage], name: str) -> list[str]:
    stage = next(stage for stage in stages if stage.name == name)
    return [*stage.sources, *(f"bucket {bucket}" for bucket in stage.buckets)]
