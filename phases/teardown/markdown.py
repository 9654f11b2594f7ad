"""after-action.md (what happened, what it cost, what to do next), qa-report.md (what every gate said, and why), failure-report.md."""

from __future__ import annotations

from html import escape
from importlib.resources import files

from forge.phases.teardown import story
from forge.phases.teardown.view import View
from forge.records import Verdict

GATES = ("data", "evaluation", "shipped files")
FAILED = {"failed", "interrupted"}
FILES_NAMED = 20
"""Unusable files that are listed one by one; the rest is in documents.jsonl."""

LOSSES = """## What was left out, and why

{% if losses %}
| what | why | how many | characters |
|---|---|---:|---:|
{% for loss in losses %}
| {{ loss.what|text }} | {{ loss.reason|text }} | {{ "{:,}".format(loss.count) }} | {{ "{:,}".format(loss.chars) if loss.chars else missing }} |
{% endfor %}
{% else %}
Nothing was.
{% endif %}

{% for document in lost[:named] %}
- `{{ document.source.path|code }}`: {{ document.status }}, {{ document.reason|text }}
{% endfor %}
{% if lost|length > named %}
- and {{ lost|length - named }} more in documents.jsonl
{% endif %}
"""

UNREADABLE = """{% if view.unreadable %}

## Could not be read

{% for name, why in view.unreadable.items()|sort %}
- {{ name }}: {{ why|text }}
{% endfor %}
{% endif %}
"""


def after_action(view: View) -> str:
    """What happened, phase by phase, with time and money, what was lost, and the next command."""
    return _render("after-action.md.j2", view)


def qa_report(view: View) -> str:
    """All verdicts of all gates with their evidence, and the counts that they rest on."""
    return _render("qa-report.md.j2", view)


def failure_report(view: View) -> str:
    """What failed, the last lines of the logs, what is kept and half done, and the command that goes on."""
    return _render("failure-report.md.j2", view)


def _render(name: str, view: View) -> str:
    import jinja2

    template = (files("forge.phases.teardown") / name).read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.DictLoader({"main": template, "losses": LOSSES, "unreadable": UNREADABLE}),
        undefined=jinja2.ChainableUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        autoescape=False,   # Markdown; `text` and `code` neutralise what comes from a corpus
    )
    environment.filters.update(
        text=text, code=code, fenced=fenced, plain=story.plain, number=story.number, duration=story.duration, usd=story.usd,
        interval=story.interval,
    )
    return environment.get_template("main").render(
        view=view, record=view.record, headline=story.headline(view), error=story.error_fields(view),
        phases=story.phases_in_order(view), forecast=story.forecast(view), losses=story.losses(view),
        lost=view.lost_documents, named=FILES_NAMED, steps=story.next_steps(view), tally=story.tally(view), gates=verdicts_by_gate(view),
        counts=counts(view), missing=story.MISSING, failed=view.record.outcome in FAILED,
    )


def verdicts_by_gate(view: View) -> dict[str, list[Verdict]]:
    """Every gate, with what it said; a gate that was not reached has no verdicts."""
    return {gate: [verdict for name, verdict in view.verdicts if name == gate] for gate in GATES}


def counts(view: View) -> dict[str, int]:
    """How much of everything there was, in the order in which it was made."""
    found = {"documents": view.documents} if view.documents is not None else {}
    found |= {name: count for name, count in view.counts.items() if name != "train"}
    if view.shape:
        found |= {f"rows: {split}": count for split, count in sorted(view.shape.counts.items())}
    return found


def text(value: object) -> str:
    """A value inside Markdown: one line, no table breaks, no live HTML."""
    return escape(" ".join(str(value).split()), quote=False).replace("|", "\\|")


def fenced(value: str) -> str:
    """A line inside a fenced block, which it may not end."""
    return value.replace("```", "'''")


def code(value: str) -> str:
    """A value inside backticks."""
    return " ".join(value.split()).replace("`", "'").replace("|", "\\|")
