"""Decides what a file is: by its container's directory, what plugins accept, its first bytes, then its extension.

A .docx named .pdf is a .docx. An extension decides only among what the content leaves open: which kind of text,
or which of the binary formats that a plugin brings. What nobody claims goes to the extractor of UNKNOWN, if there is one.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from forge.errors import ExtractError
from forge.phases.prep.guard import open_directory

HEAD_BYTES = 1 << 16
OOXML = "application/vnd.openxmlformats-officedocument."
ENDNOTE = "application/x-endnote-library"
UNKNOWN = "application/octet-stream"
PLAIN = "text/plain"

SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (128, b"DICM", "application/dicom"),  # before TIFF: its first 128 bytes may be one
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF8", "image/gif"),
    (0, b"II*\0", "image/tiff"),
    (0, b"MM\0*", "image/tiff"),
    (8, b"WEBP", "image/webp"),
    *((4, b"ftyp" + brand, "image/heic") for brand in (b"heic", b"heix", b"hevc", b"mif1", b"msf1")),
    (4, b"ftypavif", "image/avif"),
    (4, b"ftypM4A", "audio/mp4"),
    (4, b"ftypM4B", "audio/mp4"),
    (4, b"ftypqt", "video/quicktime"),
    (4, b"ftyp", "video/mp4"),
    (0, b"\x1aE\xdf\xa3", "video/x-matroska"),
    (8, b"AVI ", "video/x-msvideo"),
    (8, b"WAVE", "audio/wav"),
    (0, b"ID3", "audio/mpeg"),
    *((0, frame, "audio/mpeg") for frame in (b"\xff\xfb", b"\xff\xfa", b"\xff\xf3", b"\xff\xf2")),
    *((0, frame, "audio/aac") for frame in (b"\xff\xf1", b"\xff\xf9")),
    (0, b"#!AMR", "audio/amr"),
    (8, b"AIFF", "audio/aiff"),
    (8, b"AIFC", "audio/aiff"),
    (0, b"OggS", "audio/ogg"),
    (0, b"fLaC", "audio/flac"),
    (0, b"FLV\x01", "video/x-flv"),
    (0, b"0&\xb2u\x8ef\xcf\x11", "video/x-ms-asf"),
    (0, b"\x00\x00\x01\xba", "video/mpeg"),
    (0, b"\x1f\x8b", "application/gzip"),
    (0, b"BZh", "application/x-bzip2"),
    (0, b"\xfd7zXZ\0", "application/x-xz"),
    (0, b"\x28\xb5\x2f\xfd", "application/zstd"),
    (0, b"7z\xbc\xaf'\x1c", "application/x-7z-compressed"),
    (0, b"Rar!\x1a\x07", "application/vnd.rar"),
    (257, b"ustar", "application/x-tar"),
    (0, b"SQLite format 3\0", "application/vnd.sqlite3"),
    (0, b"\x89HDF\r\n\x1a\n", "application/x-hdf5"),
    *((0, b"CDF" + version, "application/x-netcdf") for version in (b"\x01", b"\x02", b"\x05")),
    (0, b"\x00\x00\x27\x0a", "application/vnd.shp"),
    (0, b"PAR1", "application/vnd.apache.parquet"),
    (0, b"ARROW1\0\0", "application/vnd.apache.arrow.file"),
    (0, b"\x7fELF", "application/x-elf"),
    (0, b"{\\rtf", "application/rtf"),
    (0, b"%!PS", "application/postscript"),
)

OLE2 = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
OLE2_STREAMS: tuple[tuple[str, str], ...] = (
    ("__properties_version1.0", "application/vnd.ms-outlook"),  # before the others: a message may hold a .doc
    ("WordDocument", "application/msword"),
    ("Workbook", "application/vnd.ms-excel"),
    ("PowerPoint Document", "application/vnd.ms-powerpoint"),
)
LEGACY_OFFICE = {"application/msword": ".docx", "application/vnd.ms-excel": ".xlsx", "application/vnd.ms-powerpoint": ".pptx"}

DOCUMENTS_UNREAD = {*LEGACY_OFFICE, "application/postscript"}
"""Documents that people wrote: a description of the file must not pass for having read them."""

TEXT_EXTENSIONS = {
    ".eml": "message/rfc822", ".mbox": "application/mbox", ".xml": "application/xml", ".svg": "image/svg+xml",
    ".css": "text/css", ".ps": "application/postscript",
}
"""Text files that are no prose: skipped, until a plugin claims their type."""

HTML = re.compile(rb"<!doctype\s+html|<html[\s>]", re.IGNORECASE)
SVG = re.compile(rb"^\s*(<\?xml[^>]*>\s*|<!--.*?-->\s*|<!DOCTYPE[^>\[]*(\[.*?\]\s*)?>\s*)*<(svg:)?svg[\s>]", re.DOTALL)
HTML_FRAGMENT = re.compile(rb"^\s*<(head|body|div|p|table|h[1-6]|ul|article|section|span|meta|title)[\s>]", re.IGNORECASE)


class Route(NamedTuple):
    """What a file is, and the extractor that reads it ("" when none does, with the reason)."""

    media_type: str
    extractor: str = ""
    reason: str = ""


class Router:
    """Routes by content. `extractors`: name -> plugin, also those whose extra is missing.

    Where two extractors claim a type, the one with the higher `priority` reads it, then one that does not come with
    slm-forge, then the first by name.
    """

    def __init__(self, extractors: Mapping[str, Any]) -> None:
        self.extractors = {name: extractors[name] for name in sorted(extractors, key=lambda name: _rank(extractors[name], name))}
        self.asked = [name for name, plugin in self.extractors.items() if hasattr(plugin, "accepts")]
        self.by_type: dict[str, str] = {}
        self.by_extension: dict[str, str] = {}
        self.magic: dict[bytes, str] = {}
        for name, plugin in self.extractors.items():
            for media_type in plugin.media_types:
                self.by_type.setdefault(media_type, name)
            for extension, media_type in plugin.extensions.items():
                self.by_extension.setdefault(extension, media_type)
            for prefix, media_type in plugin.magic.items():
                self.magic.setdefault(prefix, media_type)
        self.prefixes = sorted(self.magic, key=len, reverse=True)

    def route(self, path: Path, name: str) -> Route:
        """Where the file goes. Raises ExtractError for a container that is damaged, encrypted or a bomb."""
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        extension = PurePosixPath(name).suffix.lower()
        contained = _container(path, head)
        if accepted := self._accepted(head, name, extension):
            return accepted
        media_type = contained or self._media_type(path, head, extension)
        if extractor := self.by_type.get(media_type) or self._describer(media_type):
            return Route(media_type, extractor)
        return Route(media_type, reason=_unclaimed(media_type))

    def _describer(self, media_type: str) -> str:
        """Who describes files that nobody reads; not those of which there is more to say, and not text."""
        told = media_type in LEGACY_OFFICE or media_type in TEXT_EXTENSIONS.values()
        return "" if told else self.by_type.get(UNKNOWN, "")

    def _accepted(self, head: bytes, name: str, extension: str) -> Route | None:
        """What the first plugin says that recognises the file. One that breaks costs only files with its extensions."""
        for asked in self.asked:
            plugin = self.extractors[asked]
            try:
                media_type = plugin.accepts(head, name)
            except MemoryError:
                raise
            except Exception as error:
                if extension in plugin.extensions:
                    raise ExtractError(f"extractor {asked} cannot tell what it is ({type(error).__name__}: {error})") from error
                continue  # a file of another family, which its own extractor reads
            if media_type:
                return Route(media_type, asked if media_type in plugin.media_types else self.by_type.get(media_type, asked))
        return None

    def _media_type(self, path: Path, head: bytes, extension: str) -> str:
        for prefix in self.prefixes:
            if head.startswith(prefix):
                return self.magic[prefix]
        if not head.strip():
            return self._blank_type(head, extension)
        if looks_like_text(head):
            return self._text_type(path, head, extension)
        claimed = self.by_extension.get(extension, UNKNOWN)
        return UNKNOWN if claimed in _RECOGNISED or claimed.startswith("text/") else claimed

    def _blank_type(self, head: bytes, extension: str) -> str:
        """An empty file is plain text, unless it stands for the files that belong to it (EndNote's .enl with its .Data/)."""
        claimed = self.by_extension.get(extension, "")
        owner = self.extractors.get(self.by_type.get(claimed, ""))
        return claimed if not head and extension in getattr(owner, "sidecars", {}) else PLAIN

    def _text_type(self, path: Path, head: bytes, extension: str) -> str:
        start = head.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")[:4096]
        claimed = self.by_extension.get(extension) or TEXT_EXTENSIONS.get(extension, "")
        if start.startswith(b"{") and _is_notebook(path, head):
            return "application/x-ipynb+json"
        if start.startswith(b"<") and HTML.search(start):
            return "text/html"
        if start.startswith((b"<?xml", b"<svg", b"<!DOCTYPE svg")) and SVG.search(start):
            return "image/svg+xml"
        if start.startswith(b"<?xml"):
            return claimed if claimed and not claimed.startswith("text/") else "application/xml"
        if claimed and claimed not in _RECOGNISED:
            return claimed
        return "text/html" if HTML_FRAGMENT.match(start) else PLAIN


def _rank(plugin: Any, name: str) -> tuple[int, bool, str]:
    return -getattr(plugin, "priority", 0), type(plugin).__module__.startswith("forge.plugins."), name


def looks_like_text(head: bytes) -> bool:
    """True for bytes that some text encoding explains: few control characters, NULs only as UTF-16 or UTF-32 put them."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")):
        return True
    if b"\0" in head:
        even, odd = head[::2].count(0), head[1::2].count(0)
        wide = max(even, odd) > 0.35 * (len(head) / 2) and min(even, odd) < 0.05 * len(head)
        return wide or _is_utf32(head)
    control = len(head) - len(head.translate(None, bytes([*range(9), 11, *range(14, 27), *range(28, 32), 127])))
    return control <= 0.01 * len(head)


def _is_utf32(head: bytes) -> bool:
    quarter = max(1, len(head) // 4)
    nuls = [head[lane::4].count(0) / quarter for lane in range(4)]
    return (min(nuls[1:]) > 0.9 and nuls[0] < 0.1) or (min(nuls[:3]) > 0.9 and nuls[3] < 0.1)


def _container(path: Path, head: bytes) -> str:
    if b"%PDF-" in head[:1024]:
        return "application/pdf"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
        return _zip_type(path)
    if head.startswith(OLE2):
        return _ole2_type(path)
    for offset, magic, media_type in SIGNATURES:
        if head.startswith(magic, offset):
            return media_type
    return ""


def _zip_type(path: Path) -> str:
    with open_directory(path) as archive:
        names = set(archive.namelist())
        media_type = _zip_member_type(archive, names)
        encrypted = [entry.filename for entry in archive.infolist() if entry.flag_bits & 1]
    if encrypted and media_type != "application/zip":
        raise ExtractError("encrypted document (its parts need a password)", refused=True)
    return media_type


def _zip_member_type(archive: zipfile.ZipFile, names: set[str]) -> str:
    if "mimetype" in names:
        try:
            with archive.open("mimetype") as file:
                declared = file.read(100).decode("ascii").strip()
        except (zipfile.BadZipFile, zlib.error, UnicodeDecodeError, RuntimeError, NotImplementedError, EOFError, OSError) as error:
            raise ExtractError(f"damaged ZIP container ({error})") from error
        if declared.startswith("application/") and ("opendocument" in declared or "zip" in declared):
            return declared
    if any(name.rpartition("/")[2].lower() == "refs.frm" for name in names):
        return ENDNOTE
    if "[Content_Types].xml" not in names:
        return "application/zip"
    if "xl/workbook.bin" in names:
        return "application/vnd.ms-excel.sheet.binary.macroEnabled.12"
    folders = {name.split("/", 1)[0] for name in names if "/" in name}
    for folder, kind in (("word", "wordprocessingml.document"), ("ppt", "presentationml.presentation"), ("xl", "spreadsheetml.sheet")):
        if folder in folders:
            return OOXML + kind
    return "application/zip"


def _ole2_type(path: Path) -> str:
    data = path.read_bytes()
    if _utf16("EncryptedPackage") in data:
        raise ExtractError("encrypted Office document (it needs a password)", refused=True)
    for stream, media_type in OLE2_STREAMS:
        if _utf16(stream) in data:
            return media_type
    return "application/x-ole-storage"


def _utf16(text: str) -> bytes:
    return text.encode("utf-16-le")


def _is_notebook(path: Path, head: bytes) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        ends = head + file.read()
    return b'"nbformat"' in ends and (b'"cells"' in head or b'"worksheets"' in head)


def _unclaimed(media_type: str) -> str:
    if media_type == UNKNOWN:
        return "unknown file type"
    if target := LEGACY_OFFICE.get(media_type):
        return f"legacy Office file ({media_type}): save it as {target}, e.g. with LibreOffice"
    return f"no extractor reads {media_type}"


_RECOGNISED = {
    "application/pdf", "application/x-ipynb+json", "application/zip", "application/epub+zip",
    *(media_type for _, _, media_type in SIGNATURES), *(media_type for _, media_type in OLE2_STREAMS),
    *(OOXML + kind for kind in ("wordprocessingml.document", "presentationml.presentation", "spreadsheetml.sheet")),
}
"""Types that the content alone decides: an extension cannot claim them for other bytes."""
