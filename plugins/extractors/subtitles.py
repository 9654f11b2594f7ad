"""Subtitles (.srt, .vtt): what is said, in stretches of about half a minute with their time."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

from forge.errors import ExtractError
from forge.phase import Requirement
from forge.plugins.extractors._decode import decode
from forge.protocols import Reading
from forge.records import Piece

SRT, VTT = "application/x-subrip", "text/vtt"
TIMES = re.compile(r"^\s*(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})[.,]\d{1,3}\s*-->\s*(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})[.,]\d{1,3}")
VOICE = re.compile(r"<v(?:\.[\w.-]+)?\s+([^>]+)>")
TAG = re.compile(r"</?[a-zA-Z0-9:.]+[^<>]*>|\{\\[^{}]*\}")
SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)]*$")
STRETCH_SECONDS, GAP_SECONDS = 30, 8


class Cue(NamedTuple):
    """What is shown from `start` to `end`, in seconds."""

    start: int
    end: int
    text: str


class SubtitlesExtractor:
    """Cues joined to sentences; a line repeated by the next cue is dropped, as live captions repeat it."""

    name: ClassVar[str] = "subtitles"
    media_types: ClassVar[tuple[str, ...]] = (SRT, VTT)
    extensions: ClassVar[Mapping[str, str]] = {".srt": SRT, ".vtt": VTT}
    magic: ClassVar[Mapping[bytes, str]] = {b"WEBVTT": VTT, b"\xef\xbb\xbfWEBVTT": VTT}
    requires: ClassVar[tuple[Requirement, ...]] = ()

    def extract(self, path: Path, ctx: Reading) -> Iterator[Piece]:
        """Yield stretches of speech ("t=00:10:04"). Raises ExtractError when there is no cue."""
        blocks = re.split(r"\n[ \t]*\n", decode(path.read_bytes()).lstrip("\ufeff"))
        found = 0
        stretch: list[Cue] = []
        last: list[str] = []
        for block in blocks:
            cue = _cue(block)
            if cue is None:
                yield Piece(text=block, dropped="comment or style of the subtitles")
                continue
            found += 1
            lines = [line for line in cue.text.split("\n") if line.strip()]
            repeated = [line for line in lines if line in last]
            yield Piece(text="\n".join(repeated), locator=_time(cue.start), dropped="repeated caption" if repeated else "")
            last = lines
            if stretch and _ends(stretch, cue):
                yield _piece(stretch)
                stretch = []
            if fresh := [line for line in lines if line not in repeated]:
                stretch.append(cue._replace(text=" ".join(fresh)))
        if stretch:
            yield _piece(stretch)
        if not found:
            raise ExtractError("not subtitles: no line with times (00:00:01,000 --> 00:00:02,000)")


extractor = SubtitlesExtractor()


def _cue(block: str) -> Cue | None:
    lines = block.split("\n")
    for number, line in enumerate(lines[:3]):
        if match := TIMES.match(line):
            text = VOICE.sub(r"\1: ", "\n".join(lines[number + 1 :]))
            return Cue(_seconds(match, 1), _seconds(match, 4), html.unescape(TAG.sub("", text)))
    return None


def _seconds(match: re.Match[str], first: int) -> int:
    hours, minutes, seconds = (int(match[group] or 0) for group in range(first, first + 3))
    return 3600 * hours + 60 * minutes + seconds


def _ends(stretch: list[Cue], cue: Cue) -> bool:
    long = cue.start - stretch[0].start >= STRETCH_SECONDS
    return cue.start - stretch[-1].end >= GAP_SECONDS or (long and bool(SENTENCE_END.search(stretch[-1].text))) or cue.start - stretch[0].start >= 3 * STRETCH_SECONDS


def _piece(stretch: list[Cue]) -> Piece:
    return Piece(text=" ".join(cue.text for cue in stretch), locator=_time(stretch[0].start))


def _time(seconds: int) -> str:
    return f"t={seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
