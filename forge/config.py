"""Settings in layers, each value with where it came from.

built-in < recipe < forge.yaml in the working directory < environment (FORGE__AUDIT__MIN_WORDS) < --set audit.min_words=80.
A section is "run", "gate" or a phase's name; unknown keys are errors with the nearest spelling.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_origin

import yaml
from pydantic import Field, ValidationError

from forge.errors import UsageError, nearest
from forge.phase import Settings
from forge.records import Record

ENVIRONMENT_PREFIX = "FORGE__"
CONFIG_FILE = "forge.yaml"
BEFORE_GATE_SHARE = 0.10
SHORT = {"task": "run.task", "base": "shape.base", "stages": "shape.stages", "sweep": "plan_fit.sweep"}
"""What a recipe may say at its top level: the decisions that make it the recipe that it is."""


class RunSettings(Settings):
    """The run itself."""

    budget_usd: float = Field(0.0, ge=0, description="the cap in US dollars; 0 = nothing may be spent")
    before_gate_usd: float | None = Field(
        None, ge=0, description="dollars that the teacher may spend before approval; default: 10 % of the budget"
    )
    seed: int = Field(7, description="seed of every random choice")
    track: str = Field("", description="tracker that the finished model is mirrored to (mlflow); empty = none")
    track_to: str = Field("", description="where that tracker is (sqlite:////path/mlflow.db, http://host:5000); empty = below FORGE_HOME")
    on_interrupt: Literal["stop", "keep"] = Field(
        "stop", description="Ctrl-C while a job runs on a rented machine: end both, or keep both until nobody has asked for too long"
    )
    send_environment: tuple[str, ...] = Field(
        (), description="environment variables that jobs on a machine get, by name (HF_TOKEN for a base behind a licence); else none of ours"
    )
    executor: str = Field("local", description="where prep and audit do their work when run.shards is set: local, or a provider that can (slurm)")
    shards: int = Field(0, ge=0, description="parts that the work of prep and audit is cut into, done beside each other; 0 = not cut. The result does not depend on it")
    task: Literal["chat", "label", "extract"] = Field(
        "chat", description="what the model learns: answers about the documents, or labels or extractions from ready-made data in the corpus"
    )


class GateSettings(Settings):
    """The one human decision."""

    always_ask: bool = Field(False, description="ask for approval even when nothing more can be spent")


class Layered(Record):
    """One value that somebody set: its text place ("--set", "forge.yaml:audit.min_words") and the value."""

    value: Any
    origin: str


class Value(Record):
    """One setting for `forge config show`."""

    key: str
    value: Any
    origin: str
    description: str


class Config:
    """All settings of a run, validated. `overrides` are the values that differ from the built-in ones."""

    def __init__(self, sections: Mapping[str, type[Settings]], overrides: Mapping[str, Layered]) -> None:
        self.overrides = dict(overrides)
        self._models = dict(sections)
        self._sections = {name: self._build(name, model) for name, model in sections.items()}

    def sections(self) -> tuple[str, ...]:
        """The names of the sections: "run", "gate" and the phases."""
        return tuple(self._models)

    def section(self, name: str) -> Any:
        """The validated settings of "run", "gate" or a phase."""
        return self._sections[name]

    @property
    def budget_usd(self) -> float:
        """The cap in dollars."""
        return float(self.section("run").budget_usd)

    @property
    def before_gate_usd(self) -> float:
        """What may be spent before approval, in dollars."""
        chosen = self.section("run").before_gate_usd
        return float(chosen) if chosen is not None else self.budget_usd * BEFORE_GATE_SHARE

    def values(self) -> list[Value]:
        """Every setting with its value and where it came from, in section order."""
        found = []
        for name, model in self._models.items():
            for field, info in model.model_fields.items():
                key = f"{name}.{field}"
                origin = self.overrides[key].origin if key in self.overrides else "built-in"
                found.append(
                    Value(key=key, value=getattr(self._sections[name], field), origin=origin, description=info.description or "")
                )
        return found

    def _build(self, section: str, model: type[Settings]) -> Settings:
        given = _folded({
            key.partition(".")[2]: layer.value for key, layer in self.overrides.items() if key.partition(".")[0] == section
        })
        try:
            return model(**given)
        except ValidationError as error:
            problem = error.errors()[0]
            field = str(problem["loc"][0]) if problem["loc"] else ""
            key = f"{section}.{field}"
            origin = self.overrides[key].origin if key in self.overrides else "built-in"
            raise UsageError(
                f"{key} cannot be {given.get(field)!r}", why=f"{problem['msg'].lower()} (from {origin})",
                next="forge config show lists every setting with its meaning",
            ) from error


def resolve(
    sections: Mapping[str, type[Settings]],
    *,
    recipe: str = "",
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Iterable[str] = (),
    stored: Mapping[str, Layered] | None = None,
) -> Config:
    """Put the layers together. `stored` (a resumed run's settings) takes the place of recipe, file and environment."""
    layers: dict[str, Layered] = dict(stored or {})
    if stored is None:
        layers.update(_from_recipe(recipe))
        layers.update(_from_file((folder or Path.cwd()) / CONFIG_FILE))
        layers.update(_from_environment(os.environ if environment is None else environment))
    layers.update(_from_flags(flags))
    for key, layer in layers.items():
        _check_key(key, layer.origin, sections)
    return Config(sections, layers)


def load_data(name: str) -> Any:
    """A data table that ships in configs/ ("gates", "models", "prices"), parsed."""
    text = (files("forge") / "configs" / f"{name}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def recipe_names() -> list[str]:
    """The recipes that ship in configs/recipes."""
    folder = files("forge") / "configs" / "recipes"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def recipe_text(name: str) -> str:
    """The YAML of a shipped recipe. Raises UsageError with the nearest spelling."""
    if name not in recipe_names():
        raise UsageError(f'there is no recipe "{name}"', why=nearest(name, recipe_names()), next="forge config recipes")
    return (files("forge") / "configs" / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")


def _from_recipe(recipe: str) -> dict[str, Layered]:
    if not recipe:
        return {}
    path = Path(recipe)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise UsageError(f"there is no recipe file at {recipe}", next="forge config recipes lists the shipped ones")
        return _flatten(path.read_text(encoding="utf-8"), str(path))
    return _flatten(recipe_text(recipe), f"recipe {recipe}")


def _from_file(path: Path) -> dict[str, Layered]:
    return _flatten(path.read_text(encoding="utf-8"), path.name) if path.is_file() else {}


def _flatten(text: str, origin: str) -> dict[str, Layered]:
    try:
        tree = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise UsageError(f"{origin} is not YAML", why=" ".join(str(error).split()), next=f"mend {origin}") from error
    if not isinstance(tree, dict):
        raise UsageError(f"{origin} holds no settings", why="its top level is not a mapping", next="forge config show")
    found: dict[str, Layered] = {}
    for section, values in tree.items():
        if section == "description":
            continue
        if section in SHORT:
            found[SHORT[section]] = Layered(value=values, origin=f"{origin}:{section}")
            continue
        if not isinstance(values, dict):
            raise UsageError(f'"{section}" in {origin} is not a section', why="write it as section: {key: value}", next="forge config show")
        for key, value in values.items():
            found[f"{section}.{key}"] = Layered(value=value, origin=origin)
    return found


def _from_environment(environment: Mapping[str, str]) -> dict[str, Layered]:
    found = {}
    for name in sorted(environment):
        if name.startswith(ENVIRONMENT_PREFIX):
            key = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".", 1)
            found[key] = Layered(value=_value(environment[name], f"${name}"), origin=f"${name}")
    return found


def _from_flags(flags: Iterable[str]) -> dict[str, Layered]:
    found = {}
    for flag in flags:
        key, equals, value = flag.partition("=")
        if not equals or "." not in key:
            raise UsageError(f"--set {flag} is not section.key=value", next="for example --set audit.min_words=8")
        found[key.strip()] = Layered(value=_value(value, f"--set {key}"), origin="--set")
    return found


def _value(text: str, origin: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(
            f"the value of {origin} cannot be read: {text}", why="it is read as YAML: " + " ".join(str(error).split()),
            next="quote it, for example --set 'synth.abstention=\"I cannot: ask\"'",
        ) from error


def _folded(given: dict[str, Any]) -> dict[str, Any]:
    """Single entries of a mapping ("buckets.factual") into the mapping as a whole."""
    folded = {key: value for key, value in given.items() if "." not in key}
    for key, value in given.items():
        whole, dot, part = key.partition(".")
        if dot:
            mapping = folded.get(whole) or {}
            folded[whole] = {**mapping, part: value} if isinstance(mapping, dict) else mapping
    return folded


def _check_key(key: str, origin: str, sections: Mapping[str, type[Settings]]) -> None:
    section, _, field = key.partition(".")
    if section not in sections:
        raise UsageError(f'unknown section "{section}" ({origin})', why=nearest(section, sections), next="forge config show")
    known = sections[section].model_fields
    whole, _, part = field.partition(".")
    if part and whole in known and get_origin(known[whole].annotation) is dict:
        return
    if field not in known:
        elsewhere = [f"{name}.{field}" for name, model in sections.items() if field in model.model_fields]
        why = f'did you mean "{elsewhere[0]}"?' if elsewhere else nearest(field, known)
        raise UsageError(f'unknown setting "{key}" ({origin})', why=why, next=f"forge config show {section}" if known else "forge config show")
