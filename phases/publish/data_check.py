"""Checks a data set before it is published: every claim of its card against its files, and every file for what may not leave."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from pathlib import Path

import yaml

from forge import private
from forge.phases.publish.data_card import DataFacts, data_front_matter, render_data_card
from forge.phases.publish.data_rows import Row, quoting_rows, read_rows, texts_of
from forge.phases.publish.leaks import find_machine_paths
from forge.phases.publish.licence import HUB_LICENCES
from forge.phases.publish.staged import split_card
from forge.records import Passage, Record, read_jsonl
from forge.store import hash_file


class StagedData(Record):
    """What is about to be published, and where the corpus' passages lie."""

    folder: Path
    facts: DataFacts
    passages: Path

    @property
    def card(self) -> str:
        """The README's text."""
        return (self.folder / "README.md").read_text(encoding="utf-8")


def check_data(staged: StagedData) -> list[str]:
    """Every problem of every rule, each beginning with the rule's name."""
    return [f"{rule.__name__}: {problem}" for rule in DATA_RULES for problem in rule(staged)]


def metadata_is_true(staged: StagedData) -> list[str]:
    """The front matter is the facts'; its licence is one that hubs know; its files exist."""
    try:
        meta = yaml.safe_load(split_card(staged.card)[0])
    except yaml.YAMLError as error:
        return [f"README.md:1: the front matter is no YAML: {error}"]
    if not isinstance(meta, dict):
        return ["README.md:1: the card has no front matter between --- lines"]
    wanted = data_front_matter(staged.facts)
    problems = [f"README.md: {key} is {meta.get(key)!r}; the rows say {wanted.get(key)!r}" for key in sorted(wanted.keys() | meta) if meta.get(key) != wanted.get(key)]
    return problems + ([] if meta.get("license") in HUB_LICENCES else [f"README.md: {meta.get('license')!r} is not a licence id"])


def rows_are_counted(staged: StagedData) -> list[str]:
    """Each file has the rows and the hash that the card says, and there is no other file."""
    problems, facts = [], staged.facts
    for split, told in facts.counts.items():
        file = staged.folder / "data" / f"{split}.jsonl"
        if not file.is_file():
            problems.append(f"data/{split}.jsonl is missing")
            continue
        try:
            rows = sum(1 for _ in read_rows(file))
        except ValueError as error:
            problems.append(f"data/{split}.jsonl: {error}")
            continue
        if rows != told or hash_file(file) != facts.files[split]:
            problems.append(f"data/{split}.jsonl has {rows:,} rows, or other bytes than the card says ({told:,})")
    known = {"README.md", "SHA256SUMS", *(f"data/{split}.jsonl" for split in facts.counts)}
    stray = sorted({path.relative_to(staged.folder).as_posix() for path in staged.folder.rglob("*") if path.is_file()} - known)
    return problems + [f"{name} belongs to no split" for name in stray]


def card_says_what_was_counted(staged: StagedData) -> list[str]:
    """Line for line; a line that differs is named."""
    wanted, found = render_data_card(staged.facts).splitlines(), staged.card.splitlines()
    matcher = difflib.SequenceMatcher(None, wanted, found, autojunk=False)
    return [
        f"README.md:{at + 1}: says {' '.join(found[at:end])[:60]!r}; counted was {' '.join(wanted[first:last])[:60]!r}"
        for kind, first, last, at, end in matcher.get_opcodes() if kind != "equal"
    ]


def corpus_text_stays_here(staged: StagedData) -> list[str]:
    """No row of the files themselves quotes a passage, unless the data set was asked to."""
    if staged.facts.quotes:
        return []
    rows = [
        Row(id=f"data/{split}.jsonl:{number}", split=split, texts=texts_of(row), line="")
        for split in staged.facts.counts if (file := staged.folder / "data" / f"{split}.jsonl").is_file()
        for number, row in enumerate(_readable(file), 1)
    ]
    found = quoting_rows(rows, read_jsonl(staged.passages, Passage), lambda: None)
    return [f"{place}: quotes the corpus" for place in sorted(found)]


def nothing_private(staged: StagedData) -> list[str]:
    """No secret, no personal data and no folder of a machine in any file."""
    problems = []
    for path in sorted(path for path in staged.folder.rglob("*") if path.is_file()):
        name = path.relative_to(staged.folder).as_posix()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            kinds = sorted({hit.kind.replace("_", " ") for hit in private.find(line, also_made_up=True)})
            problems += [f"{name}:{number}: {kind}" for kind in kinds]
            problems += [f"{name}:{number}: the machine path {found}" for found in find_machine_paths(line) if name == "README.md"]
    return problems


def no_placeholders(staged: StagedData) -> list[str]:
    """Nothing that a template or a missing value leaves behind, in the card."""
    pattern = re.compile(r"\{\{|\}\}|\{%|\bNone\b|\bnan\b|\bTODO\b|\bTBD\b|More Information Needed")
    return [
        f"README.md:{number}: {match.group(0)!r}"
        for number, line in enumerate(staged.card.splitlines(), 1) if (match := pattern.search(line))
    ]


DATA_RULES: tuple[Callable[[StagedData], list[str]], ...] = (
    metadata_is_true, rows_are_counted, card_says_what_was_counted, corpus_text_stays_here, nothing_private, no_placeholders,
)


def _readable(file: Path) -> list[dict[str, object]]:
    try:
        return list(read_rows(file))
    except ValueError:   # rows_are_counted tells of it
        return []
