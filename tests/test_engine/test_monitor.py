"""What another process can see of a running phase: its curve, its time and money, and its silence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from forge.jobs import JobNotes
from forge.lease import Machine
from forge.monitor import Monitor, Silence, sparkline
from forge.remote import MachineRun
from forge.run import Run
from forge.state import State
from forge.worker import Job, JobPhase

START = 1_800_000_000.0


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose train phase began at START."""
    monkeypatch.setenv("FORGE_HOME", str(tmp_path / "home"))
    made = Run.create(tmp_path, dry_run=False, run_id="one")
    tell(made, {"at": START, "event": "phase_started", "phase": "train", "why": "new"})
    return made


def tell(run: Run, *events: dict[str, object]) -> None:
    """What the process that runs it would have logged."""
    with (run.folder / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(event) + "\n" for event in events))


def progress(second: float, **numbers: float) -> dict[str, object]:
    return {"at": START + second, "event": "progress", "phase": "train", "done": 1, "total": 9, **numbers}


def test_the_curve_of_training_is_read_from_its_own_log_stage_by_stage(run: Run) -> None:
    log = run.folder / "machine" / "phases" / "train" / "work" / "progress.jsonl"
    log.parent.mkdir(parents=True)
    rows = [{"stage": "pretrain", "step": 5, "steps": 5, "loss": 7.0, "tokens_per_second": 90.0, "eta_seconds": 0.0}]
    rows += [{"stage": "lora", "step": i, "steps": 40, "loss": 4.0 - i / 10, "tokens_per_second": 100.0, "eta_seconds": 40.0 - i,
              "grad_norm": 0.5, "memory_gib": 12.0} for i in range(1, 4)]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"stage": "lo', encoding="utf-8")   # torn: still being written
    seen = Monitor(run).look(START + 1)
    assert seen is not None
    assert (seen.stage, seen.step, seen.steps, seen.eta_seconds) == ("lora", 3, 40, 37.0)
    assert seen.loss == (3.9, 3.8, 3.7)
    assert seen.numbers == {"grad_norm": 0.5, "memory_gib": 12.0}


def test_a_phase_without_a_log_of_its_own_is_followed_by_its_events(run: Run) -> None:
    monitor = Monitor(run)
    tell(run, progress(1, loss=3.0, tokens_per_second=50), progress(2, loss=2.5, tokens_per_second=60))
    seen = monitor.look(START + 3)
    assert seen is not None
    assert (seen.loss, seen.tokens_per_second) == ((3.0, 2.5), (50.0, 60.0))
    tell(run, {"at": START + 4, "event": "phase_done", "phase": "train", "seconds": 4, "metrics": {}})
    assert monitor.look(START + 5) is None


def test_silence_is_an_alarm_only_beyond_what_is_usual(run: Run) -> None:
    monitor = Monitor(run)
    assert monitor.look(START + 500).alarm == ""   # type: ignore[union-attr]  # loading a model may take that long
    assert "no progress for 700 s (none since it started)" in monitor.look(START + 700).alarm   # type: ignore[union-attr]
    tell(run, *(progress(701 + 20 * i) for i in range(5)))
    last = START + 701 + 80
    assert monitor.look(last + 190).alarm == ""   # type: ignore[union-attr]
    assert "no progress for 210 s (usually one every 20 s)" in monitor.look(last + 210).alarm   # type: ignore[union-attr]
    tell(run, progress(1000))
    assert monitor.look(START + 1001).alarm == ""   # type: ignore[union-attr]  # it spoke again


def test_quick_phases_are_given_a_minute() -> None:
    silence = Silence(0.0)
    for second in range(10):
        silence.heard(second / 10)
    assert silence.limit_seconds == 60


def test_the_money_of_the_machine_runs_with_the_clock(run: Run) -> None:
    run.state.execute(
        "INSERT INTO lease(token, provider, offer, state, resource, deadline_seconds, spend_id, created, changed)"
        " VALUES('t', 'p', ?, 'LIVE', '', 9, 1, ?, ?)", json.dumps({"usd_per_hour": 2.0}), START, START,
    )
    seen = Monitor(run).look(START + 1800)
    assert seen is not None
    assert (seen.usd_per_hour, seen.usd) == (2.0, 1.0)


def test_a_sparkline_shows_the_mean_of_each_stretch() -> None:
    assert sparkline([4, 3, 2, 1], 4) == "█▆▃▁"
    assert sparkline([1, 1, 9, 9], 2) == "▁█"
    assert sparkline([5, 5, 5], 10) == "▁▁▁"
    assert sparkline([5], 10) == ""


def test_a_silent_worker_is_told_once_in_the_run_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The channel is a stub here: what is tested is the clock."""
    now = iter(range(0, 10_000, 100))
    monkeypatch.setattr("forge.remote.time.time", lambda: float(next(now)))
    monkeypatch.setattr("forge.remote.time.sleep", lambda seconds: None)
    polls = iter([*[None] * 20, 0])

    class Silent:
        poll_seconds, durable = 0.0, True

        def poll(self, name: str) -> int | None:
            return next(polls)

        def read(self, path: str, offset: int) -> bytes:
            return b""

    job = Job(run_id="one", seed=1, dry_run=False, phases=(JobPhase(name="train", folder="", settings={}, inputs={}),))
    told: list[dict[str, object]] = []
    state = State(tmp_path / "state.db")
    machine = Machine(provider=None, channel=Silent(), place="m/1", name="m", usd_per_hour=0.0)   # type: ignore[arg-type]
    running = MachineRun(machine, job, state, tmp_path, writes={}, emit=told.append)
    assert running._follow(JobNotes(state, "train").begin("f", "m/1"))[1] == 0
    assert len(told) == 1
    assert "may hang" in str(told[0]["text"])
