"""Content-addressed artifacts of a run.

An artifact is a file or a folder of files. Publishing one: bytes are hashed, synced, renamed to
artifacts/<ab>/<sha256>, the folder is synced, and only then does the caller mark the phase done. A kill in between
leaves an orphan blob (collected later), never a done phase without its bytes. Names that people read
(phases/prep/passages.jsonl) are hard links to the blobs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from forge.errors import ArtifactDamaged
from forge.records import Record, canonical_json
from forge.state import State

CHUNK = 1 << 20


class Blob(Record):
    """One stored file of an artifact; `path` is relative to the artifact's own path, "" for a single file."""

    path: str
    sha256: str
    bytes: int


class Artifact(Record):
    """A published artifact. `sha256` is the blob's own for a file, the hash of the file list for a folder."""

    name: str
    phase: str
    path: str
    sha256: str
    bytes: int
    telemetry: bool
    files: tuple[Blob, ...]

    @property
    def is_folder(self) -> bool:
        """True for a folder of files."""
        return not (len(self.files) == 1 and self.files[0].path == "")


class Store:
    """The artifacts of one run, under runs/<id>/artifacts, with readable links under runs/<id>/phases."""

    def __init__(self, root: Path, state: State) -> None:
        self.root, self.state = root, state
        self.blobs = root / "artifacts"
        self.blobs.mkdir(parents=True, exist_ok=True)

    def publish(self, name: str, phase: str, source: Path, path: str, *, telemetry: bool = False) -> Artifact:
        """Store a file or folder durably and link it at phases/<phase>/<path>. Does not mark anything done."""
        files = tuple(self._store(file, relative) for file, relative in _members(source))
        sha256 = files[0].sha256 if source.is_file() else _tree_sha256(files)
        artifact = Artifact(
            name=name, phase=phase, path=path, sha256=sha256, bytes=sum(blob.bytes for blob in files),
            telemetry=telemetry, files=files,
        )
        self._link(artifact)
        return artifact

    def record(self, artifact: Artifact) -> tuple[str, tuple[object, ...]]:
        """The statement that makes an artifact the current one of its name (run it in the phase's transaction)."""
        files = json.dumps([blob.model_dump() for blob in artifact.files], sort_keys=True)
        sql = "INSERT OR REPLACE INTO artifact(name, phase, path, sha256, bytes, telemetry, files) VALUES(?,?,?,?,?,?,?)"
        values = (artifact.name, artifact.phase, artifact.path, artifact.sha256, artifact.bytes, int(artifact.telemetry), files)
        return sql, values

    def get(self, name: str) -> Artifact | None:
        """The current artifact of a name, unverified."""
        row = self.state.row("SELECT * FROM artifact WHERE name=?", name)
        if row is None:
            return None
        fields = {key: row[key] for key in ("name", "phase", "path", "sha256", "bytes")}
        return Artifact(**fields, telemetry=bool(row["telemetry"]), files=tuple(Blob(**blob) for blob in json.loads(row["files"])))

    def all(self) -> list[Artifact]:
        """Every current artifact, by name."""
        names = [row["name"] for row in self.state.rows("SELECT name FROM artifact ORDER BY name")]
        return [artifact for name in names if (artifact := self.get(name))]

    def intact(self, artifact: Artifact) -> bool:
        """True when every blob is as published. Re-hashes only files that the file system says have changed."""
        try:
            for blob in artifact.files:
                self._check(blob, trust_unchanged=True)
        except ArtifactDamaged:
            return False
        return True

    def open(self, artifact: Artifact) -> Path:
        """The verified path of an artifact, for use as an input: every byte is re-hashed.

        A damaged blob is moved to quarantine/ and ArtifactDamaged is raised; its phase then runs again.
        """
        for blob in artifact.files:
            self._check(blob, trust_unchanged=False)
        self._link(artifact)
        return self.link(artifact)

    def link(self, artifact: Artifact) -> Path:
        """Where people find the artifact."""
        return self.root / "phases" / artifact.phase / artifact.path

    def collect_garbage(self) -> int:
        """Remove blobs that no current artifact names; returns how many."""
        wanted = {blob.sha256 for artifact in self.all() for blob in artifact.files}
        orphans = [file for file in self.blobs.glob("??/*") if file.name not in wanted]
        for file in orphans:
            file.unlink()
        return len(orphans)

    def _store(self, file: Path, relative: str) -> Blob:
        sha256, size = hash_file(file), file.stat().st_size
        target = self.blob(sha256)
        if not target.exists() or not (self._unchanged(sha256, target) or hash_file(target) == sha256):
            target.parent.mkdir(exist_ok=True)
            partial = target.with_suffix(f".{os.getpid()}.partial")
            _copy_durably(file, partial)
            partial.chmod(0o444)
            partial.replace(target)
            sync_folder(target.parent)
        self._remember(sha256, target)
        return Blob(path=relative, sha256=sha256, bytes=size)

    def _link(self, artifact: Artifact) -> None:
        """Hard-link the blobs at their readable names; replaces links that point elsewhere."""
        base = self.link(artifact)
        if artifact.is_folder:
            base.mkdir(parents=True, exist_ok=True)
            for extra in set(_relative_files(base)) - {blob.path for blob in artifact.files}:
                (base / extra).unlink()
        for blob in artifact.files:
            name = base / blob.path if blob.path else base
            target = self.blob(blob.sha256)
            if name.exists() and name.samefile(target):
                continue
            name.parent.mkdir(parents=True, exist_ok=True)
            fresh = name.with_name(f".{name.name}.{os.getpid()}.link")
            fresh.unlink(missing_ok=True)
            fresh.hardlink_to(target)
            fresh.replace(name)

    def _check(self, blob: Blob, *, trust_unchanged: bool) -> None:
        target = self.blob(blob.sha256)
        if not target.exists():
            raise ArtifactDamaged(f"the stored file {blob.sha256[:12]} is gone")
        if trust_unchanged and self._unchanged(blob.sha256, target):
            return
        if target.stat().st_size != blob.bytes or hash_file(target) != blob.sha256:
            quarantine = self.root / "quarantine"
            quarantine.mkdir(exist_ok=True)
            target.replace(quarantine / target.name)
            raise ArtifactDamaged(
                f"the stored file {blob.sha256[:12]} has changed since it was published",
                why=f"it was moved to {quarantine}",
            )
        self._remember(blob.sha256, target)

    def _unchanged(self, sha256: str, target: Path) -> bool:
        row = self.state.row("SELECT * FROM verified WHERE blob=?", sha256)
        now = target.stat()
        seen = (row["inode"], row["size"], row["mtime_ns"]) if row else None
        return seen == (now.st_ino, now.st_size, now.st_mtime_ns)

    def _remember(self, sha256: str, target: Path) -> None:
        now = target.stat()
        self.state.execute(
            "INSERT OR REPLACE INTO verified VALUES(?,?,?,?,?)", sha256, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns
        )

    def blob(self, sha256: str) -> Path:
        """Where the bytes with this hash lie, if they are stored."""
        return self.blobs / sha256[:2] / sha256


