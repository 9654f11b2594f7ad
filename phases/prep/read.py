"""Reads many files through the pool: duplicates once, finished ones from the journal, the rest in child processes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from pydantic import TypeAdapter

from forge.corpus import locate
from forge.errors import ForgeError
from forge.phases.prep.extract import Reader, Result, ended
from forge.phases.prep.pool import Lost, Pool, default_workers
from forge.records import Balance, CorpusEntry

RESULTS = TypeAdapter(tuple[Result, ...])
DUPLICATE = "the same bytes as "


class Finished(Protocol):
    """Where results survive a kill; forge.journal.Journal is one."""

    def get(self, key: str) -> Any:
        """The result stored under a key, or None."""
        ...

    def put(self, key: str, value: Any) -> None:
        """Store a result."""
        ...


def read_files(
    entries: list[CorpusEntry], root: Path, reader: Reader, *, journal: Finished, workers: int, seconds: float,
    memory_mib: int, on_file: Callable[[int, int, str], None], tick: Callable[[], None],
) -> dict[str, tuple[Result, ...]]:
    """For every entry of kind "file", by path: its result and those of the files inside it. Raises ForgeError when a file's characters do not add up.

    on_file(done, total, name) after each file; tick() between files and while waiting, may raise to stop.
    """
    results: dict[str, tuple[Result, ...]] = {}
    todo: list[CorpusEntry] = []
    for entry in entries:
        if stored := journal.get(_key(entry)):
            results[entry.path] = tuple(map(Result.model_validate, stored))
        else:
            todo.append(entry)
    for entry, found in _run(todo, root, reader, workers=workers, seconds=seconds, memory_mib=memory_mib, tick=tick):
        for result in found:
            if result.fault:
                fact, why, next_ = result.fault
                raise ForgeError(fact, why=why, next=next_)
        journal.put(_key(entry), [result.model_dump(mode="json") for result in found])
        results[entry.path] = found
        on_file(len(results), len(entries), entry.path)
    return results


def _run(
    todo: list[CorpusEntry], root: Path, reader: Reader, *, workers: int, seconds: float, memory_mib: int,
    tick: Callable[[], None],
) -> Iterator[tuple[CorpusEntry, tuple[Result, ...]]]:
    def work(item: int) -> bytes:
        entry = todo[item]
        return RESULTS.dump_json(reader.read(entry, locate(root, entry)))

    pool = Pool(work, workers=workers or default_workers(), seconds=seconds, memory_mib=memory_mib)
    # The largest first: a book that starts last would keep one core busy alone.
    order = sorted(range(len(todo)), key=lambda item: (-todo[item].size, todo[item].path))
    with closing(pool.map(order, tick)) as outcomes:
        for item, outcome in outcomes:
            if isinstance(outcome, Lost):
                yield todo[item], (ended(todo[item], "failed", outcome.reason),)
            else:
                yield todo[item], RESULTS.validate_json(outcome)


def split_duplicates(
    entries: list[CorpusEntry], extensions: Mapping[str, str]
) -> tuple[list[CorpusEntry], dict[str, CorpusEntry]]:
    """The entries to read, and for each other one with the same bytes (by path) the entry that stands for it.

    Of equal files the first path stays, among those whose extension an extractor knows if there is one.
    """
    same: dict[str, list[CorpusEntry]] = defaultdict(list)
    for entry in entries:
        same[entry.sha256].append(entry)
    leaders, copies = [], {}
    for group in same.values():
        group.sort(key=lambda entry: (PurePosixPath(entry.path).suffix.lower() not in extensions, entry.path))
        leaders.append(group[0])
        copies.update({entry.path: group[0] for entry in group[1:]})
    return sorted(leaders, key=lambda entry: entry.path), copies


def as_copy(entry: CorpusEntry, leader: Result) -> Result:
    """How a duplicate ended: as its leader did, with all its characters counted as duplicate."""
    original = leader.document
    if original.status != "ok":
        return ended(entry, original.status, original.reason, original.media_type, original.extractor)
    count = original.balance.extracted
    balance = Balance(extracted=count, duplicate=count)
    reason = DUPLICATE + original.source.path
    return ended(entry, "ok", reason, original.media_type, original.extractor, balance)


def _key(entry: CorpusEntry) -> str:
    return f"{entry.sha256}:{entry.path}"
