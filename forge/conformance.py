"""The conformance suite that every plugin passes: its surface, and for extractors what they do with files good and bad.

`forge plugins check PATH` runs it on a plugin file or on a plugin package (a folder with pyproject.toml and vectors/).
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import random
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from forge.errors import ExtractError, ForgeError, MissingAccess, UsageError
from forge.protocols import PLUGIN_KINDS, Embedded, Reading
from forge.provider_check import check_provider
from forge.records import Piece, Record
from forge.registry import load_file

SECONDS_PER_FILE = 30.0
RANDOM_BYTES = 1 << 14
TRUNCATIONS = (0.1, 0.5, 0.9)

SURFACE: dict[str, tuple[str, ...]] = {
    "extractor": ("name", "media_types", "extensions", "magic", "requires", "extract"),
    "source": ("name", "requires", "settings", "fetch", "preview"),
    "teacher": ("name", "requires", "capabilities", "price", "generate"),
    "provider": ("name", "requires", "quote", "start", "find", "stop", "channel", "settle"),
    "task": ("name", "prompt", "target", "parse", "score", "gates", "card_text"),
    "importer": ("name", "tasks", "priority", "requires", "accepts", "read"),
}
"""What the protocols in forge.protocols ask for, by kind."""


@dataclass(frozen=True)
class Check:
    """One check that passed, and what it saw."""

    name: str
    detail: str


class Vector(Record):
    """A document with phrases that its text must and must not include; one line of vectors/expected.jsonl."""

    file: str
    must_include: tuple[str, ...] = ()
    must_not_include: tuple[str, ...] = ()


def check_plugin(path: Path, sample: Path | None = None, *, start: bool = False) -> list[Check]:
    """The checks that passed on a plugin file or package. Raises ForgeError at the first that did not.

    sample: one more document for an extractor to read. start: lease a machine of a provider although it costs money.
    """
    try:
        return list(_checks(path, sample, start))
    except ForgeError as error:
        error.next = error.next or f"mend it, then forge plugins check {path}"
        raise


def load_exports(path: Path) -> dict[str, Any]:
    """What a plugin file, or the entry points of a plugin package, export by kind. Raises UsageError or ForgeError."""
    if path.is_file():
        return load_file(path)
    project = path / "pyproject.toml"
    if not project.is_file():
        raise UsageError(f"there is no plugin at {path}", why="neither a file nor a folder with pyproject.toml", next="forge plugins new extractor NAME")
    points = _entry_points(project)
    if not points:
        raise ForgeError(
            f"{project} declares no plugin", why="it has no entry point in " + ", ".join(group for group, _ in PLUGIN_KINDS.values()),
            next='add [project.entry-points."forge.extractors"]',
        )
    return {kind: _load(path, target) for kind, target in points.items()}


def module_folder(path: Path) -> Path:
    """The folder to hand to --plugin-dir for a plugin file or package."""
    folder = path if path.is_dir() else path.parent
    return folder / "src" if (folder / "src").is_dir() else folder


def vectors(path: Path) -> list[tuple[Path, Vector]]:
    """The documents of a package with their expectations, by line. Raises ForgeError when one is missing or unreadable."""
    table = path / "vectors" / "expected.jsonl"
    if not path.is_dir() or not table.is_file():
        return []
    found = []
    for number, line in enumerate(table.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            found.append(_vector(table, number, line))
    return found


def _checks(path: Path, sample: Path | None, start: bool) -> Iterator[Check]:
    for kind, plugin in load_exports(path).items():
        yield Check("imports", f"exports the {kind} {getattr(plugin, 'name', '?')}")
        _check_surface(kind, plugin, path)
        yield Check("protocol", ", ".join(SURFACE.get(kind, ())))
        if kind == "extractor":
            yield from _check_extractor(plugin, path, sample)
        if kind == "provider":
            yield from (Check(seen.name, seen.detail) for seen in check_provider(plugin, start=start))


def _entry_points(project: Path) -> dict[str, str]:
    try:
        declared = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {}).get("entry-points", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ForgeError(f"{project} cannot be read", why=str(error)) from error
    groups = {group: kind for kind, (group, _) in PLUGIN_KINDS.items()}
    return {groups[group]: target for group, table in declared.items() if group in groups for target in table.values()}


def _load(package: Path, target: str) -> Any:
    module, _, attribute = target.partition(":")
    folder = str(module_folder(package).resolve())
    sys.path.insert(0, folder)
    try:
        sys.modules.pop(module, None)
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise ForgeError(
            f"the plugin {target} cannot be imported", why=f"{type(error).__name__}: {error}", next=f"look into {package / 'pyproject.toml'}"
        ) from error
    finally:
        sys.path.remove(folder)


def _vector(table: Path, number: int, line: str) -> tuple[Path, Vector]:
    try:
        vector = Vector.model_validate(json.loads(line))
    except ValueError as error:
        raise ForgeError(f"{table}:{number} is no test vector", why=str(error), next='{"file": "a.txt", "must_include": ["a phrase"]}') from error
    document = table.parent / vector.file
    if not document.is_file():
        raise ForgeError(f"{table}:{number} names {vector.file}", why="the file is not there", next=f"put it into {table.parent}")
    return document, vector


def _check_surface(kind: str, plugin: Any, path: Path) -> None:
    absent = [name for name in SURFACE.get(kind, ()) if not hasattr(plugin, name)]
    if absent:
        raise ForgeError(
            f"the {kind} in {path} has no {', '.join(absent)}", why=f"the protocol in forge.protocols asks for {', '.join(SURFACE[kind])}",
            next=f"forge plugins new {kind} NAME shows the shape",
        )


# --- extractors ------------------------------------------------------------------------------------------------


def _check_extractor(plugin: Any, path: Path, sample: Path | None) -> Iterator[Check]:
    yield Check("declares", _check_claims(plugin, path))
    documents = vectors(path) + ([(sample, Vector(file=sample.name))] if sample else [])
    yield Check("bad files", _check_bad_files(plugin, [document for document, _ in documents]))
    pieces = characters = 0
    for document, vector in documents:
        read = _check_document(plugin, document, vector)
        pieces, characters = pieces + len(read), characters + sum(len(piece.text) for piece in read)
    if documents:
        yield Check("vectors", f"{len(documents)} documents, {pieces} pieces, {characters:,} characters, the same twice")


def _check_claims(plugin: Any, path: Path) -> str:
    """The types, extensions and magic agree with each other, as prep's router relies on."""
    if not plugin.media_types:
        raise ForgeError(f"the extractor in {path} names no media types", why="prep would never hand it a file")
    for extension, media_type in plugin.extensions.items():
        if not extension.startswith(".") or extension != extension.lower():
            raise ForgeError(f'the extension "{extension}" in {path} is never found', why="extensions are lower case with the dot")
        if media_type not in plugin.media_types:
            raise ForgeError(f"{path} maps {extension} to {media_type}", why="which is not among its media_types")
    for prefix, media_type in plugin.magic.items():
        if not isinstance(prefix, bytes) or len(prefix) < 2 or media_type not in plugin.media_types:
            raise ForgeError(f"the magic {prefix!r} in {path} claims too much", why="it needs at least two bytes and one of its own media_types")
    return " ".join([*plugin.media_types, *plugin.extensions])


