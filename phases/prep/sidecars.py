"""Which files are read together: a shapefile with its .dbf, a MyISAM table with its .MYD, an EndNote library with its .Data/."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def endings(plugins: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Extension -> endings of the files that belong to one with that extension, over all extractors."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for name in sorted(plugins):
        for extension, wanted in getattr(plugins[name], "sidecars", {}).items():
            found[extension].update(dict.fromkeys(wanted))
    return {extension: tuple(wanted) for extension, wanted in found.items()}


def assign(names: Iterable[str], endings: Mapping[str, tuple[str, ...]]) -> dict[str, dict[str, str]]:
    """Main file -> what follows its stem in lower case -> the file that is read with it. Upper and lower case are alike.

    Mains with a folder come first: what lies in it is theirs, also what could be a main of its own. A file may belong to
    several mains, but no main belongs to another one.
    """
    index: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        index[name.lower()].append(name)
    mains = sorted(
        (not any(ending.endswith("/") for ending in wanted), name, extension, wanted)
        for extension, wanted in endings.items()
        for folded, same in index.items() if folded.endswith(extension)
        for name in same
    )
    folded_names = sorted(index)
    found: dict[str, dict[str, str]] = {}
    taken: set[str] = set()
    for _, name, extension, wanted in mains:
        if name in taken:
            continue
        stem = name[: len(name) - len(extension)]
        parts = {key: other for key, other in _parts(stem, wanted, index, folded_names) if other != name and other not in found}
        if parts:
            found[name] = parts
            taken.update(parts.values())
    return found


def _parts(stem: str, wanted: tuple[str, ...], index: Mapping[str, list[str]], folded_names: list[str]) -> Iterator[tuple[str, str]]:
    for ending in wanted:
        name = stem.lower() + ending
        if not ending.endswith("/"):
            if same := index.get(name):
                yield ending, _closest(stem, same)
            continue
        for other in folded_names[bisect_left(folded_names, name) :]:
            if not other.startswith(name):
                break
            yield other[len(stem) :], _closest(stem, index[other])


def _closest(stem: str, same: list[str]) -> str:
    """Of names that differ in case only, the one that spells the stem as the main file does."""
    return next((name for name in same if name.startswith(stem)), same[0])
