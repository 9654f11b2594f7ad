"""OpenDocument text (.odt): content.xml in order, then headers, footers, notes and comments."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from typing import Any

from forge.plugins.extractors._opendocument import nodes, paragraph, plain, table_rows
from forge.plugins.extractors._outline import Outline
from forge.plugins.extractors._xml import attribute, parse_part, tag_of
from forge.records import Piece
from forge.tables import table_text


def read_odt(archive: zipfile.ZipFile) -> Iterator[Piece]:
    """Headings, paragraphs, list items and tables; what was deleted under change tracking is dropped."""
    reader = _Text()
    yield from reader.blocks(parse_part(archive, "content.xml"))
    yield from _headers(archive)
    for number, (kind, text) in enumerate(reader.asides, 1):
        yield Piece(text=text, locator=f"{kind}={number}", heading=f"{kind.capitalize()}s", kind="notes")


class _Text:
    """One text while it is read."""

    def __init__(self) -> None:
        self.outline = Outline()
        self.paragraphs = self.tables = 0
        self.asides: list[tuple[str, str]] = []

    def blocks(self, root: Any) -> Iterator[Piece]:
        """The blocks below a node, in order."""
        pending: list[Any] = [root]
        while pending:
            node = pending.pop()
            tag = tag_of(node)
            if tag in {"h", "p"}:
                yield from self._paragraph(node, tag)
            elif tag == "table":
                self.tables += 1
                text = table_text(table_rows(node), header=next(nodes(node, "table-header-rows"), None) is not None)
                yield Piece(text=text, locator=f"table={self.tables}", heading=self.outline.path, kind="table")
            elif tag == "tracked-changes":
                deleted = [plain(one) for change in nodes(node, "deletion") for one in change.iter() if tag_of(one) in {"p", "h"}]
                yield Piece(text="\n".join(deleted), dropped="deleted text" if any(deleted) else "")
            else:
                pending.extend(reversed(node))

    def _paragraph(self, node: Any, tag: str) -> Iterator[Piece]:
        self.paragraphs += 1
        text, asides, boxes = paragraph(node)
        self.asides += [one for one in asides if one[1]]
        listed = any(tag_of(above) == "list-item" for above in node.iterancestors())
        if tag == "h" and text:
            level = attribute(node, "outline-level")
            self.outline.enter(int(level) if level.isascii() and level.isdigit() else 1, text)
        kind = "heading" if tag == "h" else "list" if listed else "prose"
        yield Piece.model_validate(
            {"text": f"- {text}" if kind == "list" and text else text, "locator": f"paragraph={self.paragraphs}", "heading": self.outline.path, "kind": kind}
        )
        for box in boxes:
            yield from self.blocks(box)


def _headers(archive: zipfile.ZipFile) -> Iterator[Piece]:
    """What the page styles repeat on every page, each text once."""
    if "styles.xml" not in archive.namelist():
        return
    seen: set[str] = set()
    for node in parse_part(archive, "styles.xml").iter():
        if tag_of(node) in {"header", "footer", "header-left", "footer-left", "header-first", "footer-first"}:
            text = "\n".join(found for one in nodes(node, "p") if (found := plain(one)))
            if text and text not in seen:
                seen.add(text)
                yield Piece(text=text, locator=f"{tag_of(node).partition('-')[0]}={len(seen)}", heading="Headers and footers", kind="header")
