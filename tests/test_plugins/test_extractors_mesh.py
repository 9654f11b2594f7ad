"""Meshes: counts, boxes, names and comments, of every format, and headers that lie."""

from __future__ import annotations

import json
import random
import struct
import tracemalloc
from pathlib import Path

import pytest

from forge.errors import ExtractError
from forge.plugins.extractors.mesh import READERS, extractor
from forge.protocols import Reading

ASCII_STL = b"solid bracket v2\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 2 0 0\nvertex 0 3 -1e0\nendloop\nendfacet\nendsolid\n"
PLY = b"ply\nformat ascii 1.0\ncomment scanned in hall 4\nelement vertex 2\nproperty float x\nproperty float y\nproperty float z\nend_header\n0 0 0\n1 2 3\n"
OBJ = b"# made by hand\nmtllib wood.mtl\no Table\nv 0 0 0\nv 1 1 4\nv 0 2 0\nusemtl Oak\nf 1 2 3\n"
OFF = b"OFF # a corner\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"
VTK = b"# vtk DataFile Version 3.0\nHeat in the plate\nASCII\nDATASET POLYDATA\nPOINTS 2 float\n0 0 0 1 1 1\nPOINT_DATA 2\nSCALARS temperature float 1\nLOOKUP_TABLE default\n1 2\n"
VTU = b'<?xml version="1.0"?><VTKFile type="UnstructuredGrid"><UnstructuredGrid><Piece NumberOfPoints="7" NumberOfCells="1"><DataArray type="Float32" Name="stress" NumberOfComponents="3" format="appended"/></Piece></UnstructuredGrid><AppendedData>_\x00\xff<&</AppendedData></VTKFile>'
SCENE = {
    "asset": {"version": "2.0", "generator": "by hand", "copyright": "CC0"}, "meshes": [{"name": "Hull", "primitives": [{"attributes": {"POSITION": 0}}]}],
    "accessors": [{"min": [0, 0, 0], "max": [1, 2, 3]}], "nodes": [{"name": "Boat"}, {}],
}  # fmt: skip


def facts(tmp_path: Path, media_type: str, data: bytes) -> str:
    path = tmp_path / "mesh"
    path.write_bytes(data)
    pieces = list(extractor.extract(path, Reading("model/" + media_type)))
    assert {piece.kind for piece in pieces if piece.text} == {"metadata"}
    return "\n".join(piece.text + piece.dropped for piece in pieces)


def binary_stl(header: bytes, corners: list[float]) -> bytes:
    count = len(corners) // 9
    rows = (struct.pack("<12fH", 0, 0, 1, *corners[9 * row : 9 * row + 9], 0) for row in range(count))
    return header.ljust(80, b"\0") + struct.pack("<I", count) + b"".join(rows)


def glb(scene: object) -> bytes:
    text = json.dumps(scene).encode()
    return struct.pack("<4s4I", b"glTF", 2, 20 + len(text), len(text), 0x4E4F534A) + text


@pytest.mark.parametrize(
    ("media_type", "data", "expected"),
    [
        ("stl", ASCII_STL, ["Triangles: 1", "Name: bracket v2", "(0, 0, -1) to (2, 3, 0)"]),
        ("stl", binary_stl(b"made in a test", [0, 0, 0, 1, 0, 0, 0, 1, 5]), ["Triangles: 1", "Header: made in a test", "to (1, 1, 5)"]),
        ("ply", PLY, ["Element vertex: 2 (x, y, z)", "Comment: scanned in hall 4", "(0, 0, 0) to (1, 2, 3)"]),
        ("obj", OBJ, ["Vertices: 3", "Faces: 1", "Object: Table", "Material: Oak", "Comment: made by hand", "to (1, 2, 4)"]),
        ("off", OFF, ["Vertices: 3", "Faces: 1", "Comment: a corner", "to (1, 1, 0)"]),
        ("vnd.vtk", VTK, ["Title: Heat in the plate", "Dataset: POLYDATA", "Points: 2 float", "Scalars: temperature float 1"]),
        ("vnd.vtk+xml", VTU, ["Type: UnstructuredGrid", "Number of points: 7", "Array: Float32 stress 3"]),
        ("gltf+json", json.dumps(SCENE).encode(), ["Generator: by hand", "Copyright: CC0", "Nodes: 2", "Name in meshes: Hull", "to (1, 2, 3)"]),
        ("gltf-binary", glb(SCENE), ["Name in nodes: Boat", "(0, 0, 0) to (1, 2, 3)"]),
    ],
)
def test_every_format_tells_its_counts_names_and_box(tmp_path: Path, media_type: str, data: bytes, expected: list[str]) -> None:
    text = facts(tmp_path, media_type, data)
    for one in expected:
        assert one in text


