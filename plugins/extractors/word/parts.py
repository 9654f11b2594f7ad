"""The XML parts of a document package, read without entities, and what both formats share."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

from forge.errors import ExtractError

if TYPE_CHECKING:
    from lxml.etree import _Element


class Outline:
    """The headings above the current paragraph."""

    def __init__(self) -> None:
        self.open: list[tuple[int, str]] = []

    def enter(self, level: int, title: str) -> None:
        """Open a heading, closing those at its level and below."""
        while self.open and self.open[-1][0] >= level:
            self.open.pop()
        self.open.append((level, " ".join(title.split()).replace(" > ", " › ")))

    @property
    def path(self) -> str:
        """The open headings as Piece.heading writes them."""
        return " > ".join(title for _, title in self.open)


def parse(archive: zipfile.ZipFile, name: str) -> _Element:
    """A part's root. Raises ExtractError when it is missing or damaged; refused when it declares entities."""
    from lxml import etree

    try:
        data = archive.read(name)
    except (KeyError, zipfile.BadZipFile, NotImplementedError, EOFError, OSError, ValueError) as error:
        raise ExtractError(f"damaged document: part {name} cannot be read ({error})") from error
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise ExtractError(f"damaged document: part {name}: {error}", refused=b"<!ENTITY" in data) from error
    if root.getroottree().docinfo.doctype:
        raise ExtractError(f"part {name} declares a document type, which no Office program writes", refused=True)
    return root


def tag_of(node: Any) -> str:
    """A node's tag without its namespace; "" for comments and instructions."""
    tag = node.tag
    return tag[tag.find("}") + 1 :] if isinstance(tag, str) else ""


def attribute(node: Any, name: str) -> str:
    """An attribute by its local name: transitional, strict and OpenDocument files differ in namespace only."""
    return next((value for key, value in node.attrib.items() if key.rpartition("}")[2] == name), "")
