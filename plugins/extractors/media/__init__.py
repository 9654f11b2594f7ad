"""Audio and video: what is said, by faster-whisper with a model of yours; subtitles; titles and other tags.

PyAV (FFmpeg inside, nothing to install) reads the containers. Nothing is ever downloaded: without a speech model the
file says so. A video with subtitles needs none: its subtitles are what is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from forge.phase import Requirement
from forge.plugins.extractors.media.probe import Probe, open_media, probe, subtitles
from forge.plugins.extractors.media.speech import Segment, Transcriber, choose_transcriber, paragraphs
from forge.protocols import Option, Reading
from forge.records import Piece

__all__ = ["MediaExtractor", "Segment", "Transcriber", "extractor"]

MIN_VIDEO_SECONDS = 120.0
MAX_SECONDS = 6 * 3600.0
"""Decoded speech and its features take 0.4 GB an hour."""

AUDIO = {
    ".mp3": "audio/mpeg", ".m4a": "audio/mp4", ".m4b": "audio/mp4", ".aac": "audio/aac", ".wav": "audio/wav", ".flac": "audio/flac",
    ".ogg": "audio/ogg", ".oga": "audio/ogg", ".opus": "audio/ogg", ".aif": "audio/aiff", ".aiff": "audio/aiff", ".amr": "audio/amr",
    ".caf": "audio/x-caf", ".wma": "video/x-ms-asf",
}
VIDEO = {
    ".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/quicktime", ".3gp": "video/mp4", ".mkv": "video/x-matroska",
    ".webm": "video/x-matroska", ".avi": "video/x-msvideo", ".wmv": "video/x-ms-asf", ".flv": "video/x-flv", ".mpg": "video/mpeg",
    ".mpeg": "video/mpeg", ".mts": "video/mp2t", ".m2ts": "video/mp2t",
}
"""No ".ts": it is TypeScript more often, and a transport stream is known by its content."""

AUDIO_BRANDS = {b"M4A ", b"M4B ", b"M4P "}


class MediaExtractor:
    """Speech in paragraphs with their time. Whether a file is a video is decided by its streams, not by its name.

    transcriber: what turns speech into text; None takes faster-whisper with the model that the options name. A program
    that brings its own sets it before it reads (children are forked, so they have it too).
    """

    name: ClassVar[str] = "media"
    media_types: ClassVar[tuple[str, ...]] = tuple(dict.fromkeys((*AUDIO.values(), *VIDEO.values())))
    extensions: ClassVar[Mapping[str, str]] = {**AUDIO, **VIDEO}
    magic: ClassVar[Mapping[bytes, str]] = {
        b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "video/x-ms-asf", b"FLV\x01": "video/x-flv", b"\0\0\x01\xba": "video/mpeg",
        b"#!AMR": "audio/amr", b"caff\0\x01": "audio/x-caf",
    }
    requires: ClassVar[tuple[Requirement, ...]] = (Requirement(module="av", extra="media"),)
    transcriber: Transcriber | None = None

    def state(self) -> str:
        """Whether there is a transcriber."""
        return f"{type(self.transcriber).__qualname__} {bool(find_spec('faster_whisper'))}"

    def accepts(self, head: bytes, name: str) -> str:
        """MPEG-4 audio by its brand, AIFF, MPEG transport streams."""
        if head[4:8] == b"ftyp" and head[8:12] in AUDIO_BRANDS:
            return "audio/mp4"
        if head.startswith(b"FORM") and head[8:12] in {b"AIFF", b"AIFC"}:
            return "audio/aiff"
        for start, packet in ((0, 188), (4, 192)):
            if len(head) > start + 8 * packet and all(head[start + packet * number] == 0x47 for number in range(8)):
                return "video/mp2t"
        return ""

    def extract(self, path: Path, ctx: Reading) -> Iterator[Piece]:
        """Yield tags as metadata, then subtitles, or else speech ("t=00:10:04").

        Options speech_model: folder of a faster-whisper model; min_video_seconds: shorter videos are left out, as are those
        without sound, unless they have subtitles. Raises ExtractError when the container is damaged.
        """
        with open_media(path) as container:
            found = probe(container, path.stat().st_size)
            shown = list(subtitles(container))
        excluded = _excluded(found, ctx.options)
        if excluded and not shown:
            yield Piece(text=found.tags, kind="metadata", dropped=excluded)
            return
        if found.tags:
            yield Piece(text=f"{found.shape}\n{found.tags}", kind="metadata")
        yield from paragraphs(shown) if shown else self._spoken(path, found, ctx.options)

    def _spoken(self, path: Path, found: Probe, options: Mapping[str, Option]) -> Iterator[Piece]:
        chosen: Transcriber | str = self.transcriber or choose_transcriber(options)
        if isinstance(chosen, str):
            yield Piece(text="", dropped=chosen)
            return
        pieces = list(paragraphs(_within(chosen.transcribe(path), found.seconds), options))
        yield from pieces
        if not pieces:
            yield Piece(text="", dropped="audio in which no speech was found")


extractor = MediaExtractor()


def _excluded(found: Probe, options: Mapping[str, Option]) -> str:
    """Why the file is left out, or ""."""
    shortest = float(options.get("min_video_seconds", MIN_VIDEO_SECONDS))
    if not found.has_audio:
        return "video without sound" if found.has_video else "file without an audio stream"
    if found.has_video and found.seconds < shortest:
        return f"video shorter than {shortest:g} seconds"
    if found.seconds > MAX_SECONDS:
        return f"speech longer than {MAX_SECONDS / 3600:g} hours"
    return ""


def _within(segments: Iterable[Segment], seconds: float) -> Iterator[Segment]:
    """A model that goes on after the end has begun to repeat itself."""
    return (segment for segment in segments if segment.start <= seconds + 1)
