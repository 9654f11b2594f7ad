"""Write the binary documents of examples/handbook from the Markdown sources beside this script.

    python examples/build_handbook.py

Sources are plain Markdown with headings, paragraphs, `-` and `1.` lists and pipe tables; slides use `> Notes:` for
speaker notes. The output is deterministic: the same sources and library versions give the same bytes, because dates
are fixed and ZIP members carry no clock time. Needs reportlab, python-docx and python-pptx (development only).
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SOURCES = HERE / "handbook-sources"
HANDBOOK = HERE / "handbook"
AUTHOR = "The slm-forge handbook"
FIXED_DATE = datetime(2026, 1, 1, tzinfo=UTC)
ZIP_DATE = (2026, 1, 1, 0, 0, 0)
TRUNCATED_BYTES = 400
"""What is left of the damaged PDF: the header and a first object, no page and no cross-reference table."""

DRAFT_EDITS = {
    "enough to see every phase work": "enough to watch every phase work",
    "keep on a single shelf": "hold on a single shelf",
    "and write down why you are allowed": "and note down why you are allowed",
    "shows a sensible tree": "shows a reasonable tree",
    "before a machine has to": "before a program has to",
    "through review": "through reviews",
}
"""One changed word in each section of the chapter: the copy stays above 0.9 in 5-word-shingle Jaccard."""


@dataclass(frozen=True)
class Block:
    """One block of a source: kind is h1, h2, h3, text, bullet, number, table or notes."""

    kind: str
    text: str = ""
    rows: tuple[tuple[str, ...], ...] = ()


# --- reading the sources ---------------------------------------------------------------------------------------


def read_blocks(markdown: str) -> Iterator[Block]:
    """The blocks of a source in order. Paragraphs are separated by blank lines."""
    for chunk in re.split(r"\n\s*\n", markdown.strip()):
        lines = [line.strip() for line in chunk.splitlines()]
        if lines[0].startswith("|"):
            yield Block("table", rows=tuple(_cells(line) for line in lines if not set(line) <= set("|-")))
        elif lines[0].startswith("> Notes:"):
            yield Block("notes", " ".join(lines).removeprefix("> Notes:").strip())
        elif re.match(r"(#+|-|\d+\.) ", lines[0]):
            yield from (_marked(line) for line in lines)
        else:
            yield Block("text", " ".join(lines))


def _cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in line.strip("|").split("|"))


def _marked(line: str) -> Block:
    mark, text = line.split(" ", 1)
    if mark.startswith("#"):
        return Block(f"h{len(mark)}", text)
    return Block("bullet" if mark == "-" else "number", text)


# --- PDF -------------------------------------------------------------------------------------------------------


def write_pdf(blocks: list[Block], target: Path) -> None:
    """A PDF of several pages with the same header line and a numbered footer on each of them."""
    from reportlab.lib.pagesizes import A5
    from reportlab.lib.units import mm
    from reportlab.platypus import SimpleDocTemplate

    title = next(block.text for block in blocks if block.kind == "h1")

    def furniture(canvas: Any, document: Any) -> None:
        canvas.setFont("Helvetica", 8)
        canvas.drawString(18 * mm, A5[1] - 11 * mm, f"slm-forge handbook | {title}")
        canvas.drawString(18 * mm, 9 * mm, f"Apache-2.0 | page {document.page}")

    document = SimpleDocTemplate(
        str(target), pagesize=A5, title=title, author=AUTHOR, invariant=1,
        leftMargin=18 * mm, rightMargin=18 * mm, topMargin=18 * mm, bottomMargin=16 * mm,
    )
    document.build(_flowables(blocks), onFirstPage=furniture, onLaterPages=furniture)


def _flowables(blocks: list[Block]) -> list[Any]:
    from reportlab.lib.styles import getSampleStyleSheet
    from reportlab.platypus import Paragraph

    styles = getSampleStyleSheet()
    body = styles["BodyText"]
    body.fontSize, body.leading = 12, 17
    names = {"h1": "Title", "h2": "Heading2", "h3": "Heading3"}
    prefix = {"bullet": "\u2022 "}
    return [Paragraph(prefix.get(b.kind, "") + b.text, styles[names.get(b.kind, "BodyText")]) for b in blocks]


def write_damaged_pdf(blocks: list[Block], target: Path) -> None:
    """A PDF that was cut off while it was copied: prep has to report it as failed."""
    write_pdf(blocks, target)
    target.write_bytes(target.read_bytes()[:TRUNCATED_BYTES])


# --- DOCX ------------------------------------------------------------------------------------------------------


def write_docx(blocks: list[Block], target: Path, header: str) -> None:
    """A Word document with real heading styles, lists, tables, a header and a footer."""
    import docx

    document = docx.Document()
    properties = document.core_properties
    properties.author, properties.title = AUTHOR, blocks[0].text
    properties.created = properties.modified = FIXED_DATE.replace(tzinfo=None)
    section = document.sections[0]
    section.header.paragraphs[0].text = header
    section.footer.paragraphs[0].text = "Licence: Apache-2.0"
    for block in blocks:
        _add_to_docx(document, block)
    document.save(str(target))
    _fix_zip_dates(target)


def _add_to_docx(document: Any, block: Block) -> None:
    styles = {"bullet": "List Bullet", "number": "List Number"}
    if block.kind.startswith("h"):
        document.add_heading(block.text, level=int(block.kind[1:]))
    elif block.kind == "table":
        _fill(document.add_table(len(block.rows), len(block.rows[0]), style="Table Grid"), block.rows)
    else:
        document.add_paragraph(block.text, style=styles.get(block.kind))


def _fill(table: Any, rows: tuple[tuple[str, ...], ...]) -> None:
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            table.cell(y, x).text = cell


def edited_copy(markdown: str) -> str:
    """The chapter with one word changed in each section. Raises ValueError when an edit has lost its place."""
    text = re.sub(r"(?<=\S)\n(?=\S)", " ", markdown)
    for old, new in DRAFT_EDITS.items():
        if text.count(old) != 1:
            raise ValueError(f"the edit {old!r} fits {text.count(old)} times")
        text = text.replace(old, new)
    return text


# --- PPTX ------------------------------------------------------------------------------------------------------


def write_pptx(blocks: list[Block], target: Path) -> None:
    """A slide deck: one slide for each h1, with bullets, tables and speaker notes."""
    from pptx import Presentation

    deck = Presentation()
    properties = deck.core_properties
    properties.author, properties.title = AUTHOR, blocks[0].text
    properties.created = properties.modified = FIXED_DATE.replace(tzinfo=None)
    slide: Any = None
    for block in blocks:
        if block.kind == "h1":
            slide = deck.slides.add_slide(deck.slide_layouts[1])
            slide.shapes.title.text = block.text
        else:
            _add_to_slide(slide, block)
    deck.save(str(target))
    _fix_zip_dates(target)


def _add_to_slide(slide: Any, block: Block) -> None:
    from pptx.util import Cm

    if block.kind == "notes":
        slide.notes_slide.notes_text_frame.text = block.text
    elif block.kind == "table":
        body = slide.placeholders[1]
        body.element.getparent().remove(body.element)
        size = (len(block.rows), len(block.rows[0]))
        _fill(slide.shapes.add_table(*size, Cm(1.5), Cm(5), Cm(22), Cm(9)).table, block.rows)
    else:
        frame = slide.placeholders[1].text_frame
        paragraph = frame.add_paragraph() if frame.text else frame.paragraphs[0]
        paragraph.text = block.text


def _fix_zip_dates(target: Path) -> None:
    """Rewrite an Office file with fixed member dates: the libraries stamp the clock time otherwise."""
    with zipfile.ZipFile(target) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name, ZIP_DATE), data, zipfile.ZIP_DEFLATED)


# --- the handbook ----------------------------------------------------------------------------------------------


def main() -> None:
    """Write all binary documents of the handbook."""
    sources = {path.stem: list(read_blocks(path.read_text(encoding="utf-8"))) for path in SOURCES.glob("*.md")}
    write_pdf(sources["training-notes"], HANDBOOK / "reference" / "training-notes.pdf")
    write_pdf(sources["hostile-documents"], HANDBOOK / "operations" / "hostile-documents.pdf")
    write_damaged_pdf(sources["hostile-documents"], HANDBOOK / "archive" / "damaged-scan.pdf")
    write_docx(
        sources["operations-runbook"], HANDBOOK / "operations" / "operations-runbook.docx",
        header="slm-forge handbook, operations",
    )
    chapter = (HANDBOOK / "guide" / "choosing-a-corpus.md").read_text(encoding="utf-8")
    write_docx(
        list(read_blocks(edited_copy(chapter))), HANDBOOK / "archive" / "choosing-a-corpus-draft.docx",
        header="Draft for review",
    )
    write_pptx(sources["overview-slides"], HANDBOOK / "slides" / "overview.pptx")


if __name__ == "__main__":
    main()
