"""What the reports say in words: how the run ended, what was lost, what to do next. Shared by Markdown and HTML."""

from __future__ import annotations

from collections import Counter
from typing import Any

from forge.phases.teardown.view import LeaseRow, PhaseRow, View
from forge.records import Record, Verdict

OUTCOMES = {
    "done": "The run is done.",
    "failed": "The run stopped on an error.",
    "interrupted": "The run was stopped by its user.",
    "waiting": "The run waits for an approval.",
    "stopped": "The run stopped where it was asked to.",
    "rejected": "The plan was rejected; nothing more is spent.",
}

CHAIN = (
    "prep", "audit", "synth", "shape", "plan_fit", "gate", "provision", "train", "eval", "quantize", "publish",
)
"""The order in which people expect the phases; others follow in the order in which they ran."""


MISSING = "–"


class Loss(Record):
    """Something of the corpus that the model has not seen: how many of what, and why."""

    what: str
    reason: str
    count: int
    chars: int = 0


def headline(view: View) -> str:
    """One sentence: what this run came to."""
    record = view.record
    failed = record.failed_phase
    if record.outcome == "failed" and failed:
        return f"Stopped in {failed.name}: {error_fields(view)['fact'] or 'see the log'}"
    if record.outcome != "done":
        return OUTCOMES.get(record.outcome, f"The run ended as: {record.outcome}.")
    told = view.publication.get("first_line") or view.eval.get("headline") or ""
    return str(told or "The run is done; the model was not evaluated.")


def error_fields(view: View) -> dict[str, str]:
    """fact, why and next of the error that ended the run; from the failed phase when the engine gave none.

    Empty after an interrupt: that a person pressed Ctrl-C is no error.
    """
    if view.record.outcome == "interrupted":
        return {"fact": "", "why": "", "next": ""}
    given = view.record.error or {}
    failed = view.record.failed_phase
    told = _lines(failed.error) if failed else {"fact": "", "why": "", "next": ""}
    return {key: str(given.get(key) or told[key]) for key in ("fact", "why", "next")}


def next_steps(view: View) -> list[tuple[str, str]]:
    """(what for, command) in the order in which a person would want them."""
    run, outcome = view.record.run, view.record.outcome
    steps: list[tuple[str, str]] = [
        (f"end the machine {lease.token}, which may still cost money", f"forge teardown {run}")
        for lease in open_leases(view)
    ]
    if outcome == "done" and view.record.dry_run:
        return [*steps, ("do the real thing", "forge run CORPUS --budget USD")]
    if outcome == "done":
        return steps + _after_success(view)
    if outcome == "waiting":
        return [*steps, ("read the plan", f"forge plan {run}"), ("let it go on", f"forge approve {run} --plan HASH")]
    told = error_fields(view)["next"]
    if told and told != f"forge resume {run}":
        steps.append(("remove the cause", told))
    return [*steps, ("go on where it stopped; nothing finished is repeated or paid twice", f"forge resume {run}")]


class PhaseCost(Record):
    """What a phase was to take and took; None where nothing was foretold or it did not run."""

    name: str
    seconds_p50: float | None = None
    seconds: float | None = None
    usd_p50: float | None = None
    usd: float = 0.0
    reserved_usd: float = 0.0


def by_phase(view: View) -> list[PhaseCost]:
    """Forecast and real time and money of every phase that has either."""
    told = {str(row.get("phase")): row for row in view.forecast.get("phases") or [] if isinstance(row, dict)}
    rows = []
    for row in phases_in_order(view):
        spent = [spend for spend in view.record.spend if spend.phase == row.name]
        known = told.get(row.name, {})
        rows.append(PhaseCost(
            name=row.name, seconds=row.seconds, seconds_p50=known.get("seconds_p50"), usd_p50=known.get("usd_p50"),
            usd=sum(spend.actual_usd or 0.0 for spend in spent), reserved_usd=sum(spend.reserved_usd for spend in spent if spend.actual_usd is None),
        ))
    return [row for row in rows if row.seconds is not None or row.seconds_p50 is not None or row.usd or row.reserved_usd]


def open_leases(view: View) -> list[LeaseRow]:
    """Leases that the provider has not confirmed as gone."""
    return [lease for lease in view.record.leases if not lease.is_gone]


def phases_in_order(view: View) -> list[PhaseRow]:
    """Every phase of the chain, with the ones that were not reached; teardown, which is running now, is left out."""
    ran = {row.name: row for row in view.record.phases if row.name != "teardown"}
    if view.approval:
        ran["gate"] = PhaseRow(name="gate", status="done", metrics={"approved": approved(view)})
    rows = [ran.pop(name, PhaseRow(name=name, status="not reached")) for name in CHAIN]
    return rows + list(ran.values())


