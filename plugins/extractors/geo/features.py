"""GeoJSON, KML and GPX: the names, descriptions and properties of features. Coordinates are left out."""

from __future__ import annotations

import html
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.errors import ExtractError
from forge.plugins.extractors._xml import parse_part, parse_xml, tag_of
from forge.protocols import Reading
from forge.records import Piece

if TYPE_CHECKING:
    from lxml.etree import _Element

MAX_BYTES = 128 << 20
"""GeoJSON and XML are parsed whole: about eight times their size in memory."""

MAX_FEATURES = 200_000
NAME_WITHIN = 40
"""A feature's name and description are among its first elements; a folder's thousands of features are not searched for them."""

MAX_VALUE_CHARACTERS = 100_000
COLLECTION = re.compile(rb'"type"\s*:\s*"(FeatureCollection|Feature)"')
TAG = re.compile(r"<[^<>]{1,2000}>")
NAMED = ("name", "cmt", "desc", "type", "keywords", "sym")


def is_geojson(head: bytes, extension: str) -> bool:
    """True for a JSON object that says it is a feature collection, or has the extension of one."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return start.startswith(b"{") and (extension == ".geojson" or bool(COLLECTION.search(start[:4096])))


def read_geojson(path: Path, ctx: Reading) -> Iterator[Piece]:
    """A line for the collection, then one a feature ("feature=3"). Raises ExtractError when it is no GeoJSON."""
    try:
        data = json.loads(_whole(path))
    except (ValueError, RecursionError) as error:
        raise ExtractError(f"not readable as JSON: {error}") from error
    features = data.get("features", [data]) if isinstance(data, dict) else None
    if not isinstance(features, list):
        raise ExtractError("not GeoJSON: no list of features")
    features = [one for one in features if isinstance(one, dict)]
    kinds = Counter(str(one["geometry"].get("type")) for one in features if isinstance(one.get("geometry"), dict))
    about = [f"GeoJSON with {len(features):,} features", *(f"{kind}: {count:,}" for kind, count in sorted(kinds.items()))]
    extra = {key: value for key, value in data.items() if key not in ("type", "features", "geometry", "properties", "coordinates", "bbox", "id")}
    yield Piece(text="\n".join([*about, *_pairs(extra)]), locator="header", kind="metadata")
    limit = int(ctx.options.get("max_rows", MAX_FEATURES))
    for number, feature in enumerate(features, 1):
        properties = feature.get("properties")
        if number > limit:
            yield Piece(text="", dropped="row over the limit")
        elif isinstance(properties, dict) and (text := "; ".join(_pairs(properties))):
            yield Piece(text=text, locator=f"feature={number}", kind="table")


def _whole(path: Path) -> bytes:
    if path.stat().st_size > MAX_BYTES:
        raise ExtractError(f"more than {MAX_BYTES >> 20} MiB in one map", refused=True, next="split it, or convert it to a shapefile")
    return path.read_bytes()


def _pairs(properties: dict[str, Any]) -> list[str]:
    lines = []
    for key, value in properties.items():
        text = value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
        if text.strip():
            lines.append(f"{key}: {text.strip()[:MAX_VALUE_CHARACTERS]}")
    return lines


def read_kml(path: Path, ctx: Reading) -> Iterator[Piece]:
    """Folders as headings, each placemark with its description and data. Raises ExtractError for broken XML."""
    yield from _kml(parse_xml(_whole(path), "the map"))


def read_kmz(path: Path, ctx: Reading) -> Iterator[Piece]:
    """The .kml files of a ZIP; pictures and models in it are counted."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        raise ExtractError(f"damaged KMZ file ({error})") from error
    with archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        maps = [name for name in names if name.lower().endswith(".kml")]
        if not maps:
            raise ExtractError("not a KMZ file: no .kml inside")
        for name in maps:
            yield from _kml(parse_part(archive, name))
        for _ in range(len(names) - len(maps)):
            yield Piece(text="", dropped="picture or model of a map")


def _kml(root: _Element) -> Iterator[Piece]:
    number = 0
    for node in root.iter():
        kind = tag_of(node)
        if kind in ("Document", "Folder") and (name := _child_text(node, "name")):
            heading = _path(node)
            yield Piece(text=name, heading=heading, kind="heading")
            if about := _child_text(node, "description"):
                yield Piece(text=about, heading=heading)
        elif kind == "Placemark":
            number += 1
            lines = [_child_text(node, "name"), _child_text(node, "description"), *_data(node)]
            if text := "\n".join(filter(None, lines)):
                yield Piece(text=text, heading=_path(node.getparent()), locator=f"feature={number}")


def _path(node: _Element | None) -> str:
    """The names of the folders that a node lies in, outermost first."""
    names: list[str] = []
    while node is not None:
        if tag_of(node) in ("Document", "Folder") and (name := _child_text(node, "name")):
            names.append(name.replace(" > ", " › "))
        node = node.getparent()
    return " > ".join(reversed(names))


def _data(placemark: _Element) -> list[str]:
    lines = []
    for node in placemark.iter():
        kind, value = tag_of(node), ""
        if kind == "SimpleData":
            value = (node.text or "").strip()
        elif kind == "Data":
            value = _child_text(node, "value")
        if value:
            lines.append(f"{node.get('name', '')}: {value}")
    return lines


def _child_text(node: _Element, wanted: str) -> str:
    """A child's text; descriptions hold HTML, whose marks go."""
    for child in islice(node, NAME_WITHIN):
        if tag_of(child) == wanted:
            text = "".join(str(part) for part in child.itertext())[:MAX_VALUE_CHARACTERS]
            return html.unescape(TAG.sub(" ", text)).strip() if "<" in text else text.strip()
    return ""


def read_gpx(path: Path, ctx: Reading) -> Iterator[Piece]:
    """Names and descriptions of the file, its routes, tracks and waypoints; points of a track are counted."""
    root = parse_xml(_whole(path), "the track")
    if tag_of(root) != "gpx":
        raise ExtractError("not a GPX file: its root is another element")
    counts = Counter(tag_of(node) for node in root.iter())
    shown = [f"{label}: {counts[tag]:,}" for tag, label in (("wpt", "Waypoints"), ("rte", "Routes"), ("trk", "Tracks"), ("trkpt", "Track points")) if counts[tag]]
    yield Piece(text="\n".join(["GPX", *shown]), locator="header", kind="metadata")
    for number, node in enumerate(root, 1):
        if tag_of(node) in ("metadata", "wpt", "rte", "trk") and (text := "\n".join(filter(None, (_child_text(node, name) for name in NAMED)))):
            yield Piece(text=text, locator=f"feature={number}")
