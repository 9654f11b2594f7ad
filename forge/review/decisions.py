"""What people decide about single pairs: kept in state.db with who, when and why; applied through the `review` artifact.

The table is the history: rows are only added, and the newest row of a pair is what counts. The artifact holds nothing but
the effect, so deciding the same twice, or taking a decision back, gives the same bytes and the same plan as before.
"""

from __future__ import annotations

import getpass
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from forge.phase import Context
from forge.records import Pair, Record, canonical_json, digest, read_jsonl, write_jsonl
from forge.run import Run

REVIEW, PAIRS = "review", "pairs"
Action = Literal["reject", "edit", "keep"]


class Decided(Record):
    """One line of review.jsonl. `pair`: the edited pair; `was`: the digest of the pair that it replaces."""

    id: str
    action: Literal["reject", "edit"]
    pair: Pair | None = None
    was: str = ""


class Told(Record):
    """One decision as it was taken, for the history. "keep" takes an earlier one back. at: seconds since 1970."""

    id: str
    action: Action
    pair: Pair | None = None
    was: str = ""
    why: str = ""
    who: str = ""
    at: float = 0.0


@dataclass
class Reviewed:
    """The pairs after the decisions, and the ids that each decision was about."""

    pairs: list[Pair]
    rejected: list[str] = field(default_factory=list)
    edited: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """How many pairs people rejected and edited; empty when nobody did."""
        counted = {"rejected": len(self.rejected), "edited": len(self.edited)}
        return {name: count for name, count in counted.items() if count}

    @property
    def summary(self) -> str:
        """"2 pairs rejected and 1 edited in review", or "" when nothing was decided."""
        parts = [f"{len(self.rejected):,} rejected"] if self.rejected else []
        parts += [f"{len(self.edited):,} edited"] if self.edited else []
        parts += [f"{len(self.stale):,} about pairs that have changed since, so without effect"] if self.stale else []
        return f"decisions of the review: {', '.join(parts)}" if parts else ""


def decide(run: Run, told: Sequence[Told]) -> None:
    """Record decisions and publish their effect. Call it while holding the run's lock."""
    now, who = time.time(), getpass.getuser()
    with run.state.transaction() as db:
        db.executemany(
            "INSERT INTO decision(pair, action, body, was, why, who, at) VALUES(?,?,?,?,?,?,?)",
            [(one.id, one.action, canonical_json(one.pair) if one.pair else "", one.was, one.why, one.who or who, one.at or now) for one in told],
        )
    publish(run)
    counts = {action: sum(one.action == action for one in told) for action in ("reject", "edit", "keep")}
    run.events.emit("reviewed", who=who, **counts)


def history(run: Run) -> list[Told]:
    """Every decision of the run in the order in which they were taken."""
    return [
        Told(
            id=row["pair"], action=row["action"], pair=Pair.model_validate_json(row["body"]) if row["body"] else None, was=row["was"],
            why=row["why"], who=row["who"], at=row["at"],
        )
        for row in run.state.rows("SELECT * FROM decision ORDER BY id")
    ]


def current(run: Run) -> dict[str, Decided]:
    """What counts now, by pair: the newest decision of each, without those that were taken back."""
    newest = {told.id: told for told in history(run)}
    return {
        told.id: Decided(id=told.id, action=told.action, pair=told.pair, was=told.was)
        for told in sorted(newest.values(), key=lambda told: told.id) if told.action != "keep"
    }


def publish(run: Run) -> None:
    """Bring the `review` artifact in line with the decisions; without any there is none, as in a run that was never reviewed."""
    decided = current(run)
    stored = run.store.get(REVIEW)
    if not decided:
        if stored:
            run.state.execute("DELETE FROM artifact WHERE name=?", REVIEW)
        return
    draft = run.folder / ".review.jsonl"
    write_jsonl(draft, decided.values())
    artifact = run.store.publish(REVIEW, REVIEW, draft, "review.jsonl")
    draft.unlink()
    if stored is None or stored.sha256 != artifact.sha256:
        sql, values = run.store.record(artifact)
        run.state.execute(sql, *values)


def reviewed_pairs(ctx: Context) -> Reviewed:
    """The pairs that a phase works with: the `pairs` artifact after the decisions in `review`, if there are any."""
    pairs = read_jsonl(ctx.input(PAIRS), Pair)
    if not ctx.has_input(REVIEW):
        return Reviewed(list(pairs))
    return apply(pairs, {one.id: one for one in read_jsonl(ctx.input(REVIEW), Decided)})


def apply(pairs: Iterable[Pair], decided: Mapping[str, Decided]) -> Reviewed:
    """Leave the rejected pairs out and put the edited ones in their place.

    An edit counts for the pair that its author saw: when synth has made that pair anew with other words, the edit is stale.
    """
    found = Reviewed([])
    for pair in pairs:
        one = decided.get(pair.id)
        if one is None:
            found.pairs.append(pair)
        elif one.action == "reject":
            found.rejected.append(pair.id)
        elif one.pair is not None and one.was == fingerprint(pair):
            found.pairs.append(one.pair)
            found.edited.append(pair.id)
        else:
            found.pairs.append(pair)
            found.stale.append(pair.id)
    seen = {*found.rejected, *found.edited, *found.stale}
    found.stale += sorted(set(decided) - seen)
    return found


def fingerprint(pair: Pair) -> str:
    """The hash by which an edit knows the pair that it was made of."""
    return digest(canonical_json(pair))
