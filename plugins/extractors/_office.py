"""What Word and PowerPoint files share: parts and their relationships, charts, alternative texts, files inside them."""

from __future__ import annotations

import posixpath
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from forge.errors import ExtractError
from forge.plugins.extractors._xml import parse_part, tag_of
from forge.protocols import Embedded, Option
from forge.records import Piece

if TYPE_CHECKING:
    from lxml.etree import _Element

SMALL_PICTURE = 20_000
"""Bytes of a picture below which it is a logo, a bullet or a line; each would become a document of its own."""

PICTURES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp"}
DOCUMENTS = {".xlsx", ".xlsm", ".xlsb", ".docx", ".docm", ".pptx", ".pptm", ".pdf", ".odt", ".ods", ".odp", ".html", ".htm", ".mht", ".rtf", ".txt"}
CHUNK_BYTES = 1 << 20
AUTOMATIC = re.compile(r"automatically generated|AI-generated|AI 生成|Automatisch generierte|KI-generierte|générée automatiquement|généré par l.IA|generad[ao] (?:automáticamente|por IA)", re.IGNORECASE)
FILE_NAME = re.compile(r"^\S+\.(?:png|jpe?g|gif|bmp|tiff?|emf|wmf|svg)$|^(?:image|picture|bild|grafik|image\d+)\s*\d*$", re.IGNORECASE)


class Package:
    """A file's parts by name, parsed without entities, and their relationships."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive, self.names = archive, set(archive.namelist())

    def main(self, default: str) -> str:
        """The part with the document itself."""
        return next(iter(self.related("", "officeDocument", existing=False)), default)

    def parse(self, name: str) -> _Element:
        """A part's root. Raises ExtractError when it is missing, damaged or declares entities (refused)."""
        return parse_part(self.archive, name)

    def relations(self, part: str) -> dict[str, tuple[str, str]]:
        """Relationship id -> (last word of its type, part name); links to outside are left out."""
        folder, file = posixpath.split(part)
        name = posixpath.join(folder, "_rels", f"{file}.rels")
        if name not in self.names:
            return {}
        found = {}
        for node in self.parse(name):
            if isinstance(node.tag, str) and node.get("TargetMode") != "External":
                target = posixpath.normpath(posixpath.join("/", folder, node.get("Target", ""))).lstrip("/")
                found[node.get("Id", "")] = (node.get("Type", "").rsplit("/", 1)[-1], target)
        return found

    def related(self, part: str, kind: str, *, existing: bool = True) -> list[str]:
        """The parts that `part` points to by relationships of a kind, in the order of their ids."""
        found = sorted((len(one), one, target) for one, (what, target) in self.relations(part).items() if what == kind)
        return [target for _, _, target in found if not existing or target in self.names]

    def chart_data(self) -> set[str]:
        """Workbooks behind charts: their values are read with the chart."""
        charts = [name for name in self.names if "/charts/chart" in name and name.endswith(".xml") and "/_rels/" not in name]
        return {target for chart in charts for _, target in self.relations(chart).values()}


def embedded_files(archive: zipfile.ZipFile, names: Iterable[str], options: Mapping[str, Option], skip: set[str] | None = None) -> Iterator[Piece | Embedded]:
    """The documents and pictures stored inside a file. Small pictures, drawings and OLE objects are only counted."""
    with_pictures = options.get("ocr", "auto") != "off"
    for name in sorted(set(names) - (skip or set())):
        extension = posixpath.splitext(name)[1].lower()
        if extension in DOCUMENTS:
            yield Embedded(name, _chunks(archive, name))
        elif extension in PICTURES and not with_pictures:
            yield Piece(text="", dropped="picture (OCR is off)")
        elif extension in PICTURES and archive.getinfo(name).file_size < SMALL_PICTURE:
            yield Piece(text="", dropped="small picture")
        elif extension in PICTURES:
            yield Embedded(name, _chunks(archive, name))
        elif extension in {".bin", ".ole"}:
            yield Piece(text="", dropped="embedded OLE object")
        elif extension in {".doc", ".xls", ".ppt", ".msg", ".eml", ".zip", ".csv"} or extension in {".mp3", ".m4a", ".wav", ".mp4", ".mov", ".wmv", ".avi"}:
            yield Embedded(name, _chunks(archive, name))


def _chunks(archive: zipfile.ZipFile, name: str) -> Iterator[bytes]:
    try:
        with archive.open(name) as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise ExtractError(f"damaged inside the document ({error})") from error


def alternative_text(node: Any) -> str:
    """What a picture's author says that it shows; "" for a file name or a sentence that the program made up."""
    text = " ".join((node.get("descr") or "").split())
    return "" if FILE_NAME.match(text) or AUTOMATIC.search(text) else text


def chart_text(root: _Element) -> str:
    """Titles, then each series as "name: category value; category value"."""
    lines = [text for node in root.iter() if tag_of(node) in {"title", "txData"} for text in drawing_paragraphs(node)]
    for series in (node for node in root.iter() if tag_of(node) == "ser"):
        found = {tag_of(child): [leaf.text or "" for leaf in child.iter() if tag_of(leaf) == "v"] for child in series}
        names, values = found.get("cat", found.get("xVal", [])), found.get("val", found.get("yVal", []))
        points = [f"{a} {b}".strip() for a, b in zip(names, values, strict=False)]
        rest = names[len(points) :] + values[len(points) :]
        lines.append(f"{' '.join(found.get('tx', []))}: {'; '.join([*points, *rest])}".strip(": "))
    return "\n".join(line for line in lines if line)


def drawing_paragraphs(root: _Element) -> Iterator[str]:
    """The paragraphs of shapes, charts and diagrams (DrawingML)."""
    for paragraph in root.iter():
        if tag_of(paragraph) == "p":
            parts = [_RUN[tag_of(node)](node) for node in paragraph.iter() if tag_of(node) in _RUN]
            if text := "".join(parts).strip():
                yield text


_RUN: dict[str, Any] = {"t": lambda node: node.text or "", "br": lambda node: "\n", "tab": lambda node: "\t"}
