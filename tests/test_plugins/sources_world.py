"""Runs a list of sources as a run does: parse, fetch into a folder, list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from forge.previews import preview_sources
from forge.protocols import Preview
from forge.records import CorpusEntry
from forge.registry import Registry
from forge.snapshots import Snapshots
from forge.sources import read_sources


class World:
    """A folder with a sources.yaml and the run folder that its snapshots go to."""

    def __init__(self, folder: Path, *sources: dict[str, Any]) -> None:
        self.folder, self.run = folder, folder / "run"
        self.run.mkdir(exist_ok=True)
        self.told: list[str] = []
        self.steps: list[tuple[str, int, int | None]] = []
        self.write(*sources)

    def write(self, *sources: dict[str, Any]) -> None:
        """Write sources.yaml anew."""
        self.file = self.folder / "sources.yaml"
        self.file.write_text(yaml.safe_dump({"version": 1, "sources": list(sources)}, sort_keys=False), encoding="utf-8")

    def bring(self, *, refetch: bool = False) -> list[CorpusEntry]:
        """Fetch and list."""
        snapshots = Snapshots(self.run, self.file, read_sources(self.file, Registry()), tell=self.told.append, progress=lambda *fields: self.steps.append(fields))
        snapshots.bring(refetch=refetch)
        self.root = snapshots.root
        return list(snapshots.entries(None, leave_out=self.folder / "nowhere"))

    def preview(self, samples: int = 3) -> Preview:
        """The preview of the only source. Raises its error."""
        sources = read_sources(self.file, Registry())
        ((row, error),) = preview_sources(sources, self.folder, samples, self.folder / "nowhere")
        if error:
            raise error
        return row.preview

    def rows(self, path: str) -> list[dict[str, Any]]:
        """The records of a JSONL file of the corpus."""
        return [json.loads(line) for line in (self.root / path).read_text(encoding="utf-8").splitlines()]

    def texts(self) -> dict[str, str]:
        """Every fetched file's text by its path in the corpus."""
        files = (path for path in sorted(self.root.rglob("*")) if path.is_file())
        return {path.relative_to(self.root).as_posix(): path.read_text(encoding="utf-8") for path in files}

    def manifest(self, name: str) -> dict[str, Any]:
        """A snapshot's manifest."""
        found: dict[str, Any] = json.loads((self.run / "sources" / f"{name}.json").read_text(encoding="utf-8"))
        return found

    def everything_written(self) -> bytes:
        """All bytes of the run folder, to look for secrets in."""
        return b"\n".join(path.read_bytes() for path in sorted(self.run.rglob("*")) if path.is_file()) + "\n".join(self.told).encode()
