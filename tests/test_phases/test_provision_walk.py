"""provision walks over the approved machines: one is leased at most, at most at the approved price, and none costs nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forge.context import FolderContext
from forge.errors import GateFailed, NoCapacity
from forge.lease import Leases, as_provider
from forge.phases.provision import phase
from forge.protocols import Lease, Need, Offer, Resource
from forge.records import write_json
from forge.run import Run
from forge.store import hash_path
from forge.testing import run_phase, tiny_corpus
from tests.test_engine.fake_cloud import OFFER, Cloud
from tests.test_phases.test_provision import plan

HALF_HOUR = 1800
WORST = 1_100_000   # $2/h for half an hour and 10 %


class Shop(Cloud):
    """A cloud with three machines of one kind in three regions, some of them sold out."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.offers = [OFFER.model_copy(update={"name": f"gpu.large {region}", "region": region}) for region in ("east", "west", "north")]
        self.sold_out: set[str] = set()
        self.asked: list[Need] = []

    def quote(self, need: Need) -> list[Offer]:
        self.asked.append(need)
        return self.offers

    def start(self, lease: Lease) -> Resource:
        if lease.offer.region in self.sold_out:
            raise NoCapacity("no such machine is free", why=lease.offer.region)
        return super().start(lease)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "cloud")


@pytest.fixture
def run(tmp_path: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """A run with real leases of the shop, and $2.50."""
    made = Run.create(tiny_corpus(tmp_path / "c", {"a.txt": "a"}), dry_run=False, run_id="walk")
    made.ledger.budget, made.ledger.gate_open = 2_500_000, True
    use = FolderContext.use
    monkeypatch.setattr(FolderContext, "lease", lambda self, *values: leases(made, shop).acquire(*values))
    monkeypatch.setattr(FolderContext, "use", lambda self, kind, name, **more: shop if (kind, name) == ("provider", "fake") else use(self, kind, name, **more))
    yield made
    made.close()


def leases(run: Run, shop: Shop) -> Leases:
    return Leases(run, {"fake": as_provider(shop)})


def provision(tmp_path: Path, **changes: Any) -> Offer:
    """The offer that was leased for a plan with two alternates."""
    approved = {"provider": "fake", "offer": "gpu.large east", "usd_per_hour": 2.0, "alternates": ("gpu.large west", "gpu.large north"), **changes}
    write_json(tmp_path / "plan.json", plan(**approved))
    write_json(tmp_path / "approval.json", {"plan_sha256": hash_path(tmp_path / "plan.json"), "who": "somebody", "kind": "person"})
    done = run_phase(phase, tmp_path / "work", inputs={"plan": tmp_path / "plan.json", "approval": tmp_path / "approval.json"})
    return Offer.model_validate(json.loads((done.out / "machine.json").read_text(encoding="utf-8"))["offer"])


def test_an_alternate_is_leased_when_the_chosen_machine_is_sold_out_and_reserved_once(tmp_path: Path, shop: Shop, run: Run) -> None:
    shop.sold_out = {"east", "west"}
    assert provision(tmp_path).region == "north"
    assert len(shop.up()) == 1
    assert run.ledger.totals().reserved == WORST, "what was not had is not set aside any more"


def test_when_all_are_sold_out_nothing_is_leased_and_nothing_spent(tmp_path: Path, shop: Shop, run: Run) -> None:
    shop.sold_out = {"east", "west", "north"}
    with pytest.raises(NoCapacity, match="none of the approved machines") as caught:
        provision(tmp_path)
    assert caught.value.exit_code == 7
    assert all(region in caught.value.why for region in shop.sold_out)
    assert leases(run, shop).release_all() == []
    assert (shop.machines(), run.ledger.totals().committed) == ([], 0)


def test_only_what_the_plan_lists_may_stand_in(tmp_path: Path, shop: Shop, run: Run) -> None:
    shop.sold_out = {"east"}
    with pytest.raises(NoCapacity):
        provision(tmp_path, alternates=())
    assert shop.machines() == []


def test_a_price_that_rose_after_the_approval_is_not_paid_by_any_of_them(tmp_path: Path, shop: Shop, run: Run) -> None:
    shop.offers = [offer.model_copy(update={"usd_per_hour": 2.01}) for offer in shop.offers]
    with pytest.raises(GateFailed, match=r"now costs \$2.01/h"):
        provision(tmp_path)
    assert (shop.machines(), run.ledger.totals().committed) == ([], 0)


def test_one_that_still_costs_what_was_approved_is_taken_instead(tmp_path: Path, shop: Shop, run: Run) -> None:
    shop.offers[0] = shop.offers[0].model_copy(update={"usd_per_hour": 9.0})
    assert provision(tmp_path).region == "west"


def test_a_machine_that_nobody_has_a_price_for_is_refused_and_never_free(tmp_path: Path, shop: Shop, run: Run) -> None:
    shop.offers = [offer.model_copy(update={"usd_per_hour": 0.0}) for offer in shop.offers]
    with pytest.raises(GateFailed, match="has no price"):
        provision(tmp_path)
    assert shop.machines() == []


def test_after_a_crash_the_alternate_that_was_leased_is_found_again(tmp_path: Path, shop: Shop, run: Run) -> None:
    shop.sold_out = {"east"}

    def crash(step: str) -> None:
        if step == "after start":
            raise KeyboardInterrupt

    shop.step = crash
    with pytest.raises(KeyboardInterrupt):
        provision(tmp_path)
    shop.step, shop.sold_out = (lambda step: None), set()
    assert provision(tmp_path).region == "west"
    assert len(shop.machines()) == 1


def test_the_provider_is_asked_for_what_the_plan_needs_and_the_approved_image_is_leased(tmp_path: Path, shop: Shop, run: Run) -> None:
    shop.offers[0] = shop.offers[0].model_copy(update={"image": "ami-newer"})
    needs = {"gpu": "NVIDIA H200", "memory_gib": 18.0, "gpu_memory_gib": 20.0, "disk_gib": 70.0}
    assert provision(tmp_path, parameters=7_000_000_000, image="ami-approved", **needs).image == "ami-approved"
    assert shop.asked == [Need(parameters=7_000_000_000, gpu=True, seconds=HALF_HOUR, memory_gib=18.0, gpu_memory_gib=20.0, disk_gib=70.0)]
