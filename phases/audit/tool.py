"""`forge dedup IN --out OUT`: near-duplicates out of a JSONL file, the rest line for line as it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from forge.errors import UsageError
from forge.phases.audit.dedup import TEXTS_PER_BATCH, NearDuplicates
from forge.store import write_lines


def dedup(source: Path, out: Path, *, threshold: float, on_progress: Callable[[int], None]) -> dict[str, int]:
    """Write the records of `source` (JSONL with "id" and "text") that repeat no earlier record to `out`; counts what happened.

    Kept lines are copied byte for byte, in order; empty lines are left out. `out` is replaced whole or not at all.
    on_progress: told how many records have been read so far. Raises UsageError, naming the line, for input that is not
    what it should be.
    """
    _check_paths(source, out)
    with source.open("rb") as file, NearDuplicates(threshold) as index:
        read = _read(file, source.name, index, on_progress)
        file.seek(0)
        kept = write_lines(out, _kept_lines(file, index, read))
    return {"read": read, "kept": kept, "dropped": read - kept}


def _check_paths(source: Path, out: Path) -> None:
    if not source.is_file():
        raise UsageError(f"there is no file {source}", next="name a JSONL file with an id and a text in each line")
    if out.is_dir() or not out.parent.is_dir():
        why = "it is a folder" if out.is_dir() else f"there is no folder {out.parent}"
        raise UsageError(f"{out} cannot be written", why=why, next="name a file in an existing folder with --out")


def _read(file: IO[bytes], name: str, index: NearDuplicates, on_progress: Callable[[int], None]) -> int:
    """Feed all records to the index; returns how many there are."""
    lines_by_id: dict[str | int, int] = {}
    batch: list[str] = []
    for number, line in enumerate(file, 1):
        if line.isspace():
            continue
        key, text = _parse(line, f"{name}:{number}")
        first = lines_by_id.setdefault(key, number)
        if first != number:
            raise UsageError(
                f"{name}:{number} has the id {key!r} of line {first}",
                why="a record is known by its id",
                next="give each record its own id",
            )
        batch.append(text)
        if len(batch) == TEXTS_PER_BATCH:
            index.add(batch)
            batch.clear()
            on_progress(len(lines_by_id))
    index.add(batch)
    on_progress(len(lines_by_id))
    return len(lines_by_id)


def _parse(line: bytes, where: str) -> tuple[str | int, str]:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{where} is not UTF-8", why=f"byte {error.start + 1} of the line", next="convert the file to UTF-8"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is not JSON", why=str(error), next="correct or remove the line") from error
    if not isinstance(record, dict):
        raise UsageError(
            f"{where} is no record", why="each line must be an object", next='write {"id": ..., "text": ...}'
        )
    key, text = record.get("id"), record.get("text")
    if not isinstance(key, str | int) or isinstance(key, bool):
        raise UsageError(
            f"{where} has no id", why='"id" must be a text or a whole number', next="give each record an id"
        )
    if not isinstance(text, str):
        raise UsageError(f"{where} has no text", why='"text" must be a text', next="give each record a text")
    return key, text


def _kept_lines(file: IO[bytes], index: NearDuplicates, expected: int) -> Iterator[bytes]:
    lines = (line for line in file if not line.isspace())
    for _, (line, match) in zip(range(expected), zip(lines, index.matches(), strict=True), strict=True):
        if match.duplicate_of is None:
            yield line if line.endswith(b"\n") else line + b"\n"
