"""COCO annotations: what the set holds as metadata, its captions as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from forge.plugins.extractors._records import plain
from forge.plugins.extractors._rows import over_limit
from forge.records import Piece

NAMES_A_PIECE = 50


def is_coco(value: Any) -> bool:
    """True for an object with lists of images and of annotations."""
    return isinstance(value, dict) and all(isinstance(value.get(name), list) for name in ("images", "annotations"))


def coco(value: dict[str, Any], limit: int) -> Iterator[Piece]:
    """Counts, categories and file names as metadata; one piece a caption ("annotation=7")."""
    images, annotations = _objects(value["images"]), _objects(value["annotations"])
    categories = {plain(one.get("id")): plain(one.get("name")) for one in _objects(value.get("categories"))}
    used = Counter(plain(one.get("category_id")) for one in annotations)
    info = value.get("info")
    told = plain(info.get("description")) if isinstance(info, dict) else plain(info)
    yield Piece(text=f"COCO annotations: {len(images):,} images, {len(annotations):,} annotations. {told}".strip(), kind="metadata")
    if categories:
        counts = ", ".join(f"{name} ({used[number]:,})" for number, name in categories.items())
        yield Piece(text=f"Categories with annotations: {counts}", kind="metadata")
    for license in _objects(value.get("licenses")):
        yield Piece(text=f"License: {plain(license)}", kind="metadata")
    names = {plain(one.get("id")): plain(one.get("file_name")) for one in images}
    yield from _file_names(list(names.values()))
    captions = [(number, one) for number, one in enumerate(annotations, 1) if one.get("caption")]
    for number, one in captions[:limit]:
        name = names.get(plain(one.get("image_id")), "")
        text = f"{name}: {plain(one['caption'])}" if name else plain(one["caption"])
        yield Piece(text=text, locator=f"annotation={number}", kind="record")
    yield from over_limit(len(captions) - limit)


def _file_names(names: list[str]) -> Iterator[Piece]:
    for start in range(0, len(names), NAMES_A_PIECE):
        yield Piece(text=f"Images: {', '.join(names[start : start + NAMES_A_PIECE])}", kind="metadata")


def _objects(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
