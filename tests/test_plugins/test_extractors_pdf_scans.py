"""PDF beyond its text layer: scanned pages by a real tesseract, comments, form fields, attached files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFont

from forge.plugins.extractors import _ocr_engines
from forge.plugins.extractors.pdf import extractor, scans
from forge.protocols import Embedded, Option, Reading
from forge.records import Piece
from tests import corpus

pytestmark = pytest.mark.usefixtures("tesseract")

TYPED = "A typed sentence stands between two pages that somebody scanned on a Monday"


def scan(*lines: str) -> Any:
    """A page of 8 by 6 inches at 100 dpi."""
    picture = Image.new("L", (800, 600), "white")
    pen = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        pen.text((60, 60 + 40 * number), line, fill="black", font=ImageFont.load_default(24))
    return picture


def drawn(*pages: dict[str, Any]) -> bytes:
    """A PDF by reportlab. Each page: picture, text (at its foot), comment, field=(name, value), box=(name, checked)."""
    from reportlab.lib.utils import ImageReader
    from reportlab.pdfgen.canvas import Canvas

    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=(576, 432), invariant=1)
    for page in pages:
        if "picture" in page:
            canvas.drawImage(ImageReader(page["picture"]), 0, 0, 576, 432)
        canvas.drawString(40, 20, page.get("text", ""))
        if "comment" in page:
            canvas.textAnnotation(page["comment"], Rect=[10, 10, 30, 30])
        if "field" in page:
            canvas.acroForm.textfield(name=page["field"][0], value=page["field"][1], x=100, y=100)
        if "box" in page:
            canvas.acroForm.checkbox(name=page["box"][0], checked=page["box"][1], x=100, y=200)
        canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def read(folder: Path, content: bytes, **options: Option) -> list[Piece | Embedded]:
    path = folder / "a.pdf"
    path.write_bytes(content)
    return list(extractor.extract(path, Reading("application/pdf", options=options)))


def pieces(found: list[Piece | Embedded]) -> list[Piece]:
    return [one for one in found if isinstance(one, Piece)]


def test_scanned_pages_are_read_in_their_place_among_typed_ones(tmp_path: Path) -> None:
    made = drawn({"picture": scan("The first page was scanned")}, {"text": TYPED}, {"picture": scan("The third was scanned as well")})
    assert [(piece.locator, piece.text, piece.kind) for piece in pieces(read(tmp_path, made))] == [
        ("page=1", "The first page was scanned", "prose"), ("page=2", TYPED, "prose"), ("page=3", "The third was scanned as well", "prose"),
    ]  # fmt: skip


def test_a_scan_with_a_stamp_is_read_and_the_stamp_comes_once(tmp_path: Path) -> None:
    made = drawn({"picture": scan("The body of the scanned page"), "text": "Downloaded from the library"})
    found = pieces(read(tmp_path, made))
    assert [piece.text for piece in found if not piece.dropped] == ["Downloaded from the library", "The body of the scanned page"]
    assert [(piece.text, piece.dropped) for piece in found if piece.dropped] == [
        ("Downloaded from the library", "text that the page's text layer has too")
    ]


def test_a_page_of_text_over_a_picture_costs_no_ocr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scans, "choose_engine", lambda options: pytest.fail("OCR was asked for"))
    rows = [(10, 72, 700 - 12 * row, f"{row} {TYPED}") for row in range(8)]
    found = pieces(read(tmp_path, corpus.pdf([rows])))
    assert len("".join(piece.text for piece in found)) > 8 * len(TYPED)


def test_with_ocr_off_scanned_pages_are_counted_as_lost(tmp_path: Path) -> None:
    made = drawn({"picture": scan("Unseen")}, {"text": TYPED}, {"picture": scan("Unseen"), "text": "Page 3"})
    lost = [(piece.locator, piece.dropped) for piece in pieces(read(tmp_path, made, ocr="off")) if piece.dropped]
    assert lost == [("page=1", "page without a text layer"), ("page=3", "picture of a page under little text")]


def test_without_an_engine_a_scan_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(_ocr_engines, "RAPIDOCR_MODULES", ())
    found = pieces(read(tmp_path, drawn({"picture": scan("Unseen")})))
    assert [piece.dropped for piece in found] == ["page without a text layer", f"image without OCR: {_ocr_engines.INSTALL}"]


def test_a_long_scan_keeps_the_pages_that_fit_into_its_time(tmp_path: Path) -> None:
    made = drawn(*({"picture": scan("Only this page fits")} for _ in range(4)))
    found = pieces(read(tmp_path, made, max_ocr_pages=1))
    assert [(piece.locator, piece.text, piece.dropped) for piece in found] == [
        ("page=1", "Only this page fits", ""), *((f"page={number}", "", "page over the OCR limit") for number in (2, 3, 4)),
    ]  # fmt: skip


def test_a_machine_too_slow_for_a_file_reports_the_pages_it_had_no_time_for(tmp_path: Path) -> None:
    found = pieces(read(tmp_path, drawn({"picture": scan("Unread")}), seconds_per_file=0))
    assert [(piece.locator, piece.dropped) for piece in found] == [("page=1", "page that OCR had no time for")]


def test_a_scan_of_a_blank_page_says_so(tmp_path: Path) -> None:
    assert [(piece.locator, piece.dropped) for piece in pieces(read(tmp_path, drawn({"picture": scan()})))] == [("page=1", "no text found by OCR")]


def test_a_page_of_two_hundred_inches_is_drawn_small_enough(tmp_path: Path) -> None:
    scan("A very large sheet").save(tmp_path / "sheet.pdf", "PDF", resolution=4)
    found = pieces(read(tmp_path, (tmp_path / "sheet.pdf").read_bytes()))
    assert [piece.text for piece in found] == ["A very large sheet"]


def test_text_drawn_twice_to_look_bold_is_read_once(tmp_path: Path) -> None:
    page = [(10, 72 + shift, 700, "Twice drawn to look bold") for shift in (0, 0.4)]
    assert [piece.text for piece in pieces(read(tmp_path, corpus.pdf([page])))] == ["Twice drawn to look bold"]


def test_comments_and_filled_in_fields_are_read_and_empty_ones_are_not(tmp_path: Path) -> None:
    made = drawn(
        {"text": TYPED, "comment": "Is this still true?"}, {"text": "Form", "field": ("city", "Bonn am Rhein")}, {"field": ("street", "")},
        {"box": ("agreed", True)}, {"box": ("declined", False)},
    )
    notes = [(piece.locator, piece.text) for piece in pieces(read(tmp_path, made)) if piece.kind == "notes"]
    assert notes == [("page=1", "Is this still true?"), ("page=2", "city: Bonn am Rhein"), ("page=4", "agreed: Yes")]


def test_attached_files_are_handed_back_to_the_walk(tmp_path: Path) -> None:
    import pypdfium2

    document = pypdfium2.PdfDocument(corpus.pdf([corpus.lines([TYPED])]))
    for name, data in (("../../readme.txt", b"Read me"), ("figures.csv", b"year,sum\n2025,7\n")):
        document.new_attachment(name).set_data(data)
    document.save(str(tmp_path / "made.pdf"))
    path = tmp_path / "made.pdf"
    attached = [(one.name, b"".join(one.chunks)) for one in extractor.extract(path, Reading("application/pdf")) if isinstance(one, Embedded)]
    assert attached == [("../../readme.txt", b"Read me"), ("figures.csv", b"year,sum\n2025,7\n")]
