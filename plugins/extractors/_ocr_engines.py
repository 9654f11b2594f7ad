"""The OCR back ends: tesseract where it is on PATH, else RapidOCR where it is installed, else a reason why not.

Measured 2026-11-20 on 15 pictures with 12 known phrases: tesseract 5 found 12 in 52 s with 78-195 MB, RapidOCR 11 in
70 s with 700 MB; RapidOCR also reads Chinese without a language pack.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from forge.errors import ExtractError
from forge.protocols import Option

if TYPE_CHECKING:
    from PIL.Image import Image

INSTALL = "install tesseract (apt-get install tesseract-ocr) or pip install 'slm-forge[ocr]'"
SECONDS_PER_PICTURE = 25.0
"""Ten times what a dense page of 8.7 million pixels takes on one slow core (2.4 s)."""

UPRIGHT_CONFIDENCE, ENOUGH_WORDS = 60, 10
"""Percent, mean of a picture's words: below, it may lie on its side or head (38 against 96)."""

LANGUAGES = re.compile(r"\w+(?:\+\w+)*")
RAPIDOCR_MODULES = ("rapidocr", "rapidocr_onnxruntime")


class OcrFailure(ExtractError):
    """The engine could not read a picture: it crashed, or took too long."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word, or with RapidOCR one line, as recognised. confidence: percent. line, paragraph: numbers within the picture."""

    text: str
    confidence: float
    paragraph: tuple[int, int]
    line: int
    left: int = 0
    right: int = 0


class OcrEngine(Protocol):
    """A back end. `why_not` says why it cannot read ("" when it can)."""

    name: str
    why_not: str

    def words(self, picture: Image) -> Iterable[Word]:
        """The words in reading order. Raises OcrFailure."""
        ...


def choose_engine(options: Mapping[str, Option]) -> OcrEngine:
    """The engine that the options ocr and ocr_languages ask for; its `why_not` tells when there is none."""
    wanted, languages = str(options.get("ocr", "auto")), str(options.get("ocr_languages", "eng"))
    if not find_spec("PIL"):
        return NoEngine("image without OCR: pip install 'slm-forge[media]'")
    if wanted == "off":
        return NoEngine("picture not read: prep.ocr=off")
    if wanted == "rapidocr" or (wanted == "auto" and not shutil.which("tesseract") and _rapidocr_module()):
        return RapidOcr() if _rapidocr_module() else NoEngine("image without OCR: pip install 'slm-forge[ocr]'")
    program = shutil.which("tesseract")
    return Tesseract(program, languages) if program else NoEngine(f"image without OCR: {INSTALL}")


def engines_here() -> str:
    """The engines of this machine with tesseract's languages: what recognised text depends on besides the picture."""
    program = shutil.which("tesseract")
    return f"{program} {sorted(_languages(program)) if program else ''} {_rapidocr_module()}"


def mean_confidence(words: list[Word]) -> float:
    """Percent; 0 without words."""
    return sum(word.confidence for word in words) / max(1, len(words))


class NoEngine:
    """No back end, and why."""

    name = "none"

    def __init__(self, why_not: str) -> None:
        self.why_not = why_not

    def words(self, picture: Image) -> Iterable[Word]:
        """Nothing."""
        return ()


class Tesseract:
    """The tesseract program. One thread each (OMP_THREAD_LIMIT): prep reads several files at once."""

    name = "tesseract"

    def __init__(self, program: str, languages: str) -> None:
        self.program, self.languages = program, languages
        self.why_not = self._missing_language()

    def words(self, picture: Image) -> Iterable[Word]:
        """The words; of a page that lies on its side or head, those after turning it."""
        found = list(self._recognise(picture))
        if len(found) < ENOUGH_WORDS or mean_confidence(found) >= UPRIGHT_CONFIDENCE:
            return found
        angle = self._angle(picture)
        turned = list(self._recognise(picture.rotate(-angle, expand=True))) if angle else []
        return turned if turned and mean_confidence(turned) > mean_confidence(found) else found

    def _recognise(self, picture: Image) -> Iterator[Word]:
        """The words of its TSV output. The picture goes in by a pipe: no file is written."""
        command = [self.program, "stdin", "stdout", "-l", self.languages, "--psm", "3", "-c", "tessedit_create_tsv=1"]
        done = _run(command, _as_pgm(picture))
        if done.returncode:
            # A child that the kernel ended for want of memory says nothing itself.
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise OcrFailure("tesseract gave up on a picture", why=said[-1] if said else f"exit status {done.returncode}")
        yield from _tsv_words(done.stdout.decode("utf-8", "replace"))

    def _angle(self, picture: Image) -> int:
        """Degrees clockwise that bring it upright, by tesseract's orientation model; 0 without one or when it cannot tell."""
        if "osd" not in _languages(self.program):
            return 0
        said = _run([self.program, "stdin", "stdout", "-l", "osd", "--psm", "0"], _as_pgm(picture)).stdout.decode("utf-8", "replace")
        match = re.search(r"^Rotate: (\d+)$", said, re.MULTILINE)
        return int(match[1]) if match else 0

    def _missing_language(self) -> str:
        if not LANGUAGES.fullmatch(self.languages):
            return f"image without OCR: prep.ocr_languages={self.languages!r} is not like eng+deu"
        absent = [one for one in self.languages.split("+") if one not in _languages(self.program)]
        if not absent:
            return ""
        return f"image without OCR: tesseract has no language {absent[0]!r} (apt-get install tesseract-ocr-{absent[0].replace('_', '-')})"


