"""For tests of phases and plugins: a small corpus from a dict, a money box that counts, one phase run by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from forge.context import FolderContext, InputFile, Rehearse
from forge.corpus import walk_corpus
from forge.executor import LocalExecutor
from forge.ledger import MICRO, Spend
from forge.parts import take_over
from forge.phase import Rehearsal, Settings
from forge.records import stream_jsonl
from forge.registry import Registry
from forge.store import hash_path


class CountingMoney:
    """A Money that records every reservation and never refuses below its cap (micro-dollars)."""

    def __init__(self, cap: int = 1000 * MICRO) -> None:
        self.cap, self.reserved, self.settled = cap, 0, 0

    def reserve(self, key: str, micro: int, what: str, *, again: bool = False) -> int:
        """Count a reservation."""
        self.reserved += micro
        return self.reserved

    def settle(self, reservation: int, micro: int) -> None:
        """Count a settlement."""
        self.settled += micro

    def totals(self) -> Spend:
        """What was settled so far; nothing is open."""
        return Spend(settled=self.settled, reserved=0, before_gate=self.settled, budget=self.cap, before_gate_cap=self.cap)


def tiny_corpus(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files ("a/b.md": text or bytes) under `root` and return it."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content, encoding="utf-8")
    return root


class PhaseRun:
    """What one phase run left: its numbers, its events and the folder with its outputs."""

    def __init__(self, metrics: Mapping[str, Any], events: list[tuple[str, dict[str, Any]]], out: Path) -> None:
        self.metrics, self.events, self.out = metrics, events, out


def run_phase(
    phase: Any,
    folder: Path,
    *,
    settings: Settings | None = None,
    inputs: Mapping[str, Path] | None = None,
    corpus: Path | None = None,
    seed: int = 7,
    dry_run: bool = False,
    task: str = "chat",
    money: Any = None,
    plugin_dirs: tuple[Path, ...] = (),
    cache: Path | None = None,
    rehearse: Rehearse | None = None,
    part: str = "",
    seeds: Sequence[Path] = (),
    shards: int = 0,
    workers: int = 1,
    executor: Callable[[Path, Callable[[], None]], Any] | None = None,
) -> PhaseRun:
    """Run one phase on given input files, as the pipeline would; outputs land in `folder`/out.

    cache: a folder that several calls share, as runs do; without one, `folder`/cache.
    corpus: a folder; it is scanned into the `corpus` artifact for phases that read it.
    part: the only one that the phase shall do. seeds: folders of calls that did parts (forge.parts).
    shards: into how many the phase's work is cut where it can be, 0 for none; workers: processes that do them; executor:
    what does them instead, made of its folder and a function to call while it waits.
    """
    given = dict(inputs or {})
    if corpus is not None:
        folder.mkdir(parents=True, exist_ok=True)
        listing = folder / "corpus.jsonl"
        stream_jsonl(listing, walk_corpus(corpus))
        given["corpus"] = listing
    events: list[tuple[str, dict[str, Any]]] = []
    ctx = FolderContext(
        folder,
        run_id="test",
        seed=seed,
        dry_run=dry_run,
        task=task,
        inputs={name: InputFile(path=str(path), sha256=hash_path(path)) for name, path in given.items()},
        writes=phase.writes,
        registry=Registry(plugin_dirs),
        money=money or CountingMoney(),
        emit=lambda kind, fields: events.append((kind, fields)),
        corpus_root=corpus or Path(),
        cache=cache,
        rehearse=rehearse or (lambda phases, files: Rehearsal(error="no rehearsal in this test")),
        part=part,
        shards=shards,
        executor=executor or (lambda place, tick: LocalExecutor(place, workers, tick)),
    )
    take_over([str(seed) for seed in seeds], ctx.work)
    try:
        metrics = phase.run(settings or phase.settings(), ctx)
    finally:
        ctx.close()
    return PhaseRun(metrics, events, ctx.out)
