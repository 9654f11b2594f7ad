"""NumPy's .npy and .npz: the header of each array. Arrays of objects are pickles and stay closed."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from forge.errors import ExtractError
from forge.records import Piece

MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 64 << 10
MAX_MEMBERS = 10_000
HEADER = re.compile(r"^\{'descr': (?P<descr>.+?), 'fortran_order': (?:True|False), 'shape': \((?P<shape>[\d, L]*)\),? *\}\s*$", re.DOTALL)


def read_npy(path: Path) -> Iterator[Piece]:
    """One array's type and shape. Raises ExtractError when it has no such header."""
    with path.open("rb") as file:
        yield Piece(text=_header(file), locator="header", kind="metadata")


def read_npz(path: Path) -> Iterator[Piece]:
    """The type and shape of every array inside."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            for name in names[:MAX_MEMBERS]:
                with archive.open(name) as member:
                    found = _header(member) if name.endswith(".npy") else "no array"
                yield Piece(text=f"{name.removesuffix('.npy')}: {found}", locator=f"array={name}", kind="metadata")
            for _ in names[MAX_MEMBERS:]:
                yield Piece(text="", dropped="array over the limit")
    except (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError, OSError) as error:
        raise ExtractError(f"damaged .npz file ({error})") from error


def _header(file: IO[bytes]) -> str:
    start = file.read(8)
    if not start.startswith(MAGIC) or len(start) < 8:
        raise ExtractError("not a NumPy array: no .npy header")
    size = int.from_bytes(file.read(2 if start[6] == 1 else 4), "little")
    if size > MAX_HEADER_BYTES:
        raise ExtractError(f"damaged NumPy array: a header of {size:,} bytes")
    match = HEADER.match(file.read(size).decode("utf-8", "replace"))
    if not match:
        raise ExtractError("damaged NumPy array: its header cannot be read")
    shape = "x".join(re.findall(r"\d+", match["shape"])) or "scalar"
    kind = match["descr"].strip("'")
    return f"array {shape} of {'Python objects (a pickle, not opened)' if '|O' in kind else kind}"
