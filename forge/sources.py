"""Parses sources.yaml: a corpus put together from folders, files, repositories, buckets, web addresses and databases.

    version: 1
    sources:
      - {name: manuals, kind: folder, path: ../manuals}
      - {name: tickets, kind: postgresql, url_env: DATABASE_URL, query: "SELECT * FROM ticket ORDER BY id"}

Strict: an unknown key is an error with the nearest spelling, a literal password one that says where it belongs instead.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from forge.credentials import Secrets, check_no_secrets
from forge.errors import DISK_FULL, ForgeError, Interrupted, UsageError, disk_full, nearest
from forge.phase import Settings
from forge.protocols import Fetching, InPlace
from forge.records import canonical_json, digest
from forge.registry import Registry, require

SUFFIXES = {".yaml", ".yml"}
MAX_BYTES = 1 << 20
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
GUIDE = "docs/sources.md shows every kind with its keys"


class Source:
    """One entry of sources.yaml. `sha256` is over everything that decides what a fetch brings, as far as the file says it."""

    def __init__(self, name: str, kind: str, settings: Settings, reader: Any) -> None:
        self.name, self.kind, self.settings, self.reader = name, kind, settings, reader
        version = str(getattr(reader, "VERSION", 1))
        self.sha256 = digest(kind, version, canonical_json(settings.model_dump(mode="json")))

    @property
    def is_local(self) -> bool:
        """True for files on this machine, which are read where they are."""
        return hasattr(self.reader, "in_place")

    def require(self) -> None:
        """Raise MissingAccess when the libraries of its kind are not installed."""
        require(getattr(self.reader, "requires", ()), f'source "{self.name}" ({self.kind})')


def is_source_list(corpus: Path) -> bool:
    """True for a YAML file: as a corpus it is always a list of sources."""
    return corpus.suffix.lower() in SUFFIXES and corpus.is_file()


def corpus_label(corpus: Path) -> str:
    """What the corpus of a source list is called: the file's stem, or its folder's name for a plain sources.yaml."""
    return corpus.stem if corpus.stem != "sources" else corpus.resolve().parent.name or "corpus"


def read_sources(file: Path, registry: Registry) -> list[Source]:
    """The sources of a file, in order of name. Raises UsageError for the first thing that is wrong in it."""
    tree = _parse(file)
    check_no_secrets(tree, file.name)
    if not isinstance(tree, dict) or "sources" not in tree:
        raise UsageError(f"{file.name} lists no sources", why="a YAML file as CORPUS is read as `version: 1` and `sources: [...]`", next=GUIDE)
    _check_keys(tree, {"version", "sources"}, file.name)
    if tree.get("version") != 1:
        raise UsageError(f"{file.name} has no version that is known here", why=f"it says {tree.get('version')!r}", next="write version: 1")
    entries = tree["sources"]
    if not isinstance(entries, list) or not entries:
        raise UsageError(f"{file.name} lists no sources", why="`sources` has to be a list with at least one entry", next=GUIDE)
    found = [_source(entry, f"{file.name}: source {number}", registry) for number, entry in enumerate(entries, 1)]
    _check_names([source.name for source in found], file.name)
    return sorted(found, key=lambda source: source.name + "/")


def selected(path: str, include: Iterable[str], exclude: Iterable[str]) -> bool:
    """True when a path matches one of `include` (all do when that is empty) and none of `exclude`; * also crosses /."""
    chosen = list(include)
    return (not chosen or any(fnmatchcase(path, glob) for glob in chosen)) and not any(fnmatchcase(path, glob) for glob in exclude)


def place_of(source: Source, ctx: Fetching, secrets: Secrets) -> InPlace:
    """Where the files of a local source are. Raises its error, naming it."""
    with naming_source(source, secrets):
        place: InPlace = source.reader.in_place(source.settings, ctx)
    return place


@contextmanager
def naming_source(source: Source, secrets: Secrets) -> Iterator[None]:
    """Makes whatever goes wrong in a source's code an error that names the source and shows no secret.

    `from None`: the texts of libraries' errors, and the tracebacks below them, may quote connection strings.
    """
    hide, label = secrets.hide, f'source "{source.name}"'
    try:
        yield
    except Interrupted:
        raise
    except ForgeError as error:
        fact = error.fact if label in error.fact else f"{label}: {error.fact}"
        raise type(error)(hide(fact), why=hide(error.why), next=hide(error.next)) from None
    except Exception as error:   # noqa: BLE001 - becomes an error that names the source
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise disk_full() from None
        why = " ".join(hide(f"{type(error).__name__}: {error}").split())[:500]
        raise ForgeError(f"{label} ({source.kind}) could not be read", why=why, next="check its entry in the list of sources, then repeat the command") from None


class _Loader(yaml.SafeLoader):
    """YAML in which a key may stand only once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(problem=f'the key "{key}" stands twice', problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def _parse(file: Path) -> Any:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise UsageError(f"{file.name} is too large for a list of sources", why=f"more than {MAX_BYTES:,} bytes", next=GUIDE)
        return yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        # Without the excerpt that str(error) shows: it may be the line with a password.
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or type(error).__name__
        raise UsageError(f"{file.name} is not YAML", why=f"{problem}{where}", next=f"mend {file.name}; {GUIDE}") from None


def _source(entry: Any, where: str, registry: Registry) -> Source:
    if not isinstance(entry, dict):
        raise UsageError(f"{where} is not a mapping", why="each source is written as {name: …, kind: …, …}", next=GUIDE)
    name, kind = entry.get("name"), entry.get("kind")
    kinds = registry.names("source")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        said = f"it says {name!r}" if name else f"its keys are {', '.join(map(str, entry))}"
        raise UsageError(f"{where} has no usable name", why=f"up to 40 of a-z, 0-9, - and _; {said}", next="write name: my_documents")
    where = f'source "{name}"'
    if kind not in kinds:
        said = f'"{kind}" is no kind; {nearest(str(kind), kinds)}' if kind else f"known: {', '.join(kinds)}"
        raise UsageError(f"{where} has no kind" if not kind else f"{where} has an unknown kind", why=said, next=GUIDE)
    reader = registry.plugin("source", kind, ready=False)
    given = {key: value for key, value in entry.items() if key not in ("name", "kind")}
    try:
        settings = reader.settings.model_validate(given)
    except ValidationError as error:
        raise _explain(error, reader.settings, where) from None   # its text repeats values
    return Source(name, kind, settings, reader)


def _explain(error: ValidationError, model: type[BaseModel], where: str) -> UsageError:
    # A misspelled key first: the key that is then missing is the same mistake.
    problem = sorted(error.errors(include_url=False), key=lambda one: one["type"] != "extra_forbidden")[0]
    place = ".".join(str(part + 1) if isinstance(part, int) else part for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _fields_at(model, problem["loc"][:-1])
        why = nearest(str(problem["loc"][-1]), known)
        comma = "a value with a comma inside { } needs quotes; " if problem["input"] is None else ""
        return UsageError(f'{where}: unknown key "{place}"', why=comma + why, next=GUIDE)
    if problem["type"] == "missing":
        return UsageError(f'{where} needs "{place}"', why=f"its keys are {', '.join(model.model_fields)}", next=GUIDE)
    message = problem["msg"].removeprefix("Value error, ")
    return UsageError(f"{where}: {place} cannot be that" if place else f"{where} is not complete", why=message, next=GUIDE)


def _fields_at(model: type[BaseModel], place: tuple[int | str, ...]) -> Mapping[str, Any]:
    """The fields of the model at a place like ("queries", 0)."""
    for part in place:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return model.model_fields


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner))), None)


def _check_keys(tree: Mapping[Any, Any], known: set[str], where: str) -> None:
    for key in tree:
        if key not in known:
            raise UsageError(f'{where}: unknown key "{key}"', why=nearest(str(key), known), next=GUIDE)


def _check_names(names: list[str], where: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f'{where}: two sources are called "{name}"', why="the name is the folder of its documents", next="rename one of them")
