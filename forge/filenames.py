"""File names without secrets and personal data in them, and the way back to the file: "letters/[email].md" for "letters/ann@lab.org.md".

Nothing keeps the real names: the file behind a masked one is found again by looking through its folder, and, where several
files have one masked name, by size and hash.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from functools import lru_cache
from pathlib import Path

from forge import private

_EXTENSION = re.compile(r"\.[A-Za-z0-9]{1,8}$")
_ORDINAL = re.compile(r"~\d+(?=(?:\.[A-Za-z0-9]{1,8})?$)")
SHORTEST = 5
"""Nothing private is shorter."""


class MaskedNames:
    """Masks the paths of one walk. Two that become equal are told apart by ~2, ~3 before the extension, in the order of the walk."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._count: Counter[str] = Counter()

    def of(self, path: str) -> str:
        """The path to tell."""
        masked = masked_path(path)
        if masked == path and "[" not in path:
            return path
        told = ""
        while not told or told in self._seen:
            self._count[masked] += 1
            told = masked if self._count[masked] == 1 else _numbered(masked, self._count[masked])
        self._seen.add(told)
        return told


def masked_path(path: str) -> str:
    """A path, part by part; the last part keeps its extension, by which files are read."""
    if len(path) < SHORTEST:
        return path
    *folders, name = path.split("/")
    return "/".join([*map(_masked_folder, folders), _masked_name(name)])


def find_masked(root: Path, path: str, size: int, sha256: str) -> Path | None:
    """The file below `root` whose masked path this is; None when there is none (any more)."""
    found = _candidates(root, path.split("/"))
    if len(found) > 1:
        found = [one for one in found if one.stat().st_size == size and _sha256(one) == sha256]
    return found[0] if found else None


def _candidates(folder: Path, parts: list[str]) -> list[Path]:
    first, *rest = parts
    if rest and "[" not in first and (folder / first).is_dir():
        return _candidates(folder / first, rest)   # also a link to the folder of a source
    if rest:
        return [one for name in _by_masked_name(folder, True).get(first, ()) for one in _candidates(folder / name, rest)]
    known = _by_masked_name(folder, False)
    names = [*known.get(first, ()), *(known.get(_ORDINAL.sub("", first), ()) if _ORDINAL.search(first) else ())]
    return [folder / name for name in names]


def _by_masked_name(folder: Path, folders: bool) -> dict[str, list[str]]:
    try:
        return _read_names(str(folder), folders, folder.stat().st_mtime_ns)
    except OSError:
        return {}


@lru_cache(maxsize=64)
def _read_names(folder: str, folders: bool, changed: int) -> dict[str, list[str]]:
    """Masked name -> names of the folders, or else of what lies in it. changed: only to read a changed folder anew."""
    from forge.corpus import printable

    names: dict[str, list[str]] = {}
    mask = _masked_folder if folders else _masked_name
    for name in sorted(child.name for child in os.scandir(folder) if child.is_dir(follow_symlinks=False) == folders):
        names.setdefault(mask(printable(name)), []).append(name)
    return names


@lru_cache(maxsize=4096)
def _masked_folder(name: str) -> str:
    return private.mask(name)[0] if len(name) >= SHORTEST else name


def _masked_name(name: str) -> str:
    if len(name) < SHORTEST or not (hits := private.find(name)):
        return name
    extension = _EXTENSION.search(name)
    if extension:
        short = private.mask(name[: extension.start()])[0] + extension[0]
        if not private.find(short):
            return short
    return private.apply(name, hits)


def _numbered(path: str, number: int) -> str:
    extension = _EXTENSION.search(path.rpartition("/")[2])
    end = len(path) - len(extension[0]) if extension else len(path)
    return f"{path[:end]}~{number}{path[end:]}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
