"""Files that no other extractor reads: what they seem to be, as one piece of metadata. Nothing in them is run or unpacked.

Pickles, and the model files that are pickles (joblib, PyTorch), are programs: they are named, never opened.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import ClassVar

from forge.errors import ExtractError
from forge.phase import Requirement
from forge.protocols import Reading
from forge.records import Piece

UNKNOWN, PICKLE, TORCH = "application/octet-stream", "application/x-pickle", "application/x-pytorch"
SAMPLE_BYTES = 1 << 20
MAX_STRINGS = 12
STRING = re.compile(rb"[\t -~]{8,}")
MAX_STRING_CHARACTERS = 100
PICKLES, MODELS = {".pkl", ".pickle", ".joblib", ".dill"}, {".pt", ".pth", ".ckpt"}
PICKLE_START = re.compile(rb"\x80[\x02-\x05]")

SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x7fELF", "ELF program or library"), (0, b"MZ", "Windows program or library"), (0, b"\xfe\xed\xfa\xce", "macOS program"),
    (0, b"\xfe\xed\xfa\xcf", "macOS program"), (0, b"\xce\xfa\xed\xfe", "macOS program"), (0, b"\xcf\xfa\xed\xfe", "macOS program"),
    (0, b"\xca\xfe\xba\xbe", "Java class or macOS universal program"), (0, b"\0asm", "WebAssembly module"), (0, b"dex\n", "Android program"),
    (0, b"!<arch>\n", "archive of object files or Debian package"), (0, b"\xed\xab\xee\xdb", "RPM package"), (0, b"MSCF", "Microsoft cabinet"),
    (0, b"LZIP", "lzip archive"), (0, b"\x04\x22\x4d\x18", "LZ4 data"), (0, b"\x1f\x9d", "compress (.Z) data"), (0, b"070701", "cpio archive"),
    (0, b"\xd0\xcf\x11\xe0", "OLE2 compound file"), (0, b"!BDN", "Outlook mailbox (.pst)"), (4, b"Standard Jet DB", "Access database"),
    (4, b"Standard ACE DB", "Access database"), (0, b"AC10", "AutoCAD drawing"), (0, b"8BPS", "Photoshop picture"), (0, b"BM", "bitmap"),
    (0, b"\0\0\x01\0", "icon"), (0, b"gimp xcf", "GIMP picture"), (0, b"BLENDER", "Blender scene"), (0, b"Kaydara FBX", "FBX scene"),
    (0, b"OTTO", "OpenType font"), (0, b"\0\x01\0\0\0", "TrueType font"), (0, b"ttcf", "TrueType collection"), (0, b"wOFF", "web font"),
    (0, b"wOF2", "web font"), (0, b"MThd", "MIDI music"), (0, b"FWS", "Flash film"), (0, b"CWS", "Flash film"), (0, b"GGUF", "GGUF model"),
    (4, b"TFL3", "TensorFlow Lite model"), (0, b"Obj\x01", "Avro data"), (0, b"ORC", "ORC data"), (0, b"RDX", "R data"), (0, b"$FL2", "SPSS data"),
    (0, b"<stata_dta>", "Stata data"), (0, b"MATLAB 5.0", "MATLAB 5 data"), (0, b"SIMPLE  =", "FITS data"), (0, b"GRIB", "GRIB weather data"),
    (0, b"\xd4\xc3\xb2\xa1", "network capture"), (0, b"\x0a\x0d\x0d\x0a", "network capture"), (0, b"regf", "Windows registry"),
    (0, b"L\0\0\0\x01\x14\x02", "Windows shortcut"), (0, b"QFI\xfb", "disk image (QCOW)"), (0, b"KDMV", "disk image (VMDK)"),
    (32769, b"CD001", "CD image"), (0, b"Salted__", "file encrypted by OpenSSL"), (0, b"\x85\x01", "PGP message"), (0, b"bplist", "property list"),
)  # fmt: skip
"""Offset, first bytes, what they tell; the first that fits counts. From the formats' own specifications."""


class BinaryExtractor:
    """Size, kind, share of printable bytes, entropy and a few strings of a file that is not text."""

    name: ClassVar[str] = "binary"
    media_types: ClassVar[tuple[str, ...]] = (UNKNOWN, PICKLE, TORCH)
    extensions: ClassVar[Mapping[str, str]] = {**dict.fromkeys(sorted(PICKLES), PICKLE), **dict.fromkeys(sorted(MODELS), TORCH)}
    magic: ClassVar[Mapping[bytes, str]] = {}
    requires: ClassVar[tuple[Requirement, ...]] = ()
    priority: ClassVar[int] = -100
    """Whoever else claims a type knows more about it."""

    def accepts(self, head: bytes, name: str) -> str:
        """Pickles, and the ZIP files that PyTorch makes of them, by their names and first bytes."""
        extension = PurePosixPath(name).suffix.lower()
        if extension in PICKLES and (PICKLE_START.match(head) or (head[:1] in b"(c]}" and head)):
            return PICKLE
        return TORCH if extension in MODELS and (head.startswith(b"PK\x03\x04") or PICKLE_START.match(head)) else ""

    def extract(self, path: Path, ctx: Reading) -> Iterator[Piece]:
        """Yield one piece of metadata. Raises ExtractError for an empty file."""
        size = path.stat().st_size
        with path.open("rb") as file:
            sample = file.read(SAMPLE_BYTES)
        if not sample:
            raise ExtractError("an empty file")
        yield Piece(text="\n".join(_facts(sample, size, ctx.media_type)), locator="file", kind="metadata")
        if ctx.media_type in (PICKLE, TORCH):
            yield Piece(text="", dropped="Python objects: a pickle runs code when it is opened")


extractor = BinaryExtractor()


def _facts(sample: bytes, size: int, media_type: str) -> list[str]:
    printable = len(sample) - len(sample.translate(None, bytes([9, 10, 13, *range(32, 127)])))
    lines = [
        f"Binary file: {_kind(sample, media_type)}", f"Size: {size:,} bytes", f"First bytes: {sample[:16].hex(' ')}",
        f"Printable: {100 * printable / len(sample):.0f} %", f"Entropy: {_entropy(sample):.2f} bits a byte",
    ]  # fmt: skip
    found = dict.fromkeys(match[0].decode("ascii").strip()[:MAX_STRING_CHARACTERS] for match, _ in zip(STRING.finditer(sample), range(200), strict=False))
    return lines + [f"String: {one}" for one in list(found)[:MAX_STRINGS] if one]


def _kind(sample: bytes, media_type: str) -> str:
    if media_type == PICKLE:
        return "Python pickle"
    if media_type == TORCH:
        return "PyTorch model (a pickle)"
    known = next((told for at, start, told in SIGNATURES if sample.startswith(start, at)), "")
    if known or media_type not in ("", UNKNOWN):
        return known or media_type
    if PICKLE_START.match(sample) and sample.rstrip(b"\0").endswith(b"."):
        return "perhaps a Python pickle"
    return "unknown, compressed or encrypted" if _entropy(sample) > 7.9 else "unknown"


def _entropy(sample: bytes) -> float:
    return -sum(count / len(sample) * math.log2(count / len(sample)) for count in Counter(sample).values())
