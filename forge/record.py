"""The run as one JSON file, made from state.db for the closing report."""

from __future__ import annotations

import json
from typing import Any

from forge.errors import ForgeError
from forge.records import write_json
from forge.remains import remains
from forge.review.decisions import history
from forge.run import Run

RUN_RECORD = "run_record"
ENDED_BADLY = {"failed", "interrupted"}


def describe(run: Run, failure: BaseException | None = None) -> dict[str, Any]:
    """Everything the run's state knows: phases, money, leases, artifacts. Money in micro-dollars."""
    totals = run.ledger.totals()
    error = json.loads(run.state.get("error", "null"))
    outcome = run.state.get("outcome", "new")
    return {
        **(remains(run) if failure is not None or outcome in ENDED_BADLY else {}),
        "run": run.id,
        "corpus": run.corpus.name,
        "dry_run": run.dry_run,
        "outcome": outcome,
        "error": _fields(failure) if failure else error,
        "phases": [_phase(row) for row in run.state.rows("SELECT * FROM phase ORDER BY started")],
        "spend": [
            {"phase": row["phase"], "what": row["what"], "reserved_micro": row["reserved"], "actual_micro": row["actual"]}
            for row in run.state.rows("SELECT * FROM spend ORDER BY id")
        ],
        "totals": {"settled": totals.settled, "reserved": totals.reserved, "budget": totals.budget},
        "review": [one.model_dump(mode="json", exclude={"pair", "was"}) for one in history(run)],
        "leases": [_lease(row) for row in run.state.rows("SELECT * FROM lease ORDER BY created")],
        "artifacts": [
            {"name": a.name, "phase": a.phase, "path": a.path, "sha256": a.sha256, "bytes": a.bytes} for a in run.store.all()
        ],
    }


def publish(run: Run, failure: BaseException | None) -> None:
    """Store the description as the `run_record` artifact (telemetry: times and hosts are in it)."""
    draft = run.folder / ".run-record.json"
    write_json(draft, describe(run, failure))
    artifact = run.store.publish(RUN_RECORD, "record", draft, "run-record.json", telemetry=True)
    draft.unlink()
    sql, values = run.store.record(artifact)
    run.state.execute(sql, *values)


def _phase(row: Any) -> dict[str, Any]:
    seconds = round(row["ended"] - row["started"], 2) if row["ended"] and row["started"] else None
    return {
        "name": row["name"], "status": row["status"], "attempt": row["attempt"], "seconds": seconds,
        "metrics": json.loads(row["metrics"]), "error": row["error"],
    }


def _lease(row: Any) -> dict[str, Any]:
    """A lease with its proof: when the provider did not list it any more, or why it may be up and what ends it."""
    told = {name: row[name] for name in ("token", "provider", "state", "resource", "deadline_seconds")}
    return {**told, **json.loads(row["proof"] or "{}")}


def _fields(failure: BaseException) -> dict[str, str]:
    if isinstance(failure, ForgeError):
        return {"fact": failure.fact, "why": failure.why, "next": failure.next}
    return {"fact": type(failure).__name__, "why": str(failure), "next": ""}
