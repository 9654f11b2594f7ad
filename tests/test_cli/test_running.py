"""What `forge run` and its relatives do: exit codes, Ctrl-C, one runner per run, pipes that close, nothing done twice."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from forge.errors import GateFailed, MissingAccess, NoCapacity, StillBilling
from forge.run import Run
from tests.test_cli.conftest import ROOT, Command, finish, program
from tests.test_cli.test_look import SLOW, read_all, wait_for_run
from tests.test_cli.toy_forge import Slow
from tests.test_engine.toys import Buy

PAID = ("--set", "plan_it.usd_per_hour=0.5")


def test_a_run_says_what_it_did_and_what_to_do_next(toys: Command, corpus: Path) -> None:
    ran = toys("run", corpus, "--budget", "1", "--id", "one")
    assert ran.code == 0
    assert "run one starts · corpus/ · budget $1.00" in ran.err
    assert re.search(r" ✓ buy +bought 5 +\$0\.000035 +\d\.\ds", ran.err)
    assert re.search(r"done in [\d.]+s · \$0\.000035 of \$1\.00 spent", ran.out)
    assert ran.last.startswith("next: forge ")


def test_json_is_one_event_a_line_and_ends_with_the_result(toys: Command, corpus: Path) -> None:
    ran = toys("run", corpus, "--budget", "1", "--json")
    events = [json.loads(line) for line in ran.out.splitlines()]
    assert events[-1]["event"] == "result"
    assert events[-1]["outcome"] == "done"
    assert {"phase_started", "progress", "phase_done", "approved"} <= {event["event"] for event in events}
    assert ran.err == ""


def test_quiet_prints_only_the_result(toys: Command, corpus: Path) -> None:
    ran = toys("run", corpus, "--budget", "1", "--quiet")
    assert ran.err == ""
    assert ran.out.strip().startswith("done")


def test_a_corpus_that_has_a_run_continues_it(toys: Command, corpus: Path) -> None:
    toys("run", corpus, "--budget", "1", "--id", "one", "--until", "read")
    ran = toys("run", corpus, "--budget", "1")
    assert "run one continues" in ran.err
    assert re.search(r" = read +words 5 +unchanged", ran.err)
    assert toys("run", corpus, "--budget", "1", "--new", "--id", "two").code == 0
    assert [row["id"] for row in toys("runs", "--json").json] == ["two", "one"]


def test_running_a_finished_run_again_does_nothing_and_says_so(toys: Command, corpus: Path) -> None:
    toys("run", corpus, "--budget", "1")
    calls = len(Buy.calls)
    ran = finish(program("run", corpus, "--budget", "1"))
    assert ran.code == 0
    assert "nothing to do, every phase is up to date" in ran.out
    assert len(Buy.calls) == calls


def test_a_plan_that_costs_waits_and_an_approval_lets_it_through(toys: Command, corpus: Path) -> None:
    rows = toys("run", corpus, "--budget", "1", "--id", "one", *PAID).error(3)
    assert rows[0].startswith("waiting: the plan ")
    assert toys("status").last == rows[-1].strip()
    sha256 = toys("plan", "one", "--json").json["sha256"]
    assert toys("resume", "one", "--yes").code == 3, "--yes never approves"
    assert toys("approve", "one").error(2)[0].endswith("approve needs --plan HASH when nobody can be asked")
    assert toys("approve", "one", "--plan", "0123456789ab").error(3)[1].startswith("  why: an approval counts for exactly one plan")
    assert toys("approve", "one", "--plan", sha256[:12], "--stop").last == "next: forge resume one"
    assert toys("resume", "one").code == 0


def test_a_rejected_run_keeps_its_data(toys: Command, corpus: Path) -> None:
    toys("run", corpus, "--budget", "1", "--id", "one", *PAID)
    assert toys("reject", "one").code == 0
    assert toys("status", "--json").json["outcome"] == "rejected"
    assert toys("show", "read", "one").code == 0


def test_a_person_at_a_terminal_is_shown_the_plan_and_asked(toys: Command, corpus: Path) -> None:
    screen, tty = pty.openpty()
    running = program("run", corpus, "--budget", "1", "--id", "one", *PAID, stdin=tty, stdout=tty, stderr=tty)
    os.close(tty)
    shown = read_until(screen, b"[y/N]")
    os.write(screen, b"y\n")
    shown += read_all(screen)
    assert running.wait(30) == 0, shown
    assert '"usd_per_hour": 0.5' in shown
    assert "approved by" in shown


@pytest.mark.parametrize(
    ("words", "code", "fact"),
    [
        (["run", "corpus", "--budget", "0"], 5, "a word could cost"),
        (["run", "corpus", "--budget", "0.00001"], 5, "a word could cost"),
        (["run", "corpus", "--budget", "1", "--before-gate", "0"], 5, "allowed before approval"),
        (["status", "nope"], 2, "no run"),
        (["run", "nowhere"], 2, "there is no corpus"),
    ],
)
def test_each_refusal_has_its_exit_code(toys: Command, corpus: Path, words: list[str], code: int, fact: str) -> None:
    toys("run", corpus, "--dry-run", "--until", "read")
    assert fact in toys(*words).error(code)[0]


@pytest.mark.parametrize("error", [MissingAccess, GateFailed, NoCapacity, StillBilling])
def test_an_error_of_a_phase_sets_the_exit_code(
    toys: Command, corpus: Path, error: type[MissingAccess], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Slow, settings: object, ctx: object) -> None:
        raise error("no", why="because", next="forge doctor")

    monkeypatch.setattr(Slow, "run", refuse)
    rows = toys("run", corpus, "--budget", "1", "--id", "one").error(error.exit_code)
    assert rows == ["error: no", "  why: because", "  next: forge doctor"]
    assert json.loads(toys("resume", "one", "--json").err.splitlines()[-1])["exit_code"] == error.exit_code


def test_a_bug_of_ours_shows_its_traceback_and_where_it_is_kept(toys: Command, corpus: Path) -> None:
    Buy.fail_after = 2
    ran = toys("run", corpus, "--budget", "1")
    assert ran.code == 1
    assert "Traceback" in ran.err
    kept = re.search(r"next: report it with (\S+);", ran.err)
    assert kept is not None
    assert "RuntimeError: the toy broke" in Path(kept[1]).read_text(encoding="utf-8")


def test_a_missing_extra_is_named_before_anything_runs(toys: Command, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from forge.phase import Requirement

    monkeypatch.setattr(Slow, "requires", (Requirement(module="no_such_library", extra="train"),))
    rows = toys("run", corpus, "--budget", "1").error(4)
    assert rows == [
        "error: phase slow needs no_such_library", "  why: the [train] extra is not installed", "  next: pip install 'slm-forge[train]'",
    ]
    assert Buy.calls == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_ctrl_c_stops_cleanly_and_says_how_to_go_on(toys: Command, corpus: Path, number: signal.Signals) -> None:
    running = program("run", corpus, "--budget", "1", "--id", "live", *SLOW)
    wait_for_run("live")
    running.send_signal(number)
    ran = finish(running)
    assert ran.code == 130
    assert ran.err.splitlines()[-2:] == ["interrupted; what is finished is kept", "next: forge resume live"]
    assert "Traceback" not in ran.err
    assert toys("status", "live", "--json").json["outcome"] == "interrupted"
    assert toys("resume", "live", "--set", "slow.items=1").code == 0


def test_the_second_runner_of_a_run_is_turned_away(toys: Command, corpus: Path) -> None:
    running = program("run", corpus, "--budget", "1", "--id", "live", *SLOW)
    wait_for_run("live")
    for words in (["resume", "live"], ["run", str(corpus), "--budget", "1"], ["teardown", "live"]):
        assert "run live is busy" in toys(*words).error(75)[0]
    running.send_signal(signal.SIGINT)
    assert finish(running).code == 130


def test_a_killed_run_is_shown_as_stopped_and_goes_on(toys: Command, corpus: Path) -> None:
    running = program("run", corpus, "--budget", "1", "--id", "live", *SLOW)
    wait_for_run("live")
    running.kill()
    finish(running)
    rows = {row.split()[0]: row for row in toys("status").out.splitlines() if row}
    assert "stopped" in rows["slow"]
    assert "stopped in slow" in rows["run"]
    assert toys("status").last == "next: forge resume live"
    assert toys("resume", "live", "--set", "slow.items=1").code == 0


@pytest.mark.parametrize("words", ["status", "logs", "config show", "run corpus --budget 1 --json", "--help"])
def test_a_reader_that_leaves_early_is_no_error(toys: Command, corpus: Path, words: str) -> None:
    toys("run", corpus, "--budget", "1", "--until", "read")
    command = f"{sys.executable} -m tests.test_cli.toy_forge {words}"
    ran = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | head -1"], text=True, capture_output=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    assert "BrokenPipe" not in ran.stderr


def test_a_closed_stdout_and_an_ascii_locale_are_no_errors(toys: Command, corpus: Path) -> None:
    for shell in ("{} >&-", "{} 2>&- >/dev/null", "PYTHONIOENCODING=ascii {}", "LC_ALL=C PYTHONUTF8=0 {}"):
        command = shell.format(f"{sys.executable} -m tests.test_cli.toy_forge run corpus --budget 1")
        ran = subprocess.run(
            ["bash", "-c", command], text=True, capture_output=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
        )
        assert ran.returncode == 0, (shell, ran.stderr)


def test_a_terminal_sees_progress_with_rate_time_left_and_money(toys: Command, corpus: Path) -> None:
    screen, tty = pty.openpty()
    running = program(
        "run", corpus, "--budget", "1", *SLOW, stdout=tty, stderr=tty, env={"NO_COLOR": "", "TERM": "xterm"}
    )
    os.close(tty)
    shown = read_all(screen)
    assert running.wait(30) == 0
    assert re.search(r"slow +\d+ of 120 · [\d.]+/s · [\d.]+s left · \$0\.000035 of \$1\.00 · item \d+", shown)
    assert "\x1b[32m✓" in shown
    last = shown.rstrip().splitlines()[-1]
    assert "next:" in last


def test_outside_a_terminal_output_is_plain(toys: Command, corpus: Path) -> None:
    ran = finish(program("run", corpus, "--budget", "1", *SLOW, env={"NO_COLOR": ""}))
    assert "\x1b" not in ran.out + ran.err
    assert "\r" not in ran.out + ran.err


def test_an_artifact_with_a_flipped_byte_is_made_again(toys: Command, corpus: Path) -> None:
    toys("run", corpus, "--budget", "1", "--id", "one")
    run = Run.open("one")
    artifact = run.store.get("bought")
    assert artifact is not None
    blob = run.folder / "artifacts" / artifact.sha256[:2] / artifact.sha256
    good = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    calls = len(Buy.calls)
    ran = toys("resume", "one")
    assert ran.code == 0
    assert blob.read_bytes() == good
    assert len(Buy.calls) == calls, "nothing is paid twice"


def read_until(screen: int, text: bytes) -> str:
    """What a terminal showed up to a text."""
    shown = b""
    while text not in shown:
        shown += os.read(screen, 4096)
    return shown.decode("utf-8", "replace")
