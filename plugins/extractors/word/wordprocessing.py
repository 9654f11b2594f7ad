"""Word documents (.docx): the body by its heading styles, then headers, footers, footnotes, endnotes, comments."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from forge.errors import ExtractError
from forge.plugins.extractors._office import Package, alternative_text, chart_text, drawing_paragraphs
from forge.plugins.extractors._outline import Outline
from forge.plugins.extractors._xml import attribute, parse_part, tag_of
from forge.records import Piece
from forge.tables import table_text

if TYPE_CHECKING:
    from lxml.etree import _Element

HEADING_NAME = re.compile(r"^[Hh](?:ead(?:ing)?)?[ _-]?([1-6A-F])(?![a-z])")
"""Word's own "heading 1", and publishers' "HeadA", which stands below a chapter title."""

TITLE_NAME = re.compile(r"^(?:(?:chapter|document|book)[ _-]?)?title$", re.IGNORECASE)
CODE_NAME = re.compile(r"code|listing|preformatted|source|terminal|verbatim", re.IGNORECASE)
NO_CODE_NAME = re.compile(r"caption|label|title|char$", re.IGNORECASE)
NOTE_PARTS = (("footnotes", "footnote"), ("endnotes", "endnote"), ("comments", "comment"))
SEPARATORS = {"separator", "continuationSeparator", "continuationNotice"}


def read_docx(archive: zipfile.ZipFile) -> Iterator[Piece]:
    """Everything that a reader of the document can see, body first."""
    yield from _Docx(archive).pieces()


class _Docx:
    """One .docx package while it is read."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        self.package = Package(archive)
        self.names = self.package.names
        self.main = self.package.main("word/document.xml")
        self.related = sorted(set(self.package.relations(self.main).values()))
        self.levels: dict[str, int] = {}
        self.code_styles: set[str] = set()
        self._read_styles()
        self.outline = Outline()
        self.paragraphs = self.tables = 0
        self.lost: dict[str, list[str]] = {}

    def pieces(self) -> Iterator[Piece]:
        """Everything, body first."""
        root = parse_part(self.archive, self.main)
        body = next((node for node in root.iter() if tag_of(node) == "body"), None)
        if body is None:
            raise ExtractError("damaged document: it has no body")
        yield from self._blocks(body)
        yield from self._headers()
        for kind, tag in NOTE_PARTS:
            yield from self._notes(kind, tag)
        for reason, texts in sorted(self.lost.items()):
            yield Piece(text="\n".join(texts), dropped=reason)

    def _blocks(self, container: _Element) -> Iterator[Piece]:
        for node in container:
            tag = tag_of(node)
            if tag == "p":
                yield from self._paragraph(node)
            elif tag == "tbl":
                self.tables += 1
                text = table_text(_rows(node), header=_marks_header(node))
                yield Piece(text=text, locator=f"table={self.tables}", heading=self.outline.path, kind="table")
            elif tag in {"sdt", "sdtContent", "customXml", "ins", "moveTo", "smartTag"}:
                yield from self._blocks(node)
            elif tag == "AlternateContent":
                yield from self._blocks(_chosen(node))

    def _paragraph(self, node: _Element) -> Iterator[Piece]:
        self.paragraphs += 1
        locator = f"paragraph={self.paragraphs}"
        raw, boxes, lost = _text_and_boxes(node)
        for reason, text in lost:
            self.lost.setdefault(reason, []).append(text)
        text = raw.strip()
        style, level, is_item = self._format(node)
        if style in self.code_styles:
            yield Piece(text=raw.rstrip(), locator=locator, heading=self.outline.path, kind="code")
        elif text and level:
            self.outline.enter(level, text)
            yield Piece(text=text, locator=locator, heading=self.outline.path, kind="heading")
        elif text and (is_item or style.lower().startswith("list")):
            yield Piece(text=f"- {text}", locator=locator, heading=self.outline.path, kind="list")
        elif text:
            yield Piece(text=text, locator=locator, heading=self.outline.path)
        yield from self._drawings(node, locator)
        for box in boxes:
            yield from self._blocks(box)

    def _drawings(self, node: _Element, locator: str) -> Iterator[Piece]:
        """What stands in a paragraph as a drawing: charts, diagrams, the alternative texts of pictures."""
        relations: dict[str, tuple[str, str]] = {}
        pending: list[Any] = [node]
        while pending:
            one = pending.pop()
            tag = tag_of(one)
            if tag not in {"txbxContent", "Fallback"}:  # a box's paragraphs are read by themselves
                pending.extend(reversed(one))
            if tag == "docPr" and (shown := alternative_text(one)):
                yield Piece(text=shown, locator=f"{locator} picture", heading=self.outline.path, kind="notes")
            elif tag in {"chart", "relIds"}:
                relations = relations or self.package.relations(self.main)
                _, target = relations.get(attribute(one, "id") or attribute(one, "dm"), ("", ""))
                if target in self.names:
                    root = self.package.parse(target)
                    text = chart_text(root) if tag == "chart" else "\n".join(drawing_paragraphs(root))
                    yield Piece(text=text, locator=locator, heading=self.outline.path, kind="table" if tag == "chart" else "list")

    def _format(self, node: _Element) -> tuple[str, int, bool]:
        """(style, heading level or 0, belongs to a list)."""
        properties = next((child for child in node if tag_of(child) == "pPr"), None)
        if properties is None:
            return "", 0, False
        style, level, is_item = "", 0, False
        for child in properties:
            tag, value = tag_of(child), _value(child)
            if tag == "pStyle":
                style = value
                level = level or self.levels.get(value, 0)
            elif tag == "outlineLvl" and value.isdigit() and int(value) < 9:
                level = int(value) + 1
            elif tag == "numPr":
                is_item = True
        return style, level, is_item

    def _read_styles(self) -> None:
        """Find the styles of headings and code. Ids are localised ("berschrift1"), built-in names are not ("heading 1")."""
        parts = [target for what, target in self.related if what == "styles" and target in self.names]
        if not parts:
            return
        own: dict[str, int] = {}
        based: dict[str, str] = {}
        for style in parse_part(self.archive, parts[0]):
            if tag_of(style) == "style":
                name = next((_value(node) for node in style if tag_of(node) == "name"), "")
                outline = next((_value(node) for node in style.iter() if tag_of(node) == "outlineLvl"), "9")
                identifier = attribute(style, "styleId")
                based[identifier] = next((_value(node) for node in style if tag_of(node) == "basedOn"), "")
                own[identifier] = _level(name, outline)
                if CODE_NAME.search(name) and not NO_CODE_NAME.search(name):
                    self.code_styles.add(identifier)
        self.levels = {style: level for style in own if (level := _inherited(style, own, based))}

    def _headers(self) -> Iterator[Piece]:
        seen: set[str] = set()
        for what, target in self.related:
            if what in {"header", "footer"} and target in self.names:
                text = "\n".join(_paragraph_texts(parse_part(self.archive, target)))
                if text.strip() and text not in seen:
                    seen.add(text)
                    yield Piece(text=text, locator=f"{what}={len(seen)}", heading="Headers and footers", kind="header")

    def _notes(self, kind: str, tag: str) -> Iterator[Piece]:
        for what, target in self.related:
            if what == kind and target in self.names:
                notes = [node for node in parse_part(self.archive, target) if tag_of(node) == tag]
                texts = ["\n".join(_paragraph_texts(node)) for node in notes if attribute(node, "type") not in SEPARATORS]
                for number, text in enumerate(texts, 1):
                    yield Piece(text=text, locator=f"{tag}={number}", heading=kind.capitalize(), kind="notes")


