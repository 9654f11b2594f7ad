"""Maps: what is said about places. Attributes of shapefiles, GeoJSON, KML and GPX as text; a GeoTIFF's size and system."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import ClassVar

from forge.phase import Requirement
from forge.plugins.extractors.geo import features, raster, shapes
from forge.protocols import Reading
from forge.records import Piece

SHAPES, DBASE, GEOTIFF, GEOJSON = "application/vnd.shp", "application/x-dbf", "image/x-geotiff", "application/geo+json"
KML, KMZ, GPX = "application/vnd.google-earth.kml+xml", "application/vnd.google-earth.kmz", "application/gpx+xml"
READERS: dict[str, Callable[[Path, Reading], Iterator[Piece]]] = {
    SHAPES: shapes.read_shapes, DBASE: shapes.read_dbase, GEOTIFF: raster.read_geotiff, GEOJSON: features.read_geojson,
    KML: features.read_kml, KMZ: features.read_kmz, GPX: features.read_gpx,
}  # fmt: skip


class GeoExtractor:
    """Attributes are text (a line a feature); geometry is told in counts and boxes."""

    name: ClassVar[str] = "geo"
    media_types: ClassVar[tuple[str, ...]] = tuple(READERS)
    extensions: ClassVar[Mapping[str, str]] = {
        ".shp": SHAPES, ".dbf": DBASE, ".geojson": GEOJSON, ".kml": KML, ".kmz": KMZ, ".gpx": GPX,
    }  # fmt: skip
    magic: ClassVar[Mapping[bytes, str]] = {}
    requires: ClassVar[tuple[Requirement, ...]] = (
        Requirement(module="shapefile", extra="science"), Requirement(module="tifffile", extra="science"), Requirement(module="lxml", extra="science"),
    )  # fmt: skip
    sidecars: ClassVar[Mapping[str, tuple[str, ...]]] = {".shp": (".dbf", ".shx", ".prj", ".cpg", ".qpj", ".qix", ".sbn", ".sbx")}
    priority: ClassVar[int] = 1
    """Above the reader of pictures and of JSON, for the few files of theirs that are maps."""

    def accepts(self, head: bytes, name: str) -> str:
        """A TIFF that says where on Earth it lies, a .kmz, and JSON that is a collection of features."""
        extension = PurePosixPath(name).suffix.lower()
        if raster.is_geotiff(head):
            return GEOTIFF
        if extension == ".kmz" and head.startswith(b"PK\x03\x04"):
            return KMZ
        return GEOJSON if extension in (".json", ".geojson") and features.is_geojson(head, extension) else ""

    def extract(self, path: Path, ctx: Reading) -> Iterator[Piece]:
        """Yield facts as metadata, then the features ("row=7"). Raises ExtractError when the file is damaged."""
        yield from READERS[ctx.media_type](path, ctx)


extractor = GeoExtractor()
