"""`forge classify`: where its passages come from, and what is told at the end."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from forge import ui
from forge.cli.views import progress_view
from forge.errors import ForgeError, Interrupted, UsageError
from forge.records import Passage, Source, digest, read_jsonl
from forge.registry import Registry
from forge.run import Run
from forge.signals import StopSignal


def run_classify(source: str, out: Path, *, teacher: str, as_json: bool, plugin_dirs: tuple[Path, ...], **wishes: Any) -> None:
    """Classify the passages of a JSONL file, folder or run, and tell how it went. wishes: model, endpoint, mode, budget_usd, subject."""
    registry = Registry(plugin_dirs)
    view = progress_view(as_json=False, quiet=as_json)
    with StopSignal() as stop:

        def check_stop() -> None:
            if stop():
                raise Interrupted("what was answered is kept: the same command goes on where this one ended")

        passages = list(find_passages(source, registry, view))
        told = registry.tool("classify")(
            passages, out, registry, teacher=teacher, check_stop=check_stop,
            on_progress=lambda done, total: view({"event": "progress", "phase": "classify", "done": done, "total": total}), **wishes,
        )
    view.close()
    if as_json:
        ui.out_json({**told, "out": str(out)})
        return
    ui.out(f"{told['read']:,} read · {told['kept']:,} to keep · {told['dropped']:,} to drop · {len(told['subtopics']):,} subtopics · {told['spent']} → {out}")
    ui.out(
        f"spot check: {told['planted_found']} of {told['planted']} planted passages found (95 % interval {told['recall_low']:.0%} to {told['recall_high']:.0%}),"
        f" {told['typical_kept']} of {told['typical']} typical ones kept"
    )
    ui.next_step(f"forge run {source} --set audit.decisions={out}" if Path(source).is_dir() else f"forge resume {source} --set audit.decisions={out}")


def find_passages(source: str, registry: Registry, view: Callable[[dict[str, Any]], None]) -> Iterator[Passage]:
    """The passages of a JSONL file (id, text), a file or folder of documents, or a run. Raises UsageError."""
    path = Path(source)
    if path.is_file() and path.suffix in {".jsonl", ".ndjson"}:
        yield from read_records(path)
    elif path.exists():
        yield from _extracted(path, registry, view)
    else:
        yield from _of_run(source)


def read_records(path: Path) -> Iterator[Passage]:
    """Passages as they are in a run, or any objects with an id and a text (and a path, if they have one). Raises UsageError naming the line."""
    seen: set[str] = set()
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            passage = _record(line, f"{path.name}:{number}")
            if passage.id in seen:
                raise UsageError(f"{path.name}:{number} has an id that an earlier line has", next="give each record its own id")
            seen.add(passage.id)
            yield passage


def _record(line: str, where: str) -> Passage:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{where} is not JSON", why=str(error), next="correct or remove the line") from error
    if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not isinstance(row.get("id"), str | int):
        raise UsageError(f"{where} is no record", why="it needs an id and a text", next='write {"id": ..., "text": ...}')
    given = row.get("source")
    inner = given if isinstance(given, dict) else {}
    name = str(inner.get("path") or row.get("path") or row["id"])
    meta = {key: str(value) for key, value in row["meta"].items()} if isinstance(row.get("meta"), dict) else {}
    source = Source(path=name, sha256=str(inner.get("sha256", "")), locator=str(inner.get("locator", row.get("locator", ""))))
    return Passage(id=str(row["id"]), source=source, group=str(row.get("group", name)), text=row["text"], meta=meta)


def _extracted(path: Path, registry: Registry, view: Callable[[dict[str, Any]], None]) -> Iterator[Passage]:
    with tempfile.TemporaryDirectory(prefix="forge-classify-") as folder:
        read = Path(folder) / "read.jsonl"
        registry.tool("extract")(path, read, registry, lambda progress: view({"event": "progress", "phase": "extract", **progress.fields()}), passages=True)
        for line in read.open(encoding="utf-8"):
            row = json.loads(line)
            for number, one in enumerate(row.get("passages", ())):
                source = Source(path=row["path"], sha256="", locator=one["locator"])
                meta = {"heading": one["heading"]}
                yield Passage(id=digest(row["path"], str(number), one["text"])[:16], source=source, group=row["path"], text=one["text"], meta=meta)


def _of_run(run_id: str) -> Iterator[Passage]:
    run = Run.open(run_id)
    found = {artifact.name: run.store.link(artifact) for artifact in run.store.all()}
    path = next((found[name] for name in ("clean", "passages") if name in found and found[name].exists()), None)
    if path is None:
        raise ForgeError(f"run {run.id} has no passages yet", next=f"forge resume {run.id} --until audit")
    yield from read_jsonl(path, Passage)
