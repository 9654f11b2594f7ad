"""What prep tells about a corpus: numbers, families, losses, and the error when too little was read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from forge.errors import ForgeError
from forge.phase import Table
from forge.phases.prep.masking import masked_label
from forge.phases.prep.results import Results
from forge.records import Document, read_jsonl

STATUSES = ("ok", "skipped", "refused", "failed")
REASONS_PER_FAMILY = 3
NOBODY = "(no extractor)"
READ = "copy_of=''"


def summarize(results: Results) -> dict[str, Any]:
    """prep.json: what each family of files gave (tokens: estimated from the kept text), and what was lost why."""
    dropped, losses = _dropped(results), _losses(results)
    return {
        "families": [_family(row, results) for row in results.rows(
            f"SELECT extractor, COUNT(*), SUM(status='ok' AND {READ}), SUM(status='skipped'), SUM(status='refused'),"
            f" SUM(status='failed'), SUM(copy_of<>''), SUM(CASE WHEN {READ} THEN passages ELSE 0 END),"
            f" SUM(CASE WHEN {READ} THEN kept ELSE 0 END), SUM(CASE WHEN {READ} THEN tokens ELSE 0 END)"
            " FROM document GROUP BY extractor ORDER BY extractor"
        )],
        "dropped_characters": dict(sorted(dropped.items())),
        "losses": dict(sorted(losses.items())),
    }


def seconds_by_family(results: Results) -> dict[str, float]:
    """Seconds that reading took in this run, by the extractor of the outermost file; what came from the cache took none."""
    rows = results.rows("SELECT extractor, SUM(seconds) FROM file GROUP BY extractor ORDER BY extractor")
    return {name or NOBODY: round(seconds, 3) for name, seconds in rows}


def metrics(results: Results) -> dict[str, float | str]:
    """The numbers that the run shows, its one-line `summary` last."""
    statuses = _statuses(results)
    numbers: dict[str, float | str] = {"files": sum(statuses.values())}
    numbers.update({status: statuses[status] for status in STATUSES})
    (totals,) = results.rows(
        f"SELECT COALESCE(SUM(copy_of<>''), 0), SUM(CASE WHEN {READ} THEN passages ELSE 0 END), SUM(extracted),"
        f" SUM(CASE WHEN {READ} THEN kept ELSE 0 END), SUM(CASE WHEN {READ} THEN extracted - kept ELSE 0 END),"
        " COALESCE(SUM(CASE WHEN copy_of<>'' THEN extracted ELSE 0 END), 0) FROM document"
    )
    names = ("duplicates", "passages", "chars_extracted", "chars_kept", "chars_dropped", "chars_duplicate")
    numbers.update(zip(names, totals, strict=True))
    numbers.update({what.replace(" ", "_"): count for what, count in sorted(_losses(results).items())})
    extractors = Counter(dict(results.rows(
        "SELECT extractor, COUNT(*) FROM document WHERE status='ok' GROUP BY extractor ORDER BY extractor"
    )))
    numbers.update({f"read_by_{name}": count for name, count in sorted(extractors.items())})
    known = dict(results.rows("SELECT cached, COUNT(*) FROM file GROUP BY cached"))
    numbers["files_read"], numbers["from_cache"] = known.get(0, 0), known.get(1, 0)
    numbers["summary"] = _summary(statuses, extractors, int(numbers["files"]), int(numbers["passages"]))
    return numbers


def failures(results: Results, most: int) -> tuple[list[str], int]:
    """The first failed files with their reasons, and how many there are."""
    (count,) = results.rows("SELECT COUNT(*) FROM document WHERE status='failed'")
    rows = results.rows("SELECT path, reason FROM document WHERE status='failed' ORDER BY path LIMIT ?", most)
    return [f"{masked_label(path)!r}: {reason}" for path, reason in rows], int(count[0])


def check_losses(results: Results, allowed_failed_share: float) -> None:
    """Raise ForgeError when the corpus was empty, gave no text, or lost more than the allowed share to failures."""
    statuses = _statuses(results)
    names = sum(statuses.values())
    told = ", ".join(f"{statuses[status]:,} {status}" for status in ("ok", "failed", "refused", "skipped") if statuses[status])
    if not names:
        raise ForgeError("the corpus is empty", why="the folder holds no file", next="forge run FOLDER with documents in it")
    look = "forge extract FILE --out text.jsonl shows one file's reason"
    if not results.rows(f"SELECT 1 FROM document WHERE passages>0 AND {READ} LIMIT 1"):
        rows = results.rows("SELECT reason, COUNT(*) AS n FROM document WHERE status<>'ok' GROUP BY reason ORDER BY n DESC, reason LIMIT 3")
        why = "; ".join(f"{count:,} x {reason}" for reason, count in rows)
        raise ForgeError(f"no file yielded text ({names:,} names: {told})", why=why, next=_install(results) or look)
    tried = statuses["ok"] + statuses["failed"]
    if statuses["failed"] > allowed_failed_share * tried:
        first, _ = failures(results, 3)
        raise ForgeError(
            f"{statuses['failed']:,} of {tried:,} readable files failed ({told})",
            why=f"at most {allowed_failed_share:.0%} may fail; {'; '.join(first)}",
            next=_install(results) or f"{look}; accept the loss with "
            f"--set prep.allowed_failed_share={min(1.0, statuses['failed'] / tried + 0.01):.2f}",
        )


def tables(find: Callable[[str], Path], *, dropped: bool) -> Iterator[Table]:
    """For `forge show`: the families; with `dropped` every file that gave no text, and the characters let go by reason."""
    report = json.loads(find("prep").read_text(encoding="utf-8"))
    if not dropped:
        yield _families_table(report["families"], json.loads(find("prep_seconds").read_text(encoding="utf-8")))
        reasons = [(one["family"], *reason) for one in report["families"] for reason in one["reasons"]]
        yield Table(name="reasons", head=("family", "status", "files", "reason"), rows=tuple(reasons))
        return
    documents = (one for one in read_jsonl(find("documents"), Document) if one.status != "ok")
    lost = sorted(((one.source.path, one.status, one.reason) for one in documents), key=lambda row: (STATUSES.index(row[1]), row[0]))
    yield Table(name="files", head=("file", "status", "reason"), rows=tuple(lost))
    characters = sorted(report["dropped_characters"].items(), key=lambda one: -one[1])
    yield Table(name="characters", head=("characters", "dropped because"), rows=tuple((count, reason) for reason, count in characters))
    losses = sorted(report["losses"].items(), key=lambda one: -one[1])
    yield Table(name="losses", head=("times", "without characters"), rows=tuple((count, what) for what, count in losses))


def _families_table(families: Iterable[Mapping[str, Any]], seconds: Mapping[str, float]) -> Table:
    head = ("family", "files", *STATUSES, "passages", "characters", "tokens", "seconds")
    rows = [
        (
            one["family"], one["files"], *(one[status] for status in STATUSES), one["passages"], one["characters"], one["tokens"],
            seconds.get(one["family"], 0.0),
        )
        for one in families
    ]
    return Table(name="families", head=head, rows=tuple(rows))


def _family(row: tuple[Any, ...], results: Results) -> dict[str, Any]:
    extractor, files, *counts, copies, passages, characters, tokens = row
    reasons = results.rows(
        "SELECT status, COUNT(*) AS n, reason FROM document WHERE extractor=? AND status<>'ok' GROUP BY status, reason"
        " ORDER BY n DESC, reason LIMIT ?",
        extractor, REASONS_PER_FAMILY,
    )
    return {
        "family": extractor or NOBODY, "files": files, **dict(zip(STATUSES, counts, strict=True)), "copies": copies,
        "passages": passages, "characters": characters, "tokens": tokens, "reasons": [list(reason) for reason in reasons],
    }


def _statuses(results: Results) -> Counter[str]:
    return Counter(dict(results.rows("SELECT status, COUNT(*) FROM document GROUP BY status")))


def _dropped(results: Results) -> Counter[str]:
    rows = results.rows(f"SELECT dropped, COUNT(*) FROM document WHERE dropped<>'{{}}' AND {READ} GROUP BY dropped")
    return _sum(rows)


def _losses(results: Results) -> Counter[str]:
    return _sum(results.rows(f"SELECT losses, COUNT(*) FROM document WHERE losses<>'{{}}' AND {READ} GROUP BY losses"))


def _sum(rows: Iterable[tuple[Any, ...]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for found, times in rows:
        total.update({what: count * times for what, count in json.loads(found).items()})
    return total


def _install(results: Results) -> str:
    """The install command when a missing extra is the reason."""
    reasons = [reason for (reason,) in results.rows("SELECT DISTINCT reason FROM document WHERE reason LIKE '%pip install %'")]
    return " && ".join(sorted({reason[reason.index("pip install ") :] for reason in reasons}))


def _summary(statuses: Mapping[str, int], extractors: Counter[str], files: int, passages: int) -> str:
    lost = [f"{statuses[status]:,} {status}" for status in ("failed", "refused", "skipped") if statuses[status]]
    kinds = [f"{name} {count:,}" for name, count in sorted(extractors.items(), key=lambda one: (-one[1], one[0]))]
    return " · ".join([f"{passages:,} passages from {statuses['ok']:,} of {files:,} files", *kinds, *lost])
