"""For people who write plugins: list them, start one, check one against its protocol."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forge.errors import ExtractError, ForgeError, MissingAccess, UsageError, nearest
from forge.protocols import PLUGIN_KINDS, Reading
from forge.records import Piece
from forge.registry import Registry, load_file, missing

EXTRACTOR = '''"""Reads {name} files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from forge.errors import ExtractError
from forge.phase import Requirement
from forge.protocols import Reading
from forge.records import Piece


class {title}Extractor:
    """Text of a {name} file, one piece per paragraph."""

    name: ClassVar[str] = "{name}"
    media_types: ClassVar[tuple[str, ...]] = ("application/x-{name}",)
    extensions: ClassVar[Mapping[str, str]] = {{".{name}": "application/x-{name}"}}
    magic: ClassVar[Mapping[bytes, str]] = {{}}
    requires: ClassVar[tuple[Requirement, ...]] = ()

    def extract(self, path: Path, ctx: Reading) -> Iterator[Piece]:
        """Yield the paragraphs in reading order. Raises ExtractError when the file is not UTF-8."""
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ExtractError("the file is not UTF-8 text", why=str(error)) from error
        for number, paragraph in enumerate(text.split("\\n\\n"), 1):
            if paragraph.strip():
                yield Piece(text=paragraph.strip(), locator=f"paragraph={{number}}")


extractor = {title}Extractor()
'''

TEMPLATES = {"extractor": EXTRACTOR}

SURFACE: dict[str, tuple[str, ...]] = {
    "extractor": ("name", "media_types", "extensions", "magic", "requires", "extract"),
    "teacher": ("name", "requires", "capabilities", "price", "generate"),
    "provider": ("name", "requires", "quote", "start", "find", "stop", "channel", "settle"),
    "task": ("name", "prompt", "target", "parse", "score", "gates", "card_text"),
}
"""What the protocols in forge.protocols ask for, by kind."""


def plugin_rows(folders: tuple[Path, ...]) -> list[tuple[str, str, str]]:
    """(kind, name, state) of every plugin; the state names the extra that a missing one needs."""
    registry = Registry(folders)
    return [(kind, name, _state(registry, kind, name)) for kind in PLUGIN_KINDS for name in registry.names(kind)]


def write_new(kind: str, name: str, folder: Path) -> Path:
    """Write a working plugin to start from; returns its file. Never overwrites."""
    if kind not in TEMPLATES:
        raise UsageError(f'there is no template for "{kind}"', why=nearest(kind, TEMPLATES), next="forge plugins new extractor NAME")
    if not name.isidentifier() or name != name.lower():
        raise UsageError(f'"{name}" cannot be a plugin name', why="use lower-case letters, digits and _", next=f"forge plugins new {kind} my_format")
    target = folder / f"{name}.py"
    if target.exists():
        raise UsageError(f"{target} exists already", next=f"forge plugins check {target}")
    folder.mkdir(parents=True, exist_ok=True)
    target.write_text(TEMPLATES[kind].format(name=name, title=name.title().replace("_", "")), encoding="utf-8")
    return target


def check_file(file: Path, sample: Path | None) -> list[tuple[str, str]]:
    """Run the conformance checks; returns (check, detail) of each that passed, raises ForgeError at the first that did not."""
    if not file.is_file():
        raise UsageError(f"there is no file at {file}", next="forge plugins new extractor NAME")
    passed: list[tuple[str, str]] = []
    for kind, plugin in load_file(file).items():
        passed.append(("imports", f"exports the {kind} {getattr(plugin, 'name', '?')}"))
        _has_surface(kind, plugin, file)
        passed.append(("protocol", ", ".join(SURFACE[kind])))
        if kind == "extractor":
            passed += _check_extractor(plugin, file, sample)
    return passed


def _state(registry: Registry, kind: str, name: str) -> str:
    absent = missing(getattr(registry.plugin(kind, name, ready=False), "requires", ()))
    return f"needs [{absent[0].extra}]" if absent else "ready"


def _has_surface(kind: str, plugin: Any, file: Path) -> None:
    absent = [name for name in SURFACE[kind] if not hasattr(plugin, name)]
    if absent:
        raise ForgeError(
            f"the {kind} in {file} has no {', '.join(absent)}", why=f"the protocol in forge.protocols asks for {', '.join(SURFACE[kind])}",
            next=f"forge plugins new {kind} NAME shows the shape",
        )


def _check_extractor(plugin: Any, file: Path, sample: Path | None) -> list[tuple[str, str]]:
    media_type = next(iter(plugin.media_types), "")
    if not media_type:
        raise ForgeError(f"the extractor in {file} names no media types", why="prep would never hand it a file")
    passed = [("garbage", _garbage(plugin, media_type))]
    if sample is not None:
        pieces = _pieces(plugin, sample, media_type)
        again = _pieces(plugin, sample, media_type)
        if not pieces:
            raise ForgeError(f"{sample.name} gave no text", why="the extractor yielded nothing", next="check extract()")
        if pieces != again:
            raise ForgeError(f"{sample.name} was read differently the second time", why="extraction must be deterministic")
        passed.append(("sample", f"{len(pieces)} pieces, {sum(len(piece.text) for piece in pieces):,} characters"))
    return passed


def _garbage(plugin: Any, media_type: str) -> str:
    """Random bytes may be refused or read, but only with ExtractError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "garbage"
        path.write_bytes(bytes(range(256)) * 64)
        try:
            return f"read {len(_pieces(plugin, path, media_type))} pieces from random bytes"
        except ExtractError as error:
            return f"refused: {error.fact}"


def _pieces(plugin: Any, path: Path, media_type: str) -> list[Piece]:
    read: Callable[[Path, Reading], Any] = plugin.extract
    try:
        return list(read(path, Reading(media_type, name=path.name)))
    except (ExtractError, MissingAccess):
        raise
    except Exception as error:
        raise ForgeError(
            f"extract() raised {type(error).__name__}: {error}", why="a bad file must raise ExtractError, nothing else",
            next="catch the library's error and raise ExtractError(why)",
        ) from error
