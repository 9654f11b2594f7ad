"""glTF scenes (.gltf, .glb): who made them, what they are called, how much is in them. Buffers are never loaded."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from forge.errors import ExtractError
from forge.plugins.extractors.mesh.facts import Facts

MAX_JSON_BYTES = 32 << 20
JSON_CHUNK = 0x4E4F534A
COUNTED = ("scenes", "nodes", "meshes", "materials", "textures", "images", "animations", "skins", "cameras")


def read_gltf(path: Path) -> Facts:
    """The facts of a .gltf file, which is one JSON text."""
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ExtractError(f"glTF file of more than {MAX_JSON_BYTES >> 20} MiB", refused=True)
    return _facts(path.read_bytes(), "glTF")


def read_glb(path: Path) -> Facts:
    """The facts of a .glb file: its first chunk is the JSON text."""
    size = path.stat().st_size
    with path.open("rb") as file:
        magic, version, total, length, kind = struct.unpack("<4s4I", file.read(20))
        if magic != b"glTF" or kind != JSON_CHUNK:
            raise ExtractError("not a binary glTF file: its first chunk is no JSON")
        if total > size or length > size - 20:
            raise ExtractError(f"binary glTF file cut short: {size:,} of {total:,} bytes")
        if length > MAX_JSON_BYTES:
            raise ExtractError(f"its JSON chunk has more than {MAX_JSON_BYTES >> 20} MiB", refused=True)
        return _facts(file.read(length), f"binary glTF {version}")


def _facts(data: bytes, kind: str) -> Facts:
    try:
        scene = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ExtractError(f"damaged glTF file: its JSON is not readable ({error})") from error
    if not isinstance(scene, dict) or not isinstance(scene.get("asset"), dict):
        raise ExtractError("not a glTF file: no asset in its JSON")
    facts = Facts(kind)
    for key in ("version", "generator", "copyright"):
        if isinstance(value := scene["asset"].get(key), str):
            facts.name(key.capitalize(), value)
    for key in COUNTED:
        items = _list(scene.get(key))
        facts.add(key.capitalize(), len(items) or "")
        for item in items:
            if isinstance(name := item.get("name"), str):
                facts.name(f"Name in {key}", name)
    _box(scene, facts)
    return facts


def _list(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _box(scene: dict[str, Any], facts: Facts) -> None:
    """From the least and greatest position that each mesh states, before the nodes move it."""
    accessors = _list(scene.get("accessors"))
    for mesh in _list(scene.get("meshes")):
        for part in _list(mesh.get("primitives")):
            attributes = part.get("attributes")
            place = attributes.get("POSITION") if isinstance(attributes, dict) else None
            if not isinstance(place, int) or not 0 <= place < len(accessors):
                continue
            for corner in (accessors[place].get("min"), accessors[place].get("max")):
                if isinstance(corner, list) and len(corner) == 3 and all(isinstance(value, (int, float)) for value in corner):
                    facts.box.add(corner)
