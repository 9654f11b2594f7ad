"""`forge publish-data`: a run's questions and answers as a data set of their own, a separate and explicit step.

The text of the corpus is never part of it by default: rows that quote it are left out and counted. The folder is built beside its
place, checked, swapped in whole, and only then sent to a hub; doing it again changes nothing, and what broke off goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from forge.errors import GateFailed, UsageError
from forge.phases.publish.data_card import DataFacts, open_data_terms, render_data_card
from forge.phases.publish.data_check import StagedData, check_data
from forge.phases.publish.data_rows import QUOTES, published_rows
from forge.phases.publish.hub_folder import FolderHub, copy_files, list_files
from forge.phases.publish.licence import choose_licence
from forge.protocols import Shipment
from forge.records import Document, Plan, Record, digest, read_jsonl, read_record
from forge.store import hash_file

FOLDER = "datasets"
"""Below the hub folder: data sets lie beside the models, never among them."""


class DataWish(Record):
    """What a person asks for. license: "" is none chosen. quotes: rows that quote the corpus may be published. terms: see licence.open_terms."""

    hub_dir: str
    to: str = "folder"
    repo: str = ""
    visibility: Literal["private", "public"] = "private"
    license: str = ""
    quotes: bool = False
    terms: str = ""


class DataPublished(Record):
    """Where the data set lies, how many rows it has by split, how many were left out and why."""

    name: str
    folder: str
    url: str
    rows: dict[str, int]
    left_out: dict[str, int]


def publish_data(
    find: Callable[[str], Path], told: Mapping[str, Any], *, remote: Any = None, check_stop: Callable[[], None] = lambda: None
) -> DataPublished:
    """Write, check and publish. find: artifact -> path; told: the fields of DataWish; remote: a hub plugin, for anything but a folder.

    Raises UsageError when nothing may be published, GateFailed when a check fails: then nothing was.
    """
    wish = DataWish.model_validate(told)
    plan = read_record(find("plan"), Plan)
    if plan.task != "chat" and not wish.quotes:
        raise UsageError(
            f"every row of the task {plan.task} is a text of the corpus", why="it is not published unless that is asked for",
            next="forge publish-data RUN --quotes, where its licence allows that",
        )
    name = f"{plan.name}-data"
    place = remote.preflight(wish.repo, name, kind="dataset") if remote else ""
    rows, left = published_rows(find, quotes=wish.quotes, check_stop=check_stop)
    if not rows:
        raise UsageError(
            "no row may be published", why=", ".join(f"{n:,} rows: {reason}" for reason, n in left.items()) or "the run has none",
            next=f"forge publish-data {plan.run} --quotes, where the documents' licence allows that" if QUOTES in left else "forge show shape",
        )
    texts = {split: "".join(f"{row.line}\n" for row in rows if row.split == split) for split in dict.fromkeys(row.split for row in rows)}
    facts = _facts(find, plan, wish, name, texts, left)
    _check_leaving(facts, bool(remote))
    hub = FolderHub(Path(wish.hub_dir) / FOLDER)
    with hub.locked():
        staged = hub.staging(name)
        copy_files({"README.md": render_data_card(facts), **{f"data/{split}.jsonl": text for split, text in texts.items()}}, staged)
        _check(StagedData(folder=staged, facts=facts, passages=find("passages")))
        check_stop()
        hub.publish(name, staged)
        sent = _send(remote, hub.root / name, wish, facts, check_stop) if remote else None
    return DataPublished(name=name, folder=str(hub.root / name), url=sent or place, rows=facts.counts, left_out=left)


def _facts(
    find: Callable[[str], Path], plan: Plan, wish: DataWish, name: str, texts: dict[str, str], left: dict[str, int]
) -> DataFacts:
    from forge.phases.publish.facts import languages_of, read_object

    documents = Counter(row.license or "none stated" for row in read_jsonl(find("documents"), Document) if row.status == "ok")
    return DataFacts(
        name=name, model=plan.name, run=plan.run, task=plan.task, teacher=plan.teacher, languages=languages_of(read_object(find("audit"))),
        abstention=plan.abstention, counts={split: text.count("\n") for split, text in texts.items()},
        files={split: _sha256(text) for split, text in texts.items()}, left_out=left, documents=dict(sorted(documents.items())),
        licence=choose_licence(wish.license, "scratch", ""), terms=" ".join(wish.terms.split()), quotes=wish.quotes, dry_run=plan.dry_run,
        plan_sha256=hash_file(find("plan")), shape_sha256=hash_file(find("shape")),
    )


def _check_leaving(facts: DataFacts, leaves: bool) -> None:
    """What may lie in a folder here, and may not go to a hub."""
    if not leaves:
        return
    if facts.dry_run:
        raise GateFailed("rows of a rehearsal do not leave this machine", next="forge run CORPUS --budget USD")
    if not facts.licence.is_chosen:
        raise GateFailed("the data set has no licence", why="it leaves this machine", next=f"forge publish-data {facts.run} --license ID")
    if facts.quotes and "none stated" in facts.documents and not facts.terms:
        raise GateFailed(
            "the rows quote documents that state no licence", why=f"{facts.documents['none stated']:,} of {sum(facts.documents.values()):,}",
            next=f'forge publish-data {facts.run} --quotes --terms "WHO ALLOWED IT"',
        )
    if (undecided := open_data_terms(facts)) and not facts.terms:
        raise GateFailed(
            "a person has to decide about terms", why="; ".join(undecided), next=f'forge publish-data {facts.run} --terms "WHAT YOU DECIDED, AND WHY"'
        )


def _check(staged: StagedData) -> None:
    if problems := check_data(staged):
        raise GateFailed(
            f"the data set failed {len(problems)} check{'s' if len(problems) > 1 else ''}", why="; ".join(problems[:8]),
            next="mend what it names, then forge publish-data again",
        )


def _send(remote: Any, folder: Path, wish: DataWish, facts: DataFacts, check_stop: Callable[[], None]) -> str:
    version = digest(*(f"{file.path} {file.sha256}" for file in list_files(folder)))[:12]
    sent = remote.publish(Shipment(
        folder=folder, name=facts.name, repo=wish.repo, visibility=wish.visibility, tag=f"data-{version}",
        message=f"{facts.name}, run {facts.run}", check_stop=check_stop, kind="dataset",
    ))
    return str(sent.url)


def _sha256(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode("utf-8")).hexdigest()
