"""Maps: attributes and names are text, coordinate systems are told, geometry stays out."""

from __future__ import annotations

import json
import random
import struct
import tracemalloc
import zipfile
from datetime import date
from pathlib import Path

import pytest

from forge.errors import ExtractError
from forge.plugins.extractors.geo import DBASE, GEOJSON, GEOTIFF, GPX, KML, KMZ, SHAPES, extractor
from forge.protocols import Reading
from forge.records import Piece

UTM = 'PROJCS["WGS_1984_UTM_Zone_32N",GEOGCS["GCS_WGS_1984",DATUM["D_WGS_1984"]]]'
MAP_XML = """<?xml version="1.0"?><kml xmlns="http://www.opengis.net/kml/2.2"><Document><name>Harbours</name><description>Of the north.</description>
<Folder><name>Old ones</name><Placemark><name>Stone quay</name><description><![CDATA[Built by <b>hand</b> &amp; rope.]]></description>
<ExtendedData><Data name="depth"><value>4 m</value></Data></ExtendedData><Point><coordinates>9.5,54.2</coordinates></Point></Placemark></Folder>
</Document></kml>"""
TRACK = """<?xml version="1.0"?><gpx xmlns="http://www.topografix.com/GPX/1/1"><metadata><name>Round walk</name></metadata>
<wpt lat="1" lon="2"><name>Bench</name><desc>A view of the bay</desc></wpt><trk><name>Cliff path</name><trkseg><trkpt lat="1.25" lon="2"/></trkseg></trk></gpx>"""


def read(path: Path, media_type: str, **sidecars: Path) -> list[Piece]:
    return list(extractor.extract(path, Reading(media_type, sidecars={f".{ending}": one for ending, one in sidecars.items()})))


def shapefile(folder: Path, encoding: str = "utf-8") -> dict[str, Path]:
    import shapefile

    with shapefile.Writer(folder / "a", encoding=encoding) as writer:
        writer.field("name", "C", 40)
        writer.field("depth", "N", 10, 2)
        writer.field("built", "D")
        writer.field("open", "L")
        for number, (name, depth) in enumerate([("Älvsborg", 4.25), ("Kråkö", None)]):
            writer.point(11.5 + number, 57.75)
            writer.record(name, depth, date(1670, 5, 4) if number == 0 else None, True)
    (folder / "a.prj").write_text(UTM, encoding="utf-8")
    return {ending: folder / f"a.{ending}" for ending in ("dbf", "shx", "prj")}


def test_a_shapefile_gives_its_attributes_and_its_coordinate_system(tmp_path: Path) -> None:
    about, *rows = read(tmp_path / "a.shp", SHAPES, **shapefile(tmp_path))
    assert about.kind == "metadata"
    assert about.text == "Shapefile of points\nBounding box: 11.5 57.75 to 12.5 57.75\nShapes: 2\nCoordinate system: WGS 1984 UTM Zone 32N"
    assert [(row.text, row.locator) for row in rows] == [
        ("name: Älvsborg; depth: 4.25; built: 1670-05-04; open: True", "row=1"), ("name: Kråkö; open: True", "row=2"),
    ]  # fmt: skip


@pytest.mark.parametrize(("encoding", "declared"), [("utf-8", ""), ("cp1252", ""), ("cp850", "850"), ("cp1252", "ANSI 1252"), ("utf-8", "UTF-8")])
def test_attributes_are_read_in_the_encoding_that_is_said_or_seen(tmp_path: Path, encoding: str, declared: str) -> None:
    files = shapefile(tmp_path, encoding)
    if declared:
        (tmp_path / "a.cpg").write_text(declared, encoding="ascii")
        files["cpg"] = tmp_path / "a.cpg"
    assert "name: Älvsborg" in read(tmp_path / "a.shp", SHAPES, **files)[1].text


def test_a_shapefile_without_its_table_says_so_and_a_table_alone_is_read(tmp_path: Path) -> None:
    files = shapefile(tmp_path)
    assert [piece.dropped for piece in read(tmp_path / "a.shp", SHAPES)] == ["", "attributes: the .dbf file is missing"]
    assert read(files["dbf"], DBASE)[0].text.startswith("name: Älvsborg")


def test_a_table_that_counts_two_billion_rows_gives_those_that_are_there(tmp_path: Path) -> None:
    path = shapefile(tmp_path)["dbf"]
    data = bytearray(path.read_bytes())
    data[4:8] = struct.pack("<I", (1 << 31) - 1)
    path.write_bytes(data)
    tracemalloc.start()
    pieces = read(path, DBASE)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    assert [piece.locator for piece in pieces[:2]] == ["row=1", "row=2"]
    assert "does not hold (2,147,483,645)" in pieces[-1].dropped


def test_a_geotiff_gives_size_system_and_gdal_items_and_other_tiffs_are_left_alone(tmp_path: Path) -> None:
    import numpy as np
    import tifffile

    citation = "ETRS89 / UTM zone 32N|GRS 1980|"
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1026, 34737, 22, 0, 3072, 0, 1, 25832)
    gdal = '<GDALMetadata>\n<Item name="SURVEY">Harbour soundings 1998</Item>\n</GDALMetadata>'
    tags = [(33550, 12, 3, (2.0, 2.0, 0.0), True), (34735, 3, len(keys), keys, True), (34737, 2, len(citation) + 1, citation, True), (42112, 2, len(gdal) + 1, gdal, True)]
    tifffile.imwrite(tmp_path / "map.tif", np.zeros((5, 7), dtype="u1"), extratags=tags, description="Sea bed", metadata=None)
    tifffile.imwrite(tmp_path / "photo.tif", np.zeros((5, 7), dtype="u1"))
    assert extractor.accepts((tmp_path / "map.tif").read_bytes(), "a/map.tif") == GEOTIFF
    assert extractor.accepts((tmp_path / "photo.tif").read_bytes(), "a/photo.tif") == ""
    (piece,) = read(tmp_path / "map.tif", GEOTIFF)
    assert piece.kind == "metadata"
    for fact in ("7 x 5 pixels", "Pixel size: 2 x 2", "Citation: ETRS89 / UTM zone 32N", "EPSG:25832", "Description: Sea bed", "SURVEY: Harbour soundings 1998"):
        assert fact in piece.text


