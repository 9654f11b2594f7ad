"""Weights of a safetensors folder as numpy arrays, without torch: mapped from disk, bf16 widened by a bit shift."""

from __future__ import annotations

import json
from collections.abc import Iterator
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