def approved(view: View) -> str:
    """Who let the plan pass."""
    if view.approval.get("kind") == "free":
        return "by itself: nothing more can be spent"
    return f"by {view.approval.get('who') or 'nobody'}"


def losses(view: View) -> list[Loss]:
    """What was left out and why, documents first, largest first."""
    documents = Counter((document.status, document.reason or "no reason given") for document in view.lost_documents)
    found = [Loss(what=f"documents {status}", reason=reason, count=n) for (status, reason), n in documents.items()]
    chars: Counter[str] = Counter()
    for drop in view.drops:
        chars[drop.reason] += drop.chars
    reasons: dict[str, Any] = view.audit.get("dropped_by_reason") or Counter(drop.reason for drop in view.drops)
    found += [Loss(what="passages", reason=reason, count=int(n), chars=chars[reason]) for reason, n in reasons.items()]
    if view.shape and view.shape.too_long:
        found.append(Loss(what="rows", reason="longer than the model's context", count=view.shape.too_long))
    return sorted(found, key=lambda loss: (loss.what, -loss.count, loss.reason))


def tally(view: View) -> dict[str, int]:
    """How many verdicts passed, failed and stayed undecided."""
    outcomes = [verdict.outcome for _, verdict in view.verdicts if verdict.kind != "info"]
    return {outcome: outcomes.count(outcome) for outcome in ("pass", "fail", "undecided")}


def usd(value: object) -> str:
    """$1.23; six digits where cents would hide a cost."""
    if not isinstance(value, int | float):
        return "not known"
    return f"${value:,.2f}" if value == 0 or abs(value) >= 0.01 else f"${value:.6f}"


def duration(seconds: object) -> str:
    """4 s, 3 min 5 s, 2 h 10 min."""
    if not isinstance(seconds, int | float):
        return "not known"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def forecast(view: View) -> dict[str, float]:
    """P50 and P90 of time and money as they were foretold; only what is known."""
    total = view.forecast.get("total") or view.forecast
    keys = ("seconds_p50", "seconds_p90", "usd_p50", "usd_p90")
    found = {key: float(total[key]) for key in keys if isinstance(total.get(key), int | float)}
    if view.plan:
        found.setdefault("usd_p50", view.plan.cost_p50_usd)
        found.setdefault("usd_p90", view.plan.cost_p90_usd)
    return found


def number(value: object) -> str:
    """Four digits, or a dash for what was not measured."""
    if not isinstance(value, int | float):
        return MISSING
    return f"{value:.4g}" if abs(value) < 1 else f"{value:,.4f}".rstrip("0").rstrip(".")


def plain(value: object) -> str:
    """A metric as people read it."""
    if isinstance(value, float):
        return number(value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else " ".join(str(value).split())


def interval(verdict: Verdict) -> str:
    """0.1 to 0.2, or a dash."""
    return f"{verdict.ci[0]:.4g} to {verdict.ci[1]:.4g}" if verdict.ci else MISSING


def hub_path(view: View) -> str:
    """The published folder as a person finds it."""
    publication = view.publication
    return f"{publication['hub']}/{publication['name']}" if {"hub", "name"} <= publication.keys() else ""


def _after_success(view: View) -> list[tuple[str, str]]:
    run = view.record.run
    steps = [("ask it something", f'forge chat {run} "a question about your documents"')] if view.publication else []
    judged = [verdict for _, verdict in view.verdicts if verdict.kind != "info"]
    undecided = [verdict.name for verdict in judged if verdict.outcome == "undecided"]
    failed = [verdict.name for verdict in judged if verdict.outcome == "fail"]
    if failed:
        steps.append((f"see why {_some(failed)} failed", f"forge show {run} eval"))
    if undecided:
        why = f"add documents or questions, since {_some(undecided)} could not be decided"
        steps.append((why, f"forge resume {run} --from prep"))
    return steps


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _lines(error: Any) -> dict[str, str]:
    """A ForgeError's text (fact / why: / next:) or dict as its three fields."""
    if isinstance(error, dict):
        return {key: str(error.get(key) or "") for key in ("fact", "why", "next")}
    lines = str(error or "").splitlines()
    told = {"fact": lines[0] if lines else "", "why": "", "next": ""}
    for line in lines[1:]:
        key, _, text = line.strip().partition(": ")
        if key in ("why", "next"):
            told[key] = text
    return told
