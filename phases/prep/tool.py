"""`forge extract PATH --out FILE`: the text of a file or folder, one JSON line a file, read as prep reads it but not masked."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from forge.corpus import walk_corpus
from forge.errors import UsageError
from forge.phases.prep import PrepSettings, load_extractors, make_limits, make_reader, tell_unread
from forge.phases.prep.listing import Listing
from forge.phases.prep.read import Progress, read_files
from forge.phases.prep.results import Results
from forge.phases.prep.sidecars import endings
from forge.registry import Registry


def extract(
    path: Path, out: Path, registry: Registry, on_file: Callable[[Progress], None], *, passages: bool = False,
    on_notice: Callable[[str], None] = lambda text: None, flags: Sequence[str] = (),
) -> dict[str, int]:
    """Write {"path", "text", "status", "reason"} for each file to `out`; returns how many files ended how.

    flags: settings ("prep.ocr=off"). passages: each line also lists its passages with locator and heading. Reads every file, duplicates too, and what
    lies inside files. Raises UsageError when nothing is at `path` or `out` cannot be written.
    """
    settings = _settings(flags)
    load = partial(registry.plugin, "extractor", ready=False)
    extractors = load_extractors(registry.names("extractor"), load, on_notice)
    sidecars = endings(extractors)
    listing = Listing(walk_corpus(path, masked=False), (), sidecars, copies=True)
    with tempfile.TemporaryDirectory(prefix="forge-extract-") as folder, closing(listing):
        work = Path(folder)
        with Results(work / "results.db", lasting=False) as results:
            read_files(listing, path, make_reader(extractors, settings, masked=False), results, work, limits=make_limits(settings), on_file=on_file)
            tell_unread(listing, results)
            return dict(sorted(_write(results, out, passages).items()))


def _settings(flags: Sequence[str]) -> PrepSettings:
    if not flags:
        return PrepSettings()
    from forge.config import resolve

    return PrepSettings.model_validate(resolve({"prep": PrepSettings}, stored={}, flags=flags).section("prep").model_dump())


def _write(results: Results, out: Path, passages: bool) -> Counter[str]:
    counts: Counter[str] = Counter()
    try:
        with out.open("w", encoding="utf-8", newline="\n") as file:
            for document, lines in results.by_path():
                counts[document["status"]] += 1
                file.write(json.dumps(_line(document, lines, passages), ensure_ascii=False) + "\n")
    except OSError as error:
        raise UsageError(f"cannot write {out}", why=error.strerror or str(error), next="name another --out file") from error
    return counts


def _line(document: dict[str, Any], lines: bytes, passages: bool) -> dict[str, Any]:
    found = [json.loads(line) for line in lines.splitlines()]
    text = "\n\n".join(one["text"] for one in found)
    line: dict[str, Any] = {"path": document["source"]["path"], "text": text, "status": document["status"], "reason": document["reason"]}
    if passages:
        line["passages"] = [
            {"locator": one["source"]["locator"], "heading": one["meta"].get("heading", ""), "text": one["text"]} for one in found
        ]
    return line
