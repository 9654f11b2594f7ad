"""synth with real teachers over HTTP: killed at random and resumed, under every storm, its ledger equals the server's bill."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from forge.errors import ForgeError, OverBudget
from forge.journal import Journal
from forge.phases.synth import SynthSettings, phase
from forge.plugins.teachers.recorded import record
from forge.protocols import TeacherResponse
from forge.records import Pair, read_jsonl
from forge.testing import CountingMoney, PhaseRun, run_phase, tiny_corpus
from tests.servers.claude import ClaudeServer, Storm

from .clock_world import clock_passages, write_clean

KILLS = int(os.environ.get("FORGE_TEACHER_KILLS", "4"))
pytest.importorskip("anthropic")


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "test-key")


def run(folder: Path, server: ClaudeServer, money: CountingMoney | None = None, *, groups: int = 8, **settings: object) -> PhaseRun:
    clean = write_clean(folder / "clean.jsonl", clock_passages(groups))
    chosen = SynthSettings.model_validate({"teacher": "anthropic", "endpoint": server.url, "mode": "live", "max_failed_share": 1.0, **settings})
    return run_phase(phase, folder, settings=chosen, inputs={"clean": clean}, money=money)


def spent(home: Path) -> tuple[int, int]:
    """(settled, still reserved) of all runs in micro-dollars; a kill before a run was made whole leaves an empty one."""
    settled = reserved = 0
    for state in (home / "runs").glob("*/state.db"):
        with sqlite3.connect(state) as db:
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name='spend'").fetchone():
                continue
            row = db.execute("SELECT SUM(actual), SUM(CASE WHEN actual IS NULL THEN reserved ELSE 0 END) FROM spend").fetchone()
        settled, reserved = settled + (row[0] or 0), reserved + (row[1] or 0)
    return settled, reserved


@pytest.mark.parametrize("mode", ["live", "batch"])
def test_pairs_come_from_the_teacher_and_cost_what_the_server_billed(tmp_path: Path, mode: str) -> None:
    money = CountingMoney()
    with ClaudeServer() as server:
        made = run(tmp_path, server, money, mode=mode)
    pairs = [pair for pair in read_jsonl(made.out / "pairs.jsonl", Pair) if pair.passage]
    assert pairs
    assert {pair.teacher for pair in pairs} == {"anthropic"}
    assert money.settled == server.books.micro_usd > 0


def test_a_rehearsal_asks_nobody_who_costs_money(tmp_path: Path) -> None:
    clean = write_clean(tmp_path / "clean.jsonl", clock_passages())
    with ClaudeServer() as server:
        settings = SynthSettings(teacher="anthropic", endpoint=server.url)
        made = run_phase(phase, tmp_path, settings=settings, inputs={"clean": clean}, dry_run=True)
    assert any("the offline teacher stands in" in fields["text"] for kind, fields in made.events if kind == "notice")
    assert not server.books.bodies


def test_a_small_cap_is_spent_in_rounds_and_never_passed(tmp_path: Path) -> None:
    with ClaudeServer() as server:
        whole = CountingMoney()
        run(tmp_path / "a", server, whole, groups=60)
        bill, server.books.micro_usd = server.books.micro_usd, 0
        with pytest.raises(OverBudget):
            run(tmp_path / "b", server, Box(bill // 2), groups=60)
        assert 0 < server.books.micro_usd <= bill // 2


class Box(CountingMoney):
    """Refuses what could pass its cap."""

    def __init__(self, cap: int) -> None:
        super().__init__(cap)
        self.open: dict[int, int] = {}

    def reserve(self, key: str, micro: int, what: str, *, again: bool = False) -> int:
        if self.settled + sum(self.open.values()) + micro > self.cap:
            raise OverBudget("too much")
        self.open[len(self.open) + 1] = micro
        return len(self.open)

    def settle(self, reservation: int, micro: int) -> None:
        self.open[reservation] = 0
        self.settled += micro


def test_an_answer_that_was_billed_and_unusable_is_not_bought_again(tmp_path: Path) -> None:
    with ClaudeServer(Storm(truncated=0.5), seed=5) as server:
        with pytest.raises(ForgeError, match="failed on"):
            run(tmp_path, server, max_failed_share=0.0)
        billed = dict(server.books.billed)
        with pytest.raises(ForgeError, match="failed on"):
            run(tmp_path, server, max_failed_share=0.0)
        assert dict(server.books.billed) == billed


@pytest.mark.fault
@pytest.mark.parametrize(
    "storm",
    [Storm(batch_seconds=0.4), Storm(too_many=0.2, overloaded=0.1, dropped=0.05, seconds=0.02)],
    ids=["batch", "live in a storm"],
)
def test_killed_at_random_nothing_is_lost_and_the_ledger_is_the_bill(tmp_path: Path, storm: Storm) -> None:
    corpus = tiny_corpus(tmp_path / "corpus", {f"{number:03}.md": _page(number) for number in range(60)})
    home, generator = tmp_path / "home", random.Random(int(os.environ.get("FORGE_FUZZ_SEED", "5")))
    mode = "batch" if storm.batch_seconds else "live"
    with ClaudeServer(storm) as server:
        argv = [
            sys.executable, "-m", "forge", "run", str(corpus), "--budget", "5", "--until", "synth", "--quiet",
            "--set", "synth.teacher=anthropic", "--set", f"synth.endpoint={server.url}", "--set", f"synth.mode={mode}",
            "--set", "synth.abstention_share=0", "--set", "audit.min_words=3",
        ]
        if mode == "live":  # the storm would be waited out three times more
            argv += ["--set", "synth.round_trip=off", "--set", "synth.judge=off"]
        env = {**os.environ, "FORGE_HOME": str(home)}
        for _ in range(KILLS):
            if not _killed(argv, env, generator.uniform(0.5, 2.5)):
                break
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        settled, reserved = spent(home)
        bill, billed = server.books.micro_usd, server.books.billed
    assert sum("items begin]" not in asked for asked in billed) == 10, "sixty short pages, six in a request"
    if mode == "batch":
        assert settled == bill
        assert reserved == 0
        assert set(billed.values()) == {1}
    else:
        assert settled <= bill <= settled + reserved
        assert sum(billed.values()) - len(billed) <= 16 * KILLS
    assert settled + reserved <= 5_000_000


def _page(number: int) -> str:
    return f"# Valve {number}\n\nThe valve {number} opens at {number} bar and closes by itself. It was built by team {number % 7} in hall {number % 5}.\n"


def _killed(argv: list[str], env: dict[str, str], seconds: float) -> bool:
    """Start the command and kill -9 it, with all that it started, after a while; False when it had ended well before."""
    with subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True) as child:
        try:
            _, errors = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            return True
    assert child.returncode == 0, errors
    return False


def test_recorded_answers_forge_the_same_pairs_for_nothing(tmp_path: Path) -> None:
    with ClaudeServer() as server:
        paid = run(tmp_path / "paid", server)
    journal = Journal(tmp_path / "paid/journal/items.journal")
    answers = [TeacherResponse.model_validate(value) for _, value in journal.items()]
    journal.close()
    recording = tmp_path / "answers.jsonl"
    record("anthropic/claude-haiku-5-5", answers, recording)
    money = CountingMoney()
    clean = write_clean(tmp_path / "clean.jsonl", clock_passages())
    settings = SynthSettings(teacher="recorded", endpoint=str(recording), max_failed_share=1.0)
    free = run_phase(phase, tmp_path / "free", settings=settings, inputs={"clean": clean}, money=money)
    questions = [sorted(pair.question for pair in read_jsonl(made.out / "pairs.jsonl", Pair)) for made in (paid, free)]
    assert questions[0] == questions[1] != []
    assert money.settled == 0


def test_a_recording_that_is_not_there_or_none_is_a_clear_error(tmp_path: Path) -> None:
    clean = write_clean(tmp_path / "clean.jsonl", clock_passages())
    for content, fact in ((None, "has no recording"), ("not json\n", "is no recording")):
        file = tmp_path / "recording.jsonl"
        if content:
            file.write_text(content, encoding="utf-8")
        settings = SynthSettings(teacher="recorded", endpoint=str(file))
        with pytest.raises(ForgeError, match=fact):
            run_phase(phase, tmp_path / "run", settings=settings, inputs={"clean": clean})
