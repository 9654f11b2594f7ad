"""Money in every storm: 16 workers, a server that fails in all the ways it can, kill -9 in between; the books of both sides agree.

The suite runs a short form. The whole one, 2,000 items and 20 kills in each storm, with a table at the end:

    make storms
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from forge.journal import Journal
from forge.ledger import Attempt, Ledger
from forge.plugins.teachers._wire import user_text
from forge.plugins.teachers.anthropic import AnthropicTeacher
from forge.protocols import TeacherBrief
from forge.state import State
from tests.servers.asks import WORKERS, requests
from tests.servers.claude import ClaudeServer, Storm

pytest.importorskip("anthropic")
pytestmark = pytest.mark.fault

MIXED = Storm(
    seconds=0.01, slow=0.03, too_many=0.08, retry_after="0.05", overloaded=0.08, dropped=0.03, reset=0.03, proxy=0.02, truncated=0.05, refused=0.05, garbled=0.05,
)
LIVE = {
    "calm": Storm(seconds=0.01),
    "latency": Storm(seconds=0.02, slow=0.1, slow_seconds=0.6),
    "429 with retry-after": Storm(too_many=0.15, retry_after="0.1"),
    "529": Storm(overloaded=0.4),
    "truncated JSON": Storm(truncated=0.2, garbled=0.1),
    "refusals": Storm(refused=0.25),
    "resets in mid-stream": Storm(reset=0.08, dropped=0.05, proxy=0.03),
    "all mixed": MIXED,
}
BATCH = {
    "batches": Storm(batch_seconds=0.3),
    "batches, expired items": Storm(batch_seconds=0.3, expired=0.15, errored=0.05, truncated=0.05),
    "batches, all mixed": Storm(
        batch_seconds=0.3, expired=0.1, errored=0.05, truncated=0.05, refused=0.05, too_many=0.1, overloaded=0.1, create_dropped=3,
    ),
}
ROWS: list[str] = []
WHOLE = pytest.mark.skipif(not os.environ.get("FORGE_STORMS"), reason="the whole storms run with `make storms`")


@pytest.mark.parametrize(("mode", "storm"), [("live", MIXED), ("batch", BATCH["batches, all mixed"])], ids=["live", "batch"])
def test_the_books_agree_in_a_mixed_storm_with_kills(tmp_path: Path, mode: str, storm: Storm) -> None:
    weather(tmp_path, mode, mode, storm, items=150, kills=3)


@WHOLE
@pytest.mark.storms
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", [*LIVE, *BATCH])
def test_two_thousand_items_and_twenty_kills(tmp_path: Path, name: str) -> None:
    mode = "live" if name in LIVE else "batch"
    weather(tmp_path, name, mode, (LIVE | BATCH)[name], items=2000, kills=20)


@pytest.mark.parametrize("mode", ["live", "batch"])
def test_a_cap_that_is_too_small_is_used_up_and_never_passed(tmp_path: Path, mode: str) -> None:
    items = 150
    worst = max(AnthropicTeacher(TeacherBrief(mode=mode)).price(request) for request in requests(items))
    with ClaudeServer(Storm(too_many=0.05, reset=0.02, seconds=0.01)) as server:
        whole = _whole_bill(server, tmp_path, mode, items)
        server.books.micro_usd = 0
        cap = whole // 2 + 4 * worst
        with watched(server, tmp_path / "small", cap) as seen:
            ended, result = ask(server, tmp_path / "small", mode, items, cap)
        spend = ledger(tmp_path / "small", cap).totals()
    assert ended == 5
    assert result["answered"] < items
    assert seen["highest"] <= cap
    assert cap - spend.committed < worst
    assert server.books.micro_usd <= spend.committed


def _whole_bill(server: ClaudeServer, folder: Path, mode: str, items: int) -> int:
    assert ask(server, folder / "whole", mode, items, 10**9)[0] == 0
    return server.books.micro_usd


def weather(folder: Path, name: str, mode: str, storm: Storm, *, items: int, kills: int) -> None:
    """Run one storm to its end and compare the books."""
    storm = Storm(**vars(storm))
    generator, started = random.Random(f"{os.environ.get('FORGE_FUZZ_SEED', '')}{name}"), time.monotonic()
    worst = sum(AnthropicTeacher(TeacherBrief(mode=mode)).price(request) for request in requests(items))
    cap = worst if mode == "live" else 3 * worst   # three times what is billed: room for attempts that stay unknown
    with ClaudeServer(storm) as server, watched(server, folder, cap) as seen:
        done = 0
        for number in range(kills):
            done += ask_until_killed(server, folder, mode, items, cap, generator, share=(number + 1) / (kills + 1))
        result = finish(server, folder, mode, items, cap)
    book = Books(server, folder, items, cap)
    book.check(done)
    assert result["answered"] + result["unusable"] == items
    assert seen["highest"] <= cap
    assert not seen["uncovered"]
    spend = ledger(folder, cap).totals()
    ROWS.append(
        f"{name:<24}{items:>6}{done:>6}{sum(server.books.statuses.values()):>8}{time.monotonic() - started:>7.0f}{server.books.micro_usd:>10,}{spend.settled:>10,}"
        f"{book.known_bill:>10,}{book.lost_bill:>8,}{spend.reserved:>9,}{book.twice:>7}{book.twice_in_flight:>9}{seen['highest'] / cap:>8.1%}{seen['samples']:>9,}"
    )


def ask(server: ClaudeServer, folder: Path, mode: str, items: int, cap: int) -> tuple[int, dict[str, int]]:
    """Run the asking process to its end: exit code and result."""
    done = subprocess.run(_argv(server, folder, mode, items, cap), env=_environment(), capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode in (0, 5), done.stderr[-3000:]
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def ask_until_killed(
    server: ClaudeServer, folder: Path, mode: str, items: int, cap: int, generator: random.Random, *, share: float
) -> int:
    """Kill -9 the asking process when that share of the items is served, or in a batch at any moment; 1 when it was still alive."""
    wanted, moment = share * items, time.monotonic() + generator.uniform(0.7, 2.2)
    with subprocess.Popen(_argv(server, folder, mode, items, cap), env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:
        while child.poll() is None:
            time.sleep(0.01)
            if len(server.books.billed) >= wanted if mode == "live" else time.monotonic() > moment:
                time.sleep(generator.uniform(0, 0.05))
                child.send_signal(signal.SIGKILL)
                break
        child.wait()
        assert child.returncode in (0, -signal.SIGKILL), (child.stderr.read() if child.stderr else b"")[-3000:]
    return int(child.returncode != 0)


def finish(server: ClaudeServer, folder: Path, mode: str, items: int, cap: int) -> dict[str, int]:
    """What is left, until every item was served: an item may fail ten times in a row, then the next resume asks it again."""
    for _ in range(8):
        code, result = ask(server, folder, mode, items, cap)
        assert code == 0, "the cap was too small"
        if not result["unserved"]:
            return result
    raise AssertionError(f"items stay unserved: {result}")


def ledger(folder: Path, cap: int) -> Ledger:
    """The ledger of a folder, as another process sees it."""
    return Ledger(State(folder / "state.db"), cap, cap)


@contextmanager
def watched(server: ClaudeServer, folder: Path, cap: int) -> Iterator[dict[str, int]]:
    """Watch from a process of its own: the cap, and that whatever the server has billed is covered by settled + reserved."""
    folder.mkdir(parents=True, exist_ok=True)
    State(folder / "state.db").close()
    bill = folder / "bill"
    bill.write_text("0", encoding="utf-8")
    seen: dict[str, int] = {}
    argv = [sys.executable, "-c", WATCHER, str(folder), str(cap), server.url]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watcher:
        yield seen
        out, _ = watcher.communicate("")
    seen.update(json.loads(out))


WATCHER = """
import json, select, sys, urllib.request
from pathlib import Path
from forge.ledger import Ledger
from forge.state import State
folder, cap, url = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
ledger = Ledger(State(folder / "state.db"), cap, cap)
seen = {"highest": 0, "samples": 0, "uncovered": 0}
while not select.select([sys.stdin], [], [], 0.02)[0]:
    bill = int(urllib.request.urlopen(url + "/bill").read())   # first: what is billed now was reserved before
    committed = ledger.totals().committed
    seen["samples"] += 1
    seen["highest"] = max(seen["highest"], committed)
    seen["uncovered"] += bill > committed
