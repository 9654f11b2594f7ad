"""HDF5, NetCDF and NumPy files: names, shapes, types and attributes, no data, no link followed out of the file."""

from __future__ import annotations

import random
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from forge.errors import ExtractError
from forge.plugins.extractors.grid import HDF5, NETCDF, NPY, NPZ, extractor
from forge.protocols import Reading
from forge.records import Piece

if TYPE_CHECKING:
    import h5py


def read(path: Path, media_type: str) -> list[Piece]:
    return list(extractor.extract(path, Reading(media_type)))


def texts(path: Path, media_type: str = HDF5) -> dict[str, str]:
    pieces = read(path, media_type)
    assert {piece.kind for piece in pieces if piece.text} <= {"metadata"}
    return {piece.locator.removeprefix("object="): piece.text for piece in pieces if piece.text}


def create(path: Path) -> h5py.File:
    import h5py

    return h5py.File(path, "w")


def test_objects_come_with_shape_type_and_attributes_and_data_stays_closed(tmp_path: Path) -> None:
    import h5py
    import numpy as np

    with create(tmp_path / "a.h5") as file:
        file.attrs["title"] = "Soundings of the bay"
        depth = file.create_dataset("run1/depth", data=np.full((3, 4), 4242.0, dtype="<f4"))
        depth.attrs["units"], depth.attrs["range"] = "metre", np.array([0.5, 40], dtype="f4")
        depth.attrs["old style"] = np.frombuffer(b"characters one by one", dtype="i1")
        file.create_dataset("notes", data=["secret datum"], dtype=h5py.string_dtype())
        file.create_dataset("pairs", data=np.zeros(2, dtype=[("a", "<i4"), ("b", "<c16")]))
        file.create_dataset("states", data=np.zeros(2, dtype="i1"), dtype=h5py.enum_dtype({"OFF": 0, "ON": 1}, basetype="i1"))
        file["alone"] = 5
    found = texts(tmp_path / "a.h5")
    assert found["/"] == "HDF5 file\ntitle: Soundings of the bay"
    assert found["/run1"] == "/run1: group"
    assert found["/run1/depth"] == "/run1/depth: data set 3x4 of <f4\nold style: characters one by one\nrange: 0.5, 40.0\nunits: metre"
    assert found["/notes"] == "/notes: data set 1 of text"
    assert found["/pairs"] == "/pairs: data set 2 of records (a: int32, b: complex128)"
    assert found["/states"] == "/states: data set 2 of labels OFF, ON"
    assert found["/alone"] == "/alone: data set scalar of <i8"
    assert not any("4242" in text or "secret" in text for text in found.values())


