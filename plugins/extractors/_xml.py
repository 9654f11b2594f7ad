"""XML without entities, document types or network, for every format that is XML or a ZIP of it."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.errors import ExtractError

if TYPE_CHECKING:
    from lxml.etree import _Element


def open_zip(path: Path) -> zipfile.ZipFile:
    """The archive that an office file or a book is. Raises ExtractError when it is damaged."""
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, ValueError, struct.error) as error:
        raise ExtractError(f"damaged document: no readable ZIP container ({error})") from error


def parse_part(archive: zipfile.ZipFile, name: str) -> _Element:
    """The root of a ZIP's part. Raises ExtractError when it is missing or damaged; refused when it declares entities."""
    try:
        data = archive.read(name)
    except (KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise ExtractError(f"damaged document: part {name} cannot be read ({error})") from error
    return parse_xml(data, f"part {name}")


def parse_xml(data: bytes, what: str, *, doctype: bool = False) -> _Element:
    """The root element. Raises ExtractError naming `what`: damaged, or refused when it declares entities.

    doctype: a document type without entities of its own is allowed (SVG, XHTML, DocBook have one); it is never loaded.
    """
    from lxml import etree

    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise ExtractError(f"damaged XML: {what}: {error}", refused=b"<!ENTITY" in data) from error
    dtd = root.getroottree().docinfo.internalDTD
    if b"<!ENTITY" in data[: 1 << 16] or (dtd is not None and any(True for _ in dtd.iterentities())):
        raise ExtractError(f"{what} declares entities", refused=True)
    if root.getroottree().docinfo.doctype and not doctype:
        raise ExtractError(f"{what} declares a document type, which no Office program writes", refused=True)
    return root


def tag_of(node: Any) -> str:
    """A node's tag without its namespace; "" for comments and instructions."""
    tag = node.tag
    return tag[tag.find("}") + 1 :] if isinstance(tag, str) else ""


def attribute(node: Any, name: str) -> str:
    """An attribute by its local name: transitional, strict and OpenDocument files differ in namespace only."""
    return next((value for key, value in node.attrib.items() if key.rpartition("}")[2] == name), "")
