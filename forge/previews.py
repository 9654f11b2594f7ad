"""What each source of a corpus holds, told without starting a run: counts, bytes and a few samples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from forge.corpus import walk_names
from forge.credentials import Secrets
from forge.errors import ForgeError
from forge.protocols import Fetching, InPlace, Preview, Sample
from forge.records import Record
from forge.sources import Source, naming_source, place_of

SAMPLE_CHARS = 240
HEAD_BYTES = 4096
ROW_SUFFIXES = {".jsonl", ".ndjson"}


class SourcePreview(Record):
    """A source's line in `forge run --preview`; `error` when it could not be looked at."""

    name: str
    kind: str
    preview: Preview = Preview()
    error: str = ""


def preview_sources(sources: list[Source], base: Path, samples: int, leave_out: Path) -> Iterator[tuple[SourcePreview, ForgeError | None]]:
    """What each source holds; a source that cannot be looked at gives its error and does not keep the others from it."""
    for source in sources:
        secrets = Secrets()
        ctx = Fetching(base=base, secret=secrets.read, hide=secrets.add)
        try:
            if source.is_local:
                found = preview_files(place_of(source, ctx, secrets), samples, leave_out)
            else:
                with naming_source(source, secrets):
                    source.require()
                    found = source.reader.preview(source.settings, samples, ctx)
            shown = tuple(Sample(place=secrets.hide(one.place), text=_shorten(secrets.hide(one.text))) for one in found.samples)
            yield SourcePreview(name=source.name, kind=source.kind, preview=found.model_copy(update={"samples": shown})), None
        except ForgeError as error:
            yield SourcePreview(name=source.name, kind=source.kind, error=error.fact), error


def preview_files(place: InPlace, samples: int, leave_out: Path) -> Preview:
    """Files, bytes and the beginnings of the first files; for one file of JSON lines its rows. Reads no file whole but that."""
    files, size, shown = 0, 0, list[Sample]()
    for path, name in walk_names(place.root, leave_out=leave_out, wanted=place.wanted):
        if path.is_symlink() or not path.is_file():
            continue
        files, size = files + 1, size + path.stat().st_size
        if len(shown) < samples:
            shown.append(Sample(place=name, text=_shorten(describe_head(_head(path), path.suffix))))
    if place.root.suffix.lower() in ROW_SUFFIXES and place.root.is_file():
        rows, first = _rows(place.root, samples)
        return Preview(files=files, rows=rows, bytes=size, samples=first)
    return Preview(files=files, bytes=size, samples=tuple(shown))


def describe_head(head: bytes, suffix: str = "") -> str:
    """The beginning of a file as text, or what kind of file it is when it is no text."""
    text = head.decode("utf-8", "replace")
    strange = sum(char == "\ufffd" or (ord(char) < 32 and char not in "\t\n\r\f") for char in text)
    if strange > 2 + len(text) // 50:
        return f"({suffix.lstrip('.') or 'binary'} file)"
    return text


def _rows(path: Path, samples: int) -> tuple[int, tuple[Sample, ...]]:
    count, shown = 0, list[Sample]()
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                count += 1
                if len(shown) < samples:
                    shown.append(Sample(place=f"row={count}", text=_shorten(line[:HEAD_BYTES].decode("utf-8", "replace"))))
    return count, tuple(shown)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError as error:
        return f"(cannot be read: {error.strerror})".encode()


def _shorten(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= SAMPLE_CHARS else flat[: SAMPLE_CHARS - 1] + "…"
