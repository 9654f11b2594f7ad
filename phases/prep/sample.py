"""Picks the files of a dry run: few, small, of every kind that the corpus has; the same ones every time."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Iterable
from pathlib import PurePosixPath

from forge.records import CorpusEntry

TEXT_BYTES = 200_000
MIN_FILES = 12
BIG_BYTES = 1 << 20
PACKED = {".pdf", ".docx", ".pptx", ".xlsx", ".odt", ".epub"}
PACKED_SHARE = 5
"""A packed file holds about a fifth of its size as text (measured: 28 .docx 30 %, 6 PDF 14 %, 3 .pptx 1 %)."""

NOT_SAMPLED = "not in the dry-run sample"


def sample(entries: Iterable[CorpusEntry], extensions: Collection[str]) -> list[CorpusEntry]:
    """Files in turn from every extension until about 200 kB of text and 12 files.

    Files above 1 MiB, and those whose extension is not among `extensions`, are taken only when there is nothing else.
    """
    queues: dict[tuple[bool, str], deque[CorpusEntry]] = defaultdict(deque)
    for entry in sorted(entries, key=lambda entry: entry.path):
        extension = _extension(entry)
        queues[entry.size > BIG_BYTES or extension not in extensions, extension].append(entry)
    picked: list[CorpusEntry] = []
    size = 0
    for last in (False, True):
        turn = deque(queue for (is_last, _), queue in sorted(queues.items()) if is_last == last)
        while turn and (size < TEXT_BYTES or len(picked) < MIN_FILES) and not (last and size):
            queue = turn.popleft()
            picked.append(queue.popleft())
            size += text_bytes(picked[-1])
            if queue:
                turn.append(queue)
    return sorted(picked, key=lambda entry: entry.path)


def text_bytes(entry: CorpusEntry) -> int:
    """A guess, from its name and size, at how much text a file holds."""
    return entry.size // PACKED_SHARE if _extension(entry) in PACKED else entry.size


def _extension(entry: CorpusEntry) -> str:
    return PurePosixPath(entry.path).suffix.lower()
