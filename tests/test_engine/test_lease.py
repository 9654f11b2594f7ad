"""No machine outlives its run: reserved before it starts, found again after a crash, released only on the provider's word."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from forge.errors import NoCapacity, OverBudget
from forge.lease import Leases, as_provider
from forge.protocols import Lease, Need, Offer, Resource
from forge.run import Run
from forge.testing import tiny_corpus

OFFER = Offer(provider="fake", name="gpu.large", usd_per_hour=2.0, device="cuda", cores=8, memory_gib=64)
HOUR = 3600


class Cloud:
    """A provider that remembers what it started, and can lose its answer or refuse to stop."""

    name: ClassVar[str] = "fake"
    requires: ClassVar[tuple[Any, ...]] = ()

    def __init__(self) -> None:
        self.machines: dict[str, Resource] = {}
        self.started: list[str] = []
        self.lose_answer = self.deaf = self.empty = False

    def quote(self, need: Need) -> list[Offer]:
        return [OFFER]

    def start(self, lease: Lease) -> Resource:
        if self.empty:
            raise NoCapacity("no machine to be had")
        self.started.append(lease.token)
        made = Resource(provider="fake", id=f"i-{len(self.started)}", lease=lease.token, state="live")
        self.machines[lease.token] = made
        if self.lose_answer:
            self.lose_answer = False
            raise ConnectionResetError("the answer was lost")
        return made

    def find(self, scope: str) -> list[Resource]:
        return [machine for token, machine in self.machines.items() if scope in ("all", token)]

    def stop(self, resource: Resource) -> None:
        if not self.deaf:
            self.machines[resource.lease] = resource.model_copy(update={"state": "gone"})

    def channel(self, resource: Resource, root: Path) -> Any:
        return None

    def settle(self, resource: Resource) -> int:
        return 1_500_000


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


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
    assert run.ledger.totals().reserved == 2_200_000   # $2/h for an hour and 10 %
    assert leases(run, cloud).release_all() == []
    assert (run.ledger.totals().settled, run.ledger.totals().reserved, state(run)) == (1_500_000, 0, "SETTLED")


def test_a_machine_that_could_pass_the_cap_is_never_requested(run: Run, cloud: Cloud) -> None:
    with pytest.raises(OverBudget):
        leases(run, cloud).acquire(OFFER, 2 * HOUR, "t1")
    assert cloud.started == []
    assert run.ledger.totals().committed == 0


def test_a_lost_answer_leads_to_one_machine(run: Run, cloud: Cloud) -> None:
    cloud.lose_answer = True
    with pytest.raises(ConnectionResetError):
        leases(run, cloud).acquire(OFFER, HOUR, "t1")
    leases(run, cloud).acquire(OFFER, HOUR, "t1")
    assert cloud.started == ["t1"]
    assert run.ledger.totals().reserved == 2_200_000


def test_a_machine_that_does_not_stop_keeps_its_money_reserved(run: Run, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.lease.CONFIRM_SECONDS", 0.3)
    leases(run, cloud).acquire(OFFER, HOUR, "t1")
    cloud.deaf = True
    assert leases(run, cloud).release_all() == ["t1"]
    assert (run.ledger.totals().reserved, state(run)) == (2_200_000, "STOPPING")
    cloud.deaf = False
    assert leases(run, cloud).release_all() == []


def test_a_released_lease_is_reserved_again_before_it_starts_again(run: Run, cloud: Cloud) -> None:
    leases(run, cloud).acquire(OFFER, HOUR, "t1")
    leases(run, cloud).release_all()
    with pytest.raises(OverBudget):   # 1.5 settled + 2.2 worst case > 3.0
        leases(run, cloud).resource("t1")
    assert cloud.started == ["t1"]


def test_no_capacity_leaves_nothing_running_and_frees_the_money(run: Run, cloud: Cloud) -> None:
    cloud.empty = True
    with pytest.raises(NoCapacity):
        leases(run, cloud).acquire(OFFER, HOUR, "t1")
    assert leases(run, cloud).release_all() == []
    assert run.ledger.totals().committed == 0
