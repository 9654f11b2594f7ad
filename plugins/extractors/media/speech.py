"""Speech to text: the seam for a transcriber, faster-whisper behind it, and paragraphs from timed segments."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from forge.errors import ExtractError
from forge.protocols import Option
from forge.records import Piece

NO_MODEL = "audio without a speech model: set prep.speech_model=FOLDER"
MODEL_FILES = ("model.bin", "config.json", "tokenizer.json")
"""Without its tokenizer faster-whisper would fetch one."""

PARAGRAPH_SECONDS, PARAGRAPH_LIMIT, PAUSE_SECONDS = 30.0, 90.0, 4.0
"""A paragraph ends with a sentence after 30 seconds, without one after 90, and at a pause of 4."""

SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)]*$")
SECONDS_PER_FILE = 120.0
OVER_TIME = "speech that prep.seconds_per_file left no time for"


@dataclass(frozen=True, slots=True)
class Segment:
    """What is said from `start` to `end`, in seconds."""

    start: float
    end: float
    text: str


class Transcriber(Protocol):
    """Turns a file's speech into text."""

    def transcribe(self, path: Path) -> Iterable[Segment]:
        """The segments in order, as they are found."""
        ...


def choose_transcriber(options: Mapping[str, Option]) -> Transcriber | str:
    """faster-whisper with the model in the option speech_model, or why there is none."""
    folder = str(options.get("speech_model", ""))
    if not folder:
        return NO_MODEL
    if not find_spec("faster_whisper"):
        return "audio without faster-whisper: pip install 'slm-forge[speech]'"
    lacking = [name for name in MODEL_FILES if not (Path(folder).expanduser() / name).is_file()]
    return f"audio not read: the folder in prep.speech_model has no {lacking[0]}" if lacking else Whisper(Path(folder).expanduser())


class Whisper:
    """A faster-whisper model in a local folder, on one thread, without sampling: the same file gives the same text."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def transcribe(self, path: Path) -> Iterator[Segment]:
        """The segments. Stretches without a voice are left out first: whisper invents sentences for silence.

        Raises ExtractError when the sound or the model cannot be read.
        """
        import av
        from faster_whisper import WhisperModel

        try:
            model = WhisperModel(str(self.folder), device="cpu", cpu_threads=1, num_workers=1, local_files_only=True)
        except Exception as error:  # tokenizers raises bare Exceptions for a damaged tokenizer.json
            raise ExtractError(f"the speech model cannot be loaded ({type(error).__name__}: {error})") from error
        try:
            segments, _ = model.transcribe(str(path), temperature=0.0, condition_on_previous_text=False, vad_filter=True)
            for segment in segments:
                yield Segment(segment.start, segment.end, segment.text)
        except (av.FFmpegError, OSError, ValueError, LookupError, RuntimeError) as error:
            raise ExtractError(f"damaged audio ({type(error).__name__}: {error})".replace(str(path), "file")) from error


def paragraphs(segments: Iterable[Segment], options: Mapping[str, Option] | None = None) -> Iterator[Piece]:
    """Segments joined to paragraphs, each at the time of its first words.

    options: with them, what three quarters of prep.seconds_per_file leave no time for is reported instead of the whole
    file being lost; transcribing goes on only while the next segment is asked for.
    """
    seconds = 0.75 * float((options or {}).get("seconds_per_file", SECONDS_PER_FILE))
    stop = time.monotonic() + seconds if options is not None else float("inf")
    block: list[Segment] = []
    for segment in segments:
        if block and _ends(block, segment):
            yield _paragraph(block)
            block = []
        if text := " ".join(segment.text.split()):
            block.append(Segment(segment.start, segment.end, text))
        if time.monotonic() > stop:
            yield from [_paragraph(block)] if block else []
            yield Piece(text="", locator=f"t={clock(segment.end)}", dropped=OVER_TIME)
            return
    if block:
        yield _paragraph(block)


def clock(seconds: float) -> str:
    """Seconds as 00:10:04."""
    whole = int(max(0.0, seconds))
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"


def _ends(block: list[Segment], following: Segment) -> bool:
    length = block[-1].end - block[0].start
    done = length >= PARAGRAPH_SECONDS and bool(SENTENCE_END.search(block[-1].text))
    return done or length >= PARAGRAPH_LIMIT or following.start - block[-1].end >= PAUSE_SECONDS


def _paragraph(block: list[Segment]) -> Piece:
    return Piece(text=" ".join(segment.text for segment in block), locator=f"t={clock(block[0].start)}")
