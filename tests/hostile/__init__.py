"""A corpus made to hurt: over a hundred files that attack a reader, and for each how prep has to end it.

    python -m tests.hostile FOLDER      writes it below FOLDER/corpus (250 MB on disk), with its plugins in FOLDER/plugins

The same files every time; only dates and salts inside Office files and 7z differ. Nothing in it can do harm by lying there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """One file and its end.

    path: as documents.jsonl tells it. make: its bytes, or what writes it. ends: a status, or several with "|" where each is an answer.
    why: what its reason must contain, "|" between alternatives. members: the same for files inside it, by their name there: "status: reason".
    keeps: text that must be in its passages (or a member's).
    """

    path: str
    make: bytes | Callable[[Path], object]
    ends: str
    why: str = ""
    members: dict[str, str] = field(default_factory=dict)
    keeps: str = ""

    def write(self, corpus: Path) -> None:
        """Put the file at its place below `corpus`."""
        target = corpus / self.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(self.make, bytes):
            target.write_bytes(self.make)
        else:
            self.make(target)


def cases(url: str, escape: Path) -> Iterator[Case]:
    """All cases. url: where files that want the network point to; escape: where those that want out want to write."""
    from tests.hostile import archives, documents, names, plugins

    yield from archives.cases(escape)
    yield from documents.cases(url)
    yield from names.cases()
    yield from plugins.cases(url, escape)


def write(folder: Path, url: str = "http://127.0.0.1:9", escape: Path = Path("/tmp/forge-escaped"), good: int = 200) -> list[Case]:
    """Write the corpus, `good` harmless files with it, and the plugins. Returns the hostile cases."""
    from tests.hostile import harmless, plugins

    corpus = folder / "corpus"
    made = list(cases(url, escape))
    for case in made:
        case.write(corpus)
    harmless.write(corpus / "good", good)
    plugins.write(folder / "plugins")
    return made
