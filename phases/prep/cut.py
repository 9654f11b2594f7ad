"""Cuts an extractor's pieces into passages along the document's own structure.

A passage stays within one section as long as the section is long enough to stand alone; a section that is too short
joins the next one under the same parent, a long one is split into parts of nearly equal length at paragraph, then line or
sentence borders. Sizes are in words; see count_words for scripts without spaces.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from forge.records import Piece

HEADING_JOIN = " > "
TINY_SHARE = 3
"""A section below a third of the target cannot stand alone."""

CJK = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")
WORDS_PER_CJK_CHARACTER = 0.6
"""A Chinese word has about 1.7 characters; Japanese and Korean text lies close to that."""

SENTENCE_END = re.compile(r"(?<=[.!?…;])\s+|(?<=[。！？])")
PARAGRAPH_END = re.compile(r"\n{2,}")
LOCATOR = re.compile(r"^(?!heading|t=)(\w+)=(\d+)(?:\.\.(\d+))?(.*)$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """A piece, or a part of one, that is not divided further."""

    text: str
    words: float
    locator: str
    path: tuple[str, ...]
    kind: str


@dataclass(frozen=True, slots=True)
class Cut:
    """One passage to be: its text, where it stands, the headings above it, what most of it is."""

    text: str
    locator: str
    heading: str
    kind: str


def cut(pieces: Iterable[Piece], *, words: int, words_max: int) -> list[Cut]:
    """Passages of about `words`, at most `words_max` words, in reading order. No visible character is lost or added."""
    blocks = [block for piece in pieces if (block := _block(piece))]
    chunks = [chunk for section in _sections(blocks) for chunk in _split(section, words, words_max)]
    chunks = _join_tiny(chunks, words / TINY_SHARE, words_max, only_forward=True)
    chunks = _join_tiny(chunks, words / TINY_SHARE, words_max, only_forward=False)
    return [_finish(chunk) for chunk in chunks]


def count_words(text: str) -> float:
    """Words between spaces; a script without spaces counts by its characters, and nothing counts as one endless word."""
    spaced = text.split()
    if text.isascii():
        return max(len(spaced), len(text) // 12)
    characters = len(CJK.findall(text))
    return max(len(spaced) + WORDS_PER_CJK_CHARACTER * characters, len(text) // 12)


def merge_locators(locators: Iterable[str]) -> str:
    """One locator for several: "page=3" and "page=5" make "page=3..5"."""
    found = list(dict.fromkeys(locator for locator in locators if locator))
    if len(found) < 2:
        return found[0] if found else ""
    matches = [LOCATOR.match(locator) for locator in found]
    parsed = [match for match in matches if match]
    if len(parsed) < len(found) or len({match[1] for match in parsed}) > 1:
        return f"{found[0]} to {found[-1]}"
    first = min(int(match[2]) for match in parsed)
    last = max(int(match[3] or match[2]) for match in parsed)
    rest = parsed[0][4] if len({match[4] for match in parsed}) == 1 else ""
    return f"{parsed[0][1]}={first}{f'..{last}' if last > first else ''}{rest}"


def _block(piece: Piece) -> Block | None:
    lines = [line.rstrip() for line in piece.text.split("\n")]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")
    if piece.kind not in {"code", "table"}:
        text = text.strip()
    if not text.strip():
        return None
    path = tuple(part for part in piece.heading.split(HEADING_JOIN) if part)
    return Block(text, count_words(text), piece.locator, path, piece.kind)


def _sections(blocks: list[Block]) -> Iterator[list[Block]]:
    section: list[Block] = []
    for block in blocks:
        if section and (block.kind == "heading" or block.path != section[-1].path or _apart(section[-1], block)):
            yield section
            section = []
        section.append(block)
    if section:
        yield section


def _apart(before: Block, after: Block) -> bool:
    """Facts about a file never share a passage with its text: audit drops them, and must drop nothing else."""
    return (before.kind == "metadata") != (after.kind == "metadata")


def _split(section: list[Block], words: int, words_max: int) -> list[list[Block]]:
    total = _words(section)
    if total <= words_max:
        return [section]
    parts = [part for block in section for part in _break(block, words, words_max)]
    ideal = total / max(2, round(total / words))
    chunks: list[list[Block]] = [[]]
    before = 0.0
    for part in parts:
        full = before + part.words / 2 > ideal * len(chunks) or _words(chunks[-1]) + part.words > words_max
        if full and chunks[-1] and chunks[-1][-1].kind != "heading":
            chunks.append([])
        chunks[-1].append(part)
        before += part.words
    return chunks


def _break(block: Block, words: int, words_max: int) -> list[Block]:
    """A block as parts of at most `words_max` words: at paragraphs, else lines or sentences, else between words."""
    if block.words <= words_max:
        return [block]
    prose = block.kind not in {"code", "table", "list"}
    for border in (PARAGRAPH_END, SENTENCE_END if prose else re.compile(r"\n"), SENTENCE_END):
        texts = [text for text in border.split(block.text) if text.strip()]
        if len(texts) > 1:
            joint = {PARAGRAPH_END: "\n\n", SENTENCE_END: " "}.get(border, "\n")
            groups = _group(texts, words, joint)
            return [part for text in groups for part in _break(_part(block, text), words, words_max)]
    return [_part(block, text) for text in _hard_split(block.text, words)]


def _group(texts: list[str], words: int, joint: str) -> list[str]:
    """Neighbours together until they reach half the target: sentences stay in company."""
    groups: list[list[str]] = [[]]
    size = 0.0
    for text in texts:
        if groups[-1] and size + count_words(text) > words / 2:
            groups.append([])
            size = 0.0
        groups[-1].append(text)
        size += count_words(text)
    return [joint.join(group) for group in groups]


def _hard_split(text: str, words: int) -> list[str]:
    """Text without a usable border: by spaces, or after a fixed number of characters where there are none."""
    spaced = text.split()
    if len(spaced) >= words:
        return [" ".join(spaced[i : i + words]) for i in range(0, len(spaced), words)]
    step = max(1, int(len(text) * words / count_words(text)))
    return [text[i : i + step] for i in range(0, len(text), step)]


def _part(block: Block, text: str) -> Block:
    return Block(text, count_words(text), block.locator, block.path, block.kind)


def _join_tiny(chunks: list[list[Block]], tiny: float, words_max: int, *, only_forward: bool) -> list[list[Block]]:
    joined: list[list[Block]] = []
    for chunk in chunks:
        previous = joined[-1] if joined else []
        small = _words(previous) < tiny or (not only_forward and _words(chunk) < tiny)
        if previous and small and not _apart(previous[-1], chunk[0]) and _words(previous) + _words(chunk) <= words_max and _related(_path(previous), _path(chunk)):
            joined[-1] = previous + chunk
        else:
            joined.append(chunk)
    return joined


def _related(before: tuple[str, ...], after: tuple[str, ...]) -> bool:
    """True when `after` lies inside `before` or beside it under the same parent."""
    return after[: len(before)] == before or before[:-1] == after[:-1] or before[: len(after)] == after


def _path(chunk: list[Block]) -> tuple[str, ...]:
    """The headings that all blocks share; those of the first block when they share none."""
    common = chunk[0].path
    for block in chunk[1:]:
        same = 0
        while same < min(len(common), len(block.path)) and common[same] == block.path[same]:
            same += 1
        common = common[:same]
    return common


def _words(chunk: list[Block]) -> float:
    return sum(block.words for block in chunk)


def _finish(chunk: list[Block]) -> Cut:
    text = chunk[0].text
    for before, after in pairwise(chunk):
        text += ("\n" if before.kind == after.kind and after.kind in {"list", "table", "code"} else "\n\n") + after.text
    kinds: Counter[str] = Counter()
    for block in chunk:
        kinds[block.kind] += int(block.words) if block.kind != "heading" else 0
    heading = HEADING_JOIN.join(_path(chunk) or chunk[0].path)
    return Cut(text, merge_locators(block.locator for block in chunk), heading, kinds.most_common(1)[0][0])
