"""HDF5, which is also NetCDF-4 and MATLAB 7.3. Links are told of and only hard ones followed, each object once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.errors import ExtractError
from forge.records import Piece

if TYPE_CHECKING:
    import h5py

MAX_OBJECTS = 20_000
MAX_DEPTH = 64
MAX_ATTRIBUTES = 500
MAX_ATTRIBUTE_BYTES = 64 << 10
MAX_VALUES = 20
MAX_VALUE_CHARACTERS = 4_000
INTERNAL = {"_Netcdf4Dimid", "_Netcdf4Coordinates", "_NCProperties", "_nc3_strict", "CLASS", "NAME", "REFERENCE_LIST", "DIMENSION_LIST"}
"""Attributes by which the libraries find their dimensions."""


def read_hdf5(path: Path) -> Iterator[Piece]:
    """Every group and data set. Raises ExtractError when it is no HDF5 file or is damaged."""
    import h5py

    try:
        with h5py.File(path, "r", locking=False) as file:
            yield from _walk(file)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, UnicodeDecodeError) as error:
        raise ExtractError(f"damaged HDF5 file ({type(error).__name__}: {str(error)[:120]})") from error


def _walk(root: h5py.File) -> Iterator[Piece]:
    import h5py

    seen, left = {_address(root)}, MAX_OBJECTS
    stack: list[tuple[str, Any, int]] = [("/", root, 0)]
    while stack:
        name, item, depth = stack.pop()
        yield from _object(name, item)
        below: list[tuple[str, Any, int]] = []
        for child in item if isinstance(item, h5py.Group) else ():
            left -= 1
            if left < 0:
                yield Piece(text="", dropped=f"objects over the limit of {MAX_OBJECTS:,}")
                return
            found, told = _child(item, child, f"{name.rstrip('/')}/{child}")
            if told:
                yield told
            elif _address(found) not in seen and depth < MAX_DEPTH:
                seen.add(_address(found))
                below.append((f"{name.rstrip('/')}/{child}", found, depth + 1))
        stack += reversed(below)


def _address(item: Any) -> int:
    import h5py

    return int(h5py.h5o.get_info(item.id).addr)


def _child(group: Any, name: str, place: str) -> tuple[Any, Piece | None]:
    """The object that a hard link leads to; of other links only what they say."""
    import h5py

    link = group.get(name, getlink=True)
    if isinstance(link, h5py.SoftLink):
        return None, Piece(text=f"{place}: link to {link.path}", locator=f"object={place}", kind="metadata")
    if isinstance(link, h5py.ExternalLink):
        return None, Piece(text=f"{place}: link to {link.path} in another file, not followed", locator=f"object={place}", kind="metadata")
    if not isinstance(link, h5py.HardLink):
        return None, Piece(text="", dropped="link of an unknown kind")
    return group[name], None


def _object(name: str, item: Any) -> Iterator[Piece]:
    import h5py

    if isinstance(item, h5py.Dataset):
        first = f"{name}: data set {_shape(item.shape)} of {_type(item.dtype)}"
        if item.is_virtual:
            first += ", made of other data sets that are not followed"
    else:
        first = "HDF5 file" if name == "/" else f"{name}: {'group' if isinstance(item, h5py.Group) else 'named type'}"
    lines, left_out = _attributes(item)
    yield Piece(text="\n".join([first, *lines]), locator=f"object={name}", kind="metadata")
    for _ in range(left_out):
        yield Piece(text="", dropped="attribute over the limit")


def _shape(shape: tuple[int, ...] | None) -> str:
    return "without a shape" if shape is None else "x".join(map(str, shape)) or "scalar"


def _type(dtype: Any) -> str:
    import h5py

    if h5py.check_string_dtype(dtype):
        return "text"
    if h5py.check_ref_dtype(dtype):
        return "references"
    if base := h5py.check_vlen_dtype(dtype):
        return f"lists of {base}"
    if labels := h5py.check_enum_dtype(dtype):
        return f"labels {', '.join(sorted(labels)[:50])}"
    if dtype.names:
        return f"records ({', '.join(f'{one}: {dtype.fields[one][0]}' for one in dtype.names[:100])})"
    return str(dtype.str) if dtype.subdtype is None else str(dtype)


def _attributes(item: Any) -> tuple[list[str], int]:
    lines, left_out = [], 0
    for number, name in enumerate(item.attrs):
        if name in INTERNAL:
            continue
        text = _attribute(item, name) if number < MAX_ATTRIBUTES else None
        if text is None:
            left_out += 1
        elif text:
            lines.append(f"{name}: {text}")
    return lines, left_out


def _attribute(item: Any, name: str) -> str | None:
    """Its value as text; "" for references, None for one that is too large or of a kind that cannot be read."""
    import h5py

    handle = item.attrs.get_id(name)
    if handle.get_storage_size() > MAX_ATTRIBUTE_BYTES:
        return None
    if h5py.check_ref_dtype(handle.dtype):
        return ""
    try:
        return _value(item.attrs[name])
    except (OSError, TypeError, ValueError, KeyError):
        return None


def _value(value: Any) -> str:
    """Numbers in their shortest form, characters that were stored one by one as a word, many values cut short."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return value[:MAX_VALUE_CHARACTERS].rstrip("\0").strip()
    if type(value).__name__ == "Empty":
        return ""
    if type(value).__name__ == "ndarray" and value.ndim:
        items = value.ravel()
        if value.dtype.itemsize == 1 and value.dtype.kind in "iu" and len(items) > 9 and all(32 <= one < 127 for one in items[:MAX_VALUE_CHARACTERS]):
            return bytes(items[:MAX_VALUE_CHARACTERS].tolist()).decode("ascii")
        shown = [_value(one) for one in items[:MAX_VALUES]]
        rest = len(items) - len(shown)
        return ", ".join(shown) + (f" and {rest:,} more" if rest else "")
    return str(value)[:MAX_VALUE_CHARACTERS]
