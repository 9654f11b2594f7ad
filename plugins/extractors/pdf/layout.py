"""Lines on pages to headings and paragraphs: what every PDF engine shares.

Baselines tell paragraphs (a wider gap), columns (a jump upwards) and headings (a larger or bolder font). A line that
stands at the top or bottom of at least 30 % of the pages, digits apart, is a page header or footer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from forge.records import Piece

HEADER_SHARE = 0.3
HEADER_PAGES = 3
HEADER_LINES = 3
"""Lines at the top and at the bottom of a page that may be headers or footers."""

HEADING_SIZE = 1.15
"""A heading's font is at least this much larger than the body's."""

HEADING_WORDS = 20
PARAGRAPH_GAP = 1.45
"""A gap above this multiple of the usual line distance starts a paragraph."""

SHORT_LINE = 0.75
"""A line below this share of the usual width, ending a sentence, ends a paragraph."""

JOINED_HYPHEN = "\ufffe"
"""What pdfium writes where a line ended with a hyphen and the next one went on."""

WORD = re.compile(r"\w+(?:-\w+)*")
BROKEN_WORD = re.compile(rf"(\w+){JOINED_HYPHEN}(\w+)")
BULLET = re.compile(r"^(?:[•‣▪●○◦∙·–*-]|\(?(?:\d{1,2}|[a-z]|[ivx]{1,4})[.)])\s+\S")
HANGING = re.compile(rf"{BULLET.pattern}|^\d{{1,2}}(?:\.\d{{1,3}})+\s")
"""Items whose further lines stand to the right of the first."""

NUMBERED = re.compile(r"^(?:\d{1,2}(?:\.\d{1,2}){0,3}\.?|[A-Z]\.|Chapter \d+|Appendix [A-Z])\s+[A-Z]")
ENDS_SENTENCE = (".", "!", "?", ":", "。", "！", "？", ".”", '."', ".)")


@dataclass(frozen=True, slots=True)
class Line:
    """One line. left/right and top/bottom: first and last character's origin, in points, y upwards."""

    text: str
    left: float
    right: float
    top: float
    bottom: float
    size: float
    bold: bool


@dataclass(frozen=True, slots=True)
class Page:
    """One page's lines in reading order; scanned: it shows a picture and has (almost) no text; notes: comments, form fields."""

    lines: list[Line]
    scanned: bool = False
    notes: Sequence[str] = ()


@dataclass
class _Block:
    """Lines that belong together."""

    page: int
    lines: list[Line] = field(default_factory=list)
    last_page: int = 0
    level: int = 0


def rebuild(pages: Iterable[Page]) -> Iterator[Piece]:
    """Headings, paragraphs and list items, then comments and form fields, then what was dropped. Locators count pages from 1."""
    book = list(pages)
    headers = _headers(book)
    measures = _Measures(book)
    words = {word.lower() for page in book for line in page.lines for word in WORD.findall(line.text)}
    path: list[tuple[int, str]] = []
    for block in _blocks(book, headers, measures):
        text = _mend(_join(block.lines, measures), words)
        locator = f"page={block.page}" if block.last_page == block.page else f"page={block.page}..{block.last_page}"
        if block.level:
            path = [one for one in path if one[0] < block.level]
            title = " ".join(text.split())
            path.append((block.level, title.replace(" > ", " › ")))
            yield Piece(text=title, locator=locator, heading=" > ".join(one for _, one in path), kind="heading")
        else:
            kind = "list" if BULLET.match(text) else "prose"
            heading = " > ".join(one for _, one in path)
            yield Piece.model_validate({"text": text, "locator": locator, "heading": heading, "kind": kind})
    for number, page in enumerate(book, 1):
        yield from (Piece(text=note, locator=f"page={number}", kind="notes") for note in page.notes)
    yield from _dropped(book, headers)


def _dropped(book: list[Page], headers: set[str]) -> Iterator[Piece]:
    for number, page in enumerate(book, 1):
        edges = {id(line) for line in _edges(page)}
        texts = [line.text for line in page.lines if id(line) in edges and _mask(line.text) in headers]
        if texts:
            text = "\n".join(texts).replace(JOINED_HYPHEN, "-")
            yield Piece(text=text, locator=f"page={number}", dropped="page header")


def _headers(book: list[Page]) -> set[str]:
    counts = Counter(mask for page in book for mask in {_mask(line.text) for line in _edges(page)})
    enough = max(HEADER_PAGES, HEADER_SHARE * len(book))
    return {mask for mask, count in counts.items() if count >= enough}


def _edges(page: Page) -> list[Line]:
    """The topmost and lowest lines of a page; of a page with fewer lines each is an edge."""
    heights = sorted({round(line.top) for line in page.lines}, reverse=True)
    wanted = {*heights[:HEADER_LINES], *heights[-HEADER_LINES:]}
    return [line for line in page.lines if round(line.top) in wanted]


def _mask(text: str) -> str:
    return re.sub(r"\d+", "#", " ".join(text.split()).lower())


