"""report.html: the whole run on one page that needs only a browser: no network, no scripts, light and dark, printable."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from forge.file_answers import table
from forge.phases.teardown import story
from forge.phases.teardown.plots import Bar, Series, funnel, interval_plot, line_chart
from forge.phases.teardown.trained import grids
from forge.phases.teardown.view import View
from forge.protocols import Prediction
from forge.records import Record, Verdict

ANSWERS_SHOWN = {"test_recall": 4, "test_unseen": 2, "test_abstain": 2}
KINDS = {
    "test_recall": "known fact, new question",
    "test_unseen": "document it never saw",
    "test_abstain": "not in the documents",
}
GATE_ORDER = {"evaluation": 0, "shipped files": 1, "data": 2}
"""What the model can do comes first, how its data were judged last."""

NUMBERS_SHOWN = 4
"""Metrics of a phase that fit into its row; all are in after-action.md."""

LONGEST_ANSWER = 400
"""Characters of an answer that are shown."""


class Answer(Record):
    """One question with what was expected and what each model said."""

    kind: str
    question: str
    expected: str
    base: str | None
    tuned: str


def render_report(view: View) -> str:
    """The page. Everything that comes from the corpus is escaped (autoescape); only our own SVG is marked safe."""
    import jinja2
    from markupsafe import Markup

    template = (files("forge.phases.teardown") / "report.html.j2").read_text(encoding="utf-8")
    # Chainable: a report that lacks a field still becomes a page; what is missing is shown as a dash.
    environment = jinja2.Environment(
        undefined=jinja2.ChainableUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=True
    )
    environment.filters.update(usd=story.usd, duration=story.duration, number=story.number, size=size, words=words)
    ranked = sorted(view.verdicts, key=lambda row: (row[1].kind != "quality", GATE_ORDER[row[0]]))
    rows = [(gate, verdict, story.interval(verdict), Markup(interval_plot(verdict))) for gate, verdict in ranked]
    judged = [row for row in rows if row[1].kind != "info"]
    return environment.from_string(template).render(
        view=view, record=view.record, plan=view.plan, headline=story.headline(view), error=story.error_fields(view),
        steps=story.next_steps(view), phases=timeline(view), losses=story.losses(view), tally=story.tally(view),
        forecast=story.forecast(view), open_leases=story.open_leases(view), hub_path=story.hub_path(view),
        tone=tone(view), figures=key_figures(view), answers=chosen_answers(view), verdicts=[row for row in judged if not _is_settled(row)],
        settled=[row for row in judged if _is_settled(row)], by_phase=story.by_phase(view), further=[row for row in rows if row[1].kind == "info"], approved=story.approved(view),
        each=view.each_file, each_table=table(view.each_file), shipped_answers=(view.ship.get("answers") or [])[:4], charts=[Markup(chart) for chart in charts(view)],
        funnel=Markup(data_funnel(view)), money=money_bar(view), grids=grids(view),
    )


def _is_settled(row: tuple[str, Verdict, str, Any]) -> bool:
    """A check of the data or of integrity that passed: folded, so that what the model can do stands alone."""
    gate, verdict = row[:2]
    return verdict.outcome == "pass" and (gate == "data" or verdict.kind == "integrity")


def tone(view: View) -> str:
    """How the page greets: pass (green), undecided (amber), fail (red) or plain."""
    if view.record.outcome == "failed" or story.open_leases(view):
        return "fail"
    if view.record.outcome != "done":
        return "undecided"
    return view.quality if view.quality in ("pass", "fail", "undecided") else "undecided"


def key_figures(view: View) -> list[tuple[str, str]]:
    """The few numbers that people look for first."""
    record, plan = view.record, view.plan
    figures = [
        (f"spent, of {story.usd(record.budget_usd)}", story.usd(record.settled_usd)),
        ("time", story.duration(record.seconds)),
    ]
    parameters = view.publication.get("parameters") or view.train.get("parameters") or (plan.parameters if plan else None)
    if record.reserved_usd:
        figures.insert(1, ("reserved, not settled", story.usd(record.reserved_usd)))
    if parameters:
        figures.append(("parameters", f"{parameters:,}"))
    if view.documents is not None:
        figures.append(("documents", f"{view.documents:,}"))
    if view.shape:
        figures.append(("training rows", f"{view.shape.counts.get('train', 0):,}"))
    shipped = view.ship.get("files") or []
    if shipped:
        figures.append(("smallest file", size(min(file.get("bytes", 0) for file in shipped))))
    return figures


def timeline(view: View) -> list[dict[str, Any]]:
    """One row per phase: how it went, and where its bar lies in the whole (percent)."""
    total, begun, rows = view.record.seconds or 1.0, 0.0, []
    for row in story.phases_in_order(view):
        seconds = row.seconds or 0.0
        width = round(max(seconds / total * 100, 0.6 if row.seconds else 0), 2)
        metrics = [(key, value) for key, value in sorted(row.metrics.items()) if value != "" and key != "summary"]
        numbers = ", ".join(f"{words(key)} {story.plain(value)}" for key, value in metrics[:NUMBERS_SHOWN])
        rows.append({
            "name": row.name, "status": row.status, "seconds": row.seconds, "attempt": row.attempt, "numbers": numbers,
            "left": round(min(begun / total * 100, 100 - width), 2), "width": width,
            "tone": {"done": "pass", "failed": "fail", "interrupted": "undecided"}.get(row.status, "none"),
        })
        begun += seconds
    return rows


def money_bar(view: View) -> dict[str, float] | None:
    """Shares (percent) of the budget: settled, reserved, and where the forecast's P50 and P90 lie."""
    record = view.record
    if record.budget_usd <= 0:
        return None
    told = story.forecast(view)
    amounts = {
        "settled": record.settled_usd, "reserved": record.reserved_usd,
        "p50": told.get("usd_p50", 0.0), "p90": told.get("usd_p90", 0.0),
    }
    return {name: min(100.0, round(value / record.budget_usd * 100, 2)) for name, value in amounts.items()}


