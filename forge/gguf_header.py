"""What a GGUF file says about itself, read from its header: nothing is loaded, no library is needed.

Here and not in a phase, because three of them ask: a vocabulary of 150,000 tokens takes gguf's own reader 10 CPU seconds a
file, and this one a fraction of a second.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import BinaryIO

from forge.errors import ArtifactDamaged
from forge.records import Record

Value = bool | int | float | str

GGUF_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
GGUF_STRING, GGUF_ARRAY = 8, 9

FACTORS = "rope_freqs.weight"

GGML_BLOCKS = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 30: ("BF16", 1, 2),
}
"""ggml type number -> name, values per block, bytes per block (ggml-common.h, llama.cpp 0c1e57098)."""


class GgufHeader(Record):
    """The header of one GGUF file. `values` holds the scalar metadata; arrays are kept by length only.

    parameters, weight_bytes, tensor_types: of all tensors but rope_freqs.weight, which holds factors and no weights.
    """

    version: int
    parameters: int
    weight_bytes: int
    tensor_types: dict[str, int]
    values: dict[str, Value]
    array_lengths: dict[str, int]

    @property
    def architecture(self) -> str:
        """"llama", "qwen2", …; empty when the file does not say."""
        return str(self.values.get("general.architecture", ""))


def read_gguf(path: Path) -> GgufHeader:
    """The header of a GGUF file. Raises ArtifactDamaged when it is not one, or is shorter than its tensors."""
    try:
        with path.open("rb") as file:
            return _Gguf(file, path.stat().st_size).read()
    except (struct.error, UnicodeDecodeError, ValueError, KeyError) as error:
        raise ArtifactDamaged(f"{path.name} is not a readable GGUF file", why=str(error)) from error


class _Gguf:
    """One pass over a GGUF header (github.com/ggml-org/ggml docs/gguf.md, version 2 and 3)."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size

    def read(self) -> GgufHeader:
        if self.file.read(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        version = int(self._scalar("<I"))
        if version not in (2, 3):
            raise ValueError(f"GGUF version {version}")
        tensors, pairs = int(self._scalar("<Q")), int(self._scalar("<Q"))
        values: dict[str, Value] = {}
        lengths: dict[str, int] = {}
        for _ in range(pairs):
            key, kind = self._string(), int(self._scalar("<I"))
            if kind == GGUF_ARRAY:
                lengths[key] = self._skip_array()
            else:
                values[key] = self._value(kind)
        parameters, held, types = self._tensors(tensors, int(values.get("general.alignment", 32)))
        return GgufHeader(
            version=version, parameters=parameters, weight_bytes=held, tensor_types=types, values=values, array_lengths=lengths
        )

    def _tensors(self, count: int, alignment: int) -> tuple[int, int, dict[str, int]]:
        parameters, held, end, types = 0, 0, 0, dict[str, int]()
        for _ in range(count):
            tensor = self._string()
            shape = [int(self._scalar("<Q")) for _ in range(int(self._scalar("<I")))]
            kind, offset, elements = int(self._scalar("<I")), int(self._scalar("<Q")), math.prod(shape)
            name, per_block, block_bytes = GGML_BLOCKS.get(kind, (f"type {kind}", 1, 0))
            size = elements // per_block * block_bytes
            end = max(end, offset + size)
            if tensor != FACTORS:
                parameters, held, types[name] = parameters + elements, held + size, types.get(name, 0) + 1
        data = -(-self.file.tell() // alignment) * alignment
        if data + end > self.size:
            raise ValueError(f"its tensors end at byte {data + end:,}; the file has {self.size:,}")
        return parameters, held, dict(sorted(types.items()))

    def _value(self, kind: int) -> Value:
        if kind == GGUF_STRING:
            return self._string()
        if kind == 7:
            return bool(self._scalar("<?"))
        return self._scalar(GGUF_SCALARS[kind])

    def _skip_array(self) -> int:
        kind, length = int(self._scalar("<I")), int(self._scalar("<Q"))
        if kind == GGUF_STRING:
            for _ in range(length):
                self._skip(int(self._scalar("<Q")))
        else:
            self._skip(length * struct.calcsize(GGUF_SCALARS[kind]))
        return length

    def _skip(self, count: int) -> None:
        if self.file.tell() + count > self.size:
            raise ValueError("a value runs past the end of the file")
        self.file.seek(count, 1)

    def _string(self) -> str:
        length = int(self._scalar("<Q"))
        if length > self.size:
            raise ValueError("a string runs past the end of the file")
        return self.file.read(length).decode("utf-8")

    def _scalar(self, layout: str) -> int | float:
        value: int | float = struct.unpack(layout, self.file.read(struct.calcsize(layout)))[0]
        return value
