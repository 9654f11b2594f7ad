"""Lines of text with their place and font, by pypdfium2."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from typing import Any

from forge.errors import ExtractError
from forge.plugins.extractors.pdf.extras import read_notes
from forge.plugins.extractors.pdf.layout import Line, Page

PASSWORD_ERRORS = {4: "encrypted PDF (it needs a password)", 5: "encrypted PDF (unsupported security scheme)"}
CJK = re.compile("[\u3040-\u30ff\u3400-\u9fff]")
BOLD_WEIGHT = 650

PICTURE_SHARE, STAMP_CHARACTERS = 0.8, 250
"""A picture over most of a page with no more text than that is a scan with a stamp ("Downloaded from ...")."""

SHEAR = 0.02
"""pdfium leaves out text without width, as vertical Japanese is when its font is not embedded (46 of 62 lines of a
test page); sheared a little, it has one."""


def read_pages(data: bytes) -> Iterator[Page]:
    """The pages in order. Raises ExtractError: damaged, or refused when encrypted."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(data)
        document.init_forms()
        count = len(document)
    except pypdfium2.PdfiumError as error:
        code = getattr(error, "err_code", None)
        if code in PASSWORD_ERRORS:
            raise ExtractError(PASSWORD_ERRORS[code], refused=True) from error
        raise ExtractError(f"damaged PDF ({error})") from error
    try:
        for number in range(count):
            yield _page(document, number)
    finally:
        document.close()


def _page(document: Any, number: int) -> Page:
    import pypdfium2

    try:
        page = document[number]
        text_page = page.get_textpage()
        text = text_page.get_text_range()
    except pypdfium2.PdfiumError as error:
        raise ExtractError(f"damaged PDF (page {number + 1}: {error})") from error
    lines = _lines(text_page, text)
    text_page.close()
    if CJK.search(text):
        lines = _vertical_lines(page) or lines
    scanned = _is_picture(page, 0.0 if not lines else PICTURE_SHARE) and len(text) <= STAMP_CHARACTERS
    notes = read_notes(document, page)
    page.close()
    return Page(lines, scanned, notes)


def _lines(text_page: Any, text: str) -> list[Line]:
    from pypdfium2 import raw

    lines, start = [], 0
    for part in text.split("\r\n"):
        if part.strip():
            first = raw.FPDFText_GetCharIndexFromTextIndex(text_page, start)
            last = raw.FPDFText_GetCharIndexFromTextIndex(text_page, start + len(part.rstrip()) - 1)
            left, top = _origin(text_page, first)
            right, bottom = _origin(text_page, max(first, last))
            weights = raw.FPDFText_GetFontWeight(text_page, first), raw.FPDFText_GetFontWeight(text_page, max(first, last))
            size = raw.FPDFText_GetFontSize(text_page, first)
            lines.append(Line(part.strip(), left, right, top, bottom, size, min(weights) >= BOLD_WEIGHT))
        start += len(part) + 2
    return lines


def _origin(text_page: Any, index: int) -> tuple[float, float]:
    """Where a character's baseline starts, in points from the lower left corner."""
    from pypdfium2 import raw

    x, y = ctypes.c_double(), ctypes.c_double()
    raw.FPDFText_GetCharOrigin(text_page, index, x, y)
    return x.value, y.value


def _vertical_lines(page: Any) -> list[Line]:
    """One line for each text object, in the order of the file, when most of them run downwards; else nothing."""
    from pypdfium2 import raw

    objects = list(page.get_objects(filter=[raw.FPDF_PAGEOBJ_TEXT]))
    flat = [one for one in objects if _width(one) < 0.01]
    if 2 * len(flat) < len(objects):
        return []
    for one in flat:
        raw.FPDFPageObj_Transform(one, 1, 0, SHEAR, 1, 0, 0)
    text_page = page.get_textpage()
    texts = [_object_text(one, text_page).strip() for one in objects]
    text_page.close()
    return [Line(text, 0.0, 1.0, -float(row), -float(row), 10.0, False) for row, text in enumerate(texts) if text]


def _width(one: Any) -> float:
    left, _, right, _ = one.get_bounds()
    return float(right - left)


def _object_text(one: Any, text_page: Any) -> str:
    from pypdfium2 import raw

    size = raw.FPDFTextObj_GetText(one, text_page, None, 0)
    buffer = ctypes.create_string_buffer(size)
    raw.FPDFTextObj_GetText(one, text_page, ctypes.cast(buffer, ctypes.POINTER(ctypes.c_ushort)), size)
    return buffer.raw.decode("utf-16-le", "replace").rstrip("\0")


def _is_picture(page: Any, share: float) -> bool:
    """True when an image covers at least this share of the page."""
    from pypdfium2 import raw

    width, height = page.get_size()
    for image in page.get_objects(filter=[raw.FPDF_PAGEOBJ_IMAGE]):
        left, bottom, right, top = image.get_bounds()
        if (min(right, width) - max(left, 0)) * (min(top, height) - max(bottom, 0)) >= share * width * height:
            return True
    return False
