"""Reading files beside each other in other processes, here or on a cluster: what one shard of them is, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from forge.phase import Context
from forge.phases.prep.extract import ReadJob
from forge.phases.prep.read import run_jobs
from forge.registry import Registry

if TYPE_CHECKING:
    from forge.phases.prep import PrepSettings

Shard = list[tuple[str, float, bytes]]
"""Of each file: its job's key, the seconds that it took, its packed results."""


def spread(ctx: Context, settings: PrepSettings) -> Callable[[Sequence[ReadJob]], Iterator[Shard] | None]:
    """Reads jobs in shards as the run wants it; gives None when it does not."""
    read = partial(read_shard, root=ctx.corpus_root.absolute(), settings=settings, plugin_dirs=ctx.plugin_dirs)

    def in_shards(jobs: Sequence[ReadJob]) -> Iterator[Shard] | None:
        return ctx.map_shards(read, jobs, lambda done, total: ctx.progress(len(jobs) * done // total, len(jobs), f"{done} of {total} shards"))

    return in_shards


def read_shard(jobs: Sequence[ReadJob], *, root: Path, settings: PrepSettings, plugin_dirs: tuple[Path, ...]) -> Shard:
    """Read these files as prep does: in children with limits, isolated."""
    from forge.phases.prep import load_extractors, make_limits, make_reader

    registry = Registry(plugin_dirs)
    extractors = load_extractors(registry.names("extractor"), lambda name: registry.plugin("extractor", name, ready=False))
    with TemporaryDirectory() as work:
        outcomes = run_jobs(jobs, root, make_reader(extractors, settings), Path(work), make_limits(settings), lambda: None)
        return [(job.key, seconds, data) for job, seconds, data in outcomes]
