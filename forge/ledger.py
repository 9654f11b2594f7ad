"""The budget: every paid act reserves its worst case in the transaction that checks the cap, then settles.

Invariant, under concurrency and kill -9:  settled + open reservations <= budget,  and before the gate
settled + open reservations <= before_gate. A reservation whose act never reported back stays counted: what may have
been spent is treated as spent. Money is whole micro-dollars.
"""

from __future__ import annotations

import time
from typing import Protocol

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
        with self.state.transaction() as db:
            kept = db.execute("SELECT id FROM spend WHERE key=? AND actual IS NULL ORDER BY id DESC", (key,)).fetchone() if again else None
            if kept:
                return int(kept[0])
            total, early = db.execute(
                "SELECT COALESCE(SUM(COALESCE(actual, reserved)), 0),"
                " COALESCE(SUM(CASE WHEN before_gate THEN COALESCE(actual, reserved) ELSE 0 END), 0) FROM spend"
            ).fetchone()
            self._check(total, early, micro, what)
            row = db.execute(
                "INSERT INTO spend(key, phase, what, epoch, before_gate, reserved, at) VALUES(?,?,?,?,?,?,?)",
                (key, self.phase, what, self.epoch, int(not self.gate_open), micro, time.time()),
            )
            return int(row.lastrowid or 0)

    def settle(self, reservation: int, micro: int) -> None:
        """Replace a reservation by the real cost. Settling twice keeps the first figure."""
        self.state.execute("UPDATE spend SET actual=? WHERE id=? AND actual IS NULL", micro, reservation)

    def spent_by(self, phase: str) -> int:
        """What a phase has cost so far."""
        row = self.state.row("SELECT COALESCE(SUM(actual), 0) AS micro FROM spend WHERE phase=?", phase)
        return int(row["micro"]) if row else 0

    def totals(self) -> Spend:
        """What is spent and set aside now."""
        row = self.state.row(
            "SELECT COALESCE(SUM(actual), 0) AS settled,"
            " COALESCE(SUM(CASE WHEN actual IS NULL THEN reserved ELSE 0 END), 0) AS open,"
            " COALESCE(SUM(CASE WHEN before_gate THEN COALESCE(actual, reserved) ELSE 0 END), 0) AS early FROM spend"
        )
        assert row is not None
        return Spend(
            settled=row["settled"], reserved=row["open"], before_gate=row["early"],
            budget=self.budget, before_gate_cap=self.before_gate,
        )

    def _check(self, total: int, early: int, micro: int, what: str) -> None:
        if total + micro > self.budget:
            raise OverBudget(
                f"{what} could cost {dollars(micro)}; {dollars(self.budget - total)} of {dollars(self.budget)} is left",
                why="its worst case is reserved before the call, and it would pass the cap",
                next="forge resume --budget USD with a larger budget, or choose a cheaper teacher or machine",
            )
        if not self.gate_open and early + micro > self.before_gate:
            raise OverBudget(
                f"{what} could cost {dollars(micro)}; {dollars(self.before_gate - early)} of the"
                f" {dollars(self.before_gate)} allowed before approval is left",
                why="nobody has approved a plan yet, so only run.before_gate_usd may be spent",
                next="forge resume --before-gate USD",
            )
