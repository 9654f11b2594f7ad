"""Rows of any table of examples: JSON Lines, JSON, CSV, TSV, Parquet and Arrow, each with its place."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from forge.errors import ForgeError
from forge.phase import Requirement
from forge.registry import require

NEEDS = (Requirement(module="pyarrow", extra="data"),)
TABLES = (".csv", ".tsv")
COLUMNS = (".parquet", ".arrow")
ENDINGS = (".jsonl", ".ndjson", ".json", *TABLES, *COLUMNS)
PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test", "testing": "test"}
"""How data sets call their sides, in file names and in columns."""

Row = Mapping[str, Any]


def read_rows(path: Path, name: str) -> Iterator[tuple[str, Row]]:
    """(place, row) of every row of a file. Raises ForgeError for a file that cannot be read, with the place."""
    ending = Path(name).suffix.lower()
    if ending in TABLES:
        yield from _table(path, name, "\t" if ending == ".tsv" else ",")
    elif ending in COLUMNS:
        yield from _columns(path, name)
    elif ending == ".json":
        yield from _json(path, name)
    else:
        yield from _lines(path, name)


def part_in(text: str) -> str:
    """The side that a file name ("validation-00000-of-00001.parquet") or a value names, or ""."""
    words = text.casefold().replace("-", " ").replace("_", " ").replace(".", " ").split()
    return next((PARTS[word] for word in words if word in PARTS), "")


def _lines(path: Path, name: str) -> Iterator[tuple[str, Row]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ForgeError(f"{name}:{number} is no JSON", why=str(error), next="mend the line, then forge resume") from error
            if not isinstance(row, dict):
                raise ForgeError(f"{name}:{number} is no object", why="each line has to be one row, {...}", next="mend the line, then forge resume")
            yield f"line={number}", row


def _json(path: Path, name: str) -> Iterator[tuple[str, Row]]:
    text = path.read_text(encoding="utf-8-sig")
    try:
        value = json.loads(text)
    except ValueError as error:
        if text.lstrip().startswith("{") and "\n{" in text:  # JSON Lines that are called .json
            yield from _lines(path, name)
            return
        raise ForgeError(f"{name} is no JSON", why=str(error), next="mend the file, then forge resume") from error
    if isinstance(value, dict) and value and all(isinstance(inner, list) for inner in value.values()):
        lengths = {len(inner) for inner in value.values()}
        if len(lengths) == 1 and not any(isinstance(one, dict) for inner in value.values() for one in inner[:1]):
            value = [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]
        else:  # {"train": [...], "test": [...]}
            value = [{"split": side, **row} for side, rows in value.items() for row in rows if isinstance(row, dict)]
    elif isinstance(value, dict) and all(isinstance(inner, dict) for inner in value.values()):
        value = [{"id": key, **inner} for key, inner in value.items()]
    if not isinstance(value, list):
        raise ForgeError(f"{name} holds no rows", why="a list of objects, an object of lists or an object of objects is needed")
    yield from ((f"row={number}", row) for number, row in enumerate(value, 1) if isinstance(row, dict))


def _table(path: Path, name: str, delimiter: str) -> Iterator[tuple[str, Row]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        for number, row in enumerate(reader, 2):
            yield f"row={number}", {key: value for key, value in row.items() if key is not None and isinstance(value, str)}


def _columns(path: Path, name: str) -> Iterator[tuple[str, Row]]:
    require(NEEDS, name)
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path) if name.lower().endswith(".parquet") else _arrow(path)
    except (pa.ArrowException, OSError) as error:
        raise ForgeError(f"{name} cannot be read", why=str(error), next="fetch it again, then forge resume") from error
    names = _class_names(table.schema)
    for number, row in enumerate(table.to_pylist(), 1):
        yield f"row={number}", {key: _named(value, names.get(key)) for key, value in row.items()}


def _arrow(path: Path) -> Any:
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        try:
            return pa.ipc.open_file(source).read_all()
        except pa.ArrowInvalid:
            source.seek(0)
            return pa.ipc.open_stream(source).read_all()


def _class_names(schema: Any) -> dict[str, list[str]]:
    """column -> names of its numbered classes, as Hugging Face's datasets writes them into the file's schema."""
    raw = (schema.metadata or {}).get(b"huggingface", b"{}")
    features = json.loads(raw).get("info", {}).get("features", {})
    found = {}
    for name, feature in features.items():
        inner = feature.get("feature", feature) if isinstance(feature, dict) else {}
        if isinstance(inner, dict) and isinstance(inner.get("names"), list):
            found[name] = inner["names"]
    return found


def _named(value: Any, names: list[str] | None) -> Any:
    if names is None:
        return value
    if isinstance(value, list):
        return [_named(one, names) for one in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value
