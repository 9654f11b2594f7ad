"""GeoTIFF: size, coordinate system, and what GDAL and the program that wrote it say. The picture is never decoded."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from forge.errors import ExtractError
from forge.plugins.extractors._xml import parse_xml, tag_of
from forge.protocols import Reading
from forge.records import Piece

GEO_TAGS = {33550, 33922, 34264, 34735, 42112}
"""Scale, tie points, transformation, GeoKey directory, GDAL's metadata: one of them makes a TIFF a GeoTIFF."""

TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
MAX_ENTRIES = 4_096
MAX_TEXT = 20_000
TEXTS = {"ImageDescription": "Description", "DocumentName": "Document", "Software": "Software", "Copyright": "Copyright", "GDAL_NODATA": "No data"}
CODED = {"ProjectedCSType", "GeographicType", "VerticalCSType", "Projection"}
"""Keys whose number is one of the EPSG register, also where tifffile has no name for it."""

Entry = tuple[int, int, int]


def is_geotiff(head: bytes) -> bool:
    """True when the first directory lies in the file's head and has a tag that places it on Earth."""
    return any(tag in GEO_TAGS for tag, _, _ in _entries(head))


def _entries(data: bytes) -> list[Entry]:
    """(tag, type, count) of the first directory, as far as `data` reaches; classic and Big TIFF."""
    if data[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return []
    order, big = "<" if data[:2] == b"II" else ">", b"+" in data[2:4]
    start, of_count, size = (8, 8, 20) if big else (4, 2, 12)
    try:
        (offset,) = struct.unpack_from(order + ("Q" if big else "I"), data, start)
        (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, offset)
        first = offset + of_count
        form = order + ("HHQ" if big else "HHI")
        return [struct.unpack_from(form, data, first + size * at) for at in range(min(count, MAX_ENTRIES))]
    except (struct.error, OverflowError):
        return []


def read_geotiff(path: Path, ctx: Reading) -> Iterator[Piece]:
    """One piece of facts, then GDAL's items. Raises ExtractError when a tag claims more than the file holds."""
    import tifffile

    logging.getLogger("tifffile").addHandler(logging.NullHandler())  # it tells of every odd tag on the console
    size = path.stat().st_size
    with path.open("rb") as file:
        entries = _entries(file.read(1 << 16))
    if any(count * TYPE_BYTES.get(kind, 1) > size for _, kind, count in entries):
        raise ExtractError("damaged TIFF file: a tag claims more bytes than the file has")
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            lines = [*_facts(page), *_system(page.geotiff_tags or {}), *_texts(page.tags)]
            gdal = page.tags.get("GDAL_METADATA")
            items = _gdal_items(str(gdal.value)) if gdal else []
    except (ExtractError, MemoryError):
        raise
    except Exception as error:  # tifffile lets whatever a broken value causes through
        raise ExtractError(f"damaged TIFF file ({type(error).__name__}: {str(error)[:100]})") from error
    yield Piece(text="\n".join(lines + items), locator="header", kind="metadata")


def _facts(page: Any) -> list[str]:
    kind = page.dtype if page.dtype is not None else "unknown samples"
    lines = [f"GeoTIFF of {page.imagewidth} x {page.imagelength} pixels", f"Bands: {page.samplesperpixel} of {kind}"]
    scale = page.tags.get("ModelPixelScaleTag")
    if scale is not None and isinstance(scale.value, tuple) and len(scale.value) > 1:
        lines.append(f"Pixel size: {scale.value[0]:.9g} x {scale.value[1]:.9g}")
    return lines


def _system(keys: dict[str, Any]) -> list[str]:
    """The names and codes of the coordinate system's parts; numbers of its ellipsoid are left out."""
    lines = []
    for key, value in keys.items():
        name = key.removesuffix("GeoKey").removeprefix("GT")
        if isinstance(value, Enum) and value.value != 32767:  # user-defined: the other keys say what
            lines.append(f"{name}: {value.name.replace('_', ' ')} ({value.value})")
        elif name in CODED and type(value) is int and 0 < value < 32767:
            lines.append(f"{name}: EPSG:{value}")
        elif isinstance(value, str):
            lines += [f"{name}: {part.strip()}" for part in value[:MAX_TEXT].split("|") if part.strip()]
    return lines


def _texts(tags: Any) -> list[str]:
    found = [(label, tags.get(name)) for name, label in TEXTS.items()]
    return [f"{label}: {tag.value[:MAX_TEXT].strip()}" for label, tag in found if tag is not None and isinstance(tag.value, str) and tag.value.strip()]


def _gdal_items(xml: str) -> list[str]:
    root = parse_xml(xml.strip("\0 \n").encode(), "the GDAL metadata")
    items = [node for node in root.iter() if tag_of(node) == "Item"]
    return [f"{node.get('name', '')}: {(node.text or '').strip()[:MAX_TEXT]}" for node in items[:1_000]]
