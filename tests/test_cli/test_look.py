"""What the looking commands say: for people, ending in `next:`; for programs, as JSON; live while a run goes on."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from forge.run import Run
from tests.test_cli.conftest import Command, finish, program
from tests.test_engine.toys import Buy

SLOW = ("--set", "slow.items=120", "--set", "slow.seconds_per_item=0.02")
READS = (
    ["runs"], ["status"], ["status", "one"], ["logs"], ["show", "slow"], ["cost"], ["report"], ["plan", "one"], ["phases"],
    ["config", "show"], ["config", "recipes"], ["plugins", "list"], ["doctor"], ["resume", "one", "--preview"],
)


@pytest.fixture
def done(toys: Command, corpus: Path) -> Command:
    """A finished run called "one"."""
    assert toys("run", corpus, "--budget", "1", "--id", "one").code == 0
    return toys


@pytest.mark.parametrize("words", READS, ids=" ".join)
def test_a_reading_command_gives_json_and_a_next_step(done: Command, words: list[str]) -> None:
    told = done(*words, "--json")
    assert told.code == 0, told.err
    for row in told.out.splitlines() if words[0] == "logs" else [told.out]:
        json.loads(row)
    human = done(*words)
    assert human.last.startswith("next: "), human.out
    assert "\x1b" not in human.out + human.err


def test_every_next_step_names_a_command_that_exists(done: Command) -> None:
    for words in READS:
        following = done(*words).last.removeprefix("next: ")
        for command in re.findall(r"forge ([a-z]+)", following):
            assert done(command, "--help").code == 0, following


def test_runs_are_listed_newest_first_with_state_and_money(done: Command, corpus: Path) -> None:
    assert done("run", corpus, "--dry-run", "--id", "two", "--until", "read").code == 0
    rows = done("runs").out.splitlines()
    assert rows[1].split()[:3] == ["two", "stopped", "(rehearsal)"]
    assert rows[2].split()[:2] == ["one", "done"]
    assert "$0.000035" in rows[2]
    listed = done("runs", "--json").json
    assert [row["id"] for row in listed] == ["two", "one"]
    for name in ("outcome", "spent_usd", "reserved_usd", "budget_usd", "name", "task", "base", "parameters", "teacher", "quality", "published", "alias"):
        assert name in listed[0], name
    assert listed[0]["quality"] is None, "a run tells as far as it got"


def test_status_shows_what_is_done_and_what_is_to_come(toys: Command, corpus: Path) -> None:
    toys("run", corpus, "--budget", "1", "--id", "one", "--until", "slow")
    rows = {row.split()[0]: row for row in toys("status").out.splitlines() if row}
    assert "done" in rows["slow"]
    assert "3 items, one after the other" in rows["slow"]
    assert rows["finish"].split(maxsplit=1)[1] == "to come"
    assert toys("status").last == "next: forge resume one"
    assert [phase["name"] for phase in toys("status", "--json").json["phases"]] == ["read", "buy", "slow", "plan_it", "finish", "close"]


def test_status_repeats_the_error_of_a_failed_run(toys: Command, corpus: Path) -> None:
    Buy.fail_after = 0
    toys("run", corpus, "--budget", "1", "--id", "one")
    assert "error: RuntimeError: the toy broke" in toys("status").out
    assert toys("status", "--json").json["outcome"] == "failed"


def test_cost_counts_every_act(done: Command) -> None:
    told = done("cost", "--json").json
    assert (told["settled_micro_usd"], told["reserved_micro_usd"], told["budget_micro_usd"]) == (35, 0, 1_000_000)
    assert told["lines"] == [{"phase": "buy", "what": "a word", "n": 5, "open": 0, "paid": 35}]
    assert "left $1.00 of $1.00" in done("cost").out


def test_show_prints_numbers_artifacts_and_sample_rows(done: Command) -> None:
    out = done("show", "read").out
    assert "words: 5" in out
    assert re.search(r"phases/read/words\.json +\d+ bytes +sha256 [0-9a-f]{12}", out)


def test_plan_names_its_hash_and_the_command_that_approves(toys: Command, corpus: Path) -> None:
    toys("run", corpus, "--budget", "1", "--id", "one", "--set", "plan_it.usd_per_hour=2")
    sha256 = toys("plan", "one", "--json").json["sha256"]
    assert toys("plan", "one").last == f"next: forge review one, or forge approve one --plan {sha256[:12]}"
    toys("approve", "one", "--plan", sha256[:12], "--stop")
    assert toys("plan", "one").last == "next: forge status one"


def test_a_run_without_a_model_cannot_be_talked_to(done: Command) -> None:
    assert done("chat", "one", "hello").error(2)[0] == "error: run one has no published model"


def test_a_damaged_run_does_not_hide_the_others(done: Command, corpus: Path) -> None:
    done("run", corpus, "--dry-run", "--id", "two", "--until", "read")
    state = Run.open("one").folder.parent / "two" / "state.db"
    for beside in ("-wal", "-shm"):
        state.with_name(state.name + beside).unlink(missing_ok=True)
    state.unlink()
    state.write_bytes(b"not a database, " * 400)
    listed = done("runs")
    assert listed.code == 0
    assert any(row.startswith("two") and "damaged" in row for row in listed.out.splitlines())
    assert any(row.startswith("one") for row in listed.out.splitlines())
    rows = done("status", "two").error(1)
    assert "cannot open the run's state" in rows[0]
    assert "--new" in rows[-1]


def test_logs_follow_a_run_to_its_end(toys: Command, corpus: Path) -> None:
    running = program("run", corpus, "--budget", "1", "--id", "live", *SLOW)
    wait_for_run("live")
    log = finish(program("logs", "live", "-f"))
    assert finish(running).code == 0
    assert "✓ close" in log.out
    assert re.search(r"slow +\d+ of 120", log.out)


def test_status_watch_ends_with_the_run_and_redraws_on_a_terminal(toys: Command, corpus: Path) -> None:
    running = program("run", corpus, "--budget", "1", "--id", "live", *SLOW)
    wait_for_run("live")
    running.send_signal(signal.SIGSTOP)   # until both are watching, however long they take to start
    screen, tty = pty.openpty()
    plain = program("status", "live", "--watch")
    watching = program("status", "live", "--watch", stdout=tty, stderr=tty)
    os.close(tty)
    shown = os.read(screen, 65536).decode("utf-8", "replace")
    assert plain.stdout is not None
    first = plain.stdout.readline()
    running.send_signal(signal.SIGCONT)
    shown += read_all(screen)
    assert watching.wait(30) == 0
    assert finish(running).code == 0
    assert re.search(r"\x1b\[(9|10)F\x1b\[J", shown), shown   # nine lines, ten with progress, drawn over themselves
    assert re.search(r"slow: \d+ of 120 · [\d.]+/s · [\d.]+s left", shown)
    told = finish(plain)
    assert told.code == 0
    assert 2 <= (first + told.out).count("run live") <= 8, told.out   # changes only, not one a second
    assert told.out.rstrip().endswith("next: forge report live")


def test_watching_never_makes_a_run_seem_busy(toys: Command, corpus: Path) -> None:
    toys("run", corpus, "--budget", "1", "--id", "one", "--until", "read")
    run = Run.open("one")
    watcher = subprocess.Popen(
        ["python3", "-c", f"import fcntl, os, time\nend = time.time() + 3\nwhile time.time() < end:\n"
         f" h = os.open({str(run.folder / 'lock')!r}, os.O_RDONLY); fcntl.flock(h, fcntl.LOCK_SH); os.close(h); time.sleep(0.0005)"]
    )
    try:
        for _ in range(200):
            with run.lock():
                pass
    finally:
        watcher.kill()
        watcher.wait()


def wait_for_run(run_id: str) -> None:
    """Until the run has begun its slow phase."""
    events = Path(os.environ["FORGE_HOME"]) / "runs" / run_id / "events.jsonl"
    deadline = time.monotonic() + 20
    while not (events.exists() and '"progress"' in events.read_text(encoding="utf-8")):
        assert time.monotonic() < deadline, "the run did not start"
        time.sleep(0.02)


def read_all(screen: int) -> str:
    """Everything that was written to a terminal until its last writer left."""
    shown = b""
    while True:
        try:
            part = os.read(screen, 65536)
        except OSError:   # EIO: nobody writes any more
            part = b""
        if not part:
            os.close(screen)
            return shown.decode("utf-8", "replace")
        shown += part
