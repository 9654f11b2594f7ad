"""Each extractor finds what is known to be in a file of its family, in order, with its place."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from forge.errors import ExtractError
from forge.protocols import Option, Reading
from forge.records import Piece
from forge.registry import Registry
from tests import corpus

PARAGRAPH = "The quick brown fox jumps over the lazy dog while nobody is looking at the clock"


def read(tmp_path: Path, name: str, media_type: str, content: str | bytes, **options: Option) -> list[Piece]:
    """All pieces of a file, by the named extractor."""
    path = tmp_path / "file"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(Registry().plugin("extractor", name).extract(path, Reading(media_type, options=options)))


def kept(pieces: list[Piece]) -> str:
    return "\n".join(piece.text for piece in pieces if not piece.dropped)


def dropped(pieces: list[Piece]) -> dict[str, str]:
    return {piece.dropped: piece.text for piece in pieces if piece.dropped}


@pytest.mark.parametrize("name", Registry().names("extractor"))
def test_every_extractor_says_what_it_reads(name: str) -> None:
    plugin = Registry().plugin("extractor", name, ready=False)
    assert plugin.name == name
    assert plugin.media_types
    assert set(plugin.extensions.values()) <= set(plugin.media_types)
    assert all(extension.startswith(".") and extension == extension.lower() for extension in plugin.extensions)


# --- pdf -------------------------------------------------------------------------------------------------------


def test_pdf_lines_become_paragraphs_under_headings_with_their_page(tmp_path: Path) -> None:
    page = [
        (20, 72, 740, "Leases"),
        *corpus.lines([PARAGRAPH, "and goes on in a second line that is nearly as long as the first one."]),
        *corpus.lines(["A second paragraph stands after a wider gap and is not joined to the first."], top=650),
    ]
    pieces = read(tmp_path, "pdf", "application/pdf", corpus.pdf([page]))
    assert [(piece.kind, piece.heading, piece.locator) for piece in pieces] == [
        ("heading", "Leases", "page=1"), ("prose", "Leases", "page=1"), ("prose", "Leases", "page=1"),
    ]  # fmt: skip
    assert pieces[1].text.startswith(PARAGRAPH + " and goes on")


def test_pdf_words_broken_at_a_line_end_are_put_together(tmp_path: Path) -> None:
    page = corpus.lines(
        ["The passage retrieval works well when it is prac-", "tical, and a dual-encoder is used as a well known dual-", "encoder here."]
    )
    text = kept(read(tmp_path, "pdf", "application/pdf", corpus.pdf([page])))
    assert "practical" in text
    assert text.count("dual-encoder") == 2


def test_pdf_headers_that_repeat_are_dropped_and_the_text_is_not(tmp_path: Path) -> None:
    pages = [
        [(9, 72, 780, f"Operations handbook {number}"), *corpus.lines([f"Fact number {name}: {PARAGRAPH}."]), (9, 300, 30, f"{number} of 4")]
        for number, name in enumerate(("one", "two", "three", "four"), 1)
    ]
    pieces = read(tmp_path, "pdf", "application/pdf", corpus.pdf(pages))
    assert "Operations handbook" not in kept(pieces)
    assert sum("Operations handbook" in piece.text for piece in pieces if piece.dropped == "page header") == 4
    assert all(f"Fact number {name}" in kept(pieces) for name in ("one", "two", "three", "four"))


def test_pdf_two_pages_are_too_few_to_tell_a_header(tmp_path: Path) -> None:
    pages = [corpus.lines(["Same words on top", PARAGRAPH]) for _ in range(2)]
    assert kept(read(tmp_path, "pdf", "application/pdf", corpus.pdf(pages))).count("Same words on top") == 2


@pytest.mark.usefixtures("tesseract")
def test_pdf_pages_without_a_text_layer_are_counted(tmp_path: Path) -> None:
    made = corpus.pdf([corpus.lines([PARAGRAPH]), [], []], image_only=[1])
    pieces = read(tmp_path, "pdf", "application/pdf", made)
    assert [(piece.locator, piece.text) for piece in pieces if piece.dropped] == [("page=2", "")]


def test_pdf_encrypted_is_refused_and_damaged_is_not_read(tmp_path: Path) -> None:
    made = corpus.pdf([corpus.lines([PARAGRAPH])], encrypted=True)
    with pytest.raises(ExtractError, match="encrypted") as caught:
        read(tmp_path, "pdf", "application/pdf", made)
    assert caught.value.refused
    with pytest.raises(ExtractError, match="damaged") as caught:
        read(tmp_path, "pdf", "application/pdf", corpus.pdf([corpus.lines([PARAGRAPH])])[:300])
    assert not caught.value.refused


def test_pdf_by_mupdf_finds_the_same_words(tmp_path: Path) -> None:
    pytest.importorskip("pymupdf")
    made = corpus.pdf([corpus.lines([PARAGRAPH, "and a second line."])])
    assert PARAGRAPH in kept(read(tmp_path, "pdf", "application/pdf", made, pdf_engine="mupdf"))


# --- word ------------------------------------------------------------------------------------------------------


def test_word_headings_make_the_path_and_every_part_is_read(tmp_path: Path) -> None:
    box = "<w:r><mc:AlternateContent><mc:Choice>{0}</mc:Choice><mc:Fallback>{0}</mc:Fallback></mc:AlternateContent></w:r>".format(
        f"<w:txbxContent>{corpus.paragraph('Inside the box')}</w:txbxContent>"
    )
    body = (
        corpus.paragraph("Budget", "berschrift1") + corpus.paragraph("The ledger reserves first.")
        + corpus.paragraph("Caps", "berschrift2") + f"<w:p><w:r><w:t>A cap</w:t><w:tab/><w:t>holds.</w:t></w:r>{box}</w:p>"
        + "<w:p><w:del><w:r><w:delText>never said</w:delText></w:r></w:del><w:ins><w:r><w:t>inserted</w:t></w:r></w:ins></w:p>"
    )  # fmt: skip
    made = corpus.docx(
        body, styles=corpus.styles(berschrift1="heading 1", berschrift2="heading 2"), header=corpus.paragraph("Company handbook"),
        comments=f"<w:comment>{corpus.paragraph('Is this right?')}</w:comment>",
        footnotes=f'<w:footnote w:type="separator">{corpus.paragraph("----")}</w:footnote><w:footnote>{corpus.paragraph("See page 3.")}</w:footnote>',
    )
    pieces = read(tmp_path, "word", DOCX, made)
    assert dropped(pieces) == {"deleted text": "never said"}
    pieces = [piece for piece in pieces if not piece.dropped]
    assert [piece.text for piece in pieces] == [
        "Budget", "The ledger reserves first.", "Caps", "A cap\tholds.", "Inside the box", "inserted",
        "Company handbook", "See page 3.", "Is this right?",
    ]  # fmt: skip
    assert [piece.heading for piece in pieces[:4]] == ["Budget", "Budget", "Budget > Caps", "Budget > Caps"]
    assert pieces[1].locator == "paragraph=2"
    assert [piece.kind for piece in pieces[-3:]] == ["header", "notes", "notes"]


def test_word_table_rows_carry_their_headers(tmp_path: Path) -> None:
    def row(*cells: str, header: bool = False) -> str:
        mark = "<w:trPr><w:tblHeader/></w:trPr>" if header else ""
        return f"<w:tr>{mark}{''.join(f'<w:tc>{corpus.paragraph(cell)}</w:tc>' for cell in cells)}</w:tr>"

    table = f"<w:tbl>{row('Key', 'Value', header=True)}{row('budget', '200')}{row('seed', '')}</w:tbl>"
    (piece,) = read(tmp_path, "word", DOCX, corpus.docx(table))
    assert piece.text == "Key | Value\nKey: budget; Value: 200\nKey: seed"
    assert (piece.kind, piece.locator) == ("table", "table=1")


def test_word_code_styles_stay_code(tmp_path: Path) -> None:
    body = corpus.paragraph("fn main() {", "Code") + corpus.paragraph("    run();", "Code") + corpus.paragraph("Listing 1", "CodeCaption")
    made = corpus.docx(body, styles=corpus.styles(Code="Code", CodeCaption="Code Caption"))
    assert [(piece.kind, piece.text) for piece in read(tmp_path, "word", DOCX, made)] == [
        ("code", "fn main() {"), ("code", "    run();"), ("prose", "Listing 1"),
    ]  # fmt: skip


def test_word_finds_all_that_python_docx_wrote(tmp_path: Path) -> None:
    import docx

    document, buffer = docx.Document(), io.BytesIO()
    document.add_heading("Plan", 1)
    document.add_paragraph("First item", style="List Bullet")
    table = document.add_table(rows=2, cols=2)
    for cell, text in zip(table._cells, ("name", "usd", "base", "0"), strict=True):
        cell.text = text
    document.sections[0].footer.paragraphs[0].text = "Page footer"
    document.save(buffer)
    pieces = read(tmp_path, "word", DOCX, buffer.getvalue())
    assert [piece.kind for piece in pieces] == ["heading", "list", "table", "header"]
    assert all(text in kept(pieces) for text in ("Plan", "- First item", "name | usd", "Page footer"))


def test_open_document_text_is_read_too(tmp_path: Path) -> None:
    space = 'xmlns:office="o" xmlns:text="t" xmlns:table="b"'
    xml = (
        f'<office:body {space}><text:h text:outline-level="1">Birds</text:h><text:p>Grey<text:s text:c="2"/>parrots</text:p>'
        "<text:list><text:list-item><text:p>Hockey</text:p></text:list-item></text:list><table:table><table:table-row>"
        "<table:table-cell><text:p>a</text:p></table:table-cell><table:table-cell><text:p>b</text:p></table:table-cell>"
        "</table:table-row></table:table></office:body>"
    )
    pieces = read(tmp_path, "word", "application/vnd.oasis.opendocument.text", corpus.packed({"content.xml": xml}))
    assert [piece.text for piece in pieces] == ["Birds", "Grey  parrots", "- Hockey", "a | b"]
    assert pieces[1].heading == "Birds"


@pytest.mark.parametrize("name", ["word", "slides"])
def test_office_parts_with_a_document_type_are_refused(tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("top secret", encoding="utf-8")
    evil = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file://{secret}">]><x>&e;</x>'
    parts = {"word/document.xml": evil, "ppt/presentation.xml": evil}
    with pytest.raises(ExtractError) as caught:
        read(tmp_path, name, DOCX, corpus.packed(parts))
    assert caught.value.refused
    with pytest.raises(ExtractError) as caught:
        read(tmp_path, name, DOCX, corpus.packed({part: text.encode("utf-16") for part, text in parts.items()}))
    assert caught.value.refused


DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"


# --- slides ----------------------------------------------------------------------------------------------------


def test_slides_give_groups_tables_charts_and_notes_in_order(tmp_path: Path) -> None:
    from pptx import Presentation
    from pptx.chart.data import CategoryChartData
    from pptx.enum.chart import XL_CHART_TYPE
    from pptx.util import Inches

    show, box = Presentation(), (Inches(1), Inches(1), Inches(3), Inches(2))
    first = show.slides.add_slide(show.slide_layouts[5])
    first.shapes.title.text = "Gates > all"
    first.shapes.add_group_shape().shapes.add_textbox(*box).text_frame.text = "Inside a group"
    table = first.shapes.add_table(1, 2, *box).table
    table.cell(0, 0).text, table.cell(0, 1).text = "left", "right"
    data = CategoryChartData()
    data.categories = ["2024", "2025"]
    data.add_series("Runs", (3, 5))
    first.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, *box, data)
    first.notes_slide.notes_text_frame.text = "Say it slowly"
    show.slides.add_slide(show.slide_layouts[5]).shapes.title.text = "Second"
    buffer = io.BytesIO()
    show.save(buffer)

    pieces = read(tmp_path, "slides", "pptx", buffer.getvalue())
    assert [(piece.locator, piece.text) for piece in pieces if piece.text] == [
        ("slide=1", "Gates › all"), ("slide=1", "Inside a group"), ("slide=1", "left | right"),
        ("slide=1", "Runs: 2024 3; 2025 5"), ("slide=1 notes", "Say it slowly"), ("slide=2", "Second"),
    ]  # fmt: skip
    assert pieces[1].heading == "Gates › all"


# --- notebook --------------------------------------------------------------------------------------------------


def test_notebook_cells_keep_order_headings_and_capped_outputs(tmp_path: Path) -> None:
    cells: list[dict[str, Any]] = [
        {"cell_type": "markdown", "source": ["# Title\n", "Some words."]},
        {"cell_type": "code", "source": "1 + 1", "outputs": [{"output_type": "execute_result", "data": {"text/plain": ["2"]}}]},
        {"cell_type": "code", "source": "x", "outputs": [{"output_type": "stream", "text": "long " * 1000}]},
        {"cell_type": "code", "source": "y", "outputs": [{"output_type": "error", "ename": "NameError", "evalue": "y"}]},
        {"cell_type": "code"},
    ]
    pieces = read(tmp_path, "notebook", "application/x-ipynb+json", corpus.notebook(cells))
    assert all(text in kept(pieces) for text in ("Title", "Some words.", "1 + 1", "2", "NameError: y"))
    assert len(dropped(pieces)["notebook output over the limit"]) > 2_900
    assert [piece.locator for piece in pieces if piece.text == "1 + 1"] == ["cell=2"]
    assert {piece.heading for piece in pieces if piece.kind == "code" and not piece.dropped} == {"Title"}


def test_notebook_of_format_3_is_read(tmp_path: Path) -> None:
    old = {"nbformat": 3, "worksheets": [{"cells": [
        {"cell_type": "heading", "level": 2, "source": "Old"}, {"cell_type": "code", "input": ["print(1)"], "outputs": []},
    ]}]}  # fmt: skip
    pieces = read(tmp_path, "notebook", "application/x-ipynb+json", json.dumps(old))
    assert "Old" in kept(pieces)
    assert "print(1)" in kept(pieces)


@pytest.mark.parametrize("content", ["[" * 100_000, "[1]", '{"cells": 3}', "{"])
def test_notebook_that_is_none_is_an_extract_error(tmp_path: Path, content: str) -> None:
    with pytest.raises(ExtractError):
        read(tmp_path, "notebook", "application/x-ipynb+json", content)
