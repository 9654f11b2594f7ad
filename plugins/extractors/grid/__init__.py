"""Scientific grids (HDF5, NetCDF, MATLAB 7.3, NumPy): names, shapes, types and attributes. Data is never loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import ClassVar

from forge.phase import Requirement
from forge.plugins.extractors.grid import arrays, hierarchical, netcdf
from forge.protocols import Reading
from forge.records import Piece

HDF5, NETCDF, NPY, NPZ = "application/x-hdf5", "application/x-netcdf", "application/x-npy", "application/x-npz"
READERS: dict[str, Callable[[Path], Iterator[Piece]]] = {
    HDF5: hierarchical.read_hdf5, NETCDF: netcdf.read_netcdf, NPY: arrays.read_npy, NPZ: arrays.read_npz,
}  # fmt: skip


class GridExtractor:
    """A piece of metadata for each object of a file."""

    name: ClassVar[str] = "grid"
    media_types: ClassVar[tuple[str, ...]] = tuple(READERS)
    extensions: ClassVar[Mapping[str, str]] = {".h5": HDF5, ".hdf5": HDF5, ".nc": NETCDF, ".cdf": NETCDF, ".npy": NPY, ".npz": NPZ}
    magic: ClassVar[Mapping[bytes, str]] = {
        b"CDF\x01": NETCDF, b"CDF\x02": NETCDF, b"CDF\x05": NETCDF, b"\x93NUMPY": NPY, b"MATLAB 7.3 MAT-file": HDF5,
    }
    requires: ClassVar[tuple[Requirement, ...]] = (Requirement(module="h5py", extra="science"),)

    def accepts(self, head: bytes, name: str) -> str:
        """A ZIP named .npz, which holds arrays."""
        return NPZ if head.startswith(b"PK\x03\x04") and PurePosixPath(name).suffix.lower() == ".npz" else ""

    def extract(self, path: Path, ctx: Reading) -> Iterator[Piece]:
        """Yield the facts ("object=/temperature"). Raises ExtractError for a file that is none of its kind."""
        yield from READERS[ctx.media_type](path)


extractor = GridExtractor()
