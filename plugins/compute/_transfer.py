"""This side of a transfer: a file or folder as the bytes of its files one after the other, from any offset on.

A single file has the path "". What arrived lies in .NAME.ID.partial beside the target until it is whole and has its hashes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from forge.errors import ArtifactDamaged
from forge.store import hash_file, sync_folder

CHUNK = 1 << 20

File = tuple[str, int, str, bool]
"""A file of a transfer: path below the whole ("" for a single file), bytes, sha256, whether it is a program."""



def files_of(local: Path) -> list[File]:
    names = [""] if local.is_file() else sorted(file.relative_to(local).as_posix() for file in local.rglob("*") if file.is_file())
    places = [(name, local / name if name else local) for name in names]
    return [(name, place.stat().st_size, hash_file(place), os.access(place, os.X_OK)) for name, place in places]


def listed(rows: Any, where: str) -> list[File]:
    """The files that the other side lists. Raises ArtifactDamaged for what is no list of files inside the folder that is fetched."""
    try:
        files: list[File] = [(str(name), int(size), str(sha256), bool(program)) for name, size, sha256, program in rows]
    except (TypeError, ValueError) as error:
        raise ArtifactDamaged(f"{where} lists no files", why=str(error)) from error
    for name, _, _, _ in files:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ArtifactDamaged(f"{where} lists {name}, which leads out of the folder")
    return files


def id_of(files: Sequence[File]) -> str:
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]


def bytes_of(local: Path, files: Sequence[File], offset: int) -> Iterator[bytes]:
    """The bytes of the files one after the other, from an offset of the whole on."""
    at = 0
    for name, size, _, _ in files:
        skip, at = min(max(0, offset - at), size), at + size
        if skip == size:
            continue
        with (local / name if name else local).open("rb") as file:
            file.seek(skip)
            while data := file.read(CHUNK):
                yield data


def member(partial: Path, name: str) -> Path:
    return partial / (name or "_")


def arrived(partial: Path, files: Sequence[File]) -> int:
    offset = 0
    for name, size, _, _ in files:
        place = member(partial, name)
        there = min(size, place.stat().st_size) if place.exists() else 0
        offset += there
        if there < size:
            break
    return offset


def write_members(partial: Path, files: Sequence[File], offset: int, chunks: Iterator[bytes]) -> None:
    """Spread a stream that begins at `offset` of the whole over its files."""
    buffer, at = b"", 0
    for name, size, _, _ in files:
        skip, at = min(max(0, offset - at), size), at + size
        place = member(partial, name)
        place.parent.mkdir(parents=True, exist_ok=True)
        if skip == size and place.exists():
            continue
        with place.open("r+b" if place.exists() else "wb") as file:
            file.seek(skip)
            left = size - skip
            while left:
                buffer = buffer or next(chunks, b"")
                if not buffer:
                    return
                file.write(buffer[:left])
                buffer, left = buffer[left:], left - len(buffer[:left])
            file.truncate(size)
            file.flush()
            os.fsync(file.fileno())
    for _ in chunks:   # its end says whether the program succeeded
        continue


def put_in_place(partial: Path, local: Path, files: Sequence[File]) -> None:
    for name, _, _, program in files:
        member(partial, name).chmod(0o755 if program else 0o644)
    if local.is_dir() and not local.is_symlink():
        shutil.rmtree(local)
    if [name for name, _, _, _ in files] == [""]:
        member(partial, "").replace(local)
        partial.rmdir()
    else:
        local.unlink(missing_ok=True)
        partial.replace(local)
    for old in local.parent.glob(f".{local.name}.*.partial"):
        shutil.rmtree(old, ignore_errors=True)
    sync_folder(local.parent)
