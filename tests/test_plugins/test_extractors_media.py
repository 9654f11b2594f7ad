"""Audio and video: tags, subtitles, the whitelist, and speech by an injected transcriber and by the real faster-whisper."""

from __future__ import annotations

import io
import struct
import wave
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from forge.errors import ExtractError
from forge.phases.prep.route import SIGNATURES
from forge.plugins.extractors.media import MediaExtractor, Segment, extractor
from forge.plugins.extractors.media.speech import NO_MODEL, paragraphs
from forge.protocols import Option, Reading
from forge.records import Piece
from tests.speech import tiny_whisper, vowels

MILLISECOND = Fraction(1, 1000)
STYLES = b"[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name, Fontname\nStyle: Default,Arial\n\n[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"


class Stub:
    """Says the same of every file."""

    def __init__(self, *said: tuple[float, float, str]) -> None:
        self.said = said

    def transcribe(self, path: Path) -> Iterator[Segment]:
        return (Segment(*one) for one in self.said)


def sound(seconds: float = 1.0) -> bytes:
    """Silence as WAV."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(2 * int(8000 * seconds)))
    return buffer.getvalue()


def film(
    kind: str = "mp4", *, seconds: int = 3, audio: bool = True, subtitles: str = "", said: tuple[bytes, ...] = (), chapter: str = "", **tags: str
) -> bytes:
    """A video of one black frame a second, made by FFmpeg."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        container.metadata.update(tags)
        picture: Any = container.add_stream("mpeg4", rate=1)
        picture.width, picture.height, picture.pix_fmt = 64, 64, "yuv420p"
        voice: Any = container.add_stream("aac" if kind == "mp4" else "pcm_s16le", rate=8000, layout="mono") if audio else None
        titles: Any = container.add_stream(subtitles) if subtitles else None
        if titles:
            titles.codec_context.subtitle_header = STYLES
            titles.codec_context.time_base = titles.time_base = MILLISECOND
        if chapter:
            container.set_chapters([{"id": 1, "start": 0, "end": 2000, "time_base": MILLISECOND, "metadata": {"title": chapter}}])
        for number in range(seconds):
            frame = av.VideoFrame(64, 64, "yuv420p")
            frame.pts = number
            container.mux(picture.encode(frame))
            if voice:
                silence = av.AudioFrame(format="s16", layout="mono", samples=8000)
                silence.sample_rate, silence.pts, silence.time_base = 8000, 8000 * number, Fraction(1, 8000)
                silence.planes[0].update(bytes(16000))
                container.mux(voice.encode(silence))
        for number, text in enumerate(said):
            packet = av.Packet(text)
            packet.stream, packet.time_base = titles, MILLISECOND
            packet.pts = packet.dts = 1000 * number
            packet.duration = 900
            container.mux(packet)
        for stream in (picture, voice) if voice else (picture,):
            container.mux(stream.encode())
    return buffer.getvalue()


def read(folder: Path, content: bytes, reader: MediaExtractor = extractor, **options: Option) -> list[Piece]:
    path = folder / "media"
    path.write_bytes(content)
    return list(reader.extract(path, Reading("video/mp4", options=options)))


def listening(*said: tuple[float, float, str]) -> MediaExtractor:
    """An extractor with a transcriber of its own."""
    made = MediaExtractor()
    made.transcriber = Stub(*said)
    return made


# --- what is read ----------------------------------------------------------------------------------------------


def test_speech_becomes_paragraphs_with_their_time(tmp_path: Path) -> None:
    said = [(0.0, 2.0, " Ask not what your country"), (2.0, 4.0, "can do for you. "), (9.0, 11.0, "Ask what you can do.")]
    pieces = read(tmp_path, sound(12), listening(*said))
    assert [(piece.locator, piece.text, piece.kind) for piece in pieces] == [
        ("t=00:00:00", "Ask not what your country can do for you.", "prose"), ("t=00:00:09", "Ask what you can do.", "prose"),
    ]  # fmt: skip


def test_a_paragraph_ends_with_a_sentence_after_half_a_minute_and_without_one_after_ninety_seconds() -> None:
    def starts(*texts: str) -> list[str]:
        return [piece.locator for piece in paragraphs(Segment(10.0 * number, 10.0 * number + 10, text) for number, text in enumerate(texts))]

    assert starts("One.", "Two.", "Three.", "Four.", "Five.") == ["t=00:00:00", "t=00:00:30"]
    assert starts(*["and so on"] * 12) == ["t=00:00:00", "t=00:01:30"]