def _level(name: str, outline: str) -> int:
    if match := HEADING_NAME.match(name):
        return int(match[1]) if match[1].isdigit() else "ABCDEF".index(match[1]) + 2
    if TITLE_NAME.match(name):
        return 1
    return int(outline) + 1 if outline.isdigit() and int(outline) < 9 else 0


def _inherited(style: str, own: Mapping[str, int], based: Mapping[str, str]) -> int:
    seen: set[str] = set()
    while style and style not in seen:
        if own.get(style):
            return own[style]
        seen.add(style)
        style = based.get(style, "")
    return 0


def _run_text(paragraph: _Element) -> str:
    """The text of a paragraph's runs, without deleted text, field codes, text boxes and fallback copies."""
    return _text_and_boxes(paragraph)[0]


def _text_and_boxes(paragraph: _Element) -> tuple[str, list[_Element], list[tuple[str, str]]]:
    """The runs' text; the outermost text boxes, each once (a drawing and its fallback hold the same); (why, lost text)."""
    parts: list[str] = []
    boxes: list[_Element] = []
    lost: list[tuple[str, str]] = []
    pending: list[Any] = [paragraph]
    while pending:
        node = pending.pop()
        tag = tag_of(node)
        if tag == "t":
            parts.append(node.text or "")
        elif tag in _MARKS:
            parts.append(_MARKS[tag])
        elif tag == "sym":
            parts.append(_SYMBOLS.get(attribute(node, "char").upper(), ""))
        elif tag == "AlternateContent":
            pending.append(_chosen(node))
        elif tag == "txbxContent":
            boxes.append(node)
        elif tag in {"del", "moveFrom"}:
            lost.append(("deleted text", "".join(one.text or "" for one in node.iter() if tag_of(one) in {"delText", "t"})))
        elif tag == "r" and _is_hidden(node):
            lost.append(("hidden text", "".join(one.text or "" for one in node.iter() if tag_of(one) == "t")))
        elif tag not in _NO_TEXT and len(node):
            pending.extend(reversed(node))
    return "".join(parts), boxes, lost


