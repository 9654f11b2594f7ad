"""Checkpoints that are either whole or not there: a manifest with every file's hash is written last."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from forge.records import canonical_json
from forge.store import hash_file, sync_folder, write_durably

MANIFEST = "complete.json"
KEPT = 2
"""The last one and the one before it, in case the last turns out to be damaged."""


def save_checkpoint(root: Path, step: int, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a temporary folder, seal it, and rename it to root/checkpoint-STEP."""
    root.mkdir(parents=True, exist_ok=True)
    target, partial = root / f"checkpoint-{step}", root / f".checkpoint-{step}.partial"
    for old in (partial, target):
        shutil.rmtree(old, ignore_errors=True)
    partial.mkdir()
    write(partial)
    seal(partial, step)
    partial.rename(target)
    sync_folder(root)
    for old in _folders(root)[KEPT:]:
        shutil.rmtree(old)
    return target


def seal(folder: Path, step: int) -> None:
    """Sync every file, then write the manifest: from here on the checkpoint counts."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    hashes = {path.relative_to(folder).as_posix(): hash_file(path) for path in files}
    write_durably(folder / MANIFEST, canonical_json({"step": step, "files": hashes}) + "\n")


def latest_checkpoint(root: Path) -> tuple[int, Path] | None:
    """The newest checkpoint whose files all have the hashes of its manifest, with its step; None without any."""
    for folder in _folders(root):
        step = verified_step(folder)
        if step is not None:
            return step, folder
    return None


def drop_damaged(root: Path) -> list[str]:
    """Remove checkpoints that do not verify, so that no library picks or rotates them; returns their names."""
    damaged = [folder for folder in _folders(root) if verified_step(folder) is None]
    for folder in damaged:
        shutil.rmtree(folder)
    return sorted(folder.name for folder in damaged)


def verified_step(folder: Path) -> int | None:
    """The step of a checkpoint all of whose files have the hashes of its manifest; None for any other folder."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return None
    try:
        told = json.loads(manifest.read_text(encoding="utf-8"))
    except ValueError:  # a torn manifest: the checkpoint was never finished
        return None
    paths = {folder / name: sha256 for name, sha256 in told["files"].items()}
    whole = all(path.is_file() and hash_file(path) == sha256 for path, sha256 in paths.items())
    return int(told["step"]) if whole else None


def _folders(root: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    return sorted(root.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
