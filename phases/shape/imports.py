"""Ready-made data of the corpus as examples: which importer reads which file, masked, with one spelling of labels, no copies."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from forge import private
from forge.corpus import locate
from forge.errors import ForgeError, UsageError, nearest
from forge.phase import Context, Settings
from forge.protocols import Importing, Ready
from forge.records import CorpusEntry, Labelled, digest, read_jsonl

if TYPE_CHECKING:
    from forge.phases.shape import ShapeSettings

MIXED_SHARE = 0.5
"""From this share of rows with a rationale the others are left out; below it, all rationales are: a model learns one form."""


class DataSource(Settings):
    """One entry of shape.data: files of the corpus that are one data set."""

    path: str = Field(description="a file or pattern below the corpus (train/*.jsonl)")
    format: str = Field("auto", description="importer by name; auto: the one that knows the file")
    task: str = Field("", description="the task that the entry is for; empty: the run's. Entries of other tasks are left alone")
    ratio: float = Field(1.0, gt=0, le=1, description="share of its examples to take, by whole documents")
    columns: dict[str, str] = Field(default_factory=dict, description="part of an example -> column")
    labels: dict[str, str] = Field(default_factory=dict, description="label in the data -> label to learn")
    options: dict[str, bool | int | float | str] = Field(default_factory=dict, description="what the importer offers beside")
    split: str = Field("", pattern="^(train|val|test|)$", description="side that all its rows go to; empty: the data's own, or by document")


@dataclass
class Imported:
    """Examples without a side yet. counts: what was read and left out, by reason; files: where they come from."""

    examples: list[Ready] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    files: frozenset[str] = frozenset()
    instruction: str = ""
    task: Literal["label", "extract"] = "label"


def import_examples(settings: ShapeSettings, ctx: Context) -> Imported:
    """Every entry of shape.data, or every file that an importer of this task knows. Raises UsageError when there is none."""
    entries = [entry for entry in read_jsonl(ctx.input("corpus"), CorpusEntry) if entry.kind == "file"]
    counts: Counter[str] = Counter()
    found: list[Ready] = []
    files: set[str] = set()
    for number, (source, importer, chosen) in enumerate(_sources(settings, entries, ctx)):
        ctx.check_stop()
        files |= {entry.path for entry in chosen}
        how = Importing(task=ctx.task, columns=source.columns, options=source.options)
        read = list(importer.read([(locate(ctx.corpus_root, entry), entry.path) for entry in chosen], how))
        counts["read"] += len(read)
        taken = _share(read, source.ratio, ctx.seed, number)
        counts["not_taken"] += len(read) - len(taken)
        found += [_ready(one, source, importer.name) for one in taken]
    found = _without_copies(_masked(found, counts), counts)
    found = _one_form(found, counts, ctx)
    if not found:
        raise ForgeError("no example is left", why=f"{counts['read']:,} were read", next="forge show shape")
    bodies = ctx.use("task", ctx.task).describe([one.body for one in found])
    found = [one.model_copy(update={"body": body}) for one, body in zip(found, bodies, strict=True)]
    counts["examples"] = len(found)
    _tell(counts, ctx)
    return Imported(found, dict(sorted((+counts).items())), frozenset(files), str(bodies[0].instruction), found[0].body.task)


def _sources(settings: ShapeSettings, entries: Sequence[CorpusEntry], ctx: Context) -> list[tuple[DataSource, Any, list[CorpusEntry]]]:
    importers = [ctx.use("importer", name) for name in ctx.names("importer")]
    importers = sorted((one for one in importers if ctx.task in one.tasks), key=lambda one: (-one.priority, one.name))
    named = [(source, _matching(source, entries)) for source in settings.data if source.task in ("", ctx.task)]
    if not named:
        named = [(DataSource(path=entry.path), [entry]) for entry in entries]
        known = [(_knowing(importers, chosen[0], ctx), source, chosen) for source, chosen in named]
        return _together([(source, importer, chosen) for importer, source, chosen in known if importer is not None], entries, ctx)
    return [(source, _importer(source, importers, chosen[0], ctx), chosen) for source, chosen in named]


def _together(found: list[tuple[DataSource, Any, list[CorpusEntry]]], entries: Sequence[CorpusEntry], ctx: Context) -> list[tuple[DataSource, Any, list[CorpusEntry]]]:
    """The files of one importer as one data set: the lines of ADE's three files belong together."""
    if not found:
        raise UsageError(
            f"the corpus holds no ready-made data for the task {ctx.task}", why=f"no importer knows any of its {len(entries):,} files",
            next="name file and columns: --set 'shape.data=[{path: FILE, columns: {text: COLUMN, label: COLUMN}}]'",
        )
    joined: dict[str, tuple[DataSource, Any, list[CorpusEntry]]] = {}
    for source, importer, chosen in found:
        joined.setdefault(importer.name, (source, importer, []))[2].extend(chosen)
    return [joined[name] for name in sorted(joined)]


