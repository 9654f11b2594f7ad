"""settled + open reservations <= budget: under concurrency, under kill -9, and to the micro-dollar."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from forge.errors import OverBudget
from forge.ledger import Ledger, dollars, micro_usd
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
