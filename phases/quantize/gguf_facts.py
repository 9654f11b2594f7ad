"""What a GGUF file's header says about itself: parameters, tensor types, bits per weight. Read, never assumed."""

from __future__ import annotations

from pathlib import Path

from forge.errors import ForgeError
from forge.gguf_header import read_gguf
from forge.records import Record
from forge.store import hash_file

K_ROW = 256
"""K-quants work on rows of 256 values; llama.cpp silently stores a tensor with other rows in a larger type."""
FALLBACKS = {
    "Q4_K_M": frozenset({"Q5_0", "Q5_1", "Q8_0", "F16"}), "Q5_K_M": frozenset({"Q5_1", "Q8_0", "F16"}),
    "Q6_K": frozenset({"Q8_0", "F16"}), "Q8_0": frozenset({"F16"}),
}


class GgufFile(Record):
    """One file that ships. `bits_per_weight` = tensor bytes * 8 / parameters, over all tensors."""

    name: str
    quantization: str
    bytes: int
    sha256: str
    bits_per_weight: float
    tensor_types: dict[str, int]
    parameters: int


def read_facts(path: Path, *, quantization: str) -> GgufFile:
    """Facts from the file's own header. Raises ForgeError when it cannot be read back."""
    header = read_gguf(path)
    if not header.parameters:
        raise ForgeError(f"{path.name} holds no tensors")
    return GgufFile(
        name=path.name,
        quantization=quantization,
        bytes=path.stat().st_size,
        sha256=hash_file(path),
        bits_per_weight=round(header.weight_bytes * 8 / header.parameters, 3),
        tensor_types=header.tensor_types,
        parameters=header.parameters,
    )


def describe_fallback(file: GgufFile) -> str:
    """One sentence when tensors are stored larger than the file's name says; empty otherwise."""
    larger = {kind: n for kind, n in file.tensor_types.items() if kind in FALLBACKS.get(file.quantization, ())}
    if not larger:
        return ""
    total, parts = sum(file.tensor_types.values()), ", ".join(f"{n} {kind}" for kind, n in larger.items())
    return (
        f"{file.name}: {sum(larger.values())} of {total} tensors are stored larger ({parts}), because their rows "
        f"are not a multiple of {K_ROW} values; the file has {file.bits_per_weight:.2f} bits per weight"
    )
