"""The folder hub: a published model is hub/<name>/, always whole, whatever kills the process that writes it.

The copy is built in hub/.<name>.staging, every file is synced, and only then it is renamed to hub/<name> and read back. A
different model of that name is first renamed to hub/<name>.previous (one is kept; an older one is removed). Between the two
renames there is for a moment no model of that name, never half of one. A folder that we did not publish is never touched.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from forge.corpus import MADE_HERE
from forge.errors import ArtifactDamaged, UsageError
from forge.records import Record
from forge.store import hash_file, sync_folder

SUMS = "SHA256SUMS"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


class PublishedFile(Record):
    """One file of a publication, relative to its folder."""

    path: str
    bytes: int
    sha256: str


class FolderHub:
    """Models as folders under one root. Hold `locked()` from staging to publish: one publisher at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def staging(self, name: str) -> Path:
        """An empty folder beside the models, to build the next one in."""
        if not NAME.fullmatch(name) or name.endswith(".previous"):
            raise UsageError(
                f"{name!r} cannot be a folder name", why="letters, digits, dots, dashes and underscores, at most 96",
                next="forge resume --set plan_fit.name=NAME",
            )
        folder = self.root / f".{name}.staging"
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        return folder

    def publish(self, name: str, staged: Path) -> list[PublishedFile]:
        """Make the staged folder the model `name`; returns its files, each read back from where it now lies.

        The same model published again changes nothing. Raises UsageError when hub/<name> is somebody else's folder.
        """
        target, previous = self.root / name, self.root / f"{name}.previous"
        for folder in (target, previous):
            if folder.exists() and not is_publication(folder):
                raise UsageError(
                    f"{folder} is not a model that was published by slm-forge", why="it would have to be moved aside",
                    next="rename it, or choose another name or publish.hub_dir",
                )
        write_sums(staged)
        _sync_tree(staged)
        if target.exists() and _same(target, staged):
            shutil.rmtree(staged)
            return verify(target)
        if target.exists():
            if previous.exists():
                shutil.rmtree(previous)
            target.rename(previous)
        staged.rename(target)
        sync_folder(self.root)
        return verify(target)

    def discard(self, name: str) -> None:
        """Remove an unfinished copy; a published model stays."""
        staging = self.root / f".{name}.staging"
        if staging.exists():
            shutil.rmtree(staging)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Wait until nobody else publishes into this hub, and keep others out."""
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / MADE_HERE).touch()   # `forge run .` must not read our own models as documents
        with (self.root / ".lock").open("a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def copy_files(members: Mapping[str, Path | str], folder: Path) -> None:
    """Fill a folder: relative path -> file to copy, or text to write. Copies, never links: a hub outlives its run."""
    for name, source in sorted(members.items()):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, str):
            target.write_text(source, encoding="utf-8", newline="\n")
        else:
            shutil.copyfile(source, target)
        target.chmod(0o644)


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS over all other files, in the format of sha256sum."""
    rows = [f"{file.sha256}  {file.path}\n" for file in list_files(folder) if file.path != SUMS]
    (folder / SUMS).write_text("".join(rows), encoding="utf-8", newline="\n")


def read_sums(folder: Path) -> dict[str, str]:
    """path -> sha256 of a publication's SHA256SUMS."""
    lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    return {path: sha256 for sha256, _, path in (line.partition("  ") for line in lines)}


def list_files(folder: Path) -> list[PublishedFile]:
    """Every file under a folder with its size and hash, by path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        PublishedFile(path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=hash_file(path))
        for path in paths
    ]


def verify(folder: Path) -> list[PublishedFile]:
    """Read every byte of a publication back. Raises ArtifactDamaged naming the files that are not as their sums say."""
    found = list_files(folder)
    sums, real = read_sums(folder), {file.path: file.sha256 for file in found if file.path != SUMS}
    wrong = sorted(path for path in sums.keys() | real.keys() if sums.get(path) != real.get(path))
    if wrong:
        raise ArtifactDamaged(
            f"{', '.join(wrong[:5])} in {folder} differ from {SUMS}", why="the disk or another program changed them",
            next="forge resume --from publish",
        )
    return found


def is_publication(folder: Path) -> bool:
    """True for a folder that this hub wrote."""
    return (folder / SUMS).is_file() and (folder / "README.md").is_file()


def _same(target: Path, staged: Path) -> bool:
    return read_sums(target) == read_sums(staged) and {f.path: f.sha256 for f in list_files(target)} == {
        f.path: f.sha256 for f in list_files(staged)
    }


def _sync_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            sync_folder(path)