def hash_file(path: Path) -> str:
    """sha256 hex of a file's bytes."""
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            hasher.update(chunk)
    return hasher.hexdigest()


def hash_path(path: Path) -> str:
    """The hash under which a file or folder would be published."""
    if path.is_file():
        return hash_file(path)
    return _tree_sha256(tuple(Blob(path=rel, sha256=hash_file(file), bytes=file.stat().st_size) for file, rel in _members(path)))


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durably(path: Path, text: str) -> None:
    """Replace a text file so that a crash leaves the old or the new one, never half of either."""
    write_lines(path, [text.encode("utf-8")])


def write_lines(path: Path, lines: Iterable[bytes]) -> int:
    """The same from pieces as they come, holding one at a time; returns how many. An error on the way leaves the old file."""
    partial, count = path.with_name(f".{path.name}.{os.getpid()}.partial"), 0
    try:
        with partial.open("wb") as file:
            for count, line in enumerate(lines, 1):  # noqa: B007 - counted for the caller
                file.write(line)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)
    return count


def _members(source: Path) -> Iterable[tuple[Path, str]]:
    if source.is_file():
        return [(source, "")]
    return [(source / relative, relative) for relative in sorted(_relative_files(source))]


def _relative_files(folder: Path) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]


def _tree_sha256(files: tuple[Blob, ...]) -> str:
    return hashlib.sha256(canonical_json([[blob.path, blob.sha256] for blob in files]).encode()).hexdigest()


def _copy_durably(source: Path, target: Path) -> None:
    """Move by rename where possible would empty work/; a copy keeps the phase's own files usable."""
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, CHUNK)
        writer.flush()
        os.fsync(writer.fileno())
