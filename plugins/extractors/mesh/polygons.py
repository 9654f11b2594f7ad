"""STL, PLY, OBJ and OFF, read as streams: a count in a header is believed only when the file is long enough for it."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from forge.errors import ExtractError
from forge.plugins.extractors.mesh.facts import Facts

LINE_BYTES = 1 << 16
MAX_BOX_POINTS = 2_000_000
"""The bounding box is taken from so many points at most (about 2 s); beyond, it is left out."""

TRIANGLES_AT_ONCE = 1 << 14

PLY_TYPES = {
    "char": "b", "int8": "b", "uchar": "B", "uint8": "B", "short": "h", "int16": "h", "ushort": "H", "uint16": "H", "int": "i", "int32": "i",
    "uint": "I", "uint32": "I", "float": "f", "float32": "f", "double": "d", "float64": "d",
}  # fmt: skip


def read_stl(path: Path) -> Facts:
    """A binary file may start with "solid" as well: what decides is whether its size fits its count of triangles."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(84)
        count = struct.unpack("<I", head[80:])[0] if len(head) == 84 else -1
        if size == 84 + 50 * count:
            return _binary_stl(file, head, count)
        if head.lstrip()[:5].lower() == b"solid":
            file.seek(0)
            return _ascii_stl(file)
    if count >= 0 and size < 84 + 50 * count:
        raise ExtractError(f"STL file cut short: it holds {max(0, size - 84) // 50:,} of {count:,} triangles")
    raise ExtractError("not an STL file: its size does not fit its count of triangles")


def _binary_stl(file: BinaryIO, head: bytes, count: int) -> Facts:
    import numpy as np

    triangle = np.dtype([("normal", "<f4", 3), ("corners", "<f4", 9), ("attribute", "<u2")])
    facts = Facts("STL (binary)")
    facts.name("Header", _words(head[:80]))
    facts.add("Triangles", count)
    while chunk := file.read(50 * TRIANGLES_AT_ONCE):
        corners = np.frombuffer(chunk, dtype=triangle)["corners"].reshape(-1, 3)
        corners = corners[np.isfinite(corners).all(axis=1)]
        if len(corners):
            facts.box.add(corners.min(axis=0).tolist())
            facts.box.add(corners.max(axis=0).tolist())
    return facts


def _ascii_stl(file: BinaryIO) -> Facts:
    facts, triangles, ended = Facts("STL (ASCII)"), 0, False
    for line in _lines(file):
        words = line.split(None, 1)
        key = words[0].lower() if words else b""
        if key == b"vertex":
            _add_point(facts, words[1].split() if len(words) > 1 else [])
        elif key == b"facet":
            triangles += 1
        elif key == b"solid":
            facts.name("Name", _words(words[1]) if len(words) > 1 else "")
        elif key == b"endsolid":
            ended = True
    if not (triangles or ended):
        raise ExtractError("not an STL file: no triangle and no end of a solid")
    facts.add("Triangles", triangles)
    return facts


def read_ply(path: Path) -> Facts:
    """Elements with their counts and properties, comments, the box of the vertices."""
    with path.open("rb") as file:
        facts, form, elements = _ply_header(file)
        left = path.stat().st_size - file.tell()
        needed = sum(count * _ply_bytes(properties, form) for _, count, properties in elements)
        if needed > left:
            raise ExtractError(f"PLY file cut short: its header asks for {needed:,} bytes, {left:,} are there")
        if elements and elements[0][0] == "vertex" and elements[0][1] <= MAX_BOX_POINTS:
            _ply_box(file, facts, form, elements[0][1], elements[0][2])
    return facts


def _ply_header(file: BinaryIO) -> tuple[Facts, str, list[tuple[str, int, list[list[str]]]]]:
    facts, form = Facts("PLY"), ""
    elements: list[tuple[str, int, list[list[str]]]] = []
    for line in islice(_lines(file), 10_000):
        words = line.decode("utf-8", "replace").split()
        match words:
            case ["end_header"]:
                for name, count, properties in elements:
                    facts.add(f"Element {name}", f"{count} ({', '.join(one[-1] for one in properties)})")
                return facts, form, elements
            case ["format", form, *_]:
                facts.add("Encoding", form)
            case [("comment" | "obj_info") as kind, *rest]:
                facts.name("Comment" if kind == "comment" else "Information", " ".join(rest))
            case ["element", name, count] if count.isdecimal():
                elements.append((name, int(count), []))
            case ["property", *rest] if elements and rest:
                elements[-1][2].append(rest)
    raise ExtractError("not a PLY file: its header has no end")


