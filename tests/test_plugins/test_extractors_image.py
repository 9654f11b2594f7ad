"""Pictures: text by a real tesseract, captions without places, and files made to hurt."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFont

from forge.errors import ExtractError
from forge.phases.prep import phase
from forge.phases.prep.route import SIGNATURES
from forge.plugins.extractors import _ocr_engines
from forge.plugins.extractors._ocr import join_lines, prepare, read_picture, read_scans
from forge.plugins.extractors._ocr_engines import OcrFailure, RapidOcr, Tesseract, Word, choose_engine
from forge.plugins.extractors.image import extractor
from forge.protocols import Option, Reading
from forge.records import Piece
from forge.testing import run_phase, tiny_corpus

pytestmark = pytest.mark.usefixtures("tesseract")

SENTENCE = "Leases end before the money is gone"


def drawn(*lines: str, size: tuple[int, int] = (900, 300), mode: str = "RGB") -> Any:
    """A white picture with black lines of text."""
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        pen.text((40, 40 + 50 * number), line, fill="black", font=ImageFont.load_default(32))
    return picture.convert(mode)


def saved(picture: Any, kind: str, **more: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **more)
    return buffer.getvalue()


def read(folder: Path, media_type: str, content: bytes, **options: Option) -> list[Piece]:
    path = folder / "picture"
    path.write_bytes(content)
    return list(extractor.extract(path, Reading(media_type, options=options)))


def kept(pieces: list[Piece]) -> str:
    return "\n".join(piece.text for piece in pieces if not piece.dropped)


def losses(pieces: list[Piece]) -> list[str]:
    return [piece.dropped for piece in pieces if piece.dropped]


# --- formats ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "media_type", "mode"), [("PNG", "image/png", "RGBA"), ("JPEG", "image/jpeg", "RGB"), ("BMP", "image/bmp", "1")])
def test_the_text_of_a_picture_is_read_whatever_its_format_and_mode(tmp_path: Path, kind: str, media_type: str, mode: str) -> None:
    pieces = read(tmp_path, media_type, saved(drawn(SENTENCE, mode=mode), kind))
    assert [(piece.text, piece.kind, piece.dropped) for piece in pieces] == [(SENTENCE, "prose", "")]


def test_a_heic_picture_is_read(tmp_path: Path) -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()
    made = saved(drawn(SENTENCE), "HEIF", quality=80)
    assert extractor.accepts(made, "x") == "image/heic"
    assert SENTENCE in kept(read(tmp_path, "image/heic", made))


def test_a_tiff_has_a_locator_for_each_of_its_pages(tmp_path: Path) -> None:
    made = saved(drawn("Page one is here"), "TIFF", save_all=True, append_images=[drawn("Page two is there")])
    assert [(piece.locator, piece.text) for piece in read(tmp_path, "image/tiff", made)] == [
        ("page=1", "Page one is here"), ("page=2", "Page two is there"),
    ]  # fmt: skip


def test_transparent_pixels_are_paper(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (900, 200), (0, 0, 0, 0))
    ImageDraw.Draw(picture).text((40, 40), SENTENCE, fill=(0, 0, 0, 255), font=ImageFont.load_default(32))
    assert SENTENCE in kept(read(tmp_path, "image/png", saved(picture, "PNG")))


def test_a_photograph_that_lies_on_its_side_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    made = saved(drawn(SENTENCE).transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif)
    assert SENTENCE in kept(read(tmp_path, "image/jpeg", made))


@pytest.mark.parametrize("angle", [90, 180])
def test_a_scan_on_its_side_or_head_is_turned_upright(tmp_path: Path, angle: int) -> None:
    page = drawn(*(f"{number} {SENTENCE} and nobody notices" for number in range(9)), size=(1000, 600))
    pieces = read(tmp_path, "image/png", saved(page.rotate(angle, expand=True), "PNG"))
    assert f"8 {SENTENCE}" in kept(pieces)


def test_of_an_animation_the_first_frame_is_read_and_the_rest_is_reported(tmp_path: Path) -> None:
    frames = [Image.new("L", (40, 40), number % 200) for number in range(1, 200)]
    made = saved(drawn(SENTENCE, mode="L"), "GIF", save_all=True, append_images=frames)
    pieces = read(tmp_path, "image/gif", made)
    assert kept(pieces) == SENTENCE
    assert losses(pieces) == ["frames of an animation after the first"]


def test_every_kind_of_picture_that_the_router_knows_is_read() -> None:
    known = {media_type for _, _, media_type in SIGNATURES if media_type.startswith("image/")}
    assert known <= set(extractor.media_types)


def test_bitmaps_are_told_from_texts_that_start_alike() -> None:
    assert extractor.accepts(saved(drawn("x"), "BMP"), "a") == "image/bmp"
    assert extractor.accepts(b"BMW is a maker of cars and motorcycles in Munich.", "a.txt") == ""
    assert extractor.accepts(b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "a") == "image/avif"
    assert extractor.accepts(b"\0\0\0\x20ftypisom\0\0\2\0isomiso2", "a") == ""


# --- captions --------------------------------------------------------------------------------------------------


def test_captions_are_metadata_and_the_place_and_the_owner_are_never_read(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "Harbour at dawn"
    exif[0x013B] = "Erika Mustermann"
    exif[0x9C9B] = "Windows title".encode("utf-16-le")
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0seen from the pier"
    exif.get_ifd(0x8825)[2] = (53.0, 33.0, 7.0)
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>Dawn, print 7</dc:title><dc:creator>Erika Mustermann</dc:creator></x:xmpmeta>'
    pieces = read(tmp_path, "image/jpeg", saved(drawn(), "JPEG", exif=exif, xmp=xmp))
    assert [piece.text for piece in pieces if piece.kind == "metadata"] == [
        "Harbour at dawn", "Windows title", "seen from the pier", "Dawn, print 7",
    ]  # fmt: skip
    assert "Erika" not in kept(pieces)
    assert "53" not in kept(pieces)


def test_a_png_gives_its_title_and_an_unreadable_caption_costs_only_itself(tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Title", "Figure 3")
    info.add_text("Software", "a program")
    info.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta><unclosed>")
    pieces = read(tmp_path, "image/png", saved(drawn(SENTENCE), "PNG", pnginfo=info))
    assert [piece.text for piece in pieces if not piece.dropped] == ["Figure 3", SENTENCE]
    assert losses(pieces) == ["caption that cannot be read"]


# --- without OCR -----------------------------------------------------------------------------------------------


def test_without_an_engine_a_picture_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(_ocr_engines, "RAPIDOCR_MODULES", ("a_module_that_nobody_has",))
    pieces = read(tmp_path, "image/png", saved(drawn(SENTENCE), "PNG"))
    assert [(piece.text, piece.dropped) for piece in pieces] == [
        ("", "image without OCR: install tesseract (apt-get install tesseract-ocr) or pip install 'slm-forge[ocr]'")
    ]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"ocr": "off"}, "picture not read: prep.ocr=off"),
        ({"ocr_languages": "eng+xyz"}, "image without OCR: tesseract has no language 'xyz' (apt-get install tesseract-ocr-xyz)"),
        ({"ocr_languages": "-c x"}, "image without OCR: prep.ocr_languages='-c x' is not like eng+deu"),
    ],
)
def test_a_setting_that_gives_no_text_is_the_reason(tmp_path: Path, options: dict[str, Option], reason: str) -> None:
    assert losses(read(tmp_path, "image/png", saved(drawn(SENTENCE), "PNG"), **options)) == [reason]


def test_a_picture_without_text_says_so(tmp_path: Path) -> None:
    pieces = read(tmp_path, "image/png", saved(Image.new("RGB", (300, 300), "navy"), "PNG"))
    assert (kept(pieces), losses(pieces)) == ("", ["no text found by OCR"])


def test_rapidocr_reads_the_same_sentence() -> None:
    pytest.importorskip("rapidocr", reason="the [ocr] extra is not installed")
    assert SENTENCE in kept(list(read_picture(drawn(SENTENCE), choose_engine({"ocr": "rapidocr"}))))


@pytest.mark.parametrize("generation", ["1.x", "3.x"])
def test_rapidocr_lines_are_put_in_reading_order_with_paragraphs(generation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def box(left: int, top: int, right: int) -> list[list[int]]:
        return [[left, top], [right, top], [right, top + 20], [left, top + 20]]

    boxes, texts, scores = [box(0, 100, 90), box(60, 1, 100), box(0, 0, 50), box(0, 24, 98)], ["below", "right", "left", "second"], [0.9, 0.9, 0.9, 0.2]
    found: Any = SimpleNamespace(boxes=boxes, txts=texts, scores=scores)
    if generation == "1.x":
        found = ([list(one) for one in zip(boxes, texts, scores, strict=True)], 0.1)
    monkeypatch.setattr(_ocr_engines, "_rapidocr", lambda: lambda pixels: found)
    assert [(piece.text, piece.dropped) for piece in read_picture(drawn(), RapidOcr())] == [
        ("left\nright", ""), ("below", ""), ("second", "word that OCR was unsure of"),
    ]  # fmt: skip


def test_pictures_are_read_again_once_there_is_an_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tiny_corpus(tmp_path / "corpus", {"a.png": saved(drawn(SENTENCE), "PNG"), "a.md": "# A\n\nSome words about leases and budgets."})

    def run(name: str) -> list[str]:
        ran = run_phase(phase, tmp_path / name, corpus=root, cache=tmp_path / "cache")
        return [line for line in (ran.out / "documents.jsonl").read_text(encoding="utf-8").splitlines() if '"a.png"' in line]

    with monkeypatch.context() as without:
        without.setenv("PATH", str(tmp_path))
        without.setattr(_ocr_engines, "RAPIDOCR_MODULES", ())
        assert '"status":"skipped"' in run("1")[0]
        assert "apt-get install tesseract-ocr" in run("1b")[0]
    assert '"status":"ok"' in run("2")[0]


# --- paragraphs ------------------------------------------------------------------------------------------------


class Scripted:
    """An engine that gives the words it was made with."""

    name, why_not = "scripted", ""

    def __init__(self, *words: Word) -> None:
        self.given = words

    def words(self, picture: Any) -> tuple[Word, ...]:
        return self.given


def test_words_below_the_confidence_floor_are_dropped_and_counted() -> None:
    engine = Scripted(Word("Certain", 96, (1, 1), 1), Word("gl1b", 12, (1, 1), 1), Word("— |", 80, (2, 1), 1), Word("~", 3, (3, 1), 1), Word("iit", 35, (4, 1), 1))
    assert [(piece.text, piece.dropped) for piece in read_picture(drawn(), engine)] == [
        ("Certain", ""), ("— |", "OCR noise"), ("iit", "OCR noise"), ("gl1b ~", "word that OCR was unsure of"),
    ]  # fmt: skip


def test_full_lines_run_on_broken_words_are_mended_and_short_lines_stay() -> None:
    def line(text: str, right: int) -> list[Word]:
        return [Word(text, 90, (1, 1), 1, 0, right)]

    assert join_lines([line("a full line of prac-", 100), line("tical words in", 98), line("here.", 20)]) == "a full line of practical words in here."
    assert join_lines([line("John Doe", 40), line("123 Main Street, Anytown", 100)]) == "John Doe\n123 Main Street, Anytown"


def test_pictures_are_brought_to_a_size_that_engines_read_well() -> None:
    assert prepare(Image.new("RGB", (400, 300))).size == (800, 600)
    assert prepare(Image.new("1", (6000, 4000))).size == (3873, 2582)
    assert prepare(Image.new("L", (1700, 1300))).size == (1700, 1300)
    assert prepare(Image.new("I;16", (9, 9), 700)).mode == "L"


# --- hostile ---------------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, colour: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1 << 16))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height", "colour"), [(30_000, 30_000, 0), (20_000, 12_000, 0), (14_000, 14_000, 2)])
def test_a_picture_bomb_is_refused_by_its_header(tmp_path: Path, width: int, height: int, colour: int) -> None:
    with pytest.raises(ExtractError, match=r"million pixels|exceeds limit") as caught:
        read(tmp_path, "image/png", png(width, height, colour))
    assert caught.value.refused


@pytest.mark.parametrize(
    ("media_type", "content"),
    [
        ("image/png", saved(drawn(SENTENCE), "PNG")[:600]),
        ("image/png", b"\x89PNG\r\n\x1a\n"),
        ("image/jpeg", saved(drawn(SENTENCE), "JPEG")[:900]),
        ("image/heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)),
        ("image/tiff", b"II*\0\xff\xff\xff\x7f"),
        ("image/gif", b"GIF89a\1\0\1\0"),
    ],
)
def test_a_truncated_picture_fails_and_is_not_half_read(tmp_path: Path, media_type: str, content: bytes) -> None:
    with pytest.raises(ExtractError, match="damaged picture") as caught:
        read(tmp_path, media_type, content)
    assert not caught.value.refused


def test_a_tiff_whose_directories_form_a_loop_ends(tmp_path: Path) -> None:
    made = bytearray(saved(Image.new("L", (40, 40), "white"), "TIFF"))
    (first,) = struct.unpack_from("<I", made, 4)
    (entries,) = struct.unpack_from("<H", made, first)
    struct.pack_into("<I", made, first + 2 + 12 * entries, first)
    assert losses(read(tmp_path, "image/tiff", bytes(made))) == ["no text found by OCR"]


def test_pages_over_the_ocr_limit_are_reported_and_the_file_is_kept(tmp_path: Path) -> None:
    made = saved(drawn("Page one is here"), "TIFF", save_all=True, append_images=[drawn("never")] * 3)
    pieces = read(tmp_path, "image/tiff", made, max_ocr_pages=1)
    assert kept(pieces) == "Page one is here"
    assert [(piece.locator, piece.dropped) for piece in pieces[1:]] == [(f"page={number}", "page over the OCR limit") for number in (2, 3, 4)]


def test_a_page_that_the_engine_gives_up_on_is_reported() -> None:
    class Broken(Scripted):
        def words(self, picture: Any) -> tuple[Word, ...]:
            raise OcrFailure("tesseract gave up on a picture")

    pieces = list(read_scans([("page=1", drawn)], Broken(), {}))
    assert [(piece.locator, piece.dropped) for piece in pieces] == [("page=1", "page that OCR gave up on")]


def test_an_engine_that_crashes_fails_the_picture(tmp_path: Path) -> None:
    program = tmp_path / "tesseract"
    program.write_text("#!/bin/sh\nif [ $1 = --list-langs ]; then echo List; echo eng; exit; fi\necho no memory >&2; exit 3\n", encoding="utf-8")
    program.chmod(0o755)
    with pytest.raises(OcrFailure, match="gave up"):
        list(Tesseract(str(program), "eng").words(prepare(drawn())))
