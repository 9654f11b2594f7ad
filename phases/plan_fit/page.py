"""plan.md: the page that a person reads at the gate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from forge.ledger import MICRO, Spend
from forge.phases.plan_fit.build import Draft
from forge.phases.plan_fit.compared import machine_lines
from forge.phases.plan_fit.data import SPLITS, Data
from forge.phases.plan_fit.forecast import ON_MACHINE, Row
from forge.phases.plan_fit.mend import how_to_mend
from forge.records import Plan, Verdict

MARK = {"pass": "pass", "fail": "**FAIL**", "undecided": "undecided"}


def plan_page(plan: Plan, draft: Draft) -> str:
    """The whole page as Markdown."""
    data = draft.data
    parts = [
        f"# Plan: {plan.name}", _headline(plan),
        "## Model", _model(plan),
        "## Training", _training(plan, data),
        "## Data", _data(data),
        "## Checks", _checks(plan.verdicts),
        "## Machine", _machines(plan),
        "## Time and money", _money(plan, draft.rows, draft.spend, draft.checks.pilot),
        "## What happens next", _next(plan),
    ]
    return "\n\n".join(parts) + "\n"


def _headline(plan: Plan) -> str:
    counts = {outcome: [v for v in plan.verdicts if v.outcome == outcome] for outcome in MARK}
    text = f"{len(counts['pass'])} of {len(plan.verdicts)} checks pass"
    for outcome in ("fail", "undecided"):
        if counts[outcome]:
            text += f"; {outcome}: {', '.join(verdict.name for verdict in counts[outcome])}"
    return text + (" (dry run: small on purpose)" if plan.dry_run else "")


def _model(plan: Plan) -> str:
    lines = [
        f"- **{plan.name}**: {plan.architecture}, {plan.parameters:,} parameters, {plan.precision}",
        f"- base: {plan.base}, licence {plan.base_license}",
        f"- files: {', '.join(plan.quantizations)}",
    ]
    if plan.scratch:
        shape = plan.scratch
        lines.append(
            f"- shape: width {shape.hidden_size}, {shape.layers} layers, {shape.heads} heads ({shape.kv_heads} key/value),"
            f" vocabulary {shape.vocab_size:,}, context {shape.context}"
        )
    return "\n".join(lines + _why(plan, "base", "size", "context", "precision", "quantizations"))


def _training(plan: Plan, data: Data) -> str:
    lines = []
    if plan.scratch:
        shape = plan.scratch
        tokens = shape.steps * shape.rows_per_step * shape.context
        lines.append(f"- base: {shape.steps} steps, {tokens:,} tokens, learning rate {shape.learning_rate:g}")
    lora = plan.lora
    what = "all weights" if plan.tuning == "full" else f"adapter: LoRA rank {lora.rank}, alpha {lora.alpha}, {lora.target_modules}"
    lines.append(
        f"- {what}; {lora.steps} steps,"
        f" {lora.epochs:g} epochs over {len(data.splits['train']):,} examples, {lora.examples_per_step} a step,"
        f" learning rate {lora.learning_rate:g}"
    )
    return "\n".join(lines + _why(plan, "steps", "learning_rate", "epochs", "adapter", "continues", "sweep", "stages"))


def _data(data: Data) -> str:
    contract, lines = data.contract, ["| split | rows | groups | tokens |", "|---|---:|---:|---:|"]
    for name in SPLITS:
        rows = data.splits[name]
        groups, tokens = len({row.group for row in rows}), contract.tokens.get(name, 0)
        lines.append(f"| {name} | {len(rows):,} | {groups:,} | {tokens:,} |")
    buckets = Counter(pair.bucket for pair in data.pairs)
    reviewed = ", ".join(f"{count:,} {name}" for name, count in contract.reviewed.items())
    lines += [
        "",
        f"- {len(data.clean):,} passages kept; {contract.pretrain_tokens:,} tokens are in the training groups",
        f"- {len(data.pairs):,} pairs: " + ", ".join(f"{name} {count:,}" for name, count in sorted(buckets.items())),
        *([f"- reviewed by a person: {reviewed}"] if reviewed else []),
        f'- system prompt: "{contract.system_prompt}"',
        f'- out of scope: "{contract.abstention}"',
        *_subtopics(data),
    ]
    return "\n".join(lines)


def _subtopics(data: Data) -> list[str]:
    """What the corpus is about, and how much of each subtopic is asked, trained and tested."""
    passages = Counter(name for passage in data.clean if (name := passage.meta.get("subtopic", "")))
    if not passages:
        return []
    pairs = Counter(pair.subtopic for pair in data.pairs)
    tested = Counter(row.subtopic for split, rows in data.splits.items() if split.startswith("test_") for row in rows)
    lines = ["", "| subtopic | passages | pairs | tested |", "|---|---:|---:|---:|"]
    return lines + [f"| {name} | {count:,} | {pairs[name]:,} | {tested[name]:,} |" for name, count in sorted(passages.items(), key=lambda one: (-one[1], one[0]))]


def _checks(verdicts: Sequence[Verdict]) -> str:
    lines = ["| check | result | n | estimate | interval | limit |", "|---|---|---:|---:|---:|---:|"]
    for v in verdicts:
        interval = f"{_number(v.ci[0])} - {_number(v.ci[1])}" if v.ci else "-"
        lines.append(
            f"| {v.name} | {MARK[v.outcome]} | {v.n:,} | {_number(v.estimate)} | {interval} | {_number(v.threshold)} |"
        )
    lines.append("")
    for v in verdicts:
        lines.append(f"- {v.name}: {v.evidence}")
        if mend := how_to_mend(v):
            lines.append(f"  - to mend: {mend}")
    return "\n".join(lines)


def _machines(plan: Plan) -> str:
    lines = [*machine_lines(plan), "", f"- why: {plan.reasons['provider']}"]
    if plan.price_source:
        lines.append(f"- price: {plan.price_source}")
    if plan.alternates:
        lines.append(f"- when it cannot be had: {', '.join(plan.alternates)}")
    lines += [f"- proven: {line}" for line in plan.preflight]
    lines.append(f"- deadline: {plan.reasons['deadline']}")
    if plan.usd_per_hour:
        lines.append(f"- at worst: ${plan.worst_usd:.2f}, which is reserved before the machine is asked for: it runs to its deadline, and a tenth more")
    return "\n".join(lines)


def _bases(rows: Sequence[Row]) -> list[str]:
    """Where the times of the phases on the machine come from; phases with the same basis on one line."""
    phases: dict[str, list[str]] = {}
    for row in rows:
        if row.phase in ON_MACHINE:
            phases.setdefault(row.basis, []).append(row.phase)
    return [f"- {', '.join(names)}: {basis}" for basis, names in phases.items()]


def _piloted(pilot: Mapping[str, Any]) -> list[str]:
    """What the pilot said about synth, beside which the spent sum can be read."""
    if pilot.get("state") != "on":
        return []
    return [f"- synth: forecast ${pilot['usd_p50']:.4f} (P90 ${pilot['usd_p90']:.4f}) by a pilot, {pilot['basis']}"]


def _money(plan: Plan, rows: Sequence[Row], spend: Spend, pilot: Mapping[str, Any]) -> str:
    lines = ["| phase | time P50 | time P90 | cost P50 | cost P90 |", "|---|---:|---:|---:|---:|"]
    for row in rows:
        lines.append(
            f"| {row.phase} | {_time(row.seconds_p50)} | {_time(row.seconds_p90)} |"
            f" ${row.usd_p50:.2f} | ${row.usd_p90:.2f} |"
        )
    lines += ["", *_bases(rows), *_piloted(pilot)]
    spent = spend.committed / MICRO
    left = plan.budget_usd - spent - plan.cost_p90_usd
    lines.append("")
    lines.append(
        f"spent ${spent:.2f} · to come ${plan.cost_p50_usd:.2f} (P90 ${plan.cost_p90_usd:.2f}) · cap ${plan.budget_usd:.2f}"
        f" · left after P90 ${left:.2f}"
    )
    return "\n".join(lines)


def _next(plan: Plan) -> str:
    free = plan.cost_p90_usd == 0 and plan.usd_per_hour == 0
    target = "a local folder" if plan.hub == "local" else f"{plan.hub} ({plan.visibility})"
    steps = (
        f"A machine is leased ({plan.provider} {plan.offer}); it ends itself after {_time(plan.deadline_seconds)}."
        f" Then: train, eval, quantize, publish to {target}, teardown."
    )
    if free:
        gate = "Nothing more can be spent, so the plan passes by itself, unless gate.always_ask is set or it is edited."
    else:
        gate = "Approve exactly this plan: `forge approve RUN --plan HASH`; `forge plan RUN` shows both. Any change voids it."
    return f"{steps}\n\n{gate}"


def _why(plan: Plan, *keys: str) -> list[str]:
    return [f"- why {key}: {plan.reasons[key]}" for key in keys if key in plan.reasons]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