print(json.dumps(seen))
"""


class Books:
    """The server's bill beside the ledger, item by item.

    known_bill: billed for attempts whose end the ledger knows; equal to what is settled. lost_bill: billed for attempts
    that broke or were under way at a kill; covered by their reservations. twice: payments beyond the first of an item;
    twice_in_flight: those that followed an attempt under way at a kill, or one whose connection broke.
    """

    def __init__(self, server: ClaudeServer, folder: Path, items: int, cap: int) -> None:
        self.server, self.ledger = server, ledger(folder, cap)
        self.asked = {request.key: user_text(request) for request in requests(items)}
        self.lines: dict[str, list[Attempt]] = {}
        for line in self.ledger.attempts():
            self.lines.setdefault(line.key, []).append(line)
        with Journal(folder / "synth/journal/items.journal") as journal:
            self.journaled = {key for key, _ in journal.items()}
        self.known_bill = self.lost_bill = self.twice = self.twice_in_flight = 0

    def check(self, kills: int) -> None:
        """Every item: nothing lost, known attempts equal to the micro-dollar, unknown ones covered."""
        assert self.journaled == set(self.asked)
        assert set(self.server.books.bills) == set(self.asked.values())
        for key, text in self.asked.items():
            self._check_item(self.lines[key], list(self.server.books.bills[text]))
        spend = self.ledger.totals()
        assert self.known_bill == spend.settled
        assert self.known_bill + self.lost_bill == self.server.books.micro_usd
        assert self.server.books.micro_usd <= spend.committed
        broken = sum(line.outcome.startswith("unknown") for lines in self.lines.values() for line in lines)
        assert self.twice <= WORKERS * kills + broken

    def _check_item(self, lines: list[Attempt], bills: list[int]) -> None:
        settled = Counter(line.settled for line in lines if line.settled)
        lost = Counter(bills) - settled
        assert not settled - Counter(bills), "the ledger has costs that nobody billed"
        open_lines = [line for line in lines if line.settled is None]
        assert lost.total() <= len(open_lines)
        assert all(bill <= line.reserved for bill in lost for line in open_lines)
        assert [line.number for line in lines] == list(range(1, len(lines) + 1))
        answered = Counter(line.epoch for line in lines if line.outcome.startswith("answered"))
        assert max(answered.values()) == 1, "paid twice by one process"
        self.known_bill += sum(line.settled or 0 for line in lines)
        self.lost_bill += sum(bill * count for bill, count in lost.items())
        self.twice += len(bills) - 1
        self.twice_in_flight += lost.total()


@pytest.fixture(scope="module", autouse=True)
def _table() -> Iterator[None]:
    yield
    if os.environ.get("FORGE_STORMS"):
        widths = {"storm": -24, "items": 6, "kills": 6, "answers": 8, "s": 7, "billed": 10, "settled": 10, "known": 10, "lost": 8, "held": 9}
        widths |= {"twice": 7, "of lost": 9, "of cap": 8, "samples": 9}
        head = "".join(f"{name:>{width}}" if width > 0 else f"{name:<{-width}}" for name, width in widths.items())
        sys.stdout.write("\n\nmicro-dollars; held: reserved for attempts of unknown outcome\n" + "\n".join([head, *ROWS]) + "\n")


def _argv(server: ClaudeServer, folder: Path, mode: str, items: int, cap: int) -> list[str]:
    return [sys.executable, "-m", "tests.servers.asks", str(folder), server.url, mode, str(items), str(cap)]


def _environment() -> dict[str, str]:
    return {**os.environ, "ANTHROPIC_API_KEY": "test-key"}
