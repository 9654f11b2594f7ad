"""What a media file holds: streams, length, tags, chapters and the text of its subtitles. By PyAV."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.errors import ExtractError
from forge.plugins.extractors.media.speech import Segment, clock

if TYPE_CHECKING:
    from av.container import InputContainer

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mp3,flac,ogg,wav,w64,avi,asf,flv,mpeg,mpegvideo,mpegts,aac,aiff,amr,caf"
"""FFmpeg also opens playlists, which name other files and addresses."""

OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}

TAGS = (
    "title", "artist", "album", "track", "genre", "date", "composer", "show", "network", "season_number", "episode_id", "episode_sort",
    "description", "synopsis", "comment", "lyrics", "copyright", "language",
)
"""No place, no device, no encoder."""

TEXT_CODECS = {"subrip", "srt", "ass", "ssa", "mov_text", "webvtt", "text"}
MAX_TAG = 20_000
MAX_PACKETS = 5_000_000
"""30 hours of AAC; a hostile index can name billions of packets without a byte."""

MAX_CUES = 100_000
LEAST_BYTES_A_SECOND = 80
"""A declared length above that is checked by reading the packets: the thinnest codec for speech has 88 bytes a second."""

STYLES = re.compile(r"</?[a-zA-Z][^<>]*>|\{\\[^{}]*\}")


@dataclass(frozen=True, slots=True)
class Probe:
    """The facts. shape: one line ("mp3, 0:06, audio mp3float 44100 Hz"); tags: one a line, then chapters."""

    seconds: float
    has_audio: bool
    has_video: bool
    shape: str
    tags: str


@contextmanager
def open_media(path: Path) -> Iterator[InputContainer]:
    """The opened container. Raises ExtractError for what FFmpeg raises until it is closed."""
    import av

    try:
        with av.open(str(path), options=OPTIONS, metadata_errors="replace") as container:
            yield container
    except (av.FFmpegError, OSError, ValueError, OverflowError, LookupError, RuntimeError) as error:
        raise ExtractError(f"damaged audio or video ({type(error).__name__}: {error})".replace(str(path), "file")) from error


def probe(container: InputContainer, size_bytes: int) -> Probe:
    """Streams, length and tags. A cover picture is no video."""
    audio = list(container.streams.audio)
    video = [stream for stream in container.streams.video if not _is_cover(stream)]
    seconds = (container.duration or 0) / 1_000_000
    if audio and not 0 < seconds < size_bytes / LEAST_BYTES_A_SECOND:
        seconds = _measured(container, audio[0])
    parts = [container.format.name.split(",")[0], clock(seconds)]
    parts += [f"video {stream.codec_context.name} {stream.codec_context.width}x{stream.codec_context.height}" for stream in video if stream.codec_context]
    parts += [f"audio {stream.codec_context.name} {stream.codec_context.sample_rate} Hz" for stream in audio if stream.codec_context]
    tags = [*_tags({**(audio[0].metadata if audio else {}), **container.metadata}), *_chapters(container)]
    return Probe(seconds, bool(audio), bool(video), ", ".join(parts), "\n".join(tags))


def subtitles(container: InputContainer) -> Iterator[Segment]:
    """The cues of the first text subtitle stream; those that are pictures cannot be read here."""
    streams = [stream for stream in container.streams.subtitles if _codec(stream) in TEXT_CODECS]
    if not streams:
        return
    stream = streams[0]
    container.seek(0)
    for count, packet in enumerate(container.demux(stream)):
        if count >= MAX_CUES:
            return
        if text := _cue_text(bytes(packet), _codec(stream)):
            base = float(packet.time_base or 0)
            start = float(packet.pts or 0) * base
            yield Segment(start, start + float(packet.duration or 0) * base, text)


def _codec(stream: Any) -> str:
    context = stream.codec_context
    return str(context.codec.canonical_name if hasattr(context.codec, "canonical_name") else context.name) if context else ""


def _cue_text(data: bytes, codec: str) -> str:
    """A packet's text without styles. mov_text: two bytes of length first; ass: nine fields, the text last."""
    if codec == "mov_text":
        data = data[2 : 2 + int.from_bytes(data[:2], "big")]
    text = data.decode("utf-8", "replace").strip("\0")
    if codec in {"ass", "ssa"}:
        text = text.split(",", 8)[-1].replace("\\N", " ").replace("\\n", " ").replace("\\h", " ")
    return " ".join(STYLES.sub("", text).split())


def _is_cover(stream: Any) -> bool:
    import av

    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _measured(container: InputContainer, stream: Any) -> float:
    """The end of the last packet, in seconds: some containers (a live .webm) declare no length, a hostile one any."""
    first, last = math.inf, 0
    for count, packet in enumerate(container.demux(stream)):
        if packet.pts is not None and packet.size:
            first, last = min(first, packet.pts), max(last, packet.pts + (packet.duration or 0))
        if count >= MAX_PACKETS:
            break
    return (last - first) * float(stream.time_base) if first < math.inf else 0.0


def _tags(metadata: dict[str, str]) -> Iterator[str]:
    lower = {key.lower(): value for key, value in sorted(metadata.items())}
    lower.update({key.partition("-")[0]: value for key, value in lower.items() if key.startswith("lyrics-")})
    for key in TAGS:
        value = " ".join(lower.get(key, "").split())
        if value and not (key == "language" and value == "und"):
            yield f"{key}: {value[:MAX_TAG]}"


def _chapters(container: InputContainer) -> Iterator[str]:
    for chapter in container.chapters():
        title = " ".join(str(chapter.get("metadata", {}).get("title", "")).split())
        if title:
            yield f"chapter {clock(chapter['start'] * float(chapter['time_base'] or 0))}: {title[:MAX_TAG]}"
