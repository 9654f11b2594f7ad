"""Reads evaluation sets: the questions that a corpus must not hold, with the place of each, from JSON, CSV and text files."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from forge.errors import UsageError
from forge.records import digest

QUESTIONS = ("question", "query", "prompt", "instruction", "problem", "input", "user", "sentence", "premise", "text")
ANSWERS = ("answer", "answers", "output", "completion", "response", "target", "solution", "assistant", "hypothesis", "reference")
TALKS = ("messages", "conversations", "conversation", "turns")
SKIPPED = {"id", "_id", "uid", "uuid", "source", "url", "split", "subject", "category", "label", "context", "passage", "document", "sha256", "difficulty"}
ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".md")
NEXT = "name JSONL, JSON, CSV, TSV or text files, or folders of them, in audit.evaluation_sets"


class Item(NamedTuple):
    """One item of an evaluation set. place: "squad.jsonl:17"; parts: what may not be found, the question with its answer first."""

    place: str
    parts: tuple[str, ...]


def find_files(sets: Sequence[str]) -> list[tuple[str, Path]]:
    """(name to tell, file) of every set. Raises UsageError for one that is not there or holds no file that can be read."""
    found = []
    for given in sets:
        path = Path(given).expanduser()
        if path.is_dir():
            inside = sorted(one for one in path.rglob("*") if one.is_file() and not one.is_symlink() and _ending(one))
            if not inside:
                raise UsageError(f"the evaluation set {given} holds no file that can be read", why=f"looked for {', '.join(ENDINGS)}", next=NEXT)
            found += [(f"{path.name}/{one.relative_to(path).as_posix()}", one) for one in inside]
        elif path.is_file() and _ending(path):
            found.append((path.name, path))
        else:
            why = "it is no file of a known kind" if path.exists() else f"there is no file or folder {given}"
            raise UsageError(f"the evaluation set {given} cannot be read", why=why, next=NEXT)
    return found


def fingerprint(sets: Sequence[str]) -> str:
    """A hash over the names and bytes of all sets; "" without any, "missing" when one cannot be read."""
    try:
        return digest(*(part for name, path in find_files(sets) for part in (name, _hash(path)))) if sets else ""
    except (UsageError, OSError):
        return "missing"


def read_items(name: str, path: Path) -> Iterator[Item]:
    """The items of one file, one at a time. Raises UsageError, naming the line, for a file that is not what its name says."""
    ending = _ending(path)
    try:
        with _open(path) as file:
            if ending in (".txt", ".md"):
                yield from (Item(f"{name}:{number}", (line.strip(),)) for number, line in enumerate(file, 1) if line.strip())
            elif ending in (".csv", ".tsv"):
                rows = csv.DictReader(file, delimiter="\t" if ending == ".tsv" else ",")
                yield from (Item(f"{name}:{number}", _parts(row)) for number, row in enumerate(rows, 2))
            elif ending == ".json":
                yield from (Item(f"{name}#{number}", parts) for number, parts in enumerate(_walk(json.load(file)), 1))
            else:
                yield from _lines(name, file)
    except (ValueError, csv.Error, EOFError) as error:
        raise UsageError(f"the evaluation set {name} cannot be read", why=str(error), next=NEXT) from error


def _lines(name: str, file: io.TextIOBase) -> Iterator[Item]:
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                value = json.loads(line)
            except ValueError as error:
                raise UsageError(f"{name}:{number} is not JSON", why=str(error), next=NEXT) from error
            yield from (Item(f"{name}:{number}", parts) for parts in _walk(value))


def _walk(value: Any) -> Iterator[tuple[str, ...]]:
    """The parts of every question in a value of JSON, however deep it lies (SQuAD keeps them four levels down)."""
    if isinstance(value, str):
        yield (value,)
    elif isinstance(value, list):
        for one in value:
            yield from _walk(one)
    elif isinstance(value, dict):
        inner = [one for one in value.values() if isinstance(one, list | dict)]
        if _asked(value) or any(key in value for key in TALKS) or not inner:
            yield _parts(value)
        else:
            for one in inner:
                yield from _walk(one)


def _parts(given: Mapping[str, Any]) -> tuple[str, ...]:
    row = {str(key).lower(): value for key, value in given.items()}
    talk = next((row[key] for key in TALKS if isinstance(row.get(key), list)), None)
    if talk is not None:
        said = [_text(turn.get("content", turn.get("value", ""))) for turn in talk if isinstance(turn, dict) and turn.get("role") != "system"]
        return (" ".join(said), *said[:1])
    if asked := _asked(row):
        answer = next((text for key in ANSWERS if (text := _text(row.get(key)))), "")
        return (f"{asked} {answer}", asked) if answer else (asked,)
    return (" ".join(_text(value) for key, value in row.items() if key not in SKIPPED),)


def _asked(row: Mapping[str, Any]) -> str:
    lowered = {str(key).lower(): value for key, value in row.items() if key is not None}
    return next((text for key in QUESTIONS if (text := _text(lowered.get(key)))), "")


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list):
        return " ".join(text for one in value if (text := _text(one)))
    if isinstance(value, dict):
        return " ".join(text for key in ("text", "content", "value") if (text := _text(value.get(key))))
    return ""


def _ending(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return next((ending for ending in ENDINGS if name.endswith(ending)), "")


def _open(path: Path) -> io.TextIOBase:
    csv.field_size_limit(min(sys.maxsize, 1 << 30))
    if path.name.lower().endswith(".gz"):
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _hash(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
