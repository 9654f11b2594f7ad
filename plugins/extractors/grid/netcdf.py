"""NetCDF: version 3 by its header, after the file format specification (Unidata, classic, 64-bit offset, 64-bit data).

Version 4 is HDF5. scipy reads version 3 too, but is 35 MB and maps the data.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from forge.errors import ExtractError
from forge.plugins.extractors.grid.hierarchical import read_hdf5
from forge.records import Piece

DIMENSION, VARIABLE, ATTRIBUTE = 10, 11, 12
TYPES: dict[int, tuple[str, str]] = {
    1: ("byte", "b"), 2: ("char", "s"), 3: ("short", "h"), 4: ("int", "i"), 5: ("float", "f"), 6: ("double", "d"), 7: ("ubyte", "B"),
    8: ("ushort", "H"), 9: ("uint", "I"), 10: ("int64", "q"), 11: ("uint64", "Q"),
}  # fmt: skip
MAX_ITEMS = 20_000
MAX_TEXT_BYTES = 64 << 10
MAX_VALUES = 20


def read_netcdf(path: Path) -> Iterator[Piece]:
    """Dimensions, variables and attributes. Raises ExtractError when the header is damaged or cut short."""
    with path.open("rb") as file:
        magic = file.read(4)
        if magic[:3] != b"CDF" or magic[3:] not in (b"\x01", b"\x02", b"\x05"):
            yield from read_hdf5(path)
            return
        yield from _Header(file, magic[3], path.stat().st_size).pieces()


class _Header:
    """A cursor over the header. Counts are believed only as far as there are bytes for them."""

    def __init__(self, file: BinaryIO, version: int, size: int) -> None:
        self.file, self.size, self.left_out = file, size, 0
        self.count_bytes = 8 if version == 5 else 4
        self.offset_bytes = 4 if version == 1 else 8

    def pieces(self) -> Iterator[Piece]:
        self._number(self.count_bytes)  # records so far
        dimensions = [(self._name(), self._number(self.count_bytes)) for _ in range(self._items(DIMENSION))]
        shown = [f"{name} = {size or 'unlimited'}" for name, size in dimensions]
        lines = [*([f"Dimensions: {', '.join(shown)}"] if shown else []), *self._attributes()]
        if lines:
            yield Piece(text="\n".join(lines), locator="header", kind="metadata")
        for _ in range(self._items(VARIABLE)):
            yield self._variable([name for name, _ in dimensions])
        for _ in range(self.left_out):
            yield Piece(text="", dropped="attribute over the limit")

    def _variable(self, dimensions: list[str]) -> Piece:
        name = self._name()
        numbers = [self._number(self.count_bytes) for _ in range(self._bounded(self._number(self.count_bytes)))]
        if any(number >= len(dimensions) for number in numbers):
            raise ExtractError("damaged NetCDF file: a variable names a dimension that is not there")
        lines = self._attributes()
        kind = TYPES.get(self._number(4), ("unknown", ""))[0]
        self._number(self.count_bytes)  # bytes of its data
        self._number(self.offset_bytes)  # where they start
        shape = ", ".join(dimensions[number] for number in numbers)
        return Piece(text="\n".join([f"{name}({shape}): {kind}", *lines]), locator=f"object={name}", kind="metadata")

    def _attributes(self) -> list[str]:
        lines = []
        for _ in range(self._items(ATTRIBUTE)):
            name, kind, count = self._name(), self._number(4), self._number(self.count_bytes)
            if kind not in TYPES:
                raise ExtractError("damaged NetCDF file: an attribute of an unknown type")
            if text := self._value(TYPES[kind][1], count):
                lines.append(f"{name}: {text}")
        return lines

    def _value(self, code: str, count: int) -> str:
        size = count if code == "s" else count * struct.calcsize(code)
        start = self.file.tell()
        if size > self.size - start:
            raise ExtractError("NetCDF file cut short inside its header")
        read = min(size, MAX_TEXT_BYTES)
        data = self.file.read(read)
        self.file.seek(start + (size + 3 & ~3))
        if size > read:
            self.left_out += 1
            return ""
        if code == "s":
            return data.decode("utf-8", "replace").rstrip("\0").strip()
        values = struct.unpack(f">{count}{code}", data)
        shown = ", ".join(f"{value:.9g}" if isinstance(value, float) else str(value) for value in values[:MAX_VALUES])
        return shown + (f" and {count - MAX_VALUES:,} more" if count > MAX_VALUES else "")

    def _items(self, wanted: int) -> int:
        tag, count = self._number(4), self._number(self.count_bytes)
        if tag not in (0, wanted) or (tag == 0 and count):
            raise ExtractError("damaged NetCDF file: its header is not in order")
        return self._bounded(count)

    def _bounded(self, count: int) -> int:
        if count > MAX_ITEMS or 4 * count > self.size - self.file.tell():
            raise ExtractError(f"damaged NetCDF file: {count:,} entries, more than it has room for")
        return count

    def _name(self) -> str:
        return self._value("s", self._number(self.count_bytes))

    def _number(self, size: int) -> int:
        data = self.file.read(size)
        if len(data) < size:
            raise ExtractError("NetCDF file cut short inside its header")
        return int.from_bytes(data, "big")
