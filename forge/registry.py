"""Finds phases and plugins by entry point and in --plugin-dir folders; imports one only when it is used."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from forge.broken import exports_extractor, module_source, name_in, stand_in
from forge.errors import ForgeError, MissingAccess, UsageError, nearest
from forge.phase import Requirement
from forge.protocols import PLUGIN_KINDS

PHASE_GROUP = "forge.phases"
TOOL_GROUP = "forge.tools"


class Registry:
    """All phases and plugins that this installation and the given folders offer.

    A file in a plugin folder exports `extractor`, `source`, `teacher`, `provider`, `task` or `hub`, and is known by the `name` of what it
    exports. It wins over an installed plugin of the same name. Files are code: only folders named by the user are read.
    """

    def __init__(self, plugin_dirs: tuple[Path, ...] = ()) -> None:
        self.plugin_dirs = plugin_dirs
        self._loaded: dict[tuple[str, str], Any] = {}
        self._local: dict[str, dict[str, Any]] | None = None

    def phase_names(self) -> tuple[str, ...]:
        """The installed phases, by name."""
        return tuple(sorted(_points(PHASE_GROUP)))

    def phase(self, name: str) -> Any:
        """One phase, imported now."""
        points = _points(PHASE_GROUP)
        if name not in points:
            raise UsageError(f'there is no phase "{name}"', why=nearest(name, points), next="forge phases")
        return points[name].load()

    def names(self, kind: str) -> tuple[str, ...]:
        """The plugins of a kind, installed and local."""
        group, _ = _kind(kind)
        return tuple(sorted({*_points(group), *self._from_folders().get(kind, {})}))

    def plugin(self, kind: str, name: str, *, ready: bool = True) -> Any:
        """One plugin, imported now. Raises UsageError for an unknown name, MissingAccess for a missing extra.

        ready=False: also when its extra is missing, to read what it says about itself; an extractor that cannot be
        imported is then a forge.broken.Broken, which fails its files with the reason.
        """
        group, _ = _kind(kind)
        if (kind, name) not in self._loaded:
            local = self._from_folders().get(kind, {})
            points = _points(group)
            if name in local:
                found = local[name]
            elif name in points:
                found = _load(kind, points[name])
            else:
                raise UsageError(
                    f'there is no {kind} "{name}"', why=nearest(name, self.names(kind)), next="forge plugins list"
                )
            self._loaded[kind, name] = found
        plugin = self._loaded[kind, name]
        if ready:
            _check_whole(kind, plugin)
            require(getattr(plugin, "requires", ()), f"{kind} {name}")
        return plugin

    def tool(self, name: str) -> Any:
        """A single tool (file in, file out) that a phase offers to the command line."""
        points = _points(TOOL_GROUP)
        if name not in points:
            raise UsageError(f'there is no tool "{name}"', why=nearest(name, points))
        return points[name].load()

    def sources(self) -> str:
        """A hash over the code in the plugin folders; empty without any. Part of the fingerprint."""
        hasher = hashlib.sha256()
        files = [file for folder in self.plugin_dirs for file in sorted(folder.glob("*.py"))]
        for file in files:
            hasher.update(file.name.encode() + b"\0" + file.read_bytes())
        return hasher.hexdigest() if files else ""

    def add(self, kind: str, plugin: Any) -> None:
        """Offer a plugin that was loaded by itself, as if it lay alone in a plugin folder."""
        self._from_folders().setdefault(kind, {})[plugin.name] = plugin

    def replace(self, kind: str, name: str, plugin: Any) -> None:
        """Use this object wherever the plugin is asked for from now on: the same one with the run's settings."""
        self._loaded[kind, name] = plugin

    def _from_folders(self) -> dict[str, dict[str, Any]]:
        if self._local is None:
            self._local = {}
            for folder in self.plugin_dirs:
                if not folder.is_dir():
                    raise UsageError(f"no plugin folder at {folder}", next="name an existing folder with --plugin-dir")
                for file in sorted(folder.glob("*.py")):
                    for kind, plugin in _load_folder_file(file).items():
                        self._local.setdefault(kind, {})[plugin.name] = plugin
        return self._local


def _load_folder_file(file: Path) -> dict[str, Any]:
    """load_file(), but an extractor that cannot be imported costs its files only; any other fault stops."""
    try:
        return load_file(file)
    except ForgeError as error:
        source = file.read_text(encoding="utf-8", errors="replace")
        if error.__cause__ is None or not exports_extractor(source):
            raise
        name = name_in(source, file.stem)
        return {"extractor": stand_in(name, f"{error.fact} ({error.why})", source)}


def _load(kind: str, point: EntryPoint) -> Any:
    try:
        return point.load()
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}"
        if kind == "extractor":
            return stand_in(point.name, reason, module_source(point.module))
        raise ForgeError(f"the {kind} {point.name} cannot be imported", why=reason, next=f"mend or remove the package that brings {point.value}") from error


def _check_whole(kind: str, plugin: Any) -> None:
    if reason := getattr(plugin, "broken", ""):
        raise ForgeError(f"the {kind} {plugin.name} cannot be imported", why=reason, next="forge plugins list")


def load_file(file: Path) -> dict[str, Any]:
    """Import one plugin file; returns what it exports by kind. Raises ForgeError naming the file."""
    name = f"forge_local_plugin_{file.stem}_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ForgeError(
            f"the plugin {file} cannot be imported", why=f"{type(error).__name__}: {error}",
            next=f"forge plugins check {file}",
        ) from error
    exports = {kind: getattr(module, attribute) for kind, (_, attribute) in PLUGIN_KINDS.items() if hasattr(module, attribute)}
    if not exports:
        raise ForgeError(
            f"the plugin {file} exports nothing", why="it needs a module-level extractor, source, teacher, provider, task or hub",
            next="forge plugins new extractor NAME shows the shape",
        )
    nameless = [kind for kind, plugin in exports.items() if not isinstance(getattr(plugin, "name", None), str)]
    if nameless:
        raise ForgeError(
            f"the {nameless[0]} in {file} has no name", why="settings and reports call a plugin by its `name`",
            next=f"forge plugins new {nameless[0]} NAME shows the shape",
        )
    return exports


def missing(requires: tuple[Requirement, ...]) -> tuple[Requirement, ...]:
    """The requirements whose module cannot be found. Imports nothing."""
    return tuple(need for need in requires if not _is_there(need.module))


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:   # the package around "google.cloud.bigquery" is missing
        return False


def require(requires: tuple[Requirement, ...], what: str) -> None:
    """Raise MissingAccess with the exact install command when a module is missing."""
    absent = missing(requires)
    if absent:
        extras = ",".join(sorted({need.extra for need in absent}))
        raise MissingAccess(
            f"{what} needs {', '.join(need.module for need in absent)}",
            why=f"the [{extras}] extra is not installed",
            next=f"pip install 'slm-forge[{extras}]'",
        )


def _kind(kind: str) -> tuple[str, str]:
    if kind not in PLUGIN_KINDS:
        raise UsageError(f'there is no plugin kind "{kind}"', why=nearest(kind, PLUGIN_KINDS))
    return PLUGIN_KINDS[kind]


@cache
def _points(group: str) -> dict[str, EntryPoint]:
    """Cached: every look-up reads the metadata of all installed distributions (about 15 ms among 100 of them)."""
    return {point.name: point for point in entry_points(group=group)}