def _ply_bytes(properties: list[list[str]], form: str) -> int:
    """The least bytes of one element: a digit and a separator each in text, an empty list counts its length."""
    if form == "ascii":
        return 2 * max(1, len(properties))
    return sum(struct.calcsize(PLY_TYPES.get(one[1] if one[0] == "list" else one[0], "B")) for one in properties if len(one) > 1)


def _ply_box(file: BinaryIO, facts: Facts, form: str, count: int, properties: list[list[str]]) -> None:
    names = [one[-1] for one in properties]
    if not {"x", "y", "z"} <= set(names) or any(one[0] not in PLY_TYPES for one in properties):
        return
    places = [names.index(axis) for axis in "xyz"]
    if form == "ascii":
        for line in islice(_lines(file), count):
            words = line.split()
            _add_point(facts, [words[place] for place in places] if len(words) > max(places) else [])
        return
    row = struct.Struct((">" if "big" in form else "<") + "".join(PLY_TYPES[one[0]] for one in properties))
    for _ in range(count):
        values = row.unpack(file.read(row.size))
        facts.box.add([values[place] for place in places])


def read_obj(path: Path) -> Facts:
    """Counts by kind of line; names of objects, groups and materials; comments."""
    facts, counts = Facts("Wavefront OBJ"), Counter[str]()
    labels = {b"o": "Object", b"g": "Group", b"usemtl": "Material", b"mtllib": "Material library"}
    kinds = {b"v": "Vertices", b"vt": "Texture coordinates", b"vn": "Normals", b"f": "Faces", b"l": "Lines", b"p": "Points"}
    with path.open("rb") as file:
        for line in _lines(file):
            key, _, rest = line.strip().partition(b" ")
            if key in kinds:
                counts[kinds[key]] += 1
                if key == b"v":
                    _add_point(facts, rest.split()[:3])
            elif key in labels:
                facts.name(labels[key], _words(rest))
            elif key.startswith(b"#"):
                facts.name("Comment", _words(line.strip().lstrip(b"# ")))
    if not counts:
        raise ExtractError("not a Wavefront OBJ file: no vertex and no face")
    for kind in kinds.values():
        facts.add(kind, counts[kind] or "")
    return facts


def read_off(path: Path) -> Facts:
    """Vertices, faces and edges as its header counts them."""
    facts = Facts("OFF")
    with path.open("rb") as file:
        words: list[bytes] = []
        for line in islice(_lines(file), 10_000):
            text, _, comment = line.partition(b"#")
            facts.name("Comment", _words(comment))
            words += text.split()
            if len(words) >= 4 or (words and not words[0].endswith(b"OFF")):
                break
        if len(words) < 3 or not words[0].endswith(b"OFF") or not all(word.isdigit() for word in words[1:4]):
            raise ExtractError("not an OFF file: no counts in its header")
        vertices, faces = int(words[1]), int(words[2])
        if 6 * vertices + 2 * faces > path.stat().st_size:
            raise ExtractError(f"OFF file cut short: no room for {vertices:,} vertices and {faces:,} faces")
        facts.add("Vertices", vertices)
        facts.add("Faces", faces)
        points = (line for line in _lines(file) if line.strip() and not line.lstrip().startswith(b"#"))
        for line in islice(points, vertices if vertices <= MAX_BOX_POINTS else 0):
            _add_point(facts, line.split()[:3])
    return facts


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines, an overlong one in parts."""
    while line := file.readline(LINE_BYTES):
        yield line


def _add_point(facts: Facts, words: list[bytes]) -> None:
    try:
        x, y, z = (float(word) for word in words)
    except ValueError:
        raise ExtractError(f"damaged mesh: {b' '.join(words)[:60]!r} is no point") from None
    if facts.box.points < MAX_BOX_POINTS:
        facts.box.add((x, y, z))


def _words(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "replace").strip()
