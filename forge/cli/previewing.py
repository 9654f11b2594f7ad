"""`forge run CORPUS --preview`: what each source holds, and three samples of it; nothing is started or kept."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

from forge import ui
from forge.errors import ForgeError
from forge.previews import SourcePreview, preview_files, preview_sources
from forge.protocols import InPlace
from forge.registry import Registry
from forge.run import home
from forge.sources import is_source_list, read_sources

SAMPLES = 3


def show_preview(corpus: Path, plugin_dirs: tuple[Path, ...], *, as_json: bool) -> None:
    """Print counts and samples of each source. Raises the first source's error, after showing the others."""
    rows, failure = list[SourcePreview](), None
    for row, error in _rows(corpus, Registry(plugin_dirs)):
        rows.append(row)
        failure = failure or error
    if as_json:
        ui.out(json.dumps([row.model_dump(mode="json") for row in rows], indent=2, ensure_ascii=False))
    else:
        _print(rows)
    if failure is not None:
        raise failure
    if not as_json:
        ui.next_step(f"forge run {corpus} --dry-run")


def _rows(corpus: Path, registry: Registry) -> list[tuple[SourcePreview, ForgeError | None]]:
    if is_source_list(corpus):
        sources = read_sources(corpus, registry)
        return list(preview_sources(sources, corpus.resolve().parent, SAMPLES, home()))
    found = preview_files(InPlace(corpus.resolve()), SAMPLES, home())
    kind = "folder" if corpus.is_dir() else "file"
    return [(SourcePreview(name=corpus.resolve().name, kind=kind, preview=found), None)]


def _print(rows: list[SourcePreview]) -> None:
    table = [
        (row.name, row.kind, _count(row.preview.files), _count(row.preview.rows), _count(row.preview.bytes), row.error or row.preview.note)
        for row in rows
    ]
    ui.table(table, ("source", "kind", "files", "rows", "bytes", ""))
    for row in rows:
        if row.preview.samples:
            ui.out()
            ui.out(f"{row.name}:")
            for sample in row.preview.samples:
                ui.out(f"  {sample.place}")
                ui.lines("    " + line for line in textwrap.wrap(sample.text, ui.width() - 4))
    ui.out()


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"
