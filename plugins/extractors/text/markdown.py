"""Markdown by its headings; code stays fenced; links keep their words. What is left out is handed over as dropped.

Every visible character of the source comes out once, kept or dropped (a test holds this for generated Markdown).
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from itertools import pairwise

from forge.plugins.extractors._outline import Outline, lines_locator
from forge.records import Piece
from forge.tables import table_text

ATX = re.compile(r"^ {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+(#+))?[ \t]*$")
SETEXT = re.compile(r"^ {0,3}(=+|-+)[ \t]*$")
FENCE = re.compile(r"^ {0,12}(`{3,}|~{3,})[^`]*$")
RULE = re.compile(r"^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$")
ITEM = re.compile(r"^\s*(?:[-*+]|\d{1,9}[.)])\s+\S")
CELL_END = re.compile(r"(?<!\\)\|")
TABLE_RULE = re.compile(r"^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$")
INDENTED = re.compile(r"^(?: {4}|\t)")
LINK_TARGET = re.compile(r"^ {0,3}\[(?!\^)[^\]]+\]:\s*\S+")
INCLUDE = re.compile(r"^\s*\{\{#.*\}\}\s*$")
"""mdBook's {{#include file}}: the text is in another file."""

FRONT_MATTER = re.compile(r"\A(---|\+\+\+)[ \t]*\n(.*?\n)?\1[ \t]*(?:\n|\Z)", re.DOTALL)
FRONT_TITLE = re.compile(r"""^title\s*[:=]\s*["']?(.+?)["']?\s*$""", re.MULTILINE)

CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
LINK = re.compile(r"(!?\[)([^\[\]]*)(\]\((?:[^()\s]|\([^()]*\))*(?:\s+(?:\"[^\"]*\"|'[^']*'))?\s*\)(?:\{[^{}]*\})?)")
REFERENCE = re.compile(r"(!?\[)(?!\^)([^\[\]]+)(\]\[[^\[\]]*\])")
TAG = re.compile(
    r"</?(?:a|abbr|b|br|center|code|dd|del|details|div|dl|dt|em|figcaption|figure|font|h[1-6]|hr|i|img|ins|kbd|li|mark|ol|p"
    r"|pre|s|small|span|strong|sub|summary|sup|table|tbody|td|th|thead|tr|tt|u|ul|var)\b[^<>]*>"
    r"|<[A-Za-z][\w-]*(?:\s+[\w:-]+=(?:\"[^\"]*\"|'[^']*'))+\s*/?>|</[A-Z]\w*>"
)
HELD = re.compile("\ue000(\\d+)\ue001")


def markdown(text: str) -> Iterator[Piece]:
    """Headings, paragraphs, lists, tables and code in order, then what was dropped, by reason."""
    yield from _Markdown(text).pieces()