def _run(command: list[str], data: bytes) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "OMP_THREAD_LIMIT": "1", "LC_ALL": "C"}
    try:
        return subprocess.run(command, input=data, capture_output=True, env=environment, timeout=SECONDS_PER_PICTURE, check=False)
    except subprocess.TimeoutExpired as error:
        raise OcrFailure(f"tesseract took longer than {SECONDS_PER_PICTURE:g} seconds for one picture") from error
    except OSError as error:
        raise OcrFailure(f"tesseract cannot be started ({error.strerror})") from error


@cache
def _languages(program: str) -> frozenset[str]:
    """The installed language packs, from lines after a heading."""
    lines = _run([program, "--list-langs"], b"").stdout.decode("utf-8", "replace").splitlines()
    return frozenset(line.strip() for line in lines[1:] if line.strip())


def _as_pgm(picture: Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PPM")
    return buffer.getvalue()


def _tsv_words(table: str) -> Iterator[Word]:
    for row in csv.DictReader(io.StringIO(table), delimiter="\t", quoting=csv.QUOTE_NONE):
        text = (row.get("text") or "").strip()
        if row.get("level") == "5" and text:
            left = int(row["left"])
            yield Word(
                text, float(row["conf"]), (int(row["block_num"]), int(row["par_num"])), int(row["line_num"]), left,
                left + int(row["width"]),
            )


class RapidOcr:
    """RapidOCR (onnxruntime). Its models come with the package; it finds lines, which are put in reading order here."""

    name = "rapidocr"
    why_not = ""

    def words(self, picture: Image) -> Iterable[Word]:
        """One item a line; lines whose gap is more than their height start a paragraph."""
        import numpy

        lines = sorted(_rapidocr_lines(numpy.asarray(picture.convert("RGB"))), key=lambda line: (line[1], line[0]))
        paragraph, bottom, height = 0, -math.inf, 0.0
        for number, (left, top, right, low, text, confidence) in enumerate(_in_rows(lines)):
            if number and top - bottom > 0.8 * max(height, low - top):
                paragraph += 1
            bottom, height = max(low, bottom if top < bottom else low), low - top
            yield Word(text, confidence, (0, paragraph), number, round(left), round(right))


Line = tuple[float, float, float, float, str, float]
"""left, top, right, bottom, text, confidence in percent."""


def _in_rows(lines: list[Line]) -> Iterator[Line]:
    """Lines side by side from left to right; rows from top to bottom."""
    row: list[Line] = []
    for line in lines:
        if row and line[1] > row[0][1] + 0.5 * (row[0][3] - row[0][1]):
            yield from sorted(row)
            row = []
        row.append(line)
    yield from sorted(row)


def _rapidocr_lines(pixels: Any) -> Iterator[Line]:
    """Both generations of the package: 3.x returns an object, 1.x a list of [box, text, score]."""
    found = _rapidocr()(pixels)
    if hasattr(found, "txts"):
        boxes, texts, scores = found.boxes, found.txts, found.scores
    else:
        boxes, texts, scores = zip(*found[0], strict=True) if found[0] else ((), (), ())
    for box, text, score in zip(() if boxes is None else boxes, texts or (), scores or (), strict=True):
        across, down = [float(point[0]) for point in box], [float(point[1]) for point in box]
        yield min(across), min(down), max(across), max(down), str(text), 100 * float(score)


@cache
def _rapidocr() -> Any:
    import importlib

    module = _rapidocr_module()
    one_thread = {"EngineConfig.onnxruntime.intra_op_num_threads": 1, "EngineConfig.onnxruntime.inter_op_num_threads": 1}
    settings = {"params": one_thread} if module == "rapidocr" else {"intra_op_num_threads": 1, "inter_op_num_threads": 1}
    return importlib.import_module(module).RapidOCR(**settings)


def _rapidocr_module() -> str:
    return next((name for name in RAPIDOCR_MODULES if find_spec(name)), "")
