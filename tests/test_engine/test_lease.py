"""No machine outlives its run: reserved before it is asked for, found again after a crash, released only on the provider's word."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from forge.errors import ForgeError, NoCapacity, OverBudget
from forge.lease import Leases, as_provider, still_billing
from forge.protocols import Resource
from forge.run import Run
from forge.testing import tiny_corpus
from tests.test_engine.fake_cloud import BILL, OFFER, Cloud

HOUR = 3600
WORST = 2_200_000   # $2/h for an hour and 10 %


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    return Cloud(tmp_path / "cloud")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run.create(tiny_corpus(tmp_path / "c", {"a.txt": "a"}), dry_run=False, run_id="lease")
    made.ledger.budget, made.ledger.gate_open = 3_000_000, True
    yield made
    made.close()


def leases(run: Run, cloud: Cloud) -> Leases:
    return Leases(run, {"fake": as_provider(cloud)})


def state(run: Run) -> str:
    row = run.state.row("SELECT state FROM lease")
    return str(row["state"]) if row else ""


def test_the_worst_case_is_reserved_and_the_real_cost_settled(run: Run, cloud: Cloud) -> None:
    leases(run, cloud).acquire(OFFER, HOUR, "t1")
    assert (run.ledger.totals().reserved, state(run)) == (WORST, "LIVE")
    assert leases(run, cloud).release_all() == []
    assert (run.ledger.totals().settled, run.ledger.totals().reserved, state(run)) == (BILL, 0, "SETTLED")


def test_a_machine_that_could_pass_the_cap_is_never_asked_for_and_leaves_no_intent(run: Run, cloud: Cloud) -> None:
    with pytest.raises(OverBudget):
        leases(run, cloud).acquire(OFFER, 2 * HOUR, "t1")
    assert cloud.started == []
    assert (run.ledger.totals().committed, state(run)) == (0, "")


def test_an_answer_that_is_lost_is_looked_up_and_leads_to_one_machine(run: Run, cloud: Cloud) -> None:
    cloud.lost_answers, cloud.hidden_looks = 1, 2
    leases(run, cloud).acquire(OFFER, HOUR, "t1")
    assert cloud.up() == ["i-t1-1"]
    assert (run.ledger.totals().reserved, state(run)) == (WORST, "LIVE")


def test_a_request_that_made_nothing_is_told_and_asked_again_on_resume(run: Run, cloud: Cloud) -> None:
    cloud.lost_answers, cloud.never_made = 1, True
    with pytest.raises(ForgeError, match="did not say whether it started t1"):
        leases(run, cloud).acquire(OFFER, HOUR, "t1")
    assert (run.ledger.totals().reserved, state(run)) == (WORST, "REQUESTED")
    cloud.never_made = False
    leases(run, cloud).acquire(OFFER, HOUR, "t1")
    assert (cloud.up(), run.ledger.totals().reserved) == (["i-t1-1"], WORST)


def test_a_machine_that_is_not_listed_at_first_is_neither_started_again_nor_declared_gone(run: Run, cloud: Cloud) -> None:
    leases(run, cloud).acquire(OFFER, HOUR, "t1")
    cloud.hidden_looks = 2
    assert leases(run, cloud).resource("t1").id == "i-t1-1"
    cloud.hidden_looks = 1
    assert leases(run, cloud).release_all() == []
    assert (cloud.started, cloud.up()) == (["i-t1-1"], [])
    assert len(leases(run, cloud).proofs()[0].seen_gone) >= 2


def test_one_look_that_finds_nothing_proves_nothing(run: Run, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.lease.GIVE_UP_SECONDS", -1e9)   # as if time was up after the first look
    leases(run, cloud).acquire(OFFER, HOUR, "t1")
    cloud.stop(Resource(provider="fake", id="i-t1-1", lease="t1", state="live"))
    assert leases(run, cloud).release_all() == ["t1"]
    assert (run.ledger.totals().reserved, state(run)) == (WORST, "STOPPING")


def test_a_machine_that_does_not_stop_keeps_its_money_reserved(run: Run, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.lease.GIVE_UP_SECONDS", 0.2)
    leases(run, cloud).acquire(OFFER, HOUR, "t1")
    cloud.deaf_stops = 1_000
    assert leases(run, cloud).release_all() == ["t1"]
    assert (run.ledger.totals().reserved, state(run)) == (WORST, "STOPPING")
    told = still_billing(run, ["t1"])
    assert told.exit_code == 70
    assert "the request was refused" in told.why
    assert told.next == "fakecloud terminate i-t1-1 && forge teardown lease"
    cloud.deaf_stops = 0
    assert leases(run, cloud).release_all() == []
    assert (run.ledger.totals().settled, run.ledger.totals().reserved) == (BILL, 0)


def test_a_list_that_cannot_be_had_is_no_proof(run: Run, cloud: Cloud) -> None:
    leases(run, cloud).acquire(OFFER, HOUR, "t1")
    cloud.deaf_stops, cloud.broken_looks = 1, 2
    assert leases(run, cloud).release_all() == []
    assert cloud.up() == []


def test_a_resume_that_cannot_list_machines_neither_starts_nor_frees_one(run: Run, cloud: Cloud) -> None:
    leases(run, cloud).acquire(OFFER, HOUR, "t1")
    cloud.broken_looks = 3
    assert leases(run, cloud).resource("t1").id == "i-t1-1"
    cloud.broken_looks = 1_000
    with pytest.raises(ForgeError, match="fake cannot list its machines"):
        leases(run, cloud).resource("t1")
    assert (cloud.started, run.ledger.totals().reserved, state(run)) == (["i-t1-1"], WORST, "LIVE")


def test_a_released_lease_is_reserved_again_before_it_starts_again(run: Run, cloud: Cloud) -> None:
    leases(run, cloud).acquire(OFFER, HOUR, "t1")
    leases(run, cloud).release_all()
    with pytest.raises(OverBudget):   # 1.5 settled + 2.2 worst case > 3.0
        leases(run, cloud).resource("t1")
    assert cloud.started == ["i-t1-1"]


def test_a_machine_that_vanished_is_settled_before_another_is_reserved(run: Run, cloud: Cloud) -> None:
    run.ledger.budget = 10_000_000
    leases(run, cloud).acquire(OFFER, HOUR, "t1")
    cloud.stop(Resource(provider="fake", id="i-t1-1", lease="t1", state="live"))
    assert leases(run, cloud).resource("t1").id == "i-t1-2"
    assert (run.ledger.totals().settled, run.ledger.totals().reserved) == (BILL, WORST)


def test_two_machines_for_one_lease_become_one(run: Run, cloud: Cloud) -> None:
    leases(run, cloud).acquire(OFFER, HOUR, "t1")
    cloud._put("i-t1-9", Resource(provider="fake", id="i-t1-9", lease="t1", state="live"))
    assert leases(run, cloud).resource("t1").id == "i-t1-1"
    assert cloud.up() == ["i-t1-1"]
    leases(run, cloud).release_all()
    assert run.ledger.totals().settled == 2 * BILL


def test_no_capacity_leaves_nothing_running_and_frees_the_money(run: Run, cloud: Cloud) -> None:
    cloud.empty = True
    with pytest.raises(NoCapacity):
        leases(run, cloud).acquire(OFFER, HOUR, "t1")
    assert leases(run, cloud).release_all() == []
    assert run.ledger.totals().committed == 0


def test_a_bill_that_cannot_be_had_keeps_the_worst_case_until_it_can(run: Run, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_bill(resource: Resource) -> int:
        raise TimeoutError("no bill yet")

    leases(run, cloud).acquire(OFFER, HOUR, "t1")
    with monkeypatch.context() as patched:
        patched.setattr(cloud, "settle", no_bill)
        assert leases(run, cloud).release_all() == []
    assert (run.ledger.totals().reserved, state(run)) == (WORST, "CONFIRMED_GONE")
    leases(run, cloud).release_all()
    assert (run.ledger.totals().settled, run.ledger.totals().reserved, state(run)) == (BILL, 0, "SETTLED")


def test_what_a_machine_starts_beside_itself_is_reserved_once_and_settled_with_the_lease(run: Run, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    run.ledger.budget = WORST + 800_000
    leases(run, cloud).acquire(OFFER, HOUR, "t1")
    for _ in range(2):   # a resume asks again
        leases(run, cloud).set_aside("t1", "job-a", 0.5, "two tasks")
    assert run.ledger.totals().reserved == WORST + 550_000
    with pytest.raises(OverBudget, match="two more tasks could cost"):
        leases(run, cloud).set_aside("t1", "job-b", 0.5, "two more tasks")
    assert run.ledger.totals().reserved == WORST + 550_000, "nothing is written for what does not fit"
    asked = []

    def bill(resource: Resource) -> int:
        asked.append((resource.kind, resource.id))
        return 400_000 if resource.kind == "array" else BILL

    monkeypatch.setattr(cloud, "settle", bill)
    assert leases(run, cloud).release_all() == []
    assert asked == [("machine", "i-t1-1"), ("array", "job-a")]
    assert (run.ledger.totals().settled, run.ledger.totals().reserved) == (BILL + 400_000, 0)
    assert leases(run, cloud).proofs()[0].micro_usd == BILL + 400_000


def test_work_that_others_ask_for_is_reserved_before_and_closed_by_any_later_process(run: Run, cloud: Cloud) -> None:
    seen: list[int] = []
    lease = leases(run, cloud).open(OFFER, HOUR, "t1", lambda lease: seen.append(run.ledger.totals().reserved))
    assert seen == [WORST]
    assert leases(run, cloud).is_open("t1")
    cloud.start(lease)
    with pytest.raises(OverBudget):
        leases(run, cloud).open(OFFER, HOUR, "t2", lambda lease: None)
    again = leases(run, cloud).open(OFFER, 60, "t1", lambda lease: None)   # its process was killed
    assert (again.attempt, cloud.up(), run.ledger.totals().settled) == (2, [], BILL)
    assert leases(run, cloud).release_all() == []
    assert (run.ledger.totals().reserved, leases(run, cloud).is_open("t1")) == (0, False)


class Killed(BaseException):
    """As if the process had died here."""


class Killer:
    """Dies at the n-th step of the cloud and the ledger."""

    def __init__(self, at: int) -> None:
        self.at, self.count = at, 0

    def __call__(self, name: str) -> None:
        self.count += 1
        if self.count == self.at:
            raise Killed(name)


@pytest.mark.parametrize("resumed", [True, False], ids=["resumed", "torn down"])
def test_killed_at_every_single_step_no_machine_is_left_and_the_books_are_right(
    tmp_path: Path, cloud: Cloud, monkeypatch: pytest.MonkeyPatch, resumed: bool
) -> None:
    monkeypatch.setattr("forge.lease.POLL_SECONDS", 0.01)
    reached, at = True, 0
    while reached:
        at += 1
        folder = tmp_path / f"{at}"
        monkeypatch.setenv("FORGE_HOME", str(folder))
        reached = _live_and_die(folder, Killer(at), _a_lease)
        cloud = _quick_cloud(folder)
        run = _run(folder)
        if resumed:
            assert leases(run, cloud).resource("t1").state == "live" if _has_lease(run) else leases(run, cloud).acquire(OFFER, HOUR, "t1")
            assert len(cloud.up()) == 1
        assert run.ledger.totals().committed <= run.ledger.budget
        assert leases(run, cloud).release_all() == []
        assert cloud.up() == []
        assert (run.ledger.totals().settled, run.ledger.totals().reserved) == (cloud.bill(), 0)
        run.close()
    assert at > 20, "the kills did not cover the life of a lease"


def test_killed_at_every_single_step_of_work_that_others_ask_for_it_is_ended_before_it_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.lease.POLL_SECONDS", 0.01)
    reached, at = True, 0
    while reached:
        at += 1
        folder = tmp_path / f"{at}"
        monkeypatch.setenv("FORGE_HOME", str(folder))
        reached = _live_and_die(folder, Killer(at), _work_of_others)
        run, cloud = _run(folder), _quick_cloud(folder)
        cloud.start(leases(run, cloud).open(OFFER, HOUR, "s1", lambda lease: None))
        assert len(cloud.up()) == 1
        assert run.ledger.totals().committed <= run.ledger.budget
        leases(run, cloud).end("s1")
        assert (cloud.up(), run.ledger.totals().settled, run.ledger.totals().reserved) == ([], cloud.bill(), 0)
        run.close()
    assert at > 10, "the kills did not cover its life"


def _a_lease(leases: Leases, cloud: Cloud) -> None:
    leases.acquire(OFFER, HOUR, "t1")
    leases.resource("t1")
    leases.set_aside("t1", "job-a", 1.0, "tasks")
    leases.release_all()


def _work_of_others(leases: Leases, cloud: Cloud) -> None:
    cloud.start(leases.open(OFFER, HOUR, "s1", lambda lease: None))
    leases.end("s1")


def _quick_cloud(folder: Path, step: Callable[[str], None] = lambda name: None) -> Cloud:
    cloud = Cloud(folder / "cloud", step)
    cloud.creation_seconds, cloud.confirm_seconds = 0.02, 0.01
    return cloud


def _live_and_die(folder: Path, killer: Killer, live: Callable[[Leases, Cloud], None]) -> bool:
    """A whole life, until the killer's step; True when it was reached."""
    cloud, run = _quick_cloud(folder, killer), _run(folder)
    transaction = run.state.transaction

    @contextmanager
    def dying_transaction() -> Iterator[sqlite3.Connection]:
        killer("before a commit")
        with transaction() as db:
            yield db
        killer("after a commit")

    run.state.transaction = dying_transaction  # type: ignore[method-assign]
    try:
        live(leases(run, cloud), cloud)
    except Killed:
        return True
    finally:
        run.close()
    return False


def _run(folder: Path) -> Run:
    known = (folder / "runs/killed/run.json").exists()
    made = Run.open("killed") if known else Run.create(tiny_corpus(folder / "c", {"a.txt": "a"}), dry_run=False, run_id="killed")
    made.ledger.budget, made.ledger.gate_open = 10_000_000, True
    made.state._db.execute("PRAGMA synchronous=OFF")   # the killed process is this one; nobody pulls the plug
    return made


def _has_lease(run: Run) -> bool:
    return run.state.row("SELECT 1 FROM lease") is not None
