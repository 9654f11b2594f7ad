"""Files of a lease where machine and engine see the same folder: this machine, a cluster's shared file system."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import ClassVar

from forge.errors import ForgeError, UsageError


class FolderChannel:
    """The half of forge.protocols.Channel that is about files, below `root`; nothing outside `root` is written."""

    durable: ClassVar[bool] = True

    def __init__(self, root: Path) -> None:
        self._root = root

    def get(self, remote: str, local: Path) -> None:
        """Copy a file or folder back. Raises ForgeError when it is not there."""
        source = self._inside(remote)
        if not source.exists():
            raise ForgeError(f"the job left no {remote}", next="forge logs shows what it wrote")
        copy(source, local)

    def read(self, remote: str, offset: int) -> bytes:
        """The bytes of a file from an offset on; empty when there is none (yet)."""
        path = self._inside(remote)
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            file.seek(offset)
            return file.read()

    def path(self, remote: str) -> str:
        """The absolute path of a remote name, the same for every process."""
        return str(self._inside(remote))

    def _inside(self, remote: str) -> Path:
        """Without following links: a path that leads through one may be another on the nodes of a cluster."""
        place = Path(os.path.normpath(self._root / remote))
        if not place.is_relative_to(self._root):
            raise UsageError(f"{remote} leads out of the working folder")
        return place


def copy(source: Path, target: Path) -> None:
    """Copy to a temporary name beside the target, then rename: the target is whole or not there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    _remove(partial)
    if source.is_dir():
        shutil.copytree(source, partial, symlinks=True)
    else:
        shutil.copyfile(source, partial)
    if target.is_dir():
        _remove(target)
    partial.replace(target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
