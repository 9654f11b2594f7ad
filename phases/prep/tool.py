"""`forge extract PATH --out FILE`: the text of a file or folder, one JSON line a file, read exactly as prep reads it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forge.corpus import scan_corpus
from forge.errors import UsageError
from forge.phases.prep import PrepSettings, make_reader, not_opened
from forge.phases.prep.extract import Result
from forge.phases.prep.read import read_files
from forge.registry import Registry


class _Memory:
    """Keeps results for the length of one call."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def put(self, key: str, value: Any) -> None:
        self.values[key] = value


def extract(
    path: Path, out: Path, registry: Registry, on_file: Callable[[int, int, str], None], *, passages: bool = False
) -> dict[str, int]:
    """Write {"path", "text", "status", "reason"} for each file to `out`; returns how many files ended how.

    passages: each line also lists its passages with locator and heading. Reads every file, duplicates too. Raises UsageError when nothing is at `path` or `out` cannot be written.
    """
    settings = PrepSettings()
    entries = scan_corpus(path)
    extractors = {name: registry.plugin("extractor", name, ready=False) for name in registry.names("extractor")}
    results = read_files(
        [entry for entry in entries if entry.kind == "file"], path, make_reader(extractors, settings), journal=_Memory(),
        workers=settings.workers, seconds=settings.seconds_per_file, memory_mib=settings.memory_mib, tick=lambda: None,
        on_file=on_file,
    )
    counts: Counter[str] = Counter()
    try:
        with out.open("w", encoding="utf-8", newline="\n") as file:
            for entry in entries:
                for result in results.get(entry.path) or (not_opened(entry),):
                    counts[result.document.status] += 1
                    file.write(json.dumps(_line(result, passages), ensure_ascii=False) + "\n")
    except OSError as error:
        raise UsageError(f"cannot write {out}", why=error.strerror or str(error), next="name another --out file") from error
    return dict(sorted(counts.items()))


def _line(result: Result, passages: bool) -> dict[str, Any]:
    document = result.document
    text = "\n\n".join(passage.text for passage in result.passages)
    line: dict[str, Any] = {"path": document.source.path, "text": text, "status": document.status, "reason": document.reason}
    if passages:
        line["passages"] = [
            {"locator": one.source.locator, "heading": one.meta.get("heading", ""), "text": one.text} for one in result.passages
        ]
    return line
