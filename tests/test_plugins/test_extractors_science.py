"""Files of the sciences through all of prep: found by content, read together with the files that belong to them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from forge.phases.prep.tool import extract
from forge.registry import Registry
from tests.test_plugins import test_extractors_geo as geo
from tests.test_plugins import test_extractors_grid as grid
from tests.test_plugins import test_extractors_mesh as mesh
from tests.test_plugins.test_extractors_myisam import TABLES, sqlite_library


def extracted(root: Path, out: Path) -> dict[str, dict[str, str]]:
    extract(root, out, Registry(), lambda progress: None)
    found: dict[str, dict[str, str]] = {}
    for line in out.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        kept = found.setdefault(row["path"], {"text": "", "reason": ""})
        kept["text"] += row.get("text", "") + "\n"
        kept["reason"] += str(row.get("reason", "")) + str(row.get("error", ""))
    return found


def tables(root: Path, *names: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(TABLES) as archive:
        for name in names:
            (root / name).write_bytes(archive.read(name))


def test_a_shapefile_is_read_once_with_the_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    geo.shapefile(tmp_path / "maps")
    found = extracted(tmp_path / "maps", tmp_path / "out")
    assert "name: Älvsborg" in found["a.shp"]["text"]
    assert all("read with a.shp" in found[f"a.{ending}"]["reason"] for ending in ("dbf", "shx", "prj"))


def test_tables_of_a_server_are_read_from_its_data_folder(tmp_path: Path) -> None:
    tables(tmp_path / "data", "fixed.frm", "fixed.MYD", "fixed.MYI", "tiny.MYD", "inno.frm", "inno.ibd", "packed.frm", "packed.MYD")
    found = extracted(tmp_path / "data", tmp_path / "out")
    assert "code: alpha" in found["fixed.MYD"]["text"]
    assert "read with" in found["fixed.frm"]["reason"]
    assert "without its .frm" in found["tiny.MYD"]["reason"]
    assert "myisampack" in found["packed.MYD"]["reason"]
    assert "At the stone quay beside the mill." in found["inno.ibd"]["text"]


def test_endnote_libraries_of_every_kind_are_read(tmp_path: Path) -> None:
    root = tmp_path / "library"
    tables(root / "Old.Data" / "rdb", "refs.frm", "refs.MYD", "refs.MYI")
    tables(root / "Old.Data" / "tdb", "tiny.frm", "tiny.MYD")
    tables(tmp_path, "refs.frm", "refs.MYD", "expected.json")
    (root / "Old.enl").write_bytes(b"")
    sqlite_library(tmp_path, root / "New.enl", "enl_refs")
    for name in ("Zipped.enl", "Packed.enlx"):
        with zipfile.ZipFile(root / name, "w") as archive:
            archive.write(tmp_path / "refs.frm", "refs.frm" if name.endswith(".enl") else "P.Data/rdb/refs.frm")
            archive.write(tmp_path / "refs.MYD", "refs.MYD" if name.endswith(".enl") else "P.Data/rdb/refs.MYD")
            if name.endswith("x"):
                archive.writestr("P.Data/PDF/1/notes.txt", "A note that was attached to the reference.")
    found = extracted(root, tmp_path / "out")
    for name in ("Old.enl", "New.enl", "Zipped.enl", "Packed.enlx"):
        assert "Tides of the northern harbour" in found[name]["text"], name
        assert "thrown away" not in found[name]["text"], name
    assert "A note that was attached" in found["Packed.enlx!/P.Data/PDF/1/notes.txt"]["text"]
    assert "read with" in found["Old.Data/tdb/tiny.MYD"]["reason"]


def test_every_kind_is_told_from_the_others(tmp_path: Path) -> None:
    import numpy as np

    root = tmp_path / "mixed"
    root.mkdir()
    for name, data in {
        "a.stl": mesh.ASCII_STL, "b.stl": mesh.binary_stl(b"solid but binary", [0.0] * 9), "c.ply": mesh.PLY, "d.obj": mesh.OBJ, "e.off": mesh.OFF,
        "f.vtk": mesh.VTK, "g.vtu": mesh.VTU, "h.gltf": json.dumps(mesh.SCENE).encode(), "i": mesh.glb(mesh.SCENE),
        "j.kml": geo.MAP_XML.encode(), "k.gpx": geo.TRACK.encode(), "l.geojson": b'{"type":"FeatureCollection","features":[{"type":"Feature","properties":{"name":"Pier 9"}}]}',
        "m.pkl": b"\x80\x04\x95" + bytes(9) + b".", "n": b"\x7fELF" + bytes(range(200)),
    }.items():  # fmt: skip
        (root / name).write_bytes(data)
    with grid.create(root / "o.h5") as file:
        file.attrs["title"] = "Bay"
    grid.netcdf(root / "p.nc")
    np.save(root / "q.npy", np.zeros(3))
    np.savez(root / "r.npz", first=np.zeros(4))
    with zipfile.ZipFile(root / "s.kmz", "w") as archive:
        archive.writestr("doc.kml", geo.MAP_XML)
    found = extracted(root, tmp_path / "out")
    wanted = {
        "a.stl": "Triangles: 1", "b.stl": "STL (binary)", "c.ply": "Element vertex: 2", "d.obj": "Object: Table", "e.off": "Faces: 1", "f.vtk": "Heat in the plate",
        "g.vtu": "UnstructuredGrid", "h.gltf": "Nodes: 2", "i": "binary glTF", "j.kml": "Stone quay", "k.gpx": "A view of the bay", "l.geojson": "Pier 9",
        "m.pkl": "Python pickle", "n": "ELF program", "o.h5": "title: Bay", "p.nc": "written in a test", "q.npy": "array 3", "r.npz": "first: array 4", "s.kmz": "Stone quay",
    }  # fmt: skip
    missing = {name: found[name] for name, phrase in wanted.items() if phrase not in found[name]["text"]}
    assert missing == {}
