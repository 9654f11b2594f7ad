"""Stands in for an extractor that cannot be imported, so that it costs its files and not the run."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from forge.errors import ExtractError
from forge.phase import Requirement
from forge.protocols import Reading
from forge.records import Piece

NAME = re.compile(r"""^\s+name\b[^=\n]*=\s*\(?\s*["']([\w-]+)["']""", re.MULTILINE)
EXTENSION = re.compile(r"""["'](\.[a-z0-9][a-z0-9.]{0,15})["']\s*:""")
MEDIA_TYPE = re.compile(r"""["']((?:application|text|image|audio|video|message|model|chemical)/[a-z0-9.+-]+)["']""")
EXPORT = re.compile(r"^extractor\b[^=\n]*=", re.MULTILINE)


@dataclass(frozen=True)
class Broken:
    """An extractor of which only the source text could be read: it claims what stands there, behind all others."""

    name: str
    broken: str
    media_types: tuple[str, ...] = ()
    extensions: Mapping[str, str] = field(default_factory=dict)
    magic: Mapping[bytes, str] = field(default_factory=dict)
    requires: ClassVar[tuple[Requirement, ...]] = ()
    priority: ClassVar[int] = -1_000_000

    def extract(self, path: Path, ctx: Reading) -> Iterator[Piece]:
        """Raises ExtractError with the reason for every file."""
        raise ExtractError(f"extractor {self.name} cannot be imported: {self.broken}")
        yield


def stand_in(name: str, reason: str, source: str) -> Broken:
    """What a plugin would have claimed, as far as its source text tells."""
    own = f"application/x-forge-{name}"
    extensions = dict.fromkeys(EXTENSION.findall(source), own)
    return Broken(name, reason, (own, *dict.fromkeys(MEDIA_TYPE.findall(source))), extensions)


def exports_extractor(source: str) -> bool:
    """True for the source text of a file in a plugin folder that is an extractor."""
    return EXPORT.search(source) is not None


def name_in(source: str, fallback: str) -> str:
    """The name that an extractor's source text gives it."""
    found = NAME.search(source)
    return found[1] if found else fallback


def module_source(module: str) -> str:
    """The source text of an installed module, without importing it; empty when it cannot be had."""
    try:
        spec = importlib.util.find_spec(module)
    except Exception:  # noqa: BLE001  # a parent package that breaks: its text then says nothing
        return ""
    place = Path(spec.origin) if spec and spec.origin else None
    return place.read_text(encoding="utf-8", errors="replace") if place and place.suffix == ".py" else ""