def test_geojson_features_are_lines_of_properties(tmp_path: Path) -> None:
    data = {
        "type": "FeatureCollection", "name": "quays",
        "features": [
            {"type": "Feature", "properties": {"name": "Kajen på ön", "depth": 4.5, "empty": None, "tags": ["old", "stone"]}, "geometry": {"type": "Point", "coordinates": [11.97, 57.7]}},
            {"type": "Feature", "properties": None, "geometry": None}, "no feature",
        ],
    }  # fmt: skip
    text = json.dumps(data, ensure_ascii=False).encode()
    (tmp_path / "a.json").write_bytes(text)
    assert extractor.accepts(text, "a.json") == GEOJSON
    assert extractor.accepts(b'{"question": "?"}', "a.json") == ""
    about, row = read(tmp_path / "a.json", GEOJSON)
    assert about.text == "GeoJSON with 2 features\nPoint: 1\nname: quays"
    assert (row.text, row.locator) == ('name: Kajen på ön; depth: 4.5; tags: ["old", "stone"]', "feature=1")


def test_kml_placemarks_keep_their_folders_and_lose_their_markup(tmp_path: Path) -> None:
    (tmp_path / "a.kml").write_text(MAP_XML, encoding="utf-8")
    pieces = read(tmp_path / "a.kml", KML)
    assert [(piece.kind, piece.heading) for piece in pieces] == [
        ("heading", "Harbours"), ("prose", "Harbours"), ("heading", "Harbours > Old ones"), ("prose", "Harbours > Old ones"),
    ]  # fmt: skip
    assert "Stone quay" in pieces[3].text
    assert "<b>" not in pieces[3].text
    assert "& rope" in pieces[3].text
    assert "depth: 4 m" in pieces[3].text
    assert not any("54.2" in piece.text for piece in pieces)
    with zipfile.ZipFile(tmp_path / "a.kmz", "w") as archive:
        archive.writestr("doc.kml", MAP_XML)
        archive.writestr("files/pier.png", b"png")
    packed = read(tmp_path / "a.kmz", KMZ)
    assert packed[:-1] == pieces
    assert packed[-1].dropped == "picture or model of a map"
    assert extractor.accepts((tmp_path / "a.kmz").read_bytes(), "a.kmz") == KMZ


def test_gpx_gives_names_and_descriptions(tmp_path: Path) -> None:
    (tmp_path / "a.gpx").write_text(TRACK, encoding="utf-8")
    about, *rest = read(tmp_path / "a.gpx", GPX)
    assert about.text == "GPX\nWaypoints: 1\nTracks: 1\nTrack points: 1"
    assert [piece.text for piece in rest] == ["Round walk", "Bench\nA view of the bay", "Cliff path"]


@pytest.mark.parametrize("media_type", [KML, GPX])
def test_entities_in_a_map_are_refused(tmp_path: Path, media_type: str) -> None:
    (tmp_path / "a").write_text('<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><kml><name>&e;</name></kml>', encoding="utf-8")
    with pytest.raises(ExtractError) as error:
        read(tmp_path / "a", media_type)
    assert error.value.refused


@pytest.mark.parametrize(
    ("media_type", "data"),
    [
        (SHAPES, b""),
        (SHAPES, b"\0\0\x27\x0a" + bytes(20)),
        (DBASE, b"\x03" * 20),
        (DBASE, b"\x03\0\0\0" + struct.pack("<IHH", 1 << 31, 33, 0) + bytes(30)),
        (DBASE, b"\x03\0\0\0" + struct.pack("<IHH", 1 << 31, 65535, 65535) + bytes(30)),
        (GEOTIFF, b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 34737, 2, (1 << 32) - 1, 8)),
        (GEOTIFF, b"II*\0\xff\xff\xff\xff"),
        (GEOTIFF, b""),
        (GEOJSON, b"[" * 100_000),
        (GEOJSON, b'{"features": 5}'),
        (GEOJSON, b"[1]"),
        (KML, b"<kml><Placemark>"),
        (GPX, b"<html/>"),
        (KMZ, b"PK\x03\x04 garbage"),
    ],
)
def test_garbage_and_headers_that_lie_are_an_extract_error(tmp_path: Path, media_type: str, data: bytes) -> None:
    (tmp_path / "bad").write_bytes(data)
    tracemalloc.start()
    with pytest.raises(ExtractError):
        read(tmp_path / "bad", media_type)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def test_flipped_bytes_in_a_table_are_an_extract_error_or_other_text(tmp_path: Path) -> None:
    rng = random.Random(9)
    path = shapefile(tmp_path)["dbf"]
    whole = path.read_bytes()
    for number in range(120):
        data = bytearray(whole)
        for _ in range(1 + number % 6):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data[: rng.randrange(len(data))] if number % 3 == 0 else data)
        try:
            read(path, DBASE)
        except ExtractError:
            continue
