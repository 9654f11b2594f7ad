"""Text from pictures: how they are made ready for an engine, and what becomes of the words that it finds."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING

from forge.plugins.extractors._ocr_engines import OcrEngine, OcrFailure, Word, mean_confidence
from forge.protocols import Option
from forge.records import Piece

if TYPE_CHECKING:
    from PIL.Image import Image

UNSURE = "word that OCR was unsure of"
NO_TEXT = "no text found by OCR"
NOISE = "OCR noise"

CONFIDENCE_FLOOR = 30
"""Percent. Right words of clean prints came with 32 ("land") and 45 ("5bda1dd6"); photographs give mostly below 30."""

PARAGRAPH_FLOOR = 45
"""Percent, mean of a paragraph's words: a page on its head gives 38, the same page upright 96."""

MIN_PIXELS, MAX_PIXELS = 2_000_000, 10_000_000
"""What a picture is scaled to: A4 has 2.2 million pixels at 150 dpi, 8.7 million at 300."""

MAX_ENLARGEMENT = 2.0
MAX_SIDE = 32_000
"""tesseract refuses a picture with a side above 32,767 pixels."""

MAX_PAGES, SECONDS_PER_FILE = 25, 120.0
OVER_LIMIT, OVER_TIME = "page over the OCR limit", "page that OCR had no time for"


def read_picture(picture: Image, engine: OcrEngine, *, locator: str = "") -> Iterator[Piece]:
    """The paragraphs of a picture, then the words that the engine was unsure of, dropped; NO_TEXT where it saw none."""
    unsure: list[str] = []
    found = False
    for _, group in groupby(engine.words(prepare(picture)), key=lambda word: word.paragraph):
        words = list(group)
        lines = [list(line) for _, line in groupby(words, key=lambda word: word.line)]
        unsure += [word.text for line in lines for word in line if word.confidence < CONFIDENCE_FLOOR]
        text = join_lines([[word for word in line if word.confidence >= CONFIDENCE_FLOOR] for line in lines])
        if text:
            found = True
            yield Piece(text=text, locator=locator, dropped="" if _has_word(text) and mean_confidence(words) >= PARAGRAPH_FLOOR else NOISE)
    if unsure:
        yield Piece(text=" ".join(unsure), locator=locator, dropped=UNSURE)
    if not found and not unsure:
        yield Piece(text="", locator=locator, dropped=NO_TEXT)


def read_scans(
    scans: Iterable[tuple[str, Callable[[], Image]]], engine: OcrEngine, options: Mapping[str, Option]
) -> Iterator[Piece]:
    """The text of numbered pages, each made when its turn comes: (locator, how to get the picture).

    A page that the engine gives up on, and those over the limit, are reported as lost; the file is not.
    """
    limit = PageLimit(options)
    for locator, picture in scans:
        if reached := limit.reached():
            yield Piece(text="", locator=locator, dropped=reached)
            continue
        try:
            yield from read_picture(picture(), engine, locator=locator)
        except OcrFailure:
            yield Piece(text="", locator=locator, dropped="page that OCR gave up on")


class PageLimit:
    """How many pages of one file go through OCR: max_ocr_pages, so that the same file gives the same text everywhere.

    Where they do not fit into three quarters of seconds_per_file, the clock ends them: with the file's time the pages
    that were read would be lost as well.
    """

    def __init__(self, options: Mapping[str, Option]) -> None:
        self.pages = int(options.get("max_ocr_pages", MAX_PAGES))
        self.end = time.monotonic() + 0.75 * float(options.get("seconds_per_file", SECONDS_PER_FILE))

    def reached(self) -> str:
        """Why no other page may be read; "" counts one page."""
        if time.monotonic() >= self.end:
            return OVER_TIME
        self.pages -= 1
        return OVER_LIMIT if self.pages < 0 else ""


def prepare(picture: Image) -> Image:
    """Grey on white, with as many pixels as an engine needs and no more."""
    grey = _grey(picture)
    pixels = max(1, grey.width * grey.height)
    factor = min(MAX_ENLARGEMENT, max(1.0, math.sqrt(MIN_PIXELS / pixels)), MAX_SIDE / max(grey.size))
    if pixels > MAX_PIXELS:
        factor = min(factor, math.sqrt(MAX_PIXELS / pixels))
    if factor == 1.0:
        return grey
    return grey.resize((max(1, round(grey.width * factor)), max(1, round(grey.height * factor))), resample=3)  # bicubic


def join_lines(lines: list[list[Word]]) -> str:
    """A paragraph: full lines run on, words broken at their end are mended, short lines stay lines."""
    kept = [line for line in lines if line]
    left, right = min((line[0].left for line in kept), default=0), max((line[-1].right for line in kept), default=0)
    text, full = "", False
    for line in kept:
        words = " ".join(word.text for word in line)
        if not text:
            text = words
        elif re.search(r"[a-z]-$", text) and words[:1].islower():
            text = text[:-1] + words
        else:
            text += (" " if full else "\n") + words
        full = line[-1].right - left >= 0.7 * (right - left)
    return text


def _grey(picture: Image) -> Image:
    from PIL import Image as pillow

    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    if picture.mode in {"LA", "PA", "RGBA", "La", "RGBa"}:  # composed in grey: in colour it takes three times the memory
        mask, grey = picture.convert("RGBA" if picture.mode != "LA" else "LA").getchannel("A"), picture.convert("L")
        return pillow.composite(grey, pillow.new("L", grey.size, "white"), mask)
    if picture.mode.startswith(("I", "F")):  # 16 bits and more: spread over 8
        low, high = picture.getextrema()
        scale = 255.0 / max(1e-9, float(high) - float(low))
        picture = picture.convert("F").point(lambda value: value * scale - float(low) * scale)
    return picture if picture.mode == "L" else picture.convert("L")


def _has_word(text: str) -> bool:
    """True where letters or digits stand together: what engines make of a photograph is mostly dashes and bars."""
    return bool(re.search(r"[^\W_]{2}", text)) or bool(re.search("[\u3040-\u30ff\u3400-\u9fff]", text))