def test_a_binary_stl_that_starts_with_solid_is_binary(tmp_path: Path) -> None:
    text = facts(tmp_path, "stl", binary_stl(b"solid exported by a CAD program", [0.0] * 18))
    assert "STL (binary)" in text
    assert "Triangles: 2" in text


def test_a_binary_ply_gives_its_box_in_both_byte_orders(tmp_path: Path) -> None:
    for order, name in ((">", b"binary_big_endian"), ("<", b"binary_little_endian")):
        header = PLY.split(b"end_header")[0].replace(b"ascii", name).replace(b"float z", b"double z")
        data = header + b"end_header\n" + struct.pack(order + "ffdffd", 0, 0, -7, 1, 2, 3)
        assert "(0, 0, -7) to (1, 2, 3)" in facts(tmp_path, "ply", data)


def test_points_that_are_no_numbers_do_not_spoil_the_box(tmp_path: Path) -> None:
    assert "to (1, 1, 1)" in facts(tmp_path, "stl", binary_stl(b"x", [float("nan")] * 3 + [float("inf"), 0, 0] + [1, 1, 1]))


def test_more_names_than_the_limit_are_counted(tmp_path: Path) -> None:
    data = OBJ + b"".join(b"o part %d\n" % number for number in range(700))
    assert "over the limit (201)" in facts(tmp_path, "obj", data)


@pytest.mark.parametrize(
    ("media_type", "data"),
    [
        ("stl", b"x" * 80 + struct.pack("<I", 1 << 31)),
        ("stl", b"solid " + b"x" * 200),
        ("ply", PLY.replace(b"vertex 2", b"vertex 2147483648")),
        ("ply", PLY.replace(b"ascii", b"binary_little_endian").replace(b"vertex 2", b"vertex 2147483648")),
        ("ply", PLY.replace(b"vertex 2", b"vertex " + b"9" * 6000)),
        ("off", OFF.replace(b"3 1 0", b"2147483648 1 0")),
        ("obj", b"v a b c\n"),
        ("obj", b"MZ\x90 not a mesh"),
        ("vnd.vtk+xml", b"<html></html>"),
        ("vnd.vtk+xml", b""),
        ("gltf+json", b'{"asset":' + b"[" * 100_000),
        ("gltf+json", b"[]"),
        ("gltf-binary", struct.pack("<4s4I", b"glTF", 2, 1 << 31, 1 << 31, 0x4E4F534A)),
    ],
)
def test_a_header_that_lies_is_an_error_and_takes_no_memory(tmp_path: Path, media_type: str, data: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(ExtractError):
        facts(tmp_path, media_type, data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize("media_type", READERS)
def test_garbage_is_an_extract_error(tmp_path: Path, media_type: str) -> None:
    rng = random.Random(media_type)
    seeds = [ASCII_STL, PLY, OBJ, OFF, VTK, VTU, glb(SCENE), json.dumps(SCENE).encode(), binary_stl(b"x", [1.0] * 9), rng.randbytes(500)]
    for number in range(100):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        (tmp_path / "mesh").write_bytes(data[: rng.randrange(len(data))] if number % 2 else data)
        try:
            assert list(extractor.extract(tmp_path / "mesh", Reading(media_type)))
        except ExtractError:
            continue
