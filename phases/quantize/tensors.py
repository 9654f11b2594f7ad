"""Weights of a safetensors folder as numpy arrays, without torch: mapped from disk, bf16 widened by a bit shift."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.errors import ForgeError
from forge.records import Record

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


class StoredTensor(Record):
    """Where one tensor lies: file, dtype as safetensors spells it, shape, byte range."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def list_tensors(folder: Path, stem: str = "model") -> list[StoredTensor]:
    """Every tensor of `folder`/`stem`.safetensors (or its shards), sorted by name. Reads headers only."""
    index = folder / f"{stem}.safetensors.index.json"
    names = [f"{stem}.safetensors"]
    if index.exists():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    return sorted((tensor for name in names for tensor in _header(folder / name)), key=lambda tensor: tensor.name)


def load_tensor(tensor: StoredTensor) -> Array:
    """The values of one tensor, float16 or float32 (float64 stays), shape as stored."""
    import numpy as np

    raw = np.memmap(tensor.file, dtype=np.uint8, mode="r", offset=tensor.start, shape=(tensor.stop - tensor.start,))
    if tensor.dtype == "BF16":
        values: Array = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        values = raw.view({"F64": np.float64, "F32": np.float32, "F16": np.float16}[tensor.dtype])
    return values.reshape(tensor.shape)


def load_f16(tensor: StoredTensor, rows: slice | Array) -> Array:
    """Some rows of a matrix, (rows, columns) float16; what F16 cannot hold is infinite. rows: a stretch, or row numbers.

    bfloat16 goes through a table of all its 65,536 values: 1.6 ns a value, against 3.4 for widening and rounding (one core, numpy 2.4).
    """
    import numpy as np

    kinds = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
    raw = np.memmap(tensor.file, dtype=np.uint8, mode="r", offset=tensor.start, shape=(tensor.stop - tensor.start,))
    values = raw.view(kinds[tensor.dtype]).reshape(tensor.shape)[rows]
    if tensor.dtype == "BF16":
        return np.asarray(_bf16_table()[values])
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype=np.float16)


@cache
def _bf16_table() -> Array:
    """bfloat16 bits -> float16."""
    import numpy as np

    with np.errstate(over="ignore"):
        table: Array = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32).astype(np.float16)
    return table


def _header(file: Path) -> Iterator[StoredTensor]:
    """The format: 8 bytes little-endian header length, JSON header, data (huggingface/safetensors README)."""
    if not file.exists():
        raise ForgeError(f"{file.parent.name}/{file.name} is missing", why="the model's weights must be safetensors")
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in WIDTHS:
            raise ForgeError(
                f"the tensor {name} is stored as {entry['dtype']}",
                why="only F64, F32, F16 and BF16 weights can be exported",
                next="start from the base model's unquantized checkpoint",
            )
        start, stop = (8 + length + offset for offset in entry["data_offsets"])
        yield StoredTensor(
            name=name, file=file, dtype=entry["dtype"], shape=tuple(entry["shape"]), start=start, stop=stop
        )
