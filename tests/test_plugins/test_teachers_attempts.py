"""A line of the ledger for every attempt of a teacher: before it is sent, and with what came of it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forge.errors import ForgeError, Interrupted, OverBudget
from forge.ledger import Attempt, Ended, Ledger
from forge.plugins.teachers._attempts import answers
from forge.plugins.teachers._limiter import Limiter
from forge.plugins.teachers.anthropic import AnthropicTeacher
from forge.plugins.teachers.openai_compatible import OpenAICompatibleTeacher
from forge.protocols import TeacherBrief, TeacherRequest, TeacherResponse
from forge.state import State
from tests.servers.asks import requests
from tests.servers.claude import ClaudeServer, Storm

pytest.importorskip("anthropic")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "test-key")
    for module in ("_limiter", "_batches"):
        monkeypatch.setattr(f"forge.plugins.teachers.{module}.FIRST_BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr("forge.plugins.teachers._limiter.LAST_BACKOFF_SECONDS", 0.05)
    monkeypatch.setattr("forge.plugins.teachers._batches.FIRST_POLL_SECONDS", 0.02)
    monkeypatch.setattr("forge.plugins.teachers._batches.CREATION_SECONDS", 0.2)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(State(tmp_path / "state.db"), 10**9, 10**9)


def teacher(url: str, folder: Path, ledger: Ledger, mode: Any = "live", wait: Any = lambda seconds, note: None) -> AnthropicTeacher:
    return AnthropicTeacher(TeacherBrief(endpoint=url, mode=mode, notes=str(folder / "notes"))).metered(ledger, wait)


def lines(ledger: Ledger, outcome: str = "") -> list[Attempt]:
    return ledger.attempts(outcome=outcome)


def test_a_refusal_and_the_answer_after_it_are_two_lines(tmp_path: Path, ledger: Ledger) -> None:
    with ClaudeServer(Storm(too_many=0.4, overloaded=0.2)) as server:
        answers = list(teacher(server.url, tmp_path, ledger).generate(requests(40)))
    assert len(answers) == 40
    assert {line.outcome for line in lines(ledger)} == {"refused: HTTP 429", "refused: HTTP 529", "answered"}
    assert {line.settled for line in lines(ledger, "refused")} == {0}
    assert len(lines(ledger)) == server.books.statuses.total()
    given_up = sum(bool(answer.error) for answer in answers)   # after sixteen refusals in a row
    assert sum(line.number > 1 for line in lines(ledger)) == len(lines(ledger, "refused")) - given_up
    assert (ledger.totals().settled, ledger.totals().reserved) == (server.books.micro_usd, 0)
    used = lines(ledger, "answered")[0].usage
    assert used["input"] > 0 < used["output"]


@pytest.mark.parametrize("storm", [Storm(reset=0.3), Storm(dropped=0.3), Storm(proxy=0.3)], ids=["reset in mid-stream", "dropped", "a proxy's 502"])
def test_an_attempt_that_broke_stays_at_its_worst_case(tmp_path: Path, ledger: Ledger, storm: Storm) -> None:
    with ClaudeServer(storm) as server:
        answers = list(teacher(server.url, tmp_path, ledger).generate(requests(30)))
    assert not [answer.error for answer in answers if answer.error]
    broken = lines(ledger, "unknown")
    assert broken
    assert {line.settled for line in broken} == {None}
    assert ledger.totals().reserved == sum(line.reserved for line in broken)
    assert ledger.totals().settled == sum(answer.micro_usd for answer in answers)
    assert ledger.totals().settled <= server.books.micro_usd <= ledger.totals().committed


def test_what_never_left_this_machine_costs_nothing(tmp_path: Path, ledger: Ledger) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        answers = list(teacher(url, tmp_path, ledger).generate(requests(2)))
    assert {answer.error for answer in answers} == {"given up after 16 attempts: no answer (ConnectError)"}
    assert {line.outcome for line in lines(ledger)} == {"not sent: ConnectError"}
    assert (len(lines(ledger)), ledger.totals().committed) == (32, 0)


def test_an_answer_of_no_use_is_a_line_with_its_cost_and_reason(tmp_path: Path, ledger: Ledger) -> None:
    with ClaudeServer(Storm(refused=1.0)) as server:
        list(teacher(server.url, tmp_path, ledger).generate(requests(3)))
    assert {line.outcome for line in lines(ledger)} == {"answered: stopped early: refusal"}
    assert ledger.totals().settled == server.books.micro_usd > 0


def test_every_item_of_a_batch_is_a_line_under_the_name_of_its_intent(tmp_path: Path, ledger: Ledger) -> None:
    with ClaudeServer(Storm(expired=0.4)) as server:
        list(teacher(server.url, tmp_path, ledger, "batch").generate(requests(30)))
    expired = lines(ledger, "expired")
    assert expired
    assert {line.settled for line in expired} == {0}
    assert len({line.batch for line in lines(ledger)}) == server.books.batches_created > 1
    assert ledger.totals().settled == server.books.micro_usd
    assert ledger.totals().reserved == 0


def test_a_batch_that_was_never_made_frees_its_reservations(tmp_path: Path, ledger: Ledger) -> None:
    asked = requests(4)
    with ClaudeServer() as server:
        gone = teacher("http://127.0.0.1:9", tmp_path, ledger, "batch", _patience(40))
        with pytest.raises(Interrupted):
            list(gone.generate(asked))
        assert (len(lines(ledger)), ledger.totals().settled) == (4, 0)
        assert ledger.totals().reserved > 0
        list(teacher(server.url, tmp_path, ledger, "batch").generate(asked))
    assert {line.outcome for line in lines(ledger)} == {"not sent: the server has no such batch", "answered"}
    assert (ledger.totals().settled, ledger.totals().reserved) == (server.books.micro_usd, 0)


def test_a_stop_ends_the_wait_for_a_batch_and_the_next_process_collects_it(tmp_path: Path, ledger: Ledger) -> None:
    with ClaudeServer(Storm(batch_seconds=0.5)) as server:
        with pytest.raises(Interrupted):
            list(teacher(server.url, tmp_path, ledger, "batch", _patience(2)).generate(requests(5)))
        answers = list(teacher(server.url, tmp_path, ledger, "batch", _waiting).generate(requests(5)))
    assert len(answers) == 5
    assert server.books.batches_created == 1
    assert ledger.totals().settled == server.books.micro_usd


def test_a_stop_keeps_the_answers_that_are_under_way(tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[TeacherResponse] = []

    def stop_after_three(seconds: float, note: str) -> None:
        if len(got) >= 3:
            raise Interrupted

    with ClaudeServer(Storm(seconds=0.05)) as server:
        asking = teacher(server.url, tmp_path, ledger, "live", stop_after_three).generate(requests(60))
        with pytest.raises(Interrupted):
            keep(got, asking)
    assert 3 <= len(got) < 60
    assert len(got) == sum(server.books.billed.values())
    assert (sum(answer.micro_usd for answer in got), ledger.totals().reserved) == (server.books.micro_usd, 0)


def test_the_cap_is_used_up_in_rounds_and_never_passed(tmp_path: Path) -> None:
    asked = requests(40)
    one = AnthropicTeacher(TeacherBrief(mode="live"))
    worst = max(one.price(request) for request in asked)
    small = Ledger(State(tmp_path / "small.db"), 5 * worst, 5 * worst)
    got: list[TeacherResponse] = []
    with ClaudeServer() as server:
        asking = teacher(server.url, tmp_path, small).generate(asked)
        with pytest.raises(OverBudget):
            keep(got, asking)
    assert len(got) > 5, "what the first calls did not cost was spent"
    assert 4 * worst < small.totals().settled <= 5 * worst
    assert small.totals().settled == server.books.micro_usd == sum(answer.micro_usd for answer in got)


@pytest.mark.parametrize("mode", ["live", "batch"])
def test_an_account_that_is_closed_ends_the_work_and_costs_nothing(tmp_path: Path, ledger: Ledger, mode: str) -> None:
    with ClaudeServer(Storm(seconds=0.01)) as server:
        got: list[TeacherResponse] = []
        keep(got, teacher(server.url, tmp_path, ledger, mode).generate(requests(20)))
        server.closed = 402
        with pytest.raises(ForgeError, match=r"does not serve this account|refuses the batch"):
            keep(got, teacher(server.url, tmp_path, ledger, mode).generate(requests(400)[20:]))
        attempts = len(lines(ledger))
        server.closed = 0
        keep(got, teacher(server.url, tmp_path, ledger, mode).generate(requests(30)[20:]))
    assert len(got) == 30
    assert attempts < 60 or mode == "batch", "every other request was tried as well"
    assert (ledger.totals().settled, ledger.totals().reserved) == (server.books.micro_usd, 0)


def test_a_batch_is_cut_by_bytes_too(tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.plugins.teachers._batches.MOST_BYTES", 20_000)
    with ClaudeServer() as server:
        answers = list(teacher(server.url, tmp_path, ledger, "batch").generate(requests(20)))
    assert (len(answers), server.books.batches_created > 3) == (20, True)


def test_a_refusal_of_the_budget_says_what_is_held_for_unknown_attempts(tmp_path: Path) -> None:
    small = Ledger(State(tmp_path / "small.db"), 1_500_000, 1_500_000)
    line = small.begin({"a": 1_000_000}, "a call")["a"]
    small.end([Ended(line, "unknown: no answer", None)])
    with pytest.raises(OverBudget) as refused:
        small.begin({"b": 1_000_000}, "a call")
    assert "$1.00 is held for attempts of unknown outcome" in refused.value.why


def test_a_server_that_bills_by_the_token_is_metered_too(tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.plugins.teachers.openai_compatible._is_near", lambda host: False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        brief = TeacherBrief(model="claude-haiku-5-5", endpoint=f"http://127.0.0.1:{taken.getsockname()[1]}/v1", in_flight=2)
        answers = list(OpenAICompatibleTeacher(brief).metered(ledger, lambda seconds, note: None).generate(requests(1)))
    assert answers[0].error.startswith("given up after 16 attempts")
    assert [line.outcome for line in lines(ledger)] == ["not sent: ConnectionRefusedError"] * 16
    assert ledger.totals().committed == 0


def keep(got: list[TeacherResponse], asking: Iterator[TeacherResponse]) -> None:
    for answer in asking:
        got.append(answer)  # one by one: the stop looks at how many there are


def _patience(waits: int) -> Any:
    """A user who stops after so many waits."""
    left = [waits]

    def wait(seconds: float, note: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Interrupted
        _waiting(seconds, note)

    return wait


def _waiting(seconds: float, note: str) -> None:
    time.sleep(min(seconds, 0.05))


def test_a_round_that_brought_nothing_is_tried_with_one_call_before_the_cap_is_believed() -> None:
    refused = iter([True])

    def call(request: TeacherRequest) -> TeacherResponse:
        if next(refused, False):
            raise OverBudget("no room while others are under way", why="", next="")
        return TeacherResponse(key=request.key)

    found = list(answers(Limiter(call=call, most=1), requests(3)))
    assert {answer.key for answer in found} == {request.key for request in requests(3)}


def test_a_cap_that_refuses_a_lone_call_ends_the_work() -> None:
    asked: list[str] = []

    def call(request: TeacherRequest) -> TeacherResponse:
        asked.append(request.key)
        raise OverBudget("no room at all", why="", next="")

    with pytest.raises(OverBudget, match="no room at all"):
        list(answers(Limiter(call=call, most=4), requests(8)))
    assert len(asked) <= 5, "one round of four, then one alone"
