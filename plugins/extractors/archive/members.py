"""What all archive formats share: which members are left out, how damage is told, the list of names."""

from __future__ import annotations

import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from forge.corpus import IGNORED_FOLDERS
from forge.errors import ExtractError
from forge.records import Piece

CHUNK = 1 << 20
"""Bytes handed over at once; what a bomb may cost before prep's limits stop it."""

MAX_ENTRIES = 10_000
MAX_TOTAL_BYTES = 1 << 30
"""Where a directory tells sizes beforehand (7z, rar), what is refused unopened; prep/guard.py has the same for ZIP."""

ENCRYPTED = "encrypted member (it needs a password)"
LINK = "link inside an archive (never followed)"
DEVICE = "device, pipe or socket inside an archive"

LISTED_NAMES = 2_000
NAMES_A_PIECE = 100

DAMAGE = (
    zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error, struct.error, EOFError, OSError, ValueError, LookupError,
    OverflowError, RecursionError, NotImplementedError, RuntimeError,
)  # fmt: skip
"""What the standard library raises on damaged bytes (OSError: bz2 and gzip; RuntimeError: zipfile)."""


@contextmanager
def damage_told(what: str) -> Iterator[None]:
    """Turns what libraries raise on broken bytes into ExtractError naming `what`."""
    try:
        yield
    except DAMAGE as error:
        raise ExtractError(f"damaged {what} ({str(error) or type(error).__name__})") from error


def passed_over(name: str) -> str:
    """Why a member is not read at all, or "": it lies in a folder that the walk over a corpus leaves out as well."""
    folders = name.replace("\\", "/").split("/")[:-1]
    return next((f"file in a folder that is never read ({folder})" for folder in folders if folder in IGNORED_FOLDERS), "")


def check_directory(count: int, total_bytes: int) -> None:
    """Raise ExtractError, refused, when an archive's directory promises more than prep would take."""
    if count > MAX_ENTRIES:
        raise ExtractError(f"unsafe archive: {count:,} entries (at most {MAX_ENTRIES:,})", refused=True)
    if total_bytes > MAX_TOTAL_BYTES:
        fact = f"unsafe archive: unpacks to {total_bytes >> 20:,} MiB (at most {MAX_TOTAL_BYTES >> 20:,})"
        raise ExtractError(fact, refused=True)


def listing(names: Sequence[str]) -> Iterator[Piece]:
    """The members' names: what an archive itself tells."""
    shown = names[:LISTED_NAMES]
    for start in range(0, len(shown), NAMES_A_PIECE):
        part = shown[start : start + NAMES_A_PIECE]
        yield Piece(text="\n".join(part), locator=f"member={start + 1}..{start + len(part)}", kind="metadata")
    for name in names[LISTED_NAMES:]:
        yield Piece(text=name, dropped="name of a member over the limit")
