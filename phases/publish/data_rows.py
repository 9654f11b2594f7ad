"""The rows of a run as they may be published: without the text of the corpus unless that is asked for, and without anything private."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from forge import private
from forge.records import Chat, Example, Passage, Record, digest, read_jsonl

SPLITS = {"train": "train", "val": "validation", "test_recall": "test_recall", "test_unseen": "test_unseen", "test_abstain": "test_abstain"}
"""Artifact -> the split's name for the readers of a hub."""

QUOTED_WORDS = 8
"""A row that shares so many words in a row with a passage quotes it. Facts in other words do not; a fixed phrase is shorter."""

WORD = re.compile(r"\w+")
QUOTES, PRIVATE = "quotes the corpus", "personal data or secrets"


class Row(Record):
    """One published row: its split, its text for the checks, and the JSON line."""

    id: str
    split: str
    texts: tuple[str, ...]
    line: str


def published_rows(find: Callable[[str], Path], *, quotes: bool, check_stop: Callable[[], None]) -> tuple[list[Row], dict[str, int]]:
    """The rows that may go out, and how many were left out for which reason. quotes: those that quote the corpus may."""
    rows = [row for artifact, split in SPLITS.items() for row in _rows(find(artifact), split)]
    left: Counter[str] = Counter()
    quoting = set() if quotes else quoting_rows(rows, read_jsonl(find("passages"), Passage), check_stop)
    kept = []
    for row in rows:
        reason = QUOTES if row.id in quoting else PRIVATE if is_private(row.line) else ""
        if reason:
            left[reason] += 1
        else:
            kept.append(row)
    return sorted(kept, key=lambda row: (row.split, row.id)), dict(sorted(left.items()))


def quoting_rows(rows: Iterable[Row], passages: Iterable[Passage], check_stop: Callable[[], None]) -> set[str]:
    """Ids of the rows that have QUOTED_WORDS words in a row with some passage. Only the rows are held in memory."""
    wanted: dict[str, set[str]] = {}
    for row in rows:
        for text in row.texts:
            for stretch in stretches(text):
                wanted.setdefault(stretch, set()).add(row.id)
    found: set[str] = set()
    for passage in passages:
        check_stop()
        for stretch in stretches(passage.text):
            found |= wanted.pop(stretch, set())
    return found


def stretches(text: str) -> Iterator[str]:
    """Every QUOTED_WORDS words in a row, small letters, punctuation apart."""
    words = WORD.findall(text.casefold())
    for start in range(len(words) - QUOTED_WORDS + 1):
        yield " ".join(words[start : start + QUOTED_WORDS])


def is_private(text: str) -> bool:
    """True when a rule of masking finds something: a secret or personal data."""
    return bool(private.find(text, also_made_up=True))


def read_rows(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a published file. Raises ValueError for a line that is no object."""
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError("a line is no JSON object")
        yield row


def texts_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """What of a published row was written about the corpus: questions and answers, or the text with its label."""
    if "messages" in row:
        return tuple(turn["content"] for turn in row["messages"] if turn["role"] != "system")
    return tuple(str(value) for value in row.values() if isinstance(value, str))


def _rows(file: Path, split: str) -> Iterator[Row]:
    for example in read_jsonl(file, Example):
        plain = _plain(example)
        line = json.dumps(plain, ensure_ascii=False, sort_keys=True)
        yield Row(id=f"{split} {example.id}", split=split, texts=texts_of(plain), line=line)


def _plain(example: Example) -> dict[str, Any]:
    """A row without names of files: its document is a hash that only tells rows of one document from others."""
    told = {"id": example.id, "document": digest("document", example.group)[:12], "kind": example.bucket}
    body = example.body
    if isinstance(body, Chat):
        turns = [turn.model_dump() for turn in (*body.prompt, *body.completion)]
        return {**told, "messages": turns, "answerable": body.answerable}
    return {**told, **body.model_dump(mode="json")}