def charts(view: View) -> list[str]:
    """Loss of both stages and the speed of training; a stage without numbers has no chart."""
    drawn = []
    for stage, title in (("pretrain", "Pretraining loss"), ("lora", "Tuning loss (LoRA)")):
        lines = [
            Series(label="training", points=tuple(view.curve(stage, "loss")), style="one"),
            Series(label="validation", points=tuple(view.curve(stage, "val_loss")), style="two"),
        ]
        drawn.append((title, line_chart(title, lines, x_label="optimizer step", y_label="nats per token")))
    speed = tuple(
        (float(index), float(row["tokens_per_second"])) for index, row in enumerate(view.progress, 1)
        if isinstance(row.get("tokens_per_second"), int | float)
    )
    lines = [Series(label="tokens per second", points=speed, style="one")]
    chart = line_chart("Speed", lines, x_label="progress report", y_label="tokens per second", from_zero=True)
    drawn.append(("Speed", chart))
    return [f"<figure><figcaption>{title}</figcaption>{chart}</figure>" for title, chart in drawn if chart]


def data_funnel(view: View) -> str:
    """Documents, passages, what audit kept, pairs, training rows."""
    counts, bars = view.counts, []
    if view.documents is not None:
        lost = len(view.lost_documents)
        note = f"{lost:,} {'was' if lost == 1 else 'were'} not used" if lost else "all read"
        bars.append(Bar(label="documents", value=view.documents, note=note))
    if "passages" in counts:
        bars.append(Bar(label="passages", value=counts["passages"], note="cut by structure"))
    if "clean" in counts:
        gone = counts.get("passages", counts["clean"]) - counts["clean"]
        bars.append(Bar(label="kept by audit", value=counts["clean"], note=f"{gone:,} removed"))
    if "pairs" in counts:
        bars.append(Bar(label="pairs", value=counts["pairs"], note="question and answer, grounded in a passage"))
    if "train" in counts:
        held = sum(view.shape.counts.values()) - view.shape.counts.get("train", 0) if view.shape else 0
        bars.append(Bar(label="training rows", value=counts["train"], note=f"{held:,} more are held out" if held else ""))
    return funnel("What became of the data", bars)


def chosen_answers(view: View) -> list[Answer]:
    """A few test questions, the first of each split by id, with what base and tuned model said."""
    chosen: list[Answer] = []
    for split, wanted in ANSWERS_SHOWN.items():
        rows = sorted((row for row in view.predictions if row.split == split and (row.generated or row.tuned)), key=lambda row: row.id)
        chosen += [_answer(row) for row in rows[:wanted]]
    return chosen


def size(value: object) -> str:
    """Bytes for people, or a dash."""
    if not isinstance(value, int):
        return story.MISSING
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value} B"


def words(name: str) -> str:
    """near_duplicate as "near duplicate"."""
    return name.replace("_", " ")


def _answer(row: Prediction) -> Answer:
    question = next((message.content for message in reversed(row.prompt) if message.role == "user"), "")
    return Answer(
        kind=KINDS.get(row.split, row.split), question=_cut(question), expected=_cut(row.gold), tuned=_cut(row.tuned),
        base=_cut(row.base) if row.base else None,
    )


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_ANSWER else text[:LONGEST_ANSWER].rstrip() + " …"
