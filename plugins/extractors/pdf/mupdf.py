"""Lines of text with their place and font, by PyMuPDF (AGPL or commercial: an extra that the user chooses)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from forge.errors import ExtractError
from forge.plugins.extractors.pdf.layout import Line, Page

BOLD_FLAG = 16


def read_pages(data: bytes) -> Iterator[Page]:
    """The pages in order. Raises ExtractError: damaged, or refused when encrypted."""
    import pymupdf

    try:
        document = pymupdf.open(stream=data, filetype="pdf")
    except RuntimeError as error:  # pymupdf.FileDataError is one
        raise ExtractError(f"damaged PDF ({error})") from error
    if document.needs_pass:
        raise ExtractError("encrypted PDF (it needs a password)", refused=True)
    for page in document:
        lines = [_line(line) for block in page.get_text("dict")["blocks"] for line in block.get("lines", [])]
        lines = [line for line in lines if line.text]
        yield Page(lines, scanned=not lines and bool(page.get_images()))


def _line(line: dict[str, Any]) -> Line:
    """MuPDF counts y downwards; here baselines go up."""
    spans = [span for span in line["spans"] if span["text"].strip()] or line["spans"]
    first, last = spans[0], spans[-1]
    return Line(
        "".join(span["text"] for span in line["spans"]).strip(), first["bbox"][0], last["bbox"][2], -first["origin"][1],
        -last["origin"][1], first["size"], all(span["flags"] & BOLD_FLAG for span in spans),
    )
