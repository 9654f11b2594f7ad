"""VTK's own formats: the legacy one (.vtk) and the XML ones (.vtp, .vtu, .vti ...).

Both mix text with raw binary data (an XML file may hold it too, and is then no XML), so their keywords are searched
for in the mapped file instead of being parsed: nothing is expanded, nothing is held.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forge.errors import ExtractError
from forge.plugins.extractors.mesh.facts import Facts

KEYWORDS = re.compile(
    rb"(?m)^(DATASET|DIMENSIONS|SPACING|ORIGIN|POINTS|VERTICES|LINES|POLYGONS|TRIANGLE_STRIPS|CELLS|CELL_TYPES|POINT_DATA|CELL_DATA|"
    rb"SCALARS|VECTORS|NORMALS|TENSORS|TEXTURE_COORDINATES|FIELD|LOOKUP_TABLE)[ \t]+([ -~]{1,200})\r?$"
)
TAGS = re.compile(rb"<(VTKFile|PolyData|UnstructuredGrid|ImageData|RectilinearGrid|StructuredGrid|Piece|DataArray|Array)\s([^<>]{1,2000})>")
ATTRIBUTE = re.compile(rb'([A-Za-z_]{1,40})\s*=\s*"([^"]{0,300})"')
TOLD = {"type", "Name", "NumberOfComponents"}
SKIPPED = {"format", "offset", "RangeMin", "RangeMax", "byte_order", "header_type", "compressor", "version"}


def read_legacy(path: Path) -> Facts:
    """The title, the kind of data set, its counts and the names of its arrays."""
    with path.open("rb") as file:
        version, title, form = (file.readline(256).decode("utf-8", "replace").strip() for _ in range(3))
    if not version.startswith("# vtk DataFile") or form.upper() not in {"ASCII", "BINARY"}:
        raise ExtractError("not a legacy VTK file: its first three lines are not those of one")
    facts = Facts(f"VTK ({version.lstrip('# ')}, {form})")
    facts.name("Title", title)
    with _mapped(path) as data:
        for match in KEYWORDS.finditer(data):
            facts.name(match[1].decode().capitalize().replace("_", " "), match[2].decode())
    return facts


def read_xml(path: Path) -> Facts:
    """The kind of data set, the counts of its pieces and the names of its arrays."""
    facts, seen = Facts("VTK (XML)"), False
    with _mapped(path) as data:
        for match in TAGS.finditer(data):
            tag = match[1].decode()
            seen |= tag == "VTKFile"
            found = {key.decode(): value.decode("utf-8", "replace") for key, value in ATTRIBUTE.findall(match[2])}
            if tag in {"DataArray", "Array"}:
                facts.name("Array", " ".join(value for key, value in found.items() if key in TOLD))
            else:
                for key, value in found.items():
                    facts.name(_label(key), value if key not in SKIPPED else "")
    if not seen:
        raise ExtractError("not a VTK file: no VTKFile element")
    return facts


def _label(key: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", key).capitalize()


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data