_MARKS = {"tab": "\t", "ptab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}
_NO_TEXT = {"instrText", "pPr", "rPr", "tbl"}
_SYMBOLS = {"F0B7": "•", "F0A7": "•", "F0D8": "→", "F0E0": "→", "F0FC": "✓", "F0FE": "☑", "F0A8": "☐", "F06D": "µ", "F0B0": "°", "F0B1": "±"}
"""Private characters of Symbol and Wingdings that stand in running text."""


def _is_hidden(run: Any) -> bool:
    properties = next((child for child in run if tag_of(child) == "rPr"), ())
    return any(tag_of(child) == "vanish" and _value(child) not in {"0", "false"} for child in properties)


def _chosen(alternatives: Any) -> Any:
    """The branch of an AlternateContent that today's programs show; the others repeat it for older ones."""
    branches = [child for child in alternatives if tag_of(child) == "Choice"] or list(alternatives)
    return branches[0] if branches else []


def _paragraph_texts(root: _Element) -> list[str]:
    """Texts of all paragraphs below a node, text boxes included."""
    texts = []
    for node in root.iter():
        if tag_of(node) == "p" and not any(tag_of(above) == "Fallback" for above in node.iterancestors()):
            texts.append(_run_text(node).strip())
    return [text for text in texts if text]


def _rows(table: _Element) -> list[list[str]]:
    """Cell texts by row; a nested table is text of its cell. A cell merged over several is written once."""
    rows = []
    for row in _inside(table, "tr"):
        rows.append([" ".join(" ".join(_paragraph_texts(cell)).split()) for cell in _inside(row, "tc")])
    return [row for row in rows if any(row)]


def _inside(node: Any, tag: str) -> Iterator[Any]:
    """Children with a tag, also where Word wraps them in content controls or tracked changes."""
    for child in node:
        if tag_of(child) == tag:
            yield child
        elif tag_of(child) in {"sdt", "sdtContent", "customXml", "ins"}:
            yield from _inside(child, tag)


def _marks_header(table: _Element) -> bool:
    """True when Word was told that the first row is a header."""
    for node in table.iter():
        if tag_of(node) == "tblHeader":
            return True
        if tag_of(node) == "tblLook" and (attribute(node, "firstRow") == "1" or _flag(_value(node))):
            return True
    return False


def _flag(value: str) -> bool:
    try:
        return bool(int(value, 16) & 0x0020)
    except ValueError:
        return False


def _value(node: Any) -> str:
    return attribute(node, "val")
