"""Decides whether a measured model may be published, and what the first line of its card must admit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from forge.errors import GateFailed
from forge.phases.publish.facts import Facts
from forge.phases.publish.licence import Licence, licence_problems, missing_agreement, open_terms
from forge.records import Record

Outcome = Literal["pass", "fail", "undecided"]
ORDER: dict[Outcome, int] = {"pass": 0, "undecided": 1, "fail": 2}

WORDS = {"fail": "failed", "undecided": "undecided"}
NAMED = 3
"""Measures that the first line names; the table has all."""


class Decision(Record):
    """What may be said and done. `first_line` is empty only for a model that passed everything."""

    quality: Outcome
    integrity: Outcome
    first_line: str
    headline: str


def decide(facts: Facts, licence: Licence, publish_anyway: str) -> Decision:
    """Apply the gates. Raises GateFailed; then nothing is published.

    Integrity that failed always stops. A model whose quality is not shown, or whose integrity could not be measured, may
    go into a folder of this machine with its verdict in the first line; it leaves the machine only with a written reason,
    and with unmeasured integrity or without a licence not even then.
    """
    plan = facts.plan
    problems = integrity_problems(facts) + licence_problems(licence, plan.base, plan.base_license, plan.name)
    if problems:
        raise GateFailed(
            "the model may not be published", why="; ".join(problems),
            next="forge resume --from quantize, once it is mended",
        )
    quality, integrity = measured_quality(facts), measured_integrity(facts)
    headline = str(facts.eval_json.get("headline") or "").strip()
    if facts.plan.visibility != "local":
        _check_leaving(facts, licence, quality, integrity, publish_anyway)
    first_line = _first_line(facts, quality, integrity, headline, publish_anyway)
    return Decision(quality=quality, integrity=integrity, first_line=first_line, headline=headline)


def integrity_problems(facts: Facts) -> list[str]:
    """Every integrity check that said no, in words."""
    problems = [
        f"{verdict.name} failed: {verdict.evidence or verdict.estimate}"
        for verdict in (*facts.plan.verdicts, *facts.eval_verdicts, *facts.ship_verdicts)
        if verdict.kind == "integrity" and verdict.outcome == "fail"
    ]
    if facts.ship_json.get("parity") == "fail":
        problems.append("the exported files do not compute what the trained model computes (parity)")
    if not facts.shipped:
        problems.append("no quantized file was measured")
    return sorted(set(problems))


def measured_quality(facts: Facts) -> Outcome:
    """The worst of what eval concluded and what each quality verdict says; nothing measured is undecided."""
    verdicts = [*facts.eval_verdicts, *facts.ship_verdicts]
    outcomes = [verdict.outcome for verdict in verdicts if verdict.kind == "quality"]
    stated = facts.eval_json.get("quality")
    return _worst([*outcomes, stated if stated in ORDER else "undecided"])


def measured_integrity(facts: Facts) -> Outcome:
    """The worst integrity outcome; a parity that was not measured is undecided."""
    verdicts = [*facts.plan.verdicts, *facts.eval_verdicts, *facts.ship_verdicts]
    parity = facts.ship_json.get("parity")
    return _worst([*(v.outcome for v in verdicts if v.kind == "integrity"), parity if parity in ORDER else "undecided"])


def check_approval(facts: Facts, approval: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
    """Raise GateFailed unless the approval names this very plan and the plan names these very data.

    inputs: artifact name -> sha256 of what this phase was given.
    """
    approved = approval.get("plan_sha256")
    if approved != facts.plan_sha256:
        raise GateFailed(
            "the plan is not the one that was approved",
            why=f"approved {str(approved)[:12]}, found {facts.plan_sha256[:12]}", next="forge review, then forge approve",
        )
    changed = sorted(name for name, sha256 in facts.plan.data.items() if name in inputs and inputs[name] != sha256)
    if changed:
        raise GateFailed(
            f"{', '.join(changed)} changed after the plan was approved",
            why="the approval is bound to the data that the plan names", next="forge resume --from plan_fit",
        )


def _check_leaving(facts: Facts, licence: Licence, quality: Outcome, integrity: Outcome, publish_anyway: str) -> None:
    where = f"a {facts.plan.visibility} model leaves this machine"
    if integrity != "pass":
        raise GateFailed("an integrity check could not be measured", why=where, next="forge resume --from quantize")
    if not licence.is_chosen:
        raise GateFailed("the model has no licence", why=where, next="forge resume --set publish.license=ID")
    if missing := missing_agreement(facts.plan.base, facts.plan.base_license, facts.legal):
        raise GateFailed("the base's licence is missing", why=f"{where}; {missing}", next="forge resume --set publish.license_file=FILE")
    if (undecided := open_terms(facts.plan.teacher, facts.document_licences)) and not facts.terms:
        raise GateFailed(
            "a person has to decide about terms", why=f"{where}; {'; '.join(undecided)}",
            next='forge resume --set publish.terms="WHAT YOU DECIDED, AND WHY"',
        )
    if quality != "pass" and not publish_anyway:
        raise GateFailed(
            f"the model's quality is {quality}: {facts.eval_json.get('headline') or 'not evaluated'}", why=where,
            next='forge resume --set publish.publish_anyway="REASON"',
        )


def _first_line(facts: Facts, quality: Outcome, integrity: Outcome, headline: str, publish_anyway: str) -> str:
    parts = []
    if facts.plan.dry_run:
        parts.append("Rehearsal, not a usable model.")
    if quality != "pass":
        parts.append(f"{_doubt(facts)}: {headline or 'not evaluated'}".rstrip(".") + ".")
    if integrity != "pass":
        parts.append("Not every integrity check could be measured.")
    if parts and publish_anyway:
        parts.append(f"Published anyway: {publish_anyway.rstrip('.')}.")
    return " ".join(" ".join(parts).split())


def _doubt(facts: Facts) -> str:
    """What was not shown, and by which measures. Only a gain that passed lets the card speak of more than the base."""
    verdicts = [verdict for verdict in (*facts.eval_verdicts, *facts.ship_verdicts) if verdict.kind == "quality"]
    better = any("gain" in verdict.name and verdict.outcome == "pass" for verdict in verdicts)
    lead = "Not shown to be good enough" if better else "Not shown to be better than its base"
    doubts = [f"{verdict.name} {WORDS[verdict.outcome]}" for verdict in verdicts if verdict.outcome != "pass"]
    more = f" and {len(doubts) - NAMED} more" if len(doubts) > NAMED else ""
    return f"{lead} ({', '.join(doubts[:NAMED])}{more})" if doubts else lead


def _worst(outcomes: list[Any]) -> Outcome:
    worst: Outcome = max(outcomes, key=lambda outcome: ORDER[outcome], default="undecided")
    return worst