def test_without_a_speech_model_the_tags_are_kept_and_the_reason_is_given(tmp_path: Path) -> None:
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="flac") as container:
        container.metadata.update({"title": "Talk 4", "artist": "The Harbour Choir", "location": "+53.55+009.99/", "encoder": "x"})
        stream: Any = container.add_stream("flac", rate=8000, layout="mono")
        frame = av.AudioFrame(format="s16", layout="mono", samples=800)
        frame.sample_rate = 8000
        frame.planes[0].update(bytes(1600))
        container.mux([*stream.encode(frame), *stream.encode()])
    pieces = read(tmp_path, buffer.getvalue())
    assert pieces[0].kind == "metadata"
    assert pieces[0].text.splitlines()[1:] == ["title: Talk 4", "artist: The Harbour Choir"]
    assert [piece.dropped for piece in pieces[1:]] == [NO_MODEL]


@pytest.mark.parametrize(
    ("kind", "codec", "said"),
    [
        ("mp4", "mov_text", (b"\0\x0cHello there.", b"\0\x0fGeneral Kenobi.\0\0\0\x0cstyl")),
        ("matroska", "subrip", (b"Hello there.", b"<i>General</i> Kenobi.")),
        ("matroska", "ass", (b"0,0,Default,,0,0,0,,Hello there.", b"1,0,Default,,0,0,0,,{\\i1}General\\NKenobi.")),
        ("matroska", "webvtt", (b"Hello there.", b"<v Obi-Wan>General Kenobi.")),
    ],
)
def test_subtitles_are_what_is_said_even_in_a_short_film(tmp_path: Path, kind: str, codec: str, said: tuple[bytes, ...]) -> None:
    made = film(kind, subtitles=codec, said=said, title="A talk", chapter="Opening")
    pieces = read(tmp_path, made, listening((0.0, 1.0, "never asked for")))
    assert pieces[0].text.splitlines()[1:] == ["title: A talk", "chapter 00:00:00: Opening"]
    assert [(piece.locator, piece.text, piece.dropped) for piece in pieces[1:]] == [("t=00:00:00", "Hello there. General Kenobi.", "")]


# --- what is left out ------------------------------------------------------------------------------------------


def test_a_short_video_is_left_out_and_its_title_is_counted(tmp_path: Path) -> None:
    (piece,) = read(tmp_path, film(title="Cats"), listening((0.0, 1.0, "Never read.")))
    assert (piece.text, piece.dropped) == ("title: Cats", "video shorter than 120 seconds")


def test_the_shortest_video_is_a_setting(tmp_path: Path) -> None:
    pieces = read(tmp_path, film(), listening((0.0, 1.0, "Now it is read.")), min_video_seconds=2.5)
    assert [piece.text for piece in pieces] == ["Now it is read."]


def test_a_silent_video_is_left_out_and_a_sound_file_of_any_length_is_not(tmp_path: Path) -> None:
    hears = listening((0.0, 0.5, "One word."))
    assert [piece.dropped for piece in read(tmp_path, film(audio=False), hears, min_video_seconds=0)] == ["video without sound"]
    assert [piece.text for piece in read(tmp_path, sound(0.5), hears)] == ["One word."]


def test_a_song_with_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    cover = b"\0image/jpeg\0\x03\0" + buffer.getvalue()
    frame = b"APIC" + struct.pack(">IH", len(cover), 0) + cover
    size = bytes((len(frame) >> shift) & 127 for shift in (21, 14, 7, 0))
    silent_frame = b"\xff\xfb\x10\xc4" + bytes(100)  # MPEG-1 layer III, 32 kbit/s, 44.1 kHz
    made = b"ID3\x03\0\0" + size + frame + silent_frame * 40
    assert [piece.text for piece in read(tmp_path, made, listening((0.0, 0.5, "La la.")))] == ["La la."]


def test_a_model_that_goes_on_after_the_end_is_cut_off(tmp_path: Path) -> None:
    pieces = read(tmp_path, sound(2), listening((0.0, 2.0, "Thank you."), (30.0, 32.0, "Thank you."), (60.0, 62.0, "Thank you.")))
    assert [piece.text for piece in pieces] == ["Thank you."]