class _Measures:
    """What is usual in this document: body font size, width of a full line, distance of lines, heading sizes."""

    def __init__(self, book: list[Page]) -> None:
        sizes: Counter[float] = Counter()
        for page in book:
            for line in page.lines:
                sizes[round(line.size, 1)] += len(line.text)
        self.body = sizes.most_common(1)[0][0] if sizes else 10.0
        body = [line for page in book for line in page.lines if abs(line.size - self.body) < 0.6]
        widths = sorted(line.right - line.left for line in body)
        self.width = widths[int(0.9 * (len(widths) - 1))] if widths else 1.0
        gaps = [
            before.bottom - line.top for page in book for before, line in pairwise(page.lines)
            if 0.5 * self.body < before.bottom - line.top < 3 * self.body
        ]
        self.gap = median(gaps) if gaps else 1.2 * self.body
        larger = sorted({round(size * 2) / 2 for size in sizes if size >= HEADING_SIZE * self.body}, reverse=True)
        self.levels = {size: min(rank, 4) for rank, size in enumerate(larger, 1)}
        self.bold_level = min(len(larger) + 1, 5)

    def level(self, line: Line) -> int:
        """The heading level of a line by its font; 0 for body text."""
        words = len(line.text.split())
        if words > HEADING_WORDS or not any(character.isalpha() for character in line.text):
            return 0
        if line.size >= HEADING_SIZE * self.body:
            return self.levels.get(round(line.size * 2) / 2, 4)
        if line.bold and line.size >= self.body - 0.6 and NUMBERED.match(line.text) and not line.text.endswith((".", ",", ";")):
            return self.bold_level
        return 0


def _blocks(book: list[Page], headers: set[str], measures: _Measures) -> Iterator[_Block]:
    block = _Block(0)
    for number, page in enumerate(book, 1):
        edges = {id(line) for line in _edges(page)}
        for line in page.lines:
            if id(line) in edges and _mask(line.text) in headers:
                continue
            level = measures.level(line)
            if block.lines and not _continues(block, line, number, level, measures):
                yield _checked(block)
                block = _Block(number, level=level)
            if not block.lines:
                block = _Block(number, level=level)
            block.lines.append(line)
            block.last_page = number
    if block.lines:
        yield _checked(block)


def _checked(block: _Block) -> _Block:
    """A run of large lines that is too long for a heading is text (a list of authors, a pulled quote)."""
    if block.level and sum(len(line.text.split()) for line in block.lines) > HEADING_WORDS:
        block.level = 0
    return block


def _continues(block: _Block, line: Line, number: int, level: int, measures: _Measures) -> bool:
    before = block.lines[-1]
    if _same_row(before, line) and number == block.last_page:
        return True
    if level != block.level or BULLET.match(line.text):
        return False
    gap = before.bottom - line.top
    if number != block.last_page or gap < -0.5 * line.size:  # the next page or column
        return not block.level and not before.text.endswith(ENDS_SENTENCE) and line.text[:1].islower()
    if abs(before.size - line.size) > 0.6 or gap > PARAGRAPH_GAP * measures.gap * max(1.0, line.size / measures.body):
        return False
    if block.level or (line.text[:1].islower() and not before.text.endswith(ENDS_SENTENCE)):
        return True
    if line.left > before.left + 0.8 * line.size and not (len(block.lines) == 1 and HANGING.match(before.text)):
        return False
    return not (before.right - before.left < SHORT_LINE * measures.width and before.text.endswith(ENDS_SENTENCE))


def _same_row(before: Line, line: Line) -> bool:
    """True for the rest of a row that the engine broke at a superscript or a tab."""
    return abs(before.bottom - line.top) < 0.5 * max(before.size, line.size) and line.left >= before.right - 1


def _join(lines: list[Line], measures: _Measures) -> str:
    text = lines[0].text
    for before, line in pairwise(lines):
        if _same_row(before, line):
            text += ("" if line.text[:1] in ",.;:)" else " ") + line.text
        elif text.endswith(("-", "\u00ad")) and text[-2:-1].isalpha() and line.text[:1].isalpha():
            text = text[:-1] + JOINED_HYPHEN + line.text
        else:
            is_short = before.right - before.left < 0.6 * measures.width
            text += ("\n" if is_short and not line.text[:1].islower() else " ") + line.text
    return text


def _mend(text: str, words: set[str]) -> str:
    """Words broken at a line end, put together: with the hyphen only where the document or a capital speaks for it."""

    def mended(match: re.Match[str]) -> str:
        left, right = match[1], match[2]
        whole, hyphened = f"{left}{right}".lower(), f"{left}-{right}".lower()
        if whole in words:
            return left + right
        keep = hyphened in words or not right[0].islower() or left[-1].isdigit()
        return f"{left}-{right}" if keep else left + right

    while JOINED_HYPHEN in text and BROKEN_WORD.search(text):
        text = BROKEN_WORD.sub(mended, text)
    return text.replace(JOINED_HYPHEN, "-")
