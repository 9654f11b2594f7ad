"""The one human decision: an approval is bound to the hash of the plan's bytes and dies with any change of them.

The plan that people read is runs/<id>/plan.json. If its bytes differ from the plan that was made, it counts as edited:
a new plan with a new hash that nobody has approved. A plan whose cost to come is $0.00 passes by itself, recorded as
such, unless gate.always_ask is set or it was edited.
"""

from __future__ import annotations

import getpass
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from forge.errors import UsageError, WaitingAtGate
from forge.records import Plan, Record, read_record, write_json
from forge.run import Run
from forge.store import Artifact, hash_file, write_durably

PLAN, APPROVAL = "plan", "approval"
GATE = "gate"

Ask = Callable[[Plan, str], bool]
"""Shows a plan with its hash to a person; True approves it."""


class Approval(Record):
    """approval.json: who approved which plan, and how ("person", or "free" for a plan that costs nothing)."""

    plan_sha256: str
    who: str
    kind: str


def present(run: Run) -> None:
    """Put the plan where people read it, unless a person has edited it since it was last put there."""
    artifact = _plan(run)
    visible = run.folder / "plan.json"
    shown = run.state.get("plan_shown")
    if not visible.exists() or hash_file(visible) == shown:
        write_durably(visible, run.store.open(artifact).read_text(encoding="utf-8"))
        run.state.put("plan_shown", artifact.sha256)


def current(run: Run) -> tuple[Plan, str, bool]:
    """The plan as it lies in the run folder, its hash, and whether a person has edited it."""
    visible = run.folder / "plan.json"
    if not visible.exists():
        raise UsageError(f"run {run.id} has no plan yet", next=f"forge resume {run.id}")
    artifact = _plan(run)
    sha256 = hash_file(visible)
    try:
        plan = Plan.model_validate_json(visible.read_bytes())
    except ValidationError as error:
        raise WaitingAtGate(
            f"{visible} was changed and is no plan any more", why=str(error.errors()[0]["msg"]).lower(),
            next=f"forge plan {run.id} --restore",
        ) from error
    return plan, sha256, sha256 != artifact.sha256


def restore(run: Run) -> None:
    """Throw a person's edits away and show the plan as it was made."""
    write_durably(run.folder / "plan.json", run.store.open(_plan(run)).read_text(encoding="utf-8"))
    run.state.put("plan_shown", _plan(run).sha256)


def approve(run: Run, sha256_prefix: str) -> str:
    """Record a person's approval of the plan as it lies there now; returns its hash.

    Raises WaitingAtGate when the prefix is of another plan: what was read is not what would run.
    """
    _, sha256, _ = current(run)
    if len(sha256_prefix) < 6 or not sha256.startswith(sha256_prefix):
        raise WaitingAtGate(
            f"the plan of run {run.id} is {short(sha256)}, not {sha256_prefix}",
            why="an approval counts for exactly one plan (at least 6 characters of its hash)",
            next=f"forge plan {run.id}, then forge approve {run.id} --plan {short(sha256)}",
        )
    _record(run, sha256, getpass.getuser(), "person")
    return sha256


def reject(run: Run) -> None:
    """Close the run at the gate; its data stays."""
    run.state.execute("DELETE FROM approval")
    run.state.put("outcome", "rejected")


def is_approved(run: Run, sha256: str) -> bool:
    """True when this very plan was approved."""
    return run.state.row("SELECT 1 FROM approval WHERE plan_sha256=?", sha256) is not None


def pass_gate(run: Run, *, always_ask: bool, ask: Ask | None) -> None:
    """Let the run through, or raise WaitingAtGate (exit 3) with the command that approves. Spends nothing."""
    present(run)
    plan, sha256, edited = current(run)
    if not is_approved(run, sha256):
        if (_is_free(plan) or _can_spend_nothing(run, plan)) and not always_ask and not edited:
            _record(run, sha256, "nobody", "free")
        elif ask is not None and ask(plan, sha256):
            _record(run, sha256, getpass.getuser(), "person")
        else:
            raise waiting(run, sha256, "it was edited after it was made" if edited else _price(plan, always_ask))
    if edited:
        _adopt(run, plan)
    _publish(run, sha256)


def waiting(run: Run, sha256: str, why: str) -> WaitingAtGate:
    """The error of a plan that nobody has approved, with the commands that show and approve it."""
    return WaitingAtGate(
        f"the plan {short(sha256)} of run {run.id} waits for approval", why=why,
        next=f"forge review {run.id}, or forge approve {run.id} --plan {short(sha256)}",
    )


def short(sha256: str) -> str:
    """The part of a plan's hash that people type."""
    return sha256[:12]


def _plan(run: Run) -> Artifact:
    artifact = run.store.get(PLAN)
    if artifact is None:
        raise UsageError(f"run {run.id} has no plan yet", next=f"forge resume {run.id}")
    return artifact


def _is_free(plan: Plan) -> bool:
    return plan.cost_p90_usd == 0 and plan.usd_per_hour == 0


def _can_spend_nothing(run: Run, plan: Plan) -> bool:
    """A rehearsal, unless it was given a budget: it may then rent a machine."""
    return run.dry_run and plan.budget_usd == 0


def _price(plan: Plan, always_ask: bool) -> str:
    if _is_free(plan) and always_ask:
        return "gate.always_ask is set"
    return f"training would cost about ${plan.cost_p50_usd:.2f} (P90 ${plan.cost_p90_usd:.2f})"


def _record(run: Run, sha256: str, who: str, kind: str) -> None:
    run.state.execute("INSERT OR REPLACE INTO approval VALUES(?,?,?,?)", sha256, who, time.time(), kind)
    run.events.emit("approved", plan=sha256, who=who, how=kind)


def _adopt(run: Run, plan: Plan) -> None:
    """Make a person's edited and approved plan the plan of the run."""
    edited = run.folder / "plan.json"
    artifact = run.store.publish(PLAN, _plan(run).phase, edited, "plan.json")
    sql, values = run.store.record(artifact)
    run.state.execute(sql, *values)
    run.state.put("plan_shown", artifact.sha256)
    run.events.emit("plan_edited", plan=artifact.sha256, name=plan.name)


def _publish(run: Run, sha256: str) -> None:
    """The approval as an artifact, so that everything after the gate depends on it."""
    row = run.state.row("SELECT * FROM approval WHERE plan_sha256=?", sha256)
    assert row is not None
    approval = Approval(plan_sha256=sha256, who=row["who"], kind=row["kind"])
    stored = run.store.get(APPROVAL)
    if stored and run.store.intact(stored) and read_record(run.store.link(stored), Approval) == approval:
        return
    folder = run.folder / "phases" / GATE
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / ".approval.json"
    write_json(draft, approval)
    artifact = run.store.publish(APPROVAL, GATE, draft, "approval.json")
    draft.unlink()
    sql, values = run.store.record(artifact)
    run.state.execute(sql, *values)


def approval_path(run: Run) -> Path:
    """Where the approval lies for people."""
    return run.folder / "phases" / GATE / "approval.json"
