"""forge cost: what was expected and why, what is set aside, spent and to come; the cap before approval is announced and kept."""

from __future__ import annotations

import json
from pathlib import Path

from forge.costs import phase_costs, to_come
from forge.records import write_json
from forge.run import Run
from tests.test_cli.conftest import Command
from tests.test_engine.toys import Buy

PRICED = ("--set", "buy.micro_usd=4000", "--set", "plan_it.usd_per_hour=0.5")


def test_each_phase_shows_its_estimate_with_its_basis_what_it_cost_and_what_is_to_come(toys: Command, corpus: Path) -> None:
    assert toys("run", corpus, "--budget", "1", "--id", "one", *PRICED).code == 3
    told = toys("cost", "one", "--json").json
    rows = {row["phase"]: row for row in told["phases"]}
    assert list(rows)[:4] == ["read", "buy", "slow", "plan_it"]
    buy = rows["buy"]
    assert (buy["estimated_p50"], buy["estimated_p90"], buy["basis"]) == (30_000, 60_000, "5 words")
    assert (buy["spent"], buy["acts"], buy["to_come_p50"]) == (5 * 3997, 5, 0), "a finished phase has nothing to come"
    assert told["before_gate_micro_usd"] == told["settled_micro_usd"] == 5 * 3997
    assert (told["before_gate_cap_micro_usd"], told["budget_micro_usd"]) == (100_000, 1_000_000)
    out = toys("cost", "one").out
    assert "$0.03 (P90 $0.06)" in out
    assert "before approval $0.02 of $0.10" in out
    assert "5 words" in out


def test_what_is_to_come_follows_the_plans_forecast(toys: Command, corpus: Path) -> None:
    toys("run", corpus, "--budget", "1", "--id", "one", *PRICED)
    run = Run.open("one")
    row = {"seconds_p50": 60, "seconds_p90": 120, "usd_p50": 0.25, "usd_p90": 0.5, "basis": "table: two cores"}
    draft = run.folder / "draft.json"
    write_json(draft, {"phases": [{"phase": "finish", **row}], "total": {"usd_p50": 0.25, "usd_p90": 0.5}})
    sql, values = run.store.record(run.store.publish("forecast", "plan_it", draft, "forecast.json", telemetry=True))
    run.state.execute(sql, *values)
    rows = phase_costs(run, ["finish"])
    assert (rows[0].phase, rows[0].to_come_p90, rows[0].basis) == ("finish", 500_000, "table: two cores")
    assert to_come(run, rows) == (250_000, 500_000)
    run.state.execute("INSERT INTO phase(name, fingerprint, status, attempt) VALUES('finish', '', 'done', 1)")
    assert to_come(run, phase_costs(run, ["finish"])) == (0, 0)


def test_every_attempt_is_one_line(toys: Command, corpus: Path) -> None:
    toys("run", corpus, "--budget", "1", "--id", "one", *PRICED)
    lines = [json.loads(line) for line in toys("cost", "one", "--attempts", "--json").out.splitlines()]
    assert [(line["id"], line["phase"], line["reserved"], line["settled"]) for line in lines] == [(n, "buy", 4000, 3997) for n in range(1, 6)]
    out = toys("cost", "one", "--attempts").out
    assert out.count("a word: settled") == 5
    assert toys("cost", "one", "--attempts").last == "next: forge cost one"


def test_an_attempt_that_never_reported_back_stays_at_its_worst_case(toys: Command, corpus: Path) -> None:
    Buy.fail_after = 2
    assert toys("run", corpus, "--budget", "1", "--id", "one", *PRICED).code == 1
    assert "a word: under way" in toys("cost", "one", "--attempts").out
    told = toys("cost", "one", "--json").json
    assert told["reserved_micro_usd"] == 4000
    assert next(row for row in told["phases"] if row["phase"] == "buy")["reserved"] == 4000


def test_the_cap_before_approval_is_announced_before_anything_is_spent_and_kept(toys: Command, corpus: Path) -> None:
    ran = toys("run", corpus, "--budget", "1", "--before-gate", "0.01", "--id", "one", *PRICED)
    rows = ran.error(5)
    assert "of the $0.01 allowed before approval is left" in rows[0]
    told = ("before your approval at most $0.01 may be spent", "will cost about $0.03, at most $0.06 (5 words)", "error: a word could cost")
    assert sorted(told, key=ran.err.index) == list(told)
    assert len(Buy.calls) == 2, "the third word could have passed the cap"
    money = toys("cost", "one", "--json").json
    assert money["before_gate_micro_usd"] == 2 * 3997 <= money["before_gate_cap_micro_usd"] == 10_000
    assert toys("resume", "one", "--before-gate", "0.02").code == 3, "a higher cap lets it reach the gate"
    assert toys("cost", "one", "--json").json["before_gate_micro_usd"] == 5 * 3997 <= 20_000


def test_a_run_that_costs_nothing_says_so(toys: Command, corpus: Path) -> None:
    toys("run", corpus, "--budget", "1", "--id", "one", "--until", "read")
    assert "nothing was attempted" in toys("cost", "one", "--attempts").out
    assert "spent $0.00 · reserved $0.00" in toys("cost", "one").out
