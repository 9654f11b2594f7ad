"""A hundred random runs: workers that fail and die, prices that change, a gate, machines, a clock that jumps by days.

Whatever happens, settled + open reservations stay within both caps, and what the other side has really billed is covered.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from forge.errors import ForgeError, OverBudget
from forge.lease import Leases, as_provider
from forge.ledger import Ended, Ledger
from forge.run import Run
from forge.state import State
from forge.testing import tiny_corpus
from tests.test_engine.fake_cloud import BILL, OFFER, Cloud

DAYS = 86_400.0
RUNS = 100
TEACHERS, CALLS = 4, 8


class Outside:
    """What the vendors know: the price of a call now, and all that they have billed."""

    def __init__(self, dice: random.Random) -> None:
        self.dice, self.price, self.billed, self.machines, self.lock = dice, 100_000, 0, 0, threading.Lock()

    def bill(self, micro: int) -> None:
        with self.lock:
            self.billed += micro

    def bill_machines(self, made: int) -> None:
        """Every machine costs the same, once."""
        self.bill(BILL * (made - self.machines))
        self.machines = made


class Clock:
    """time.time(), with steps of up to three days in either direction."""

    def __init__(self, dice: random.Random, real: Callable[[], float]) -> None:
        self.dice, self.real, self.offset = dice, real, 0.0

    def __call__(self) -> float:
        if self.dice.random() < 0.2:
            self.offset += self.dice.uniform(-3 * DAYS, 3 * DAYS)
        return self.real() + self.offset


def test_a_hundred_random_runs_never_pass_a_cap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.lease.POLL_SECONDS", 0.001)
    monkeypatch.setattr("forge.lease.GIVE_UP_SECONDS", 0.1)
    monkeypatch.setattr(time, "time", Clock(random.Random(7), time.time))
    corpus, refused = tiny_corpus(tmp_path / "c", {"a.txt": "a"}), 0
    for seed in range(RUNS):
        refused += _random_run(corpus, f"r{seed}", random.Random(seed))
    assert refused > RUNS, "the caps were hardly ever reached"


def _random_run(corpus: Path, name: str, dice: random.Random) -> int:
    """One run; returns how often something was refused."""
    budget = dice.randint(500_000, 8_000_000)
    caps = (budget, dice.randint(100_000, budget))
    run = Run.create(corpus, dry_run=False, run_id=name)
    run.state._db.execute("PRAGMA synchronous=OFF")   # nobody pulls the plug here
    run.ledger.budget, run.ledger.before_gate = caps
    _note_every_step_over_a_cap(run.state, *caps)
    outside, over = Outside(dice), threading.Event()
    refusals: list[str] = []
    seen: list[str] = []
    teachers = [
        threading.Thread(target=_teacher, args=(run.state.path, caps, random.Random(f"{name}{number}"), outside, refusals)) for number in range(TEACHERS)
    ]
    machines = threading.Thread(target=_machines, args=(run, random.Random(f"{name}m"), outside, refusals))
    watcher = threading.Thread(target=_watch, args=(run.state.path, caps, outside, over, seen))
    watcher.start()
    for thread in (*teachers, machines):
        thread.start()
    for thread in (*teachers, machines):
        thread.join()
    over.set()
    watcher.join()
    assert not seen, seen
    assert not (over_cap := [tuple(row) for row in run.state.rows("SELECT * FROM over_cap")]), over_cap
    row = run.state.row("SELECT SUM(COALESCE(actual, reserved)) AS total FROM spend")
    assert row is not None
    assert run.ledger.totals().committed == (row["total"] or 0)
    run.close()
    return len(refusals)


def _note_every_step_over_a_cap(state: State, budget: int, before_gate: int) -> None:
    """The database itself looks after every change of a sum, inside its transaction, whoever makes it."""
    state._db.executescript(f"""
        CREATE TABLE over_cap(total INTEGER, early INTEGER);
        CREATE TRIGGER look AFTER UPDATE ON purse
        WHEN (SELECT SUM(settled + reserved) FROM purse) > {budget}
            OR (SELECT SUM(settled + reserved) FROM purse WHERE before_gate) > {before_gate}
        BEGIN INSERT INTO over_cap SELECT SUM(settled + reserved), SUM((settled + reserved) * before_gate) FROM purse; END;
    """)


def test_a_step_over_the_cap_would_be_noted(tmp_path: Path) -> None:
    state = State(tmp_path / "state.db")
    _note_every_step_over_a_cap(state, 100, 50)
    ledger = Ledger(state, 1_000, 1_000)   # a ledger that allows too much
    ledger.settle(ledger.reserve("k", 80, "a call"), 80)
    assert next(tuple(row) for row in state.rows("SELECT * FROM over_cap")) == (80, 80)
    state.close()


def _teacher(path: Path, caps: tuple[int, int], dice: random.Random, outside: Outside, refusals: list[str]) -> None:
    """Calls with a connection of its own, as another process has; some die in the middle and leave their line open."""
    state = State(path)
    state._db.execute("PRAGMA synchronous=OFF")
    ledger = Ledger(state, *caps)
    for number in range(CALLS):
        ledger.gate_open = ledger.gate_open or dice.random() < 0.2
        if dice.random() < 0.1:
            outside.price = dice.randint(20_000, 400_000)
        worst = {f"{dice.random()}-{number}-{item}": outside.price for item in range(dice.choice((1, 1, 1, 5)))}
        try:
            lines = ledger.begin(worst, "a call")
        except OverBudget as refusal:
            refusals.append(refusal.fact)
            continue
        for key, line in lines.items():
            _call(ledger, line, worst[key], dice, outside)
    state.close()


def _call(ledger: Ledger, line: int, worst: int, dice: random.Random, outside: Outside) -> None:
    fate, cost = dice.random(), dice.randint(0, worst)
    if fate < 0.2:
        ledger.end([Ended(line, "refused: HTTP 429", 0)])
        return
    outside.bill(cost)
    if fate < 0.3:
        return   # killed before it could tell
    if fate < 0.4:
        ledger.end([Ended(line, "unknown: the connection broke", None)])
        return
    ledger.end([Ended(line, "answered", cost)])


def _machines(run: Run, dice: random.Random, outside: Outside, refusals: list[str]) -> None:
    """Leases that lose answers, vanish, do not stop, cannot be listed."""
    run.ledger.gate_open = True
    cloud = Cloud(run.folder / "cloud")
    cloud.creation_seconds, cloud.confirm_seconds = 0.004, 0.002
    for number in range(3):
        cloud.lost_answers, cloud.hidden_looks = dice.choice((0, 0, 1)), dice.choice((0, 0, 1))
        cloud.deaf_stops, cloud.broken_looks = dice.choice((0, 0, 2)), 0
        cloud.never_made, cloud.empty = dice.random() < 0.1, dice.random() < 0.1
        leases = Leases(run, {"fake": as_provider(cloud)})
        offer = OFFER.model_copy(update={"usd_per_hour": dice.choice((2.0, 2.5))})
        try:
            leases.acquire(offer, 3600, f"t{number}")
        except OverBudget as refusal:
            refusals.append(refusal.fact)
        except ForgeError:
            pass   # no capacity, or no answer: the lease stays as it is until it is released
        outside.bill_machines(len(cloud.machines()))
        while dice.random() < 0.3 and cloud.up():   # taken back: another one for the same lease, reserved anew
            cloud.deaf_stops = 0
            cloud.stop(cloud._get(cloud.up()[-1]))
            try:
                leases.resource(f"t{number}")
            except OverBudget as refusal:
                refusals.append(refusal.fact)
            except ForgeError:
                break
            outside.bill_machines(len(cloud.machines()))
        if dice.random() < 0.7:
            leases.release()


def _watch(path: Path, caps: tuple[int, int], outside: Outside, over: threading.Event, seen: list[str]) -> None:
    """Sample both caps, and that what is billed is covered, until the run is over, and once more."""
    ledger, last = Ledger(State(path), *caps), False
    while not last:
        last, billed = over.is_set(), outside.billed
        spend = ledger.totals()
        if spend.committed > spend.budget:
            seen.append(f"{spend.committed} is over the cap of {spend.budget}")
        if spend.before_gate > spend.before_gate_cap:
            seen.append(f"{spend.before_gate} is over the cap before the gate of {spend.before_gate_cap}")
        if billed > spend.committed:
            seen.append(f"{billed} is billed and {spend.committed} is committed")
        time.sleep(0.002)
    ledger.state.close()
