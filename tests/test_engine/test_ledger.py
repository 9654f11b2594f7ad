"""settled + open reservations <= budget: under concurrency, under kill -9, and to the micro-dollar."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from forge.errors import OverBudget
from forge.ledger import Ended, Ledger, Meter, dollars, micro_usd
from forge.state import State

SPENDER = """
import random, sys
from pathlib import Path
from forge.errors import OverBudget
from forge.ledger import Ledger
from forge.state import State
ledger = Ledger(State(Path(sys.argv[1])), budget=10_000, before_gate=10_000)
ledger.gate_open = True
generator = random.Random(int(sys.argv[2]))
while True:
    try:
        number = ledger.reserve("k", 97, "a call")
    except OverBudget:
        break
    ledger.settle(number, generator.randint(0, 97))
"""


def test_money_is_rounded_up_to_whole_micro_dollars() -> None:
    assert micro_usd(0.0000001) == 1
    assert micro_usd(200) == 200_000_000
    assert (dollars(0), dollars(1_234_567), dollars(12)) == ("$0.00", "$1.23", "$0.000012")


def test_a_refused_reservation_writes_nothing(tmp_path: Path) -> None:
    ledger = Ledger(State(tmp_path / "state.db"), budget=100, before_gate=100)
    ledger.reserve("a", 100, "a call")
    with pytest.raises(OverBudget) as caught:
        ledger.reserve("b", 1, "a call")
    assert caught.value.exit_code == 5
    assert ledger.totals().committed == 100


def test_settling_twice_keeps_the_first_figure(tmp_path: Path) -> None:
    ledger = Ledger(State(tmp_path / "state.db"), budget=100, before_gate=100)
    number = ledger.reserve("a", 50, "a call")
    ledger.settle(number, 20)
    ledger.settle(number, 50)
    assert ledger.totals().settled == 20


def test_every_attempt_has_a_line_with_its_outcome_usage_and_cost(tmp_path: Path) -> None:
    ledger = Ledger(State(tmp_path / "state.db"), budget=1000, before_gate=1000, epoch=4)
    ledger.phase = "synth"
    assert isinstance(ledger, Meter)
    first = ledger.begin({"k": 100}, "teacher, pairs")["k"]
    ledger.end([Ended(first, "refused: HTTP 429", 0)])
    second = ledger.begin({"k": 100}, "teacher, pairs")["k"]
    ledger.end([Ended(second, "answered", 7, {"input": 3, "output": 4})])
    ledger.settle(ledger.reserve("lease a", 50, "lease"), 20)
    lines = ledger.attempts()
    assert [(line.key, line.number, line.outcome, line.reserved, line.settled) for line in lines] == [
        ("k", 1, "refused: HTTP 429", 100, 0), ("k", 2, "answered", 100, 7), ("lease a", 1, "settled", 50, 20),
    ]
    assert (lines[1].usage, lines[1].phase, lines[1].epoch, lines[1].before_gate) == ({"input": 3, "output": 4}, "synth", 4, True)
    assert [line.id for line in ledger.attempts(outcome="refused")] == [first]
    assert [line.id for line in ledger.attempts(after=first, limit=1)] == [second]


def test_an_attempt_of_unknown_outcome_stays_at_its_worst_case_until_somebody_knows(tmp_path: Path) -> None:
    ledger = Ledger(State(tmp_path / "state.db"), budget=150, before_gate=150)
    lost = ledger.begin({"k": 100}, "a call")["k"]
    ledger.end([Ended(lost, "unknown: the connection broke", None)])
    assert (ledger.totals().settled, ledger.totals().reserved) == (0, 100)
    with pytest.raises(OverBudget):
        ledger.begin({"k": 100}, "a call")
    ledger.end([Ended(lost, "answered", 30)])
    assert (ledger.totals().settled, ledger.totals().reserved) == (30, 0)


def test_a_batch_is_reserved_as_far_as_it_fits_and_found_again_by_its_name(tmp_path: Path) -> None:
    ledger = Ledger(State(tmp_path / "state.db"), budget=250, before_gate=250)
    lines = ledger.begin({"a": 100, "b": 100, "c": 100}, "a batch", batch="intent")
    assert list(lines) == ["a", "b"]
    ledger.end([Ended(lines["a"], "expired", 0)])
    assert Ledger(State(tmp_path / "state.db"), budget=250, before_gate=250).under_way("intent") == {"b": lines["b"]}


def test_a_ledger_of_an_older_version_keeps_its_lines_and_sums(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "state.db") as db:
        db.execute(
            "CREATE TABLE spend(id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, phase TEXT NOT NULL, what TEXT NOT NULL,"
            " epoch INTEGER NOT NULL, before_gate INTEGER NOT NULL, reserved INTEGER NOT NULL, actual INTEGER, at REAL NOT NULL)"
        )
        db.executemany("INSERT INTO spend(key,phase,what,epoch,before_gate,reserved,actual,at) VALUES(?,'synth','w',1,?,10,?,0)", [("a", 1, 4), ("b", 0, None)])
    db.close()
    ledger = Ledger(State(tmp_path / "state.db"), budget=100, before_gate=100)
    assert (ledger.totals().settled, ledger.totals().reserved, ledger.totals().before_gate) == (4, 10, 4)
    assert [(line.key, line.number, line.settled) for line in ledger.attempts()] == [("a", 1, 4), ("b", 1, None)]
    ledger.settle(2, 9)
    assert ledger.totals().settled == 13


def test_threads_share_a_ledger_and_one_refusal_stops_nobody_else(tmp_path: Path) -> None:
    ledger = Ledger(State(tmp_path / "state.db"), budget=1000, before_gate=1000)
    refused = threading.Semaphore(0)

    def spend(number: int) -> None:
        for turn in range(20):
            try:
                line = ledger.begin({f"{number}-{turn}": 100}, "a call")[f"{number}-{turn}"]
            except OverBudget:
                refused.release()
                continue
            ledger.end([Ended(line, "answered", 1)])

    threads = [threading.Thread(target=spend, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answered = len(ledger.attempts(outcome="answered"))
    assert ledger.totals().settled == answered
    assert ledger.totals().reserved == 0
    assert answered + refused._value == 320


def test_the_sums_that_the_database_keeps_are_those_of_the_lines(tmp_path: Path) -> None:
    state = State(tmp_path / "state.db")
    ledger, dice = Ledger(state, budget=5_000, before_gate=5_000), random.Random(5)
    open_lines: list[int] = []
    for number in range(200):
        ledger.gate_open = number > 100
        if open_lines and dice.random() < 0.5:
            ledger.end([Ended(open_lines.pop(), "unknown: lost" if (lost := dice.random() < 0.3) else "answered", None if lost else dice.randint(0, 90))])
        else:
            try:
                open_lines += ledger.begin({str(number): 90}, "a call").values()
            except OverBudget:
                continue
    row = state.row("SELECT COALESCE(SUM(actual), 0) AS s, SUM(CASE WHEN actual IS NULL THEN reserved ELSE 0 END) AS o FROM spend")
    assert row is not None
    assert (ledger.totals().settled, ledger.totals().reserved) == (row["s"], row["o"])


def test_eight_processes_stay_within_the_cap_while_some_are_killed(tmp_path: Path) -> None:
    database = tmp_path / "state.db"
    ledger = Ledger(State(database), budget=10_000, before_gate=10_000)
    workers = [
        subprocess.Popen([sys.executable, "-c", SPENDER, str(database), str(seed)], env={**os.environ}) for seed in range(8)
    ]
    generator, highest = random.Random(1), 0
    while any(worker.poll() is None for worker in workers):
        highest = max(highest, ledger.totals().committed)
        if generator.random() < 0.02:
            generator.choice(workers).send_signal(signal.SIGKILL)
        time.sleep(0.01)
    assert 9_000 < max(highest, ledger.totals().committed) <= 10_000
