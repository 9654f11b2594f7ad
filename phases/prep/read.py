"""Reads many files through the pool: finished ones from this run or from the shared cache, the rest in child processes."""

from __future__ import annotations

import gc
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from forge.cache import Cache
from forge.errors import ForgeError
from forge.phases.prep.extract import Reader, ReadJob, ended
from forge.phases.prep.listing import Listing
from forge.phases.prep.pool import Lost, Pool, default_workers
from forge.phases.prep.results import Held, Results, pack, unpack
from forge.phases.prep.seat import Seat

SECONDS = struct.Struct("d")
FILE_BYTES = 20_000
"""What opening a file costs beside its bytes, as bytes: small files then do not make the time left look short."""

FOUND_AT_ONCE = 200
"""Results from the cache that are kept in one transaction: about 1 MB."""


@dataclass(frozen=True)
class Progress:
    """How far reading is: files done and in all, the last one, the share of the work by bytes (0..1). Known files do not count."""

    done: int
    total: int
    note: str
    share: float
    megabytes_per_second: float

    def fields(self) -> dict[str, Any]:
        """The fields of a progress event."""
        return asdict(self)


Spread = Callable[[Sequence[ReadJob]], Iterator[list[tuple[str, float, bytes]]] | None]


@dataclass(frozen=True)
class Limits:
    """workers: files at once, 0 = default_workers(); seconds and MiB of memory that one file may take."""

    workers: int
    seconds: float
    memory_mib: int


def read_files(
    listing: Listing, root: Path, reader: Reader, results: Results, work: Path, *, limits: Limits, cache: Cache | None = None,
    stamp: str = "", on_file: Callable[[Progress], None] = lambda progress: None, tick: Callable[[], None] = lambda: None,
    spread: Spread | None = None,
) -> int:
    """Bring what every job of `listing` gives into `results`; returns how many files were read for it.

    cache: what earlier runs read, under `stamp` and the job's key. stamp: everything else that results depend on.
    work: a folder in which children get theirs. tick() is called between files and while waiting, and may raise.
    spread: reads all of them in shards elsewhere, or gives None; the results are the same.
    Raises ForgeError when a file's characters do not add up.
    """
    _take_known(listing, results, cache, stamp, tick)
    total, all_bytes = listing.pending()
    done, size, began = 0, 0, time.monotonic()
    for job, seconds, data in _elsewhere(listing, spread) or run_jobs(listing.jobs(pending=True), root, reader, work, limits, tick):
        held = unpack(data)
        _check(held)
        results.add(job.key, held, seconds=seconds)
        if cache is not None and _is_lasting(held):
            cache.put(stamp + job.key, data)
        done, size = done + 1, size + job.entry.size
        share = (size + done * FILE_BYTES) / (all_bytes + total * FILE_BYTES)
        on_file(Progress(done, total, job.entry.path, share, size / 1e6 / max(1e-3, time.monotonic() - began)))
    return total


def _take_known(listing: Listing, results: Results, cache: Cache | None, stamp: str, tick: Callable[[], None]) -> None:
    """Take from the cache what it has; what nobody has read is left pending."""
    found: list[tuple[str, list[Held]]] = []
    for job in listing.jobs():
        if job.key in results:
            continue
        data = cache.get(stamp + job.key) if cache is not None else None
        if data is None:
            listing.postpone(job)
            continue
        found.append((job.key, unpack(data)))
        if len(found) == FOUND_AT_ONCE:
            tick()
            results.add_many(found)
            found.clear()
    results.add_many(found)


def _elsewhere(listing: Listing, spread: Spread | None) -> Iterator[tuple[ReadJob, float, bytes]] | None:
    """(job, seconds, packed results) of what was read in shards; None when it is to be read here."""
    jobs = {job.key: job for job in listing.jobs(pending=True)} if spread else {}
    shards = spread([*jobs.values()]) if spread and jobs else None
    if shards is None:
        return None
    return ((jobs[key], seconds, data) for shard in shards for key, seconds, data in shard)


def run_jobs(
    jobs: Iterable[ReadJob], root: Path, reader: Reader, work: Path, limits: Limits, tick: Callable[[], None]
) -> Iterator[tuple[ReadJob, float, bytes]]:
    """(job, seconds, packed results) in the order of completion."""

    def read(job: ReadJob, seat: Seat) -> bytes:
        began = time.perf_counter()
        data = pack(reader.read_job(job, root, seat))
        return SECONDS.pack(time.perf_counter() - began) + data

    pool = Pool(
        read, workers=limits.workers or default_workers(), seconds=limits.seconds, memory_mib=limits.memory_mib, scratch=work
    )
    # What is imported stays: children need not look through it for garbage, which also keeps its pages shared with us.
    gc.freeze()
    with closing(pool.map(jobs, tick)) as outcomes:
        for job, outcome in outcomes:
            if isinstance(outcome, Lost):
                yield job, 0.0, pack([ended(job.entry, "failed", outcome.reason)])
            else:
                yield job, SECONDS.unpack_from(outcome)[0], outcome[SECONDS.size :]


def _check(held: list[Held]) -> None:
    for one in held:
        if one.fault:
            fact, why, next_ = one.fault
            raise ForgeError(fact, why=why, next=next_)


def _is_lasting(held: list[Held]) -> bool:
    """False when anything failed: the reason may have been the machine's (time, memory, a missing extra), so the next run tries again."""
    return not any('"status":"failed"' in one.line for one in held)
