"""What a file's result depends on besides the file: a hash that parts the cache where anything of it changes."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from forge import private
from forge.protocols import Option
from forge.records import canonical_json, digest
from forge.registry import missing

PROGRAMS = ("unar", "unrar", "bsdtar", "7z", "7zz")
"""What archives are unpacked with where it is installed; other extractors tell of theirs in state() (see Extractor)."""


def reading_stamp(extractors: Mapping[str, Any], libraries: Sequence[str], words: int, words_max: int, options: Mapping[str, Option]) -> str:
    """A hash of prep's code, the settings, and of each extractor its code, its libraries and what else it depends on (Extractor.state).

    It errs towards reading again: any changed line under phases/prep or beside a plugin gives another hash.
    """
    parts = [_code(Path(__file__).parent), private.stamp(), str(sys.version_info[:3]), canonical_json([words, words_max, dict(options)])]
    parts += [f"{library} {_version(library)}" for library in libraries]
    parts += [f"{program} {shutil.which(program)}" for program in PROGRAMS]
    parts += [str([Path(value).exists() for value in options.values() if isinstance(value, str) and "/" in value])]
    for name, plugin in sorted(extractors.items()):
        module = sys.modules.get(type(plugin).__module__)
        file = Path(getattr(module, "__file__", None) or __file__)
        requires = tuple(getattr(plugin, "requires", ()))
        parts += [name, _code(_package(file)), str(missing(requires))]
        parts += [f"{need.module} {_version(need.module)}" for need in requires]
        parts += [plugin.state()] if hasattr(plugin, "state") else []
    return digest(*parts)[:32] + ":"


def _package(file: Path) -> Path:
    """The outermost package that a plugin's file lies in, or the file itself. forge's own plugins: those of their kind."""
    place = file
    while (place.parent / "__init__.py").exists() and place.parent.name not in ("plugins", "forge"):
        place = place.parent
    return place


@cache
def _code(place: Path) -> str:
    hasher = hashlib.sha256()
    for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
        hasher.update(file.name.encode() + b"\0" + file.read_bytes())
    return hasher.hexdigest()


@cache
def _version(module: str) -> str:
    """The version of the distribution that brings a module. One of another name (PIL is pillow's) is known by its file's
    change time: which distribution brings what takes 200 ms to find out."""
    top = module.partition(".")[0]
    try:
        return version(top)
    except PackageNotFoundError:
        spec = find_spec(top)
        found = Path(spec.origin).stat() if spec and spec.origin and Path(spec.origin).exists() else None
        return f"{found.st_size} {found.st_ctime_ns}" if found else ""
