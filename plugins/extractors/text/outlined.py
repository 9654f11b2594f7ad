"""AsciiDoc and Org: split at their headings, code kept as it is; attributes, drawers and comments are dropped."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from forge.plugins.extractors._outline import Outline, lines_locator, unwrap
from forge.records import Piece
from forge.tables import table_text

ITEM = re.compile(r"^\s*(?:[-+*.]{1,5}|\d{1,4}[.)])\s+\S")

BLOCK_LINES = 5_000
"""A block that is not closed within so many lines is text: looking further for each would take quadratic time."""


@dataclass(frozen=True)
class Format:
    """How a markup language writes what matters here. heading: (level marks, title). opening: pattern -> (closing, reason or "code")."""

    heading: re.Pattern[str]
    title: re.Pattern[str]
    opening: tuple[tuple[re.Pattern[str], str, str], ...]
    dropped: tuple[tuple[re.Pattern[str], str], ...]
    table_row: re.Pattern[str]


ASCIIDOC = Format(
    heading=re.compile(r"^(={1,6})\s+(\S.*?)(?:\s+=+)?\s*$"),
    title=re.compile(r"(?!)"),
    opening=(
        (re.compile(r"^/{4,}\s*$"), "", "comment"),
        (re.compile(r"^(?:-{4,}|\.{4,}|`{3,}.*)\s*$"), "", "code"),
    ),
    dropped=(
        (re.compile(r"^//(?!/)"), "comment"),
        (re.compile(r"^:[\w!-]+:(?:\s|$)"), "document attribute"),
        (re.compile(r"^(?:include|image|video|audio|toc)::"), "directive"),
        (re.compile(r"^\[[^\]]*\]\s*$|^(?:={4,}|\*{4,}|_{4,}|\+{4,}|--|'{3,}|<{3})\s*$|^\|===+\s*$|^\+\s*$"), "markup"),
    ),
    table_row=re.compile(r"^\S{0,6}\|(?!==)"),
)
ORG = Format(
    heading=re.compile(r"^(\*+)\s+(?:(?:TODO|DONE|NEXT|WAITING|CANCELLED)\s+)?(?:\[#[A-Z]\]\s+)?(\S.*?)(?:\s+:[\w@:]+:)?\s*$"),
    title=re.compile(r"^#\+TITLE:\s*(\S.*?)\s*$", re.IGNORECASE),
    opening=(
        (re.compile(r"^\s*#\+BEGIN_(SRC|EXAMPLE)\b.*$", re.IGNORECASE), "#+end_", "code"),
        (re.compile(r"^\s*#\+BEGIN_COMMENT\b.*$", re.IGNORECASE), "#+end_", "comment"),
        (re.compile(r"^\s*:(?:PROPERTIES|LOGBOOK|[A-Z]+):\s*$"), ":end:", "drawer"),
    ),
    dropped=(
        (re.compile(r"^\s*#\s"), "comment"),
        (re.compile(r"^\s*#\+\w+"), "document attribute"),
        (re.compile(r"^\s*\|[-+]+\|?\s*$"), "markup"),
        (re.compile(r"^\s*(?:SCHEDULED|DEADLINE|CLOSED):"), "document attribute"),
    ),
    table_row=re.compile(r"^\s*\|"),
)


def asciidoc(text: str) -> Iterator[Piece]:
    """Sections of an AsciiDoc text."""
    yield from _Reader(ASCIIDOC).pieces(text.split("\n"))


def org(text: str) -> Iterator[Piece]:
    """Sections of an Org text."""
    yield from _Reader(ORG).pieces(text.split("\n"))


class _Reader:
    """One text while it is read, line by line."""

    def __init__(self, form: Format) -> None:
        self.form, self.outline = form, Outline()
        self.block: list[str] = []
        self.dropped: dict[str, list[str]] = {}

    def pieces(self, lines: list[str]) -> Iterator[Piece]:
        """The blocks in order, then what was dropped, by reason."""
        number = 0
        while number < len(lines):
            if end := self._block_end(lines, number):
                yield from self._flush(number)
                yield from self._delimited(lines, number, end)
                number = end
                continue
            line = lines[number]
            number += 1
            if match := self.form.heading.match(line) or self.form.title.match(line):
                yield from self._flush(number - 1)
                yield self._heading(match, number)
            elif reason := next((why for pattern, why in self.form.dropped if pattern.match(line)), ""):
                if not self.form.table_row.match(line):  # a rule inside a table does not end it
                    yield from self._flush(number - 1)
                self.dropped.setdefault(reason, []).append(line)
            elif line.strip():
                self.block.append(line)
            else:
                yield from self._flush(number - 1)
        yield from self._flush(len(lines))
        for reason, texts in sorted(self.dropped.items()):
            yield Piece(text="\n".join(texts), dropped=reason)

    def _heading(self, match: re.Match[str], number: int) -> Piece:
        level, title = (len(match[1]), match[2]) if match.re is self.form.heading else (0, match[1])
        self.dropped.setdefault("markup", []).append(match[0].replace(title, "", 1))
        return Piece(text=title, locator=lines_locator(number, 1), heading=self.outline.enter(level, title), kind="heading")

    def _block_end(self, lines: list[str], number: int) -> int:
        """The index after the block that opens here; 0 when none does, or when it is never closed."""
        for pattern, closing, _ in self.form.opening:
            if pattern.match(lines[number]):
                wanted = closing or lines[number].strip()[:3]
                for end in range(number + 1, min(len(lines), number + BLOCK_LINES)):
                    line = lines[end].strip()
                    if line.lower().startswith(closing) if closing else line.startswith(wanted) and len(set(line)) == 1:
                        return end + 1
        return 0

    def _delimited(self, lines: list[str], number: int, end: int) -> Iterator[Piece]:
        reason = next(why for pattern, _, why in self.form.opening if pattern.match(lines[number]))
        if reason == "code":
            text = "\n".join(lines[number + 1 : end - 1])
            yield Piece(text=text, locator=lines_locator(number + 1, end - number), heading=self.outline.path, kind="code")
            self.dropped.setdefault("markup", []).extend((lines[number], lines[end - 1]))
        else:
            self.dropped.setdefault(reason, []).extend(lines[number:end])

    def _flush(self, number: int) -> Iterator[Piece]:
        lines, self.block = self.block, []
        if not lines:
            return
        locator = lines_locator(number - len(lines) + 1, len(lines))
        if all(self.form.table_row.match(line) for line in lines):
            rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
            yield Piece(text=table_text(rows, header=len(rows) > 1), locator=locator, heading=self.outline.path, kind="table")
        elif all(ITEM.match(line) or line.startswith(" ") for line in lines):
            yield Piece(text="\n".join(lines), locator=locator, heading=self.outline.path, kind="list")
        else:
            yield Piece(text=unwrap(lines), locator=locator, heading=self.outline.path)
