"""The budget: every paid act reserves its worst case in the transaction that checks the cap, then settles.

Invariant, under concurrency and kill -9:  settled + open reservations <= budget,  and before the gate
settled + open reservations <= before_gate. The ledger has a line for each attempt (an HTTP request, an item of a batch,
a lease): what it was for, its worst case, how it ended, its cost. A line whose attempt never reported back, or whose
connection broke, stays counted at its worst case: what may have been spent is treated as spent. Money is whole micro-dollars.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from forge.errors import OverBudget
from forge.records import Record
from forge.state import State

MICRO = 1_000_000


def micro_usd(usd: float) -> int:
    """Dollars as whole micro-dollars, rounded up: an estimate may only be too high."""
    return -int(-(usd * MICRO) // 1)


def dollars(micro: int) -> str:
    """Micro-dollars for people: cents, or six digits when cents would hide a cost."""
    usd = micro / MICRO
    return f"${usd:,.2f}" if micro == 0 or usd >= 0.01 else f"${usd:.6f}"


class Money(Protocol):
    """What a phase sees of the budget."""

    def reserve(self, key: str, micro: int, what: str, *, again: bool = False) -> int:
        """Set the worst case of one act aside; returns the reservation's number. Raises OverBudget.

        again: the act is known to be the one that an open reservation of this key was made for; that one is taken up.
        """
        ...

    def settle(self, reservation: int, micro: int) -> None:
        """Replace a reservation by the real cost."""
        ...

    def totals(self) -> Spend:
        """What is spent and set aside now, and the caps."""
        ...


UNKNOWN = "unknown"
"""First word of the outcome of an attempt that may have been billed: its line stays at the worst case until somebody knows."""


class Ended(NamedTuple):
    """How an attempt ended. micro: its cost, or None when nobody knows (outcome "unknown: …"). usage: tokens by kind."""

    line: int
    outcome: str
    micro: int | None
    usage: Mapping[str, int] = {}


@runtime_checkable
class Meter(Protocol):
    """The ledger as a teacher sees it that reports its attempts itself: a line before each is sent, its end after it."""

    def begin(self, worst: Mapping[str, int], what: str, batch: str = "") -> dict[str, int]:
        """Lines for attempts by key, with their worst cases: as many as fit, from the first on. Raises OverBudget when none does."""
        ...

    def end(self, ended: Sequence[Ended]) -> None:
        """Write down how attempts ended; what is known to be their cost replaces the worst case."""
        ...

    def under_way(self, batch: str) -> dict[str, int]:
        """The open lines of a batch by key, whichever process began them."""
        ...


Wait = Callable[[float, str], None]
"""Waits so many seconds and shows a note; raises Interrupted as soon as the user asks to stop."""


class Attempt(Record):
    """One line of the ledger.

    number: 1 for the first attempt of a key, 2 for the next. batch: the batch or intent that it was part of. settled:
    None while the attempt is under way or its outcome is unknown; it is then counted as `reserved`. usage: tokens by kind.
    outcome: "" under way, "answered", "refused: HTTP 429", "not sent: …", "unknown: …", "expired", "errored: …",
    "canceled", "settled" for acts that were reported without details.
    """

    id: int
    key: str
    number: int
    phase: str
    what: str
    batch: str
    outcome: str
    usage: dict[str, int]
    reserved: int
    settled: int | None
    before_gate: bool
    epoch: int
    at: float


class Spend(Record):
    """Totals in micro-dollars."""

    settled: int
    reserved: int
    before_gate: int
    budget: int
    before_gate_cap: int

    @property
    def committed(self) -> int:
        """Settled plus open reservations."""
        return self.settled + self.reserved


class Ledger:
    """The run's money, kept in state.db. `phase` and `gate_open` are set by the pipeline."""

    def __init__(self, state: State, budget: int, before_gate: int, *, epoch: int = 0) -> None:
        self.state, self.budget, self.before_gate, self.epoch = state, budget, before_gate, epoch
        self.phase, self.gate_open = "", False

    def reserve(self, key: str, micro: int, what: str, *, again: bool = False) -> int:
        """Set `micro` aside for one act. Raises OverBudget, and writes nothing, when a cap could be passed."""
        def reserve_one(db: sqlite3.Connection) -> int:
            kept = db.execute("SELECT id FROM spend WHERE key=? AND actual IS NULL ORDER BY id DESC", (key,)).fetchone() if again else None
            if kept:
                return int(kept[0])
            self._check(*_sums(db), micro, what)
            return self._open(db, key, micro, what, "")

        return int(self.state.together(reserve_one))

    def settle(self, reservation: int, micro: int) -> None:
        """Replace a reservation by the real cost. Settling twice keeps the first figure."""
        self.end([Ended(reservation, "settled", micro)])

    def begin(self, worst: Mapping[str, int], what: str, batch: str = "") -> dict[str, int]:
        """Meter.begin: all lines in one durable transaction, before any of the attempts is made."""

        def open_lines(db: sqlite3.Connection) -> dict[str, int]:
            total, early = _sums(db)
            lines: dict[str, int] = {}
            for key, micro in worst.items():
                try:
                    self._check(total, early, micro, what)
                except OverBudget:
                    if not lines:
                        raise
                    break
                lines[key] = self._open(db, key, micro, what, batch)
                total, early = total + micro, early + (0 if self.gate_open else micro)
            return lines

        found: dict[str, int] = self.state.together(open_lines)
        return found

    def end(self, ended: Sequence[Ended]) -> None:
        """Meter.end. A line that is settled already keeps its first figure; one that a power cut loses stays at its worst case."""
        self.state.together(lambda db: self.end_in(db, ended), durable=False)

    def end_in(self, db: sqlite3.Connection, ended: Sequence[Ended]) -> None:
        """The same as part of a transaction that the caller has begun."""
        db.executemany(
            "UPDATE spend SET actual=?, outcome=?, usage=? WHERE id=? AND actual IS NULL",
            [(one.micro, one.outcome, json.dumps(dict(one.usage)), one.line) for one in ended],
        )

    def reserve_and(self, key: str, micro: int, what: str, write: Callable[[sqlite3.Connection, int], None]) -> None:
        """Reserve, and write(database, line) in the same transaction. Raises OverBudget before anything is written."""
        with self.state.transaction() as db:
            self._check(*_sums(db), micro, what)
            write(db, self._open(db, key, micro, what, ""))

    def under_way(self, batch: str) -> dict[str, int]:
        """Meter.under_way."""
        return {row["key"]: row["id"] for row in self.state.rows("SELECT key, id FROM spend WHERE batch=? AND actual IS NULL ORDER BY id", batch)}

    def attempts(self, *, phase: str = "", key: str = "", outcome: str = "", after: int = 0, limit: int = -1) -> list[Attempt]:
        """Lines in the order written: of one phase, one key, or outcomes that begin with `outcome` ("refused", "unknown").

        after, limit: for pages, the id of the last line seen and how many to read (-1: all).
        """
        rows = self.state.rows(
            "SELECT id, key, number, phase, what, batch, outcome, usage, reserved, actual, before_gate, epoch, at FROM spend"
            " WHERE id > ? AND (?='' OR phase=?) AND (?='' OR key=?) AND substr(outcome, 1, ?)=? ORDER BY id LIMIT ?",
            after, phase, phase, key, key, len(outcome), outcome, limit,
        )
        return [_attempt(row) for row in rows]

    def spent_by(self, phase: str) -> int:
        """What a phase has cost so far."""
        row = self.state.row("SELECT COALESCE(SUM(actual), 0) AS micro FROM spend WHERE phase=?", phase)
        return int(row["micro"]) if row else 0

    def totals(self) -> Spend:
        """What is spent and set aside now."""
        row = self.state.row(
            "SELECT SUM(settled) AS settled, SUM(reserved) AS open, SUM(CASE WHEN before_gate THEN settled + reserved ELSE 0 END) AS early FROM purse"
        )
        assert row is not None
        return Spend(
            settled=row["settled"], reserved=row["open"], before_gate=row["early"],
            budget=self.budget, before_gate_cap=self.before_gate,
        )

    def _open(self, db: sqlite3.Connection, key: str, micro: int, what: str, batch: str) -> int:
        row = db.execute(
            "INSERT INTO spend(key, phase, what, epoch, before_gate, reserved, at, batch, number)"
            " SELECT ?,?,?,?,?,?,?,?, 1 + COALESCE(MAX(number), 0) FROM spend WHERE key=?",
            (key, self.phase, what, self.epoch, int(not self.gate_open), micro, time.time(), batch, key),
        )
        return int(row.lastrowid or 0)

    def _check(self, total: int, early: int, micro: int, what: str) -> None:
        if total + micro > self.budget:
            raise OverBudget(
                f"{what} could cost {dollars(micro)}; {dollars(self.budget - total)} of {dollars(self.budget)} is left",
                why=f"its worst case is reserved before the call, and it would pass the cap{self._held()}",
                next="forge resume --budget USD with a larger budget, or choose a cheaper teacher or machine",
            )
        if not self.gate_open and early + micro > self.before_gate:
            raise OverBudget(
                f"{what} could cost {dollars(micro)}; {dollars(self.before_gate - early)} of the"
                f" {dollars(self.before_gate)} allowed before approval is left",
                why=f"nobody has approved a plan yet, so only run.before_gate_usd may be spent{self._held()}",
                next="forge resume --before-gate USD",
            )

    def _held(self) -> str:
        """What is kept for attempts that nobody knows the end of: they broke, or their process was killed."""
        row = self.state.row("SELECT COALESCE(SUM(reserved), 0) AS micro FROM spend WHERE actual IS NULL AND (outcome<>'' OR epoch<?)", self.epoch)
        return f"; {dollars(row['micro'])} is held for attempts of unknown outcome" if row and row["micro"] else ""


def _sums(db: sqlite3.Connection) -> tuple[int, int]:
    """Settled and reserved together: in all, and of what was begun before the gate."""
    found: tuple[int, int] = tuple(
        db.execute("SELECT SUM(settled + reserved), SUM(CASE WHEN before_gate THEN settled + reserved ELSE 0 END) FROM purse").fetchone()
    )
    return found


def _attempt(row: sqlite3.Row) -> Attempt:
    fields = {name: row[name] for name in ("id", "key", "number", "phase", "what", "batch", "outcome", "reserved", "epoch", "at")}
    return Attempt(**fields, usage=json.loads(row["usage"]), settled=row["actual"], before_gate=bool(row["before_gate"]))
