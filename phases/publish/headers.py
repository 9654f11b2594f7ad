"""What a checkpoint says about itself, read from the headers of its safetensors files: nothing is loaded."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

from forge.errors import ArtifactDamaged
from forge.records import Record


class SafetensorsHeader(Record):
    """Names and element counts of the tensors of one or more safetensors files."""

    tensors: dict[str, int]

    @property
    def parameters(self) -> int:
        """Elements in all tensors."""
        return sum(self.tensors.values())


def read_safetensors(folder: Path) -> SafetensorsHeader:
    """The tensors of all *.safetensors files in a folder. Raises ArtifactDamaged when one is cut short."""
    tensors: dict[str, int] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            tensors.update(_safetensors(path))
        except (struct.error, ValueError, KeyError, TypeError) as error:
            raise ArtifactDamaged(f"{path.name} is not a readable safetensors file", why=str(error)) from error
    if not tensors:
        raise ArtifactDamaged(f"{folder.name}/ holds no safetensors file")
    return SafetensorsHeader(tensors=tensors)


def metadata_text(path: Path) -> str:
    """The free text of a safetensors file's header ("__metadata__"), one entry a line. Raises ArtifactDamaged when it cannot be read."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            found = json.loads(file.read(min(length, path.stat().st_size))).get("__metadata__", {})
    except (struct.error, ValueError, AttributeError) as error:
        raise ArtifactDamaged(f"{path.name} is not a readable safetensors file", why=str(error)) from error
    return "\n".join(f"{key}: {value}" for key, value in found.items())


def _safetensors(path: Path) -> dict[str, int]:
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > size - 8:
            raise ValueError(f"its header claims {length:,} bytes; the file has {size:,}")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if 8 + length + end != size:
        raise ValueError(f"its tensors end at byte {8 + length + end:,}; the file has {size:,}")
    return {name: math.prod(entry["shape"]) for name, entry in header.items()}
