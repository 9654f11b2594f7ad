"""Pages that are pictures: rendered by pdfium and read by OCR."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.plugins.extractors._ocr import read_scans
from forge.plugins.extractors._ocr_engines import OcrFailure, choose_engine
from forge.plugins.extractors.pdf.layout import Page
from forge.protocols import Option
from forge.records import Piece

if TYPE_CHECKING:
    from PIL.Image import Image

DPI = 200
"""Of the words of a dense two-column page 91 % came back at 150, 200, 250 and 300 dpi alike; 300 took half as long again."""

MAX_PIXELS = 8_000_000
"""A page may be 200 inches wide."""

NO_TEXT_LAYER, LITTLE_TEXT = "page without a text layer", "picture of a page under little text"
TWICE = "text that the page's text layer has too"
MIN_TWICE = 6
"""Letters and digits; a shorter paragraph stands in many pages by chance."""


def read_scanned(path: Path, book: Sequence[Page], options: Mapping[str, Option]) -> Iterator[Piece]:
    """What OCR finds on the scanned pages ("page=3"); where there is no OCR, each of them as a loss."""
    scanned = [number for number, page in enumerate(book, 1) if page.scanned]
    if not scanned:
        return
    engine = choose_engine(options)
    if engine.why_not:
        for number in scanned:
            yield Piece(text="", locator=f"page={number}", dropped=LITTLE_TEXT if book[number - 1].lines else NO_TEXT_LAYER)
        if options.get("ocr") != "off":
            yield Piece(text="", locator=f"page={scanned[-1]}", dropped=engine.why_not)
        return
    with _Renderer(path) as renderer:
        scans = ((f"page={number}", partial(renderer.picture, number)) for number in scanned)
        for piece in read_scans(scans, engine, options):
            yield _once(piece, book[page_number(piece) - 1])


def page_number(piece: Piece) -> int:
    """The (first) page that a locator names."""
    return int(re.findall(r"\d+", piece.locator)[0])


class _Renderer:
    """Pages as grey pictures."""

    def __init__(self, path: Path) -> None:
        import pypdfium2

        self.document = pypdfium2.PdfDocument(path)

    def __enter__(self) -> _Renderer:
        return self

    def __exit__(self, *_: object) -> None:
        self.document.close()

    def picture(self, number: int) -> Image:
        """A page, counted from 1. Raises OcrFailure when it cannot be drawn."""
        import pypdfium2

        try:
            page = self.document[number - 1]
            width, height = page.get_size()
            scale = min(DPI / 72, math.sqrt(MAX_PIXELS / max(1.0, width * height)))
            bitmap = page.render(scale=scale, grayscale=True)
        except (pypdfium2.PdfiumError, ValueError) as error:
            raise OcrFailure(f"page {number} cannot be drawn ({error})") from error
        picture: Any = bitmap.to_pil().copy()
        bitmap.close()
        page.close()
        return picture


def _once(piece: Piece, page: Page) -> Piece:
    """A recognised paragraph that the page's own text has as well (a stamp, a title over a photograph) is dropped."""
    found = _squeezed(piece.text)
    if piece.dropped or len(found) < MIN_TWICE or found not in _squeezed("".join(line.text for line in page.lines)):
        return piece
    return piece.model_copy(update={"dropped": TWICE})


def _squeezed(text: str) -> str:
    return re.sub(r"[\W_]+", "", text).lower()