class _Markdown:
    """One Markdown text while it is read, line by line."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.outline = Outline()
        self.dropped: dict[str, list[str]] = {}
        self.block: list[str] = []
        self.after_list = False

    def pieces(self) -> Iterator[Piece]:
        """The whole text."""
        skipped = self._front_matter()
        lines = self.text.split("\n")
        number = skipped
        while number < len(lines):
            consumed = yield from self._line(lines, number)
            number += consumed
        yield from self._flush(number)
        for reason, texts in sorted(self.dropped.items()):
            yield Piece(text="\n".join(texts), dropped=reason)

    def _front_matter(self) -> int:
        """Drop it, but for its title; returns how many lines it has."""
        match = FRONT_MATTER.match(self.text)
        if not match:
            return 0
        self._drop("front matter", match[0])
        if title := FRONT_TITLE.search(match[2] or ""):
            self.outline.enter(0, title[1])
        return match[0].count("\n") if match[0].endswith("\n") else match[0].count("\n") + 1

    def _line(self, lines: list[str], number: int) -> Generator[Piece, None, int]:
        """Take one line, or the construct that starts there; returns how many lines that were."""
        line = lines[number]
        if (fence := FENCE.match(line)) and not self._in_indented_code(line):
            yield from self._flush(number)
            end = _fence_end(lines, number, fence[1])
            yield from self._code(lines[number:end], number)
            return end - number
        if line.strip().startswith("<!--") and (end := _comment_end(lines, number)):
            yield from self._flush(number)
            self._drop("comment", "\n".join(lines[number:end]))
            return end - number
        if not line.strip():
            yield from self._flush(number)
        elif match := ATX.match(line):
            yield from self._flush(number)
            self._drop("markup", match[1] + (match[3] or ""))
            yield from self._heading(len(match[1]), match[2] or "", number, 1)
        elif self.block and SETEXT.match(line) and not ITEM.match(self.block[0]):
            title, count = " ".join(self.block), len(self.block)
            self.block = []
            self._drop("markup", line)
            yield from self._heading(1 if "=" in line else 2, title, number - count, count + 1)
        elif RULE.match(line):
            yield from self._flush(number)
            self._drop("markup", line)
        elif LINK_TARGET.match(line) and not self.block:
            self._drop("link target", line)
        elif INCLUDE.match(line):
            self._drop("include directive", line)
        else:
            self.block.append(line)
        return 1

    def _in_indented_code(self, line: str) -> bool:
        return bool(self.block and INDENTED.match(self.block[0]) and INDENTED.match(line) and not self.after_list)

    def _heading(self, level: int, raw: str, number: int, count: int) -> Iterator[Piece]:
        title = self._inline(raw)
        if title.strip():
            path = self.outline.enter(level, title)
            yield Piece(text=title, locator=lines_locator(number + 1, count), heading=path, kind="heading")
        self.after_list = False

    def _code(self, lines: list[str], number: int) -> Iterator[Piece]:
        kept = [line for line in lines if not INCLUDE.match(line)]
        if included := [line for line in lines if INCLUDE.match(line)]:
            self._drop("include directive", "\n".join(included))
        if not any(line.strip() for line in kept[1:-1]):
            self._drop("markup", "\n".join(kept))
            return
        text = "\n".join(kept)
        yield Piece(text=text, locator=lines_locator(number + 1, len(lines)), heading=self.outline.path, kind="code")

    def _flush(self, number: int) -> Iterator[Piece]:
        """Hand over the block of lines that ends before line index `number`."""
        lines, self.block = self.block, []
        if not lines:
            return
        locator = lines_locator(number + 1 - len(lines), len(lines))
        if INDENTED.match(lines[0]) and not self.after_list:
            yield Piece(text="\n".join(lines), locator=locator, heading=self.outline.path, kind="code")
            return
        lines = self._unquote(lines)
        is_list = bool(ITEM.match(lines[0])) or (self.after_list and lines[0].startswith((" ", "\t")))
        self.after_list = is_list
        if len(lines) > 1 and "|" in lines[0] and TABLE_RULE.match(lines[1]):
            text = self._table(lines)
            yield Piece(text=text, locator=locator, heading=self.outline.path, kind="table")
        else:
            text = self._inline(_soft_join(lines))
            yield Piece(text=text, locator=locator, heading=self.outline.path, kind="list" if is_list else "prose")

    def _table(self, lines: list[str]) -> str:
        """A pipe table as Word's would read; short rows are filled up, as Markdown does."""
        self._drop("markup", lines[1])
        rows = [[self._inline(cell).strip() for cell in _cells(line)] for line in [lines[0], *lines[2:]]]
        self._drop("markup", "|" * sum(line.count("|") for line in [lines[0], *lines[2:]]))
        width = len(rows[0])
        return table_text([row + [""] * (width - len(row)) for row in rows], header=True)

    def _unquote(self, lines: list[str]) -> list[str]:
        if not lines[0].lstrip().startswith(">"):
            return lines
        matches = [re.match(r"^\s*((?:>\s?)*)(.*)$", line, re.DOTALL) for line in lines]
        self._drop("markup", " ".join(match[1] for match in matches if match))
        return [match[2] for match in matches if match]

    def _inline(self, text: str) -> str:
        """Text without comments, tags and link targets; code spans are left alone."""
        held: list[str] = []

        def hold(match: re.Match[str]) -> str:
            held.append(match[0])
            return f"\ue000{len(held) - 1}\ue001"

        def restore(part: str) -> str:
            return HELD.sub(lambda match: held[int(match[1])], part)

        if "\ue000" in text:
            return text
        text = CODE_SPAN.sub(hold, text)
        text = COMMENT.sub(lambda match: self._drop("comment", restore(match[0])), text)
        for pattern in (LINK, LINK, REFERENCE):  # twice: a picture inside a link
            text = pattern.sub(lambda match: match[2] + self._drop("link target", restore(match[1] + match[3])), text)
        text = TAG.sub(lambda match: self._drop("markup", restore(match[0])) + ("\n" if match[0][:3] == "<br" else ""), text)
        return restore(text)

    def _drop(self, reason: str, text: str) -> str:
        """Remember dropped text; returns the nothing that stands in its place."""
        self.dropped.setdefault(reason, []).append(text)
        return ""


def _fence_end(lines: list[str], start: int, fence: str) -> int:
    for number in range(start + 1, len(lines)):
        closing = lines[number].strip()
        if closing.startswith(fence) and not closing.strip(fence[0]):
            return number + 1
    return len(lines)


def _comment_end(lines: list[str], start: int) -> int:
    """The line after a comment that fills whole lines; 0 when text follows it or it never ends."""
    for number in range(start, len(lines)):
        if "-->" in lines[number]:
            return number + 1 if lines[number].rstrip().endswith("-->") and lines[number].count("-->") == 1 else 0
    return 0


def _cells(line: str) -> list[str]:
    """The cells of a table row; a pipe that is escaped or in a code span belongs to its cell."""
    row = line.strip().removeprefix("|")
    row = row[:-1] if row.endswith("|") and not row.endswith("\\|") else row
    parts = CELL_END.split(row)
    cells, code = [parts[0]], parts[0].count("`") % 2
    for part in parts[1:]:
        if code:
            cells[-1] += "|" + part
        else:
            cells.append(part)
        code ^= part.count("`") % 2
    return [cell.replace("\\|", "|") for cell in cells]


def _soft_join(lines: list[str]) -> str:
    """Wrapped lines as one; list items, table rows and hard breaks keep their line."""
    text = lines[0].rstrip("\n")
    for before, line in pairwise(lines):
        hard = before.endswith(("  ", "\\")) or ITEM.match(line) or line.lstrip().startswith("|")
        text = f"{text.rstrip()}\n{line}" if hard else f"{text.rstrip()} {line.strip()}"
    return text