def _check_bad_files(plugin: Any, documents: list[Path]) -> str:
    """Empty, random, foreign and cut-off files may be read or refused, but only with ExtractError, and in time."""
    noise = random.Random(7).randbytes(RANDOM_BYTES)
    bad = {"empty": b"", "random": noise, "zeros": bytes(RANDOM_BYTES), "png": b"\x89PNG\r\n\x1a\n" + noise, "text": b"plain text\n" * 9}
    for document in documents:
        whole = document.read_bytes()
        bad |= {f"{document.name} cut off at {share:.0%}": whole[: int(len(whole) * share)] for share in TRUNCATIONS}
    refused = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, content in bad.items():
            file = Path(folder) / f"bad{Path(name.partition(' cut off')[0]).suffix}"
            file.write_bytes(content)
            refused += isinstance(_read(plugin, file, name), ExtractError)
    return f"{len(bad)} tried, {refused} refused with ExtractError"


def _check_document(plugin: Any, document: Path, vector: Vector) -> list[Piece]:
    first, second = (_read(plugin, document, document.name) for _ in range(2))
    if isinstance(first, ExtractError):
        raise ForgeError(f"{document.name} was not read", why=first.fact, next="check extract()") from first
    if first != second:
        raise ForgeError(f"{document.name} was read differently the second time", why="extraction must be deterministic")
    text = "\n".join(piece.text for piece in first if not piece.dropped)
    if not text.strip():
        raise ForgeError(f"{document.name} gave no text", why="the extractor yielded nothing", next="check extract()")
    squeezed = " ".join(text.split())
    for phrase in vector.must_include:
        if " ".join(phrase.split()) not in squeezed:
            raise ForgeError(f"{document.name}: the text does not include {phrase!r}", why=f"it is {squeezed[:200]!r}")
    for phrase in vector.must_not_include:
        if " ".join(phrase.split()) in squeezed:
            raise ForgeError(f"{document.name}: the text includes {phrase!r}", why="the vector says that it must not")
    return first


