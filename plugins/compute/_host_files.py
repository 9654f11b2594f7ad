"""The host side's files, by offset and hash.

A file or folder travels as the bytes of its files one after the other; `files` lists them: [[path, bytes, sha256, is a program]].
A single file has the path "". What arrived of them lies in .NAME.ID.partial beside the target, ID being a hash of the list.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from forge.plugins.compute import _supervise
from forge.plugins.compute._host_base import Refused, inside, place_of, read_json, remove_path

if TYPE_CHECKING:
    from forge.plugins.compute._host_base import Request

CHUNK = 1 << 20


def has(request: Request) -> Request:
    """Whether `remote` is what was received as `sha256`, untouched since."""
    note = read_json(_note(request))
    target = inside(request, request["remote"])
    return {"has": note.get("sha256") == request["sha256"] and note.get("stat") == _stat(target, note.get("files", []))}


def received(request: Request) -> Request:
    """How many bytes of the whole have arrived: where to go on."""
    partial, offset = _partial(request), 0
    for name, size, _, _ in request["files"]:
        place = _member(partial, name)
        there = place.stat().st_size if place.exists() else 0
        offset += min(there, size)
        if there < size:
            break
    return {"offset": offset}


def receive(request: Request, stdin: BinaryIO) -> Request:
    """Take bytes from `offset` on; when all are there and have their hashes, put the whole in place. whole: that was done."""
    partial, at = _partial(request), 0
    partial.mkdir(parents=True, exist_ok=True)
    for name, size, _, _ in request["files"]:
        skip = min(max(0, request["offset"] - at), size)
        at += size
        if skip == size and _member(partial, name).exists() and size:
            continue
        if not _take(stdin, _member(partial, name), skip, size):
            return {"whole": False, "damaged": []}
    damaged = [name for name, _, sha256, _ in request["files"] if _sha256(_member(partial, name)) != sha256]
    for name in damaged:
        _member(partial, name).unlink()
    if damaged:
        return {"whole": False, "damaged": damaged}
    _put_in_place(request, partial)
    return {"whole": True, "damaged": []}


def _take(stdin: BinaryIO, place: Path, skip: int, size: int) -> bool:
    place.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(str(place), os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        left = size - skip
        while left:
            data = stdin.read(min(CHUNK, left))
            if not data:
                return False
            # at its own offset: a call that a partition left behind writes the same bytes to the same place
            os.pwrite(handle, data, size - left)
            left -= len(data)
        os.ftruncate(handle, size)
        os.fsync(handle)
        return True
    finally:
        os.close(handle)


def _put_in_place(request: Request, partial: Path) -> None:
    target, files = inside(request, request["remote"]), request["files"]
    for name, _, _, program in files:
        _member(partial, name).chmod(0o700 if program else 0o600)
    remove_path(target)
    if [name for name, _, _, _ in files] == [""]:
        _member(partial, "").replace(target)
        partial.rmdir()
    else:
        partial.replace(target)
    for old in target.parent.glob(f".{target.name}.*.partial"):
        remove_path(old)
    note = {"sha256": request.get("sha256", ""), "files": files, "stat": _stat(target, files)}
    _note(request).parent.mkdir(exist_ok=True)
    _supervise.replace(_note(request), json.dumps(note))


def list_files(request: Request) -> list[Any]:
    """The `files` of something here, hashed now."""
    source = inside(request, request["remote"])
    if not source.exists():
        raise Refused("missing", f"there is no {request['remote']}")
    names = [""] if source.is_file() else sorted(file.relative_to(source).as_posix() for file in source.rglob("*") if file.is_file())
    return [[name, _file(source, name).stat().st_size, _sha256(_file(source, name)), os.access(str(_file(source, name)), os.X_OK)] for name in names]


def send(request: Request, stdout: BinaryIO) -> None:
    """The bytes of the `files` of something here, from `offset` on."""
    source, at = inside(request, request["remote"]), 0
    for name, size, _, _ in request["files"]:
        skip, at = min(max(0, request["offset"] - at), size), at + size
        if skip < size:
            _pour(_file(source, name), skip, size, stdout)
    stdout.flush()
    with contextlib.suppress(OSError):
        (place_of(request["root"]) / ".fetched").touch()


def read(request: Request, stdout: BinaryIO) -> None:
    """The bytes of one file from `offset` on; none when there is no file."""
    source = inside(request, request["remote"])
    if source.is_file():
        _pour(source, request["offset"], source.stat().st_size, stdout)


def _pour(path: Path, start: int, end: int, stdout: BinaryIO) -> None:
    with path.open("rb") as file:
        file.seek(start)
        left = end - start
        while left > 0:
            data = file.read(min(CHUNK, left))
            if not data:
                raise Refused("damaged", f"{path} became shorter while it was read")
            stdout.write(data)
            left -= len(data)


def _member(partial: Path, name: str) -> Path:
    return partial / (name or "_")


def _file(source: Path, name: str) -> Path:
    return source / name if name else source


def _partial(request: Request) -> Path:
    target = inside(request, request["remote"])
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.with_name(f".{target.name}.{request['id']}.partial")


def _note(request: Request) -> Path:
    return place_of(request["root"]) / ".received" / hashlib.sha256(request["remote"].encode()).hexdigest()[:32]


def _stat(target: Path, files: list[Any]) -> list[Any]:
    found = []
    for name, _, _, _ in files:
        with contextlib.suppress(OSError):
            now = _file(target, name).stat()
            found.append([name, now.st_size, now.st_mtime_ns])
    return found


def _sha256(path: Path) -> str:
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            hasher.update(data)
    return hasher.hexdigest()