def test_links_are_told_of_and_not_followed(tmp_path: Path) -> None:
    import h5py

    with create(tmp_path / "other.h5") as other:
        other.attrs["word"] = "outside"
        other["data"] = [1, 2]
    with create(tmp_path / "a.h5") as file:
        file["soft"], file["out"], file["lost"] = h5py.SoftLink("/soft"), h5py.ExternalLink("other.h5", "/"), h5py.SoftLink("/nowhere")
        group = file.create_group("group")
        group["again"] = file["/"]  # a hard link in a circle
        group["self"] = group
        layout = h5py.VirtualLayout(shape=(2,), dtype="i8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "data", shape=(2,))
        file.create_virtual_dataset("borrowed", layout)
    found = texts(tmp_path / "a.h5")
    assert set(found) == {"/", "/soft", "/out", "/lost", "/group", "/borrowed"}
    assert found["/out"] == "/out: link to / in another file, not followed"
    assert "not followed" in found["/borrowed"]
    assert not any("outside" in text or "other.h5" in text for text in found.values())


def test_many_objects_and_large_attributes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    from forge.plugins.extractors.grid import hierarchical

    monkeypatch.setattr(hierarchical, "MAX_OBJECTS", 50)
    monkeypatch.setattr(hierarchical, "MAX_ATTRIBUTE_BYTES", 2_000)
    with create(tmp_path / "a.h5") as file:
        file.attrs["large"], file.attrs["many"] = np.zeros(1000), np.arange(100, dtype="i2")
        for number in range(80):
            file.create_group(f"g{number}")
    pieces = read(tmp_path / "a.h5", HDF5)
    assert "many: 0, 1, 2" in pieces[0].text
    assert "and 80 more" in pieces[0].text
    assert [piece.dropped for piece in pieces if piece.dropped] == ["attribute over the limit", "objects over the limit of 50"]
    assert len(pieces) < 60


def netcdf(path: Path, version: int = 1) -> Path:
    from scipy.io import netcdf_file

    with netcdf_file(path, "w", version=version) as file:
        file.history = "written in a test"
        file.createDimension("time", None)
        file.createDimension("station", 3)
        tide = file.createVariable("tide", "f4", ("time", "station"))
        tide.units, tide.valid = "metre", [0.5, 9.25]
        tide[:2] = [[1, 2, 3], [4, 5, 777]]
        file.createVariable("count", "i4", ())
    return path


@pytest.mark.parametrize("version", [1, 2])
def test_netcdf_3_is_read_by_its_header(tmp_path: Path, version: int) -> None:
    found = texts(netcdf(tmp_path / "a.nc", version), NETCDF)
    assert found["header"] == "Dimensions: time = unlimited, station = 3\nhistory: written in a test"
    assert found["tide"].splitlines()[0] == "tide(time, station): float"
    assert set(found["tide"].splitlines()[1:]) == {"units: metre", "valid: 0.5, 9.25"}
    assert found["count"] == "count(): int"
    assert not any("777" in text for text in found.values())


def test_netcdf_4_under_its_own_extension_is_hdf5(tmp_path: Path) -> None:
    with create(tmp_path / "a.nc") as file:
        file["t"] = [1]
    assert "/t" in texts(tmp_path / "a.nc", NETCDF)


def test_numpy_arrays_give_their_header_and_no_pickle_is_opened(tmp_path: Path) -> None:
    import numpy as np

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (Path(tmp_path / "sprung"),))  # type: ignore[return-value]

    np.save(tmp_path / "a.npy", np.zeros((3, 5), dtype="<f4"))
    np.save(tmp_path / "trap.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", first=np.zeros(7), second=np.zeros((), dtype="U4"))
    assert texts(tmp_path / "a.npy", NPY) == {"header": "array 3x5 of <f4"}
    assert "a pickle, not opened" in texts(tmp_path / "trap.npy", NPY)["header"]
    assert list(texts(tmp_path / "b.npz", NPZ).values()) == ["first: array 7 of <f8", "second: array scalar of <U4"]
    assert not (tmp_path / "sprung").exists()
    assert extractor.accepts((tmp_path / "b.npz").read_bytes(), "x/b.npz") == NPZ


@pytest.mark.parametrize(
    ("media_type", "data"),
    [
        (HDF5, b""),
        (HDF5, b"\x89HDF\r\n\x1a\n" + bytes(100)),
        (NETCDF, b"CDF\x01" + struct.pack(">III", 0, 10, 1 << 31)),
        (NETCDF, b"CDF\x01" + struct.pack(">IIIII", 0, 0, 0, 12, 1 << 31)),
        (NETCDF, b"CDF\x01" + struct.pack(">IIII", 0, 10, 1, 1 << 31)),
        (NETCDF, b"CDF\x05" + struct.pack(">QIQ", 0, 11, 1 << 62)),
        (NETCDF, b"CDF\x01"),
        (NPY, b"\x93NUMPY\x02\0" + struct.pack("<I", 1 << 31)),
        (NPY, b"\x93NUMPY\x01\0\x10\0" + b"[" * 16),
        (NPY, b""),
        (NPZ, b"PK\x03\x04garbage"),
    ],
)
def test_a_header_that_lies_is_an_error_and_takes_no_memory(tmp_path: Path, media_type: str, data: bytes) -> None:
    (tmp_path / "bad").write_bytes(data)
    tracemalloc.start()
    with pytest.raises(ExtractError):
        read(tmp_path / "bad", media_type)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_truncated_and_flipped_files_are_an_extract_error(tmp_path: Path) -> None:
    rng = random.Random(5)
    whole = netcdf(tmp_path / "a.nc").read_bytes()
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("notes.txt", b"no array")
    assert texts(tmp_path / "x.npz", NPZ) == {"array=notes.txt": "notes.txt: no array"}
    for number in range(150):
        data = bytearray(whole)
        for _ in range(1 + number % 5):
            data[rng.randrange(4, min(300, len(data)))] = rng.randrange(256)
        (tmp_path / "bad").write_bytes(data[: rng.randrange(4, len(data))] if number % 2 else data)
        try:
            read(tmp_path / "bad", NETCDF)
        except ExtractError:
            continue
