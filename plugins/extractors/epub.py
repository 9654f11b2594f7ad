"""Electronic books (.epub): chapters in the order of the spine; the table of contents is dropped, protected books refused."""

from __future__ import annotations

import codecs
import posixpath
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import unquote

from forge.errors import ExtractError
from forge.phase import Requirement
from forge.plugins.extractors._decode import decode
from forge.plugins.extractors._html import whole
from forge.plugins.extractors._htmltree import parse_xhtml, visible_text
from forge.plugins.extractors._outline import Outline
from forge.plugins.extractors._xml import attribute, open_zip, parse_part, parse_xml, tag_of
from forge.protocols import Reading
from forge.records import Piece

if TYPE_CHECKING:
    from lxml.etree import _Element

EPUB = "application/epub+zip"
FONT_OBFUSCATION = {"http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC"}
"""Encryption that only keeps fonts from being copied out of the book; its text is plain."""

TEXT_TYPES = {"application/xhtml+xml", "text/html", "application/x-dtbook+xml", "text/x-oeb1-document", "application/xml", ""}
FACTS = (("Title", "title"), ("Author", "creator"), ("Language", "language"), ("Publisher", "publisher"), ("Rights", "rights"))
XML_ENCODING = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)["']""")


class EpubExtractor:
    """Chapters by the book's own reading order, with their headings below the book's title."""

    name: ClassVar[str] = "epub"
    media_types: ClassVar[tuple[str, ...]] = (EPUB,)
    extensions: ClassVar[Mapping[str, str]] = {".epub": EPUB}
    magic: ClassVar[Mapping[bytes, str]] = {}
    requires: ClassVar[tuple[Requirement, ...]] = (Requirement(module="lxml", extra="docs"),)

    def extract(self, path: Path, ctx: Reading) -> Iterator[Piece]:
        """Yield the blocks of each chapter ("chapter=3"). Raises ExtractError: damaged, or refused when protected."""
        with open_zip(path) as archive:
            yield from _Book(archive).pieces()


extractor = EpubExtractor()


class _Book:
    """One book while it is read."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive, self.names = archive, set(archive.namelist())
        self.package = _package_name(archive, self.names)
        self.root = parse_xml(self._read(self.package), f"part {self.package}", doctype=True)
        self.items = {attribute(node, "id"): node for node in _all(self.root, "item")}
        self.outline = Outline()

    def pieces(self) -> Iterator[Piece]:
        """Facts about the book, then its chapters."""
        chapters = [(node, self._part(attribute(node, "href"))) for node in self._spine()]
        self._check_protection({part for _, part in chapters})
        title = next((text for node in _all(self.root, "title") if (text := visible_text(node))), "")
        facts = [f"{label}: {text}" for label, tag in FACTS for node in _all(self.root, tag) if (text := visible_text(node))]
        yield Piece(text="\n".join(facts), kind="metadata")
        if title:
            self.outline.enter(0, title)
        contents = self._contents()
        for number, (node, part) in enumerate(chapters, 1):
            yield from self._chapter(f"chapter={number}", attribute(node, "media-type"), part, part in contents)

    def _chapter(self, locator: str, media_type: str, part: str, is_contents: bool) -> Iterator[Piece]:
        if part not in self.names:
            yield Piece(text="", locator=locator, dropped="missing chapter")
            return
        if media_type not in TEXT_TYPES:
            yield Piece(text="", locator=locator, dropped=f"chapter of type {media_type}")
            return
        root = parse_xhtml(_decoded(self._read(part)), f"part {part}")
        if root is None:
            return
        yield from _take_titles(root, locator)
        if is_contents and _is_links(root):
            yield Piece(text=visible_text(root), locator=locator, dropped="table of contents")
        else:
            yield from whole(root, locator=locator, outline=self.outline)

    def _spine(self) -> list[Any]:
        found = [self.items.get(attribute(node, "idref")) for node in _all(self.root, "itemref")]
        if not any(node is not None for node in found):
            raise ExtractError("damaged book: its spine names no chapter")
        return [node for node in found if node is not None]

    def _contents(self) -> set[str]:
        """Parts that are a table of contents: EPUB 3 marks them in the manifest, EPUB 2 in the guide."""
        marked = [node for node in self.items.values() if "nav" in attribute(node, "properties").split()]
        guide = [node for node in _all(self.root, "reference") if attribute(node, "type").lower() == "toc"]
        return {self._part(attribute(node, "href")) for node in [*marked, *guide]}

    def _check_protection(self, parts: set[str]) -> None:
        """Raise ExtractError (refused) when chapters are encrypted; obfuscated fonts do not matter."""
        if "META-INF/encryption.xml" not in self.names:
            return
        for data in _all(parse_part(self.archive, "META-INF/encryption.xml"), "EncryptedData"):
            methods = {attribute(node, "Algorithm") for node in _all(data, "EncryptionMethod")}
            targets = {posixpath.normpath(unquote(attribute(node, "URI"))) for node in _all(data, "CipherReference")}
            if targets & parts and not methods <= FONT_OBFUSCATION:
                raise ExtractError("book protected by DRM (its chapters are encrypted)", refused=True)

    def _part(self, href: str) -> str:
        return posixpath.normpath(posixpath.join(posixpath.dirname(self.package), unquote(href.partition("#")[0])))

    def _read(self, name: str) -> bytes:
        try:
            return self.archive.read(name)
        except (KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError, ValueError, RuntimeError) as error:
            raise ExtractError(f"damaged book: part {name} cannot be read ({error})") from error


def _package_name(archive: zipfile.ZipFile, names: set[str]) -> str:
    if "META-INF/container.xml" in names:
        for node in _all(parse_part(archive, "META-INF/container.xml"), "rootfile"):
            if (name := unquote(attribute(node, "full-path"))) in names:
                return name
    found = sorted(name for name in names if name.lower().endswith(".opf"))
    if not found:
        raise ExtractError("damaged book: it has no package file (.opf)")
    return found[0]


def _take_titles(root: _Element, locator: str) -> Iterator[Piece]:
    """A chapter file's <title> repeats its heading, or the book's title in every file: it is no text."""
    for node in list(root.iter("title")):
        above = node.getparent()
        if above is not None and above.tag == "head":
            above.remove(node)
            yield Piece(text=visible_text(node), locator=locator, dropped="page title")


def _is_links(root: _Element) -> bool:
    """True when most of the text stands in links: books mark a chapter as contents that only begins with them."""
    linked = sum(len(visible_text(node)) for node in root.iter("a"))
    return linked * 2 > len(visible_text(root))


def _decoded(data: bytes) -> str:
    match = XML_ENCODING.match(data)
    try:
        return data.decode(codecs.lookup(match[1].decode("ascii")).name) if match else decode(data, html=True)
    except (LookupError, ValueError):
        return decode(data, html=True)


def _all(root: Any, tag: str) -> Iterator[Any]:
    return (node for node in root.iter() if tag_of(node) == tag)
