"""For people who write plugins: list them, start a package for a new one, see what prep makes of its documents."""

from __future__ import annotations

import json
import tempfile
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from forge.conformance import load_exports, module_folder, vectors
from forge.errors import ForgeError, UsageError, nearest
from forge.protocols import PLUGIN_KINDS
from forge.registry import Registry, missing

TEMPLATES: dict[str, dict[str, str]] = {
    "extractor": {
        "forge_extractor_$name.py": "module.py.txt",
        "pyproject.toml": "pyproject.toml.txt",
        "README.md": "README.md.txt",
        "vectors/example.$name": "example.txt.txt",
        "vectors/expected.jsonl": "expected.jsonl.txt",
        "tests/test_$name.py": "test.py.txt",
    },
    "provider": {
        "forge_provider_$name.py": "module.py.txt",
        "pyproject.toml": "pyproject.toml.txt",
        "README.md": "README.md.txt",
        "tests/test_$name.py": "test.py.txt",
    },
}
"""kind -> file of the package -> file in forge/templates/<kind>/ that it is made from ($name, $title, $dashed)."""


def plugin_rows(folders: tuple[Path, ...]) -> list[tuple[str, str, str]]:
    """(kind, name, state) of every plugin; the state names the extra that a missing one needs."""
    registry = Registry(folders)
    return [(kind, name, _state(registry, kind, name)) for kind in PLUGIN_KINDS for name in registry.names(kind)]


def write_new(kind: str, name: str, folder: Path) -> Path:
    """Write a plugin package that works and can be installed; returns its folder. Never overwrites.

    Raises UsageError for a kind without a template, a name that cannot be one, or a folder that is there already.
    """
    if kind not in TEMPLATES:
        raise UsageError(f'there is no template for "{kind}"', why=nearest(kind, TEMPLATES), next="forge plugins new extractor NAME")
    if not name.isidentifier() or name != name.lower():
        raise UsageError(f'"{name}" cannot be a plugin name', why="use lower-case letters, digits and _", next=f"forge plugins new {kind} my_format")
    words = {"name": name, "dashed": name.replace("_", "-"), "title": name.title().replace("_", "")}
    target = folder / f"forge-{kind}-{words['dashed']}"
    if target.exists():
        raise UsageError(f"{target} exists already", next=f"forge plugins check {target}")
    texts = files("forge") / "templates" / kind
    for path, source in TEMPLATES[kind].items():
        file = target / Template(path).substitute(words)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(Template(texts.joinpath(source).read_text(encoding="utf-8")).substitute(words), encoding="utf-8")
    return target


def sample_passages(path: Path, sample: Path | None = None) -> list[dict[str, str]]:
    """path, locator, heading and text of each passage that prep cuts from a plugin's vectors and from `sample`.

    Prep routes and reads them as in a run, so this also shows that the plugin gets its files. Raises ForgeError if not.
    """
    registry = Registry((module_folder(path),) if path.is_dir() else ())
    if path.is_file():  # alone: what lies beside it need not be a plugin
        for kind, plugin in load_exports(path).items():
            registry.add(kind, plugin)
    documents = [document for document, _ in vectors(path)] + ([sample] if sample else [])
    return [{"path": document.name, **passage} for document in documents for passage in _passages(document, registry)]


def _passages(document: Path, registry: Registry) -> list[Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "text.jsonl"
        registry.tool("extract")(document, out, registry, lambda progress: None, passages=True)
        lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        if line["status"] != "ok":
            raise ForgeError(f"prep ends {document.name} as {line['status']}", why=line["reason"], next="does the plugin claim its extension or magic?")
    return [passage for line in lines for passage in line["passages"]]


def _state(registry: Registry, kind: str, name: str) -> str:
    try:
        plugin = registry.plugin(kind, name, ready=False)
    except ForgeError as error:
        return f"broken: {error.why}"
    if reason := getattr(plugin, "broken", ""):
        return f"broken: {reason}"
    absent = missing(getattr(plugin, "requires", ()))
    return f"needs [{absent[0].extra}]" if absent else "ready"
