"""reStructuredText and TeX, split at their headings; the markup of paragraphs stays as it is."""

from __future__ import annotations

import re
from collections.abc import Iterator

from forge.plugins.extractors._outline import Outline, blocks, lines_locator, unwrap
from forge.records import Piece

ADORNMENT = re.compile(r"^([!-/:-@\[-`{-~])\1{2,}\s*$")
DIRECTIVE = re.compile(r"^\.\. +([\w:-]+)::")
RST_ASIDE = re.compile(r"^\.\. ")
"""A comment, link target, footnote or directive."""

RST_FOOTNOTE = re.compile(r"^\.\. \[[^\]]+\] ")
RST_EMPTY_DIRECTIVES = {"image", "figure", "include", "toctree", "contents", "literalinclude", "raw", "highlight", "index"}
RST_CODE_DIRECTIVES = {"code-block", "code", "sourcecode", "parsed-literal", "math"}

TEX_COMMENT = re.compile(r"(?<!\\)%.*")
TEX_SECTION = re.compile(r"\\(part|chapter|section|subsection|subsubsection|paragraph)\*?(?:\[[^\]]*\])?\{((?:[^{}]|\{[^{}]*\})*)\}")
TEX_LEVELS = {"part": 1, "chapter": 2, "section": 3, "subsection": 4, "subsubsection": 5, "paragraph": 6}
TEX_TITLE = re.compile(r"\\title\{((?:[^{}]|\{[^{}]*\})*)\}")
TEX_BEGIN = "\\begin{document}"


def restructured(text: str) -> Iterator[Piece]:
    """Sections by their underlines, in the order in which the underline characters first appear."""
    outline, levels = Outline(), list[str]()
    code_indent = 0
    for first, lines in blocks(text.split("\n")):
        locator = lines_locator(first, len(lines))
        indent = len(lines[0]) - len(lines[0].lstrip())
        if code_indent and indent >= code_indent:
            yield Piece(text="\n".join(lines), locator=locator, heading=outline.path, kind="code")
            continue
        code_indent = 0
        if title := _rst_title(lines):
            mark, words, rest = title
            if mark not in levels:
                levels.append(mark)
            path = outline.enter(levels.index(mark) + 1, words)
            yield Piece(text=words, locator=locator, heading=path, kind="heading")
            yield Piece(text=mark, locator=locator, dropped="markup")
            lines = rest
        if lines:
            yield from _rst_block(lines, locator, outline.path)
            code_indent = _code_follows(lines)


def _rst_title(lines: list[str]) -> tuple[str, str, list[str]] | None:
    """(adornment, title, lines after it) when the block starts with a section title."""
    if len(lines) > 2 and ADORNMENT.match(lines[0]) and ADORNMENT.match(lines[2]):
        return lines[0].strip() + " " + lines[2].strip(), lines[1].strip(), lines[3:]
    if len(lines) > 1 and ADORNMENT.match(lines[1]) and not ADORNMENT.match(lines[0]) and len(lines[1].strip()) >= 3:
        return lines[1].strip(), lines[0].strip(), lines[2:]
    return None


def _rst_block(lines: list[str], locator: str, heading: str) -> Iterator[Piece]:
    directive = DIRECTIVE.match(lines[0])
    if directive and directive[1] not in RST_EMPTY_DIRECTIVES:
        kept, kind = lines[1:], "code" if directive[1] in RST_CODE_DIRECTIVES else "prose"
        yield Piece(text=lines[0], locator=locator, dropped="directive")
        yield Piece.model_validate({"text": "\n".join(kept), "locator": locator, "heading": heading, "kind": kind})
    elif directive or (RST_ASIDE.match(lines[0]) and not RST_FOOTNOTE.match(lines[0])):
        yield Piece(text="\n".join(lines), locator=locator, dropped="directive" if directive else "comment")
    else:
        yield Piece(text=unwrap(lines), locator=locator, heading=heading)


def _code_follows(lines: list[str]) -> int:
    """The indentation from which the next blocks are code; 0 when they are not."""
    directive = DIRECTIVE.match(lines[0])
    if (directive and directive[1] in RST_CODE_DIRECTIVES) or (not directive and lines[-1].rstrip().endswith("::")):
        return 1
    return 0


def tex(text: str) -> Iterator[Piece]:
    """The document's body by sections; comments and the preamble are dropped, but for the title."""
    if comments := TEX_COMMENT.findall(text):
        yield Piece(text="\n".join(comments), dropped="comment")
    text = TEX_COMMENT.sub("", text)
    outline = Outline()
    preamble, begin, body = text.partition(TEX_BEGIN)
    offset = preamble.count("\n") if begin else 0
    if begin:
        yield Piece(text=preamble + begin, dropped="preamble")
        if title := TEX_TITLE.search(preamble):
            outline.enter(0, title[1])
    else:
        body = text
    for first, lines in blocks(body.split("\n"), offset + 1):
        yield from _tex_block("\n".join(lines), lines_locator(first, len(lines)), outline)


def _tex_block(block: str, locator: str, outline: Outline) -> Iterator[Piece]:
    end = 0
    for match in TEX_SECTION.finditer(block):
        yield Piece(text=unwrap(block[end : match.start()].split("\n")), locator=locator, heading=outline.path)
        path = outline.enter(TEX_LEVELS[match[1]], match[2])
        yield Piece(text=match[2], locator=locator, heading=path, kind="heading")
        end = match.end()
    yield Piece(text=unwrap(block[end:].split("\n")), locator=locator, heading=outline.path)
