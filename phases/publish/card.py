"""Renders the model card (README.md) from measured facts. What was not measured is called "not evaluated"."""

from __future__ import annotations

import json
import shlex
from importlib.resources import files
from typing import Any

import yaml

from forge import __version__
from forge.file_answers import table
from forge.phases.publish.facts import Facts, ShippedFile
from forge.phases.publish.licence import Licence, open_terms, restrictive
from forge.phases.publish.policy import Decision
from forge.records import Verdict

NOT_EVALUATED = "not evaluated"

OFFLINE_TEACHER = "offline"


def render_card(facts: Facts, decision: Decision, licence: Licence) -> str:
    """The whole README.md: front matter, the verdict first where it is not good, then what was measured."""
    import jinja2

    template = (files("forge.phases.publish") / "card.md.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        autoescape=False,   # Markdown, not HTML; `cell` and `line` neutralise what comes from a corpus
    )
    environment.filters.update(
        count=count, number=number, power=power, size=size, cell=cell, line=line, pyrepr=_python_text, shell=shlex.quote
    )
    body = environment.from_string(template).render(
        facts=facts, plan=facts.plan, shape=facts.shape, decision=decision, licence=licence, main=main_file(facts), answers=table(facts.each),
        verdicts=[v for v in (*facts.eval_verdicts, *facts.ship_verdicts) if v.kind != "info"],
        restrictive=restrictive(facts.document_licences), open_terms=open_terms(facts.plan.teacher, facts.document_licences), offline=facts.plan.teacher == OFFLINE_TEACHER,
        scratch=facts.plan.base == "scratch", forge_version=__version__, not_evaluated=NOT_EVALUATED,
        max_new_tokens=int(facts.modelfile.sampling.get("num_predict") or 256),
    )
    return f"---\n{yaml.safe_dump(front_matter(facts, licence), sort_keys=False, allow_unicode=True)}---\n\n{body}"


def front_matter(facts: Facts, licence: Licence) -> dict[str, Any]:
    """The card's metadata, as a model hub reads it. `base_model` is left out for a model from scratch."""
    plan = facts.plan
    meta: dict[str, Any] = {"license": licence.id}
    if licence.id == "other":
        meta |= {"license_name": licence.name, "license_link": "NOTICE"}
    if plan.base != "scratch":
        meta |= {"base_model": plan.base, "base_model_relation": "finetune"}
    if facts.languages:
        meta["language"] = list(facts.languages)
    origin = "from-scratch" if plan.base == "scratch" else "fine-tuned"
    meta |= {"library_name": "transformers", "pipeline_tag": "text-generation"}
    meta["tags"] = ["slm-forge", "gguf", "lora", origin, plan.task]
    results = [
        model_index_entry("held-out rows of the corpus", facts.eval_verdicts),
        model_index_entry("quantized files", facts.ship_verdicts),
    ]
    found = [entry for entry in results if entry["metrics"]]
    if found:
        meta["model-index"] = [{"name": plan.name, "results": found}]
    return meta


def model_index_entry(label: str, verdicts: tuple[Verdict, ...]) -> dict[str, Any]:
    """One `results` entry: the quality verdicts that have a number, exactly as measured."""
    return {
        "task": {"type": "text-generation"},
        "dataset": {"type": "private", "name": label},
        "metrics": [
            {"type": verdict.name, "value": verdict.estimate}
            for verdict in verdicts if verdict.estimate is not None and verdict.kind == "quality"
        ],
    }


def main_file(facts: Facts) -> ShippedFile | None:
    """The file that the commands use: the one that the Modelfile names."""
    named = facts.modelfile.source.rpartition("/")[2]
    return next((file for file in facts.shipped if file.name == named), facts.shipped[0] if facts.shipped else None)


def count(value: int | None) -> str:
    """1,234 or "not measured"."""
    return "not measured" if value is None else f"{value:,}"


def number(value: float | None) -> str:
    """Four digits (1.0004, 0.0002) or "not evaluated"."""
    if value is None:
        return NOT_EVALUATED
    return f"{value:.4g}" if abs(value) < 1 else f"{value:,.4f}".rstrip("0").rstrip(".")


def power(value: float) -> str:
    """1.2e15 as people write it in a sentence: 1.2 × 10^15."""
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{digits} × 10^{int(exponent)}"


def size(value: int) -> str:
    """Bytes for people, beside the exact number."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if value >= factor:
            return f"{value / factor:.2f} {unit}"
    return f"{value} B"


def line(text: str) -> str:
    """A text on one line."""
    return " ".join(str(text).split())


def cell(text: str) -> str:
    """A text inside a Markdown table."""
    return line(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _python_text(text: str) -> str:
    """A Python string literal; JSON's escapes are a subset of Python's."""
    return json.dumps(text, ensure_ascii=False)