def _read(plugin: Any, path: Path, name: str) -> list[Piece] | ExtractError:
    """The pieces in a child process: a crash or a hang is a finding, not the end of the check."""
    with tempfile.TemporaryDirectory() as scratch:   # ours: the child is killed
        return _read_in_child(plugin, path, name, Path(scratch))


def _read_in_child(plugin: Any, path: Path, name: str, scratch: Path) -> list[Piece] | ExtractError:
    here, there = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_send, args=(there, plugin, path, scratch))
    child.start()
    there.close()
    try:
        if not here.poll(SECONDS_PER_FILE):
            raise ForgeError(f"extract() took longer than {SECONDS_PER_FILE:g} seconds ({name})", why="prep would give the file up")
        result: list[Piece] | ForgeError = here.recv()
    except EOFError as error:
        child.join()
        raise ForgeError(f"extract() ended the process ({name}, exit code {child.exitcode})", why="a bad file must raise ExtractError") from error
    finally:
        child.kill()
        child.join()
    if isinstance(result, ForgeError) and not isinstance(result, ExtractError):
        raise result
    return result


def _send(there: Connection, plugin: Any, path: Path, scratch: Path) -> None:
    media_type = plugin.extensions.get(path.suffix.lower(), next(iter(plugin.media_types)))
    there.send(_pieces(plugin.extract, path, Reading(media_type, name=path.name, scratch=scratch)))


def _pieces(extract: Callable[[Path, Reading], Any], path: Path, ctx: Reading) -> list[Piece] | ForgeError:
    try:
        found = [_piece(item) for item in extract(path, ctx)]
    except (ExtractError, MissingAccess, ForgeError) as error:
        return error
    except Exception as error:  # noqa: BLE001  # whatever it is goes to the author, by name
        return ForgeError(
            f"extract() raised {type(error).__name__}: {error}", why="a bad file must raise ExtractError, nothing else",
            next="catch the library's error and raise ExtractError(why)",
        )
    return found


def _piece(item: Any) -> Piece:
    if isinstance(item, Embedded):
        return Piece(text=f"[embedded file {item.name}, {sum(map(len, item.chunks)):,} bytes]")
    if not isinstance(item, Piece):
        raise ForgeError(f"extract() yielded {type(item).__name__}", why="it must yield forge.records.Piece or forge.protocols.Embedded")
    return item
