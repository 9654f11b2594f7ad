"""Protected names: spellings of the corpus that a model must reproduce exactly."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from forge.records import Passage

MIN_PASSAGES = 3
"""A spelling that occurs in fewer passages may be a slip."""

NAME = re.compile(
    r"[A-Za-z][A-Za-z0-9]*[a-z][A-Z][A-Za-z0-9]*"  # CamelCase
    r"|[A-Za-z]+[A-Z0-9][A-Za-z]*-[A-Za-z0-9][\w-]*|[A-Z][a-z]+(?:-[A-Z0-9][\w]*)+|[A-Z]{2,}-[\w-]+"  # SHA-256, Low-Rank
    r"|[A-Za-z]+[0-9]+[A-Za-z0-9_]*|[A-Z][A-Z0-9]{2,}s?"  # Q8_0, GGUF
)
CODE = re.compile(r"`([^`\s]{3,40})`|(?<![\w-])(--[a-z][\w-]+)|\b([a-z]+_[a-z_]+[a-z])\b")


class Names:
    """The protected names of a corpus."""

    def __init__(self, passages: Iterable[Passage]) -> None:
        seen: Counter[str] = Counter()
        for passage in passages:
            seen.update(set(NAME.findall(passage.text)))
        self.frequent = {name for name, count in seen.items() if count >= MIN_PASSAGES}

    def add(self, found: Iterable[str]) -> None:
        """Names that a teacher says must be spelt exactly, if they look like names."""
        self.frequent |= {name for name in found if NAME.fullmatch(name)}

    def of(self, answer: str) -> tuple[str, ...]:
        """The names in an answer, sorted: frequent ones, and identifiers that are marked as code or look like it."""
        code = {next(part for part in found if part) for found in CODE.findall(answer)}
        return tuple(sorted({name for name in NAME.findall(answer) if name in self.frequent} | code))
