"""Meshes (STL, PLY, OBJ, OFF, VTK, glTF): counts, bounding box, names and comments as metadata. No mesh is ever built."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from forge.errors import ExtractError
from forge.phase import Requirement
from forge.plugins.extractors.mesh import polygons, scene, toolkit
from forge.plugins.extractors.mesh.facts import Facts
from forge.protocols import Reading
from forge.records import Piece

READERS: dict[str, Callable[[Path], Facts]] = {
    "model/stl": polygons.read_stl,
    "model/ply": polygons.read_ply,
    "model/obj": polygons.read_obj,
    "model/off": polygons.read_off,
    "model/vnd.vtk": toolkit.read_legacy,
    "model/vnd.vtk+xml": toolkit.read_xml,
    "model/gltf+json": scene.read_gltf,
    "model/gltf-binary": scene.read_glb,
}


class MeshExtractor:
    """One piece of metadata per file."""

    name: ClassVar[str] = "mesh"
    media_types: ClassVar[tuple[str, ...]] = tuple(READERS)
    extensions: ClassVar[Mapping[str, str]] = {
        ".stl": "model/stl", ".ply": "model/ply", ".obj": "model/obj", ".off": "model/off", ".vtk": "model/vnd.vtk",
        **dict.fromkeys((".vtp", ".vtu", ".vti", ".vtr", ".vts"), "model/vnd.vtk+xml"),
        ".gltf": "model/gltf+json", ".glb": "model/gltf-binary",
    }  # fmt: skip
    magic: ClassVar[Mapping[bytes, str]] = {
        b"ply\n": "model/ply", b"ply\r\n": "model/ply", b"# vtk DataFile": "model/vnd.vtk", b"glTF\x02\0\0\0": "model/gltf-binary",
    }
    requires: ClassVar[tuple[Requirement, ...]] = ()

    def extract(self, path: Path, ctx: Reading) -> Iterator[Piece]:
        """Yield the facts. Raises ExtractError when the file is cut short or is no mesh of its kind."""
        try:
            facts = READERS[ctx.media_type](path)
        except (ValueError, struct.error, OverflowError) as error:
            raise ExtractError(f"damaged {ctx.media_type.removeprefix('model/')} file ({error})") from error
        yield Piece(text=facts.text(), locator="header", kind="metadata")
        if facts.left_out:
            yield Piece(text="", dropped=f"mesh name or comment over the limit ({facts.left_out:,})")


extractor = MeshExtractor()
