"""Files on this machine: a folder, or one file of any kind (an archive too). Read in place, never copied."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from forge.errors import ForgeError, UsageError
from forge.phase import Requirement, Settings
from forge.protocols import Fetching, InPlace, Preview
from forge.sources import selected


class FolderSettings(Settings):
    """A folder with everything below it."""

    path: str = Field(min_length=1, description="the folder, from the folder of sources.yaml on")
    include: tuple[str, ...] = Field((), description="patterns of which a path below the folder has to match one; * also crosses /")
    exclude: tuple[str, ...] = Field((), description="patterns that leave files out")


class FileSettings(Settings):
    """One file."""

    path: str = Field(min_length=1, description="the file, from the folder of sources.yaml on")


class LocalSource:
    """Lists files where they are. `name` tells whether a folder or a file is meant."""

    requires: ClassVar[tuple[Requirement, ...]] = ()

    def __init__(self, name: str, settings: type[Settings]) -> None:
        self.name, self.settings = name, settings

    def in_place(self, settings: Any, ctx: Fetching) -> InPlace:
        """The folder or file. Raises UsageError when there is none."""
        path = (ctx.base / Path(settings.path).expanduser()).resolve()
        there = path.is_dir() if self.name == "folder" else path.is_file()
        if not there:
            other = "file" if path.is_file() else "folder"
            hint = f"it is a {other}: write kind: {other}" if path.exists() else "relative paths start from the folder of sources.yaml"
            raise UsageError(f"there is no {self.name} at {path}", why=hint, next="mend path")
        if self.name == "folder":
            return InPlace(path, lambda name: selected(name, settings.include, settings.exclude))
        return InPlace(path)

    def fetch(self, settings: Any, folder: Path, ctx: Fetching) -> Mapping[str, Any]:
        """Never called: local files are read in place."""
        raise ForgeError(f"{settings.path} is read in place")

    def preview(self, settings: Any, samples: int, ctx: Fetching) -> Preview:
        """Never called: the engine looks at local files itself."""
        raise ForgeError(f"{settings.path} is read in place")


folder = LocalSource("folder", FolderSettings)
file = LocalSource("file", FileSettings)
