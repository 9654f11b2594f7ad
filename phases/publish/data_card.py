"""The card of a published data set, from what was counted; and its front matter as hubs read it."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import yaml

from forge import __version__
from forge.phases.publish.card import cell, count, line
from forge.phases.publish.data_rows import QUOTED_WORDS
from forge.phases.publish.licence import Licence, open_terms
from forge.records import Record

CATEGORIES = {"chat": "question-answering", "label": "text-classification", "extract": "token-classification"}
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"))


class DataFacts(Record):
    """What the card may say. counts, files: split -> rows and sha256; documents: stated licence -> documents."""

    name: str
    model: str
    run: str
    task: str
    teacher: str
    languages: tuple[str, ...]
    abstention: str
    counts: dict[str, int]
    files: dict[str, str]
    left_out: dict[str, int]
    documents: dict[str, int]
    licence: Licence
    terms: str
    quotes: bool
    dry_run: bool
    plan_sha256: str
    shape_sha256: str


def render_data_card(facts: DataFacts) -> str:
    """The whole README.md."""
    import jinja2

    template = (files("forge.phases.publish") / "dataset.md.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False,
    )
    environment.filters.update(count=count, cell=cell, line=line)
    body = environment.from_string(template).render(
        facts=facts, quoted_words=QUOTED_WORDS, version=__version__, open_terms=open_data_terms(facts)
    )
    return f"---\n{yaml.safe_dump(data_front_matter(facts), sort_keys=False, allow_unicode=True)}---\n\n{body}"


def data_front_matter(facts: DataFacts) -> dict[str, Any]:
    """The metadata (huggingface.co/docs/hub/datasets-cards); `configs` makes the hub's viewer find the splits."""
    meta: dict[str, Any] = {"license": facts.licence.id}
    if facts.licence.id == "other":
        meta |= {"license_name": facts.licence.name, "license_link": "README.md"}
    if facts.languages:
        meta["language"] = list(facts.languages)
    meta |= {
        "pretty_name": facts.name, "task_categories": [CATEGORIES.get(facts.task, "other")], "size_categories": [size_category(sum(facts.counts.values()))],
        "annotations_creators": ["machine-generated"], "source_datasets": ["original"], "tags": ["slm-forge", "synthetic"],
    }
    meta["configs"] = [{"config_name": "default", "data_files": [{"split": split, "path": f"data/{split}.jsonl"} for split in facts.counts]}]
    return meta


def size_category(rows: int) -> str:
    """The hub's word for a number of rows."""
    return next((name for limit, name in SIZES if rows < limit), "n>10M")


def open_data_terms(facts: DataFacts) -> list[str]:
    """What a person has to decide: the teacher's terms; and the documents', where the rows quote them."""
    return open_terms(facts.teacher, facts.documents if facts.quotes else {})