def test_sound_without_speech_says_so(tmp_path: Path) -> None:
    assert [piece.dropped for piece in read(tmp_path, sound(), listening())] == ["audio in which no speech was found"]


def test_speech_over_the_time_of_a_file_is_reported_and_the_rest_is_kept(tmp_path: Path) -> None:
    pieces = read(tmp_path, sound(9), listening((0.0, 4.0, "Kept."), (4.0, 8.0, "Not reached.")), seconds_per_file=0)
    assert [(piece.locator, piece.text, piece.dropped) for piece in pieces] == [
        ("t=00:00:00", "Kept.", ""), ("t=00:00:04", "", "speech that prep.seconds_per_file left no time for"),
    ]  # fmt: skip


@pytest.mark.parametrize(("lacking", "reason"), [("model.bin", "has no model.bin"), ("tokenizer.json", "has no tokenizer.json")])
def test_a_model_folder_that_would_need_a_download_is_not_used(tmp_path: Path, lacking: str, reason: str) -> None:
    for name in {"model.bin", "config.json", "tokenizer.json"} - {lacking}:
        (tmp_path / name).write_bytes(b"{}")
    (piece,) = read(tmp_path, sound(), speech_model=str(tmp_path))
    assert piece.dropped.endswith(reason)


def test_a_damaged_model_is_named_as_the_reason(tmp_path: Path) -> None:
    for name in ("model.bin", "config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(ExtractError, match="the speech model cannot be loaded"):
        read(tmp_path, sound(), speech_model=str(tmp_path))


# --- damaged and hostile ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"ID3\x03\0\0\0\0\0\0", film()[:200], b"OggS" + bytes(60), b"fLaC\0\0\0\x22" + bytes(10), b"#EXTM3U\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile x\n"],
)
def test_damaged_media_and_playlists_are_not_opened(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ExtractError, match="damaged audio or video") as caught:
        read(tmp_path, content)
    assert str(tmp_path) not in str(caught.value)


def test_the_length_that_a_tiny_film_declares_is_not_believed(tmp_path: Path) -> None:
    made = bytearray(film())
    where = made.index(b"mvhd") + 4
    (scale,) = struct.unpack_from(">I", made, where + 12)
    struct.pack_into(">I", made, where + 16, min(2**32 - 1, scale * 40_000))
    assert [piece.dropped for piece in read(tmp_path, bytes(made), listening((0.0, 1.0, "Never read.")))] == ["video shorter than 120 seconds"]


def test_a_recording_without_a_declared_length_is_measured(tmp_path: Path) -> None:
    made = bytearray(film("matroska", seconds=5))
    where = made.index(b"\x44\x89")  # the Duration element becomes Void
    made[where : where + 2] = b"\xec\x81"
    path = tmp_path / "live.mkv"
    path.write_bytes(made)
    heard = listening((0.0, 1.0, "Live."))
    assert [piece.text for piece in read(tmp_path, bytes(made), heard, min_video_seconds=4)] == ["Live."]
    assert [piece.dropped for piece in read(tmp_path, bytes(made), heard, min_video_seconds=6)] == ["video shorter than 6 seconds"]


def test_every_kind_of_sound_and_film_that_the_router_knows_is_read() -> None:
    known = {media_type for _, _, media_type in SIGNATURES if media_type.startswith(("audio/", "video/"))}
    assert known <= set(extractor.media_types)


def test_formats_are_known_by_their_content() -> None:
    assert extractor.accepts(b"\0\0\0\x20ftypM4A \0\0\0\0", "a") == "audio/mp4"
    assert extractor.accepts(b"FORM\0\0\0\x10AIFFCOMM", "a") == "audio/aiff"
    assert extractor.accepts((b"G" + bytes(187)) * 9, "a.ts") == "video/mp2t"
    assert extractor.accepts(b"export const answer: number = 42;\n" * 60, "a.ts") == ""


# --- the real thing --------------------------------------------------------------------------------------------


@pytest.mark.local
def test_faster_whisper_itself_is_asked_with_a_local_model(tmp_path: Path) -> None:
    model = tiny_whisper(tmp_path / "model")
    pieces = read(tmp_path, vowels(6), speech_model=str(model))
    assert pieces[0].locator == "t=00:00:00"
    assert pieces[0].text, "a model of random weights says something; what is up to chance"
    assert pieces == read(tmp_path, vowels(6), speech_model=str(model))