def _matching(source: DataSource, entries: Sequence[CorpusEntry]) -> list[CorpusEntry]:
    pattern = source.path.rstrip("/")
    found = [entry for entry in entries if fnmatchcase(entry.path, pattern) or entry.path.startswith(f"{pattern}/")]
    if not found:
        raise UsageError(
            f"shape.data names {source.path}, which is no file of the corpus", why=nearest(source.path, [entry.path for entry in entries]),
            next="give the path below the corpus, or a pattern",
        )
    return found


def _knowing(importers: Sequence[Any], entry: CorpusEntry, ctx: Context) -> Any:
    path = locate(ctx.corpus_root, entry)
    return next((one for one in importers if one.accepts(path, entry.path)), None)


def _importer(source: DataSource, importers: Sequence[Any], entry: CorpusEntry, ctx: Context) -> Any:
    if source.format == "auto":
        found = _knowing(importers, entry, ctx)
    else:
        found = next((one for one in importers if one.name == source.format), None)
    if found is None:
        names = [one.name for one in importers]
        why = f"importers for {ctx.task}: {', '.join(names)}" if source.format == "auto" else nearest(source.format, names)
        raise UsageError(f"no importer reads {source.path} as {source.format}", why=why, next="forge plugins list")
    return found


def _share(read: Sequence[Ready], ratio: float, seed: int, number: int) -> list[Ready]:
    """The wanted share of examples, whole documents in an order drawn by hash."""
    if ratio >= 1:
        return list(read)
    groups: dict[str, list[Ready]] = {}
    for index, one in enumerate(read):
        groups.setdefault(one.group or str(index), []).append(one)
    wanted, taken = math.ceil(ratio * len(read)), list[Ready]()
    for group in sorted(groups, key=lambda name: digest(str(seed), str(number), name)):
        if len(taken) >= wanted:
            break
        taken += groups[group]
    return taken


def _ready(one: Ready, source: DataSource, importer: str) -> Ready:
    changes: dict[str, Any] = {"source": one.body.source or (importer if importer != "rows" else Path(source.path).name)}
    if isinstance(one.body, Labelled):
        changes["label"] = source.labels.get(one.body.label, one.body.label)
    return one.model_copy(update={"body": one.body.model_copy(update=changes), "part": source.split or one.part})


def _masked(found: Sequence[Ready], counts: Counter[str]) -> list[Ready]:
    """Secrets and personal data are masked as in every other text; an extraction, whose places would move, is left out."""
    kept = []
    for one in found:
        body = one.body
        texts = {name: getattr(body, name, "") or "" for name in ("text", "question", "rationale")}
        masked = {name: private.mask(text)[0] for name, text in texts.items() if text}
        changed = {name: text for name, text in masked.items() if text != texts[name]}
        if not changed:
            kept.append(one)
        elif isinstance(body, Labelled):
            counts["masked"] += 1
            kept.append(one.model_copy(update={"body": body.model_copy(update=changed)}))
        else:
            counts["private"] += 1
    return kept


def _without_copies(found: Sequence[Ready], counts: Counter[str]) -> list[Ready]:
    """One example for each input of a side. Copies with different labels contradict each other: all go. Of copies of a text the one with most entities stays."""
    groups: dict[tuple[str, str, str], list[Ready]] = {}
    for one in found:
        body = one.body
        question = body.question if isinstance(body, Labelled) else ""
        groups.setdefault((one.part, _flat(body.text), _flat(question)), []).append(one)
    kept = []
    for copies in groups.values():
        if isinstance(copies[0].body, Labelled):
            if len({copy.body.label for copy in copies if isinstance(copy.body, Labelled)}) > 1:
                counts["contradictory"] += len(copies)
                continue
            best = copies[0]
        else:
            best = max(copies, key=lambda one: len(getattr(one.body, "entities", ())))
        counts["copies"] += len(copies) - 1
        kept.append(best)
    return kept


def _one_form(found: list[Ready], counts: Counter[str], ctx: Context) -> list[Ready]:
    """All rows with a rationale, or none: a data set has one form of answer."""
    reasoned = [one for one in found if isinstance(one.body, Labelled) and one.body.rationale]
    if not reasoned or len(reasoned) == len(found):
        return found
    if len(reasoned) >= MIXED_SHARE * len(found):
        counts["without_rationale"] = len(found) - len(reasoned)
        return reasoned
    ctx.notice(f"only {len(reasoned):,} of {len(found):,} rows have a rationale: the model learns the label alone")
    return [one.model_copy(update={"body": one.body.model_copy(update={"rationale": None})}) for one in found]


def _tell(counts: Counter[str], ctx: Context) -> None:
    words = {
        "copies": "copies", "contradictory": "the same input with different labels", "private": "with secrets or personal data",
        "without_rationale": "without a rationale of one sentence", "not_taken": "not taken (ratio)",
    }
    gone = ", ".join(f"{counts[key]:,} {text}" for key, text in words.items() if counts[key])
    ctx.notice(f"{counts['examples']:,} of {counts['read']:,} ready-made examples are used" + (f"; left out: {gone}" if gone else ""))


def _flat(text: str) -> str:
    return " ".join(text.casefold().split())
