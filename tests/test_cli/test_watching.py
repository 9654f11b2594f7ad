"""`forge status --watch` and `forge logs` beside a run that trains in another process."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from forge.run import Run
from tests.test_cli.conftest import Command


@pytest.fixture
def training(toys: Command, corpus: Path) -> Run:
    """A run called "one" that trains, by what its process leaves: events and training's own log."""
    run = Run.create(corpus, dry_run=False, run_id="one")
    now = time.time()
    events = [
        {"at": now - 300, "event": "phase_started", "phase": "train", "why": "new"},
        *({"at": now - 300 + i, "event": "progress", "phase": "train", "done": i, "total": 400, "loss": 5.0, "eta_seconds": 9} for i in range(5)),
    ]
    (run.folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    log = run.folder / "machine" / "phases" / "train" / "work" / "progress.jsonl"
    log.parent.mkdir(parents=True)
    rows = [{"stage": "lora", "step": i, "steps": 400, "loss": 5 - i / 40, "grad_norm": 0.61, "tokens_per_second": 3000.0 + i,
             "eta_seconds": 245.0, "memory_gib": 12.1} for i in range(1, 120)]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return run


def test_status_draws_the_curve_and_raises_the_alarm_within_80_columns(
    toys: Command, training: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.get_terminal_size", lambda fallback=(80, 24): os.terminal_size((80, 24)))
    with training.lock():
        told = toys("status", "one")
        data = toys("status", "one", "--json").json["watched"]
    rows = told.out.splitlines()
    assert max(map(len, rows)) <= 80, told.out
    assert any(row.startswith("  loss ") and "█" in row and "▁" in row and "from 4.975" in row for row in rows), told.out
    assert any("3,119" in row and "█" in row for row in rows), told.out
    assert "  grad norm 0.61 · memory 12.1 GiB" in rows, told.out
    assert "  4m 05s left in lora" in rows
    assert any("! train has made no progress for 29" in row for row in rows), told.out
    assert "forge logs one train" in told.out
    assert (data["step"], data["steps"], len(data["loss"])) == (119, 400, 119)
    assert "may hang" in data["alarm"]


def test_a_run_that_nobody_holds_is_not_watched(toys: Command, training: Run) -> None:
    assert toys("status", "one", "--json").json["watched"] is None


def test_logs_take_a_run_a_phase_or_both(toys: Command, corpus: Path) -> None:
    assert toys("run", corpus, "--budget", "1", "--id", "one").code == 0
    whole = toys("logs").out
    assert "read" in whole
    assert "slow" in whole
    for words in (("one", "slow"), ("slow",), ("slow", "one"), ("one", "--phase", "slow")):
        rows = [json.loads(row) for row in toys("logs", *words, "--json").out.splitlines()]
        assert rows, words
        assert {row["phase"] for row in rows} == {"slow"}, words
    assert "no run or phase" in toys("logs", "slwo").error(2)[0]
    assert "no phase" in toys("logs", "one", "slwo").error(2)[0]
