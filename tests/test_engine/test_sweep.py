"""What any run left is found by what the provider lists, and ended; what somebody works with is not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from forge import machines
from forge.errors import ForgeError, MissingAccess
from forge.lease import Leases, as_provider
from forge.protocols import Provider, Resource
from forge.registry import Registry
from forge.run import Run
from forge.sweep import Swept, still_there, sweep
from forge.testing import tiny_corpus
from tests.test_engine.fake_cloud import BILL, OFFER, Cloud


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    made = Cloud(tmp_path / "cloud")
    made.creation_seconds, made.confirm_seconds = 0.05, 0.02
    return made


@pytest.fixture
def run(tmp_path: Path, cloud: Cloud) -> Iterator[Run]:
    """A run that leased a machine and was killed."""
    made = Run.create(tiny_corpus(tmp_path / "c", {"a.txt": "a"}), dry_run=False, run_id="dead")
    made.ledger.budget, made.ledger.gate_open = 10_000_000, True
    Leases(made, providers(cloud)).acquire(OFFER, 3600, "t1")
    yield made
    made.close()


def providers(cloud: Cloud) -> dict[str, Provider]:
    return {"fake": as_provider(cloud)}


def alone(cloud: Cloud, **facts: object) -> None:
    """A machine that no run here knows."""
    machine = Resource(provider="fake", id="i-x", lease="x", state="live", run="elsewhere")
    cloud._put("i-x", machine.model_copy(update=facts))


def done(swept: Iterator[Swept]) -> dict[str, str]:
    return {one.id: one.done for one in swept}


def test_the_machine_of_a_dead_run_is_ended_and_its_money_settled(run: Run, cloud: Cloud) -> None:
    (one,) = sweep(providers(cloud))
    assert (one.done, one.why) == ("ended", "run dead does not run any more")
    assert len(one.seen_gone) >= 2
    assert cloud.up() == []
    assert (run.ledger.totals().settled, run.ledger.totals().reserved) == (BILL, 0)


def test_a_dry_run_touches_nothing(run: Run, cloud: Cloud) -> None:
    alone(cloud)
    assert done(sweep(providers(cloud), dry_run=True)) == {"i-t1-1": "would be ended", "i-x": "would be ended"}
    assert len(cloud.up()) == 2
    assert run.ledger.totals().settled == 0


def test_a_run_at_work_and_the_run_that_asks_keep_theirs(run: Run, cloud: Cloud) -> None:
    with run.lock():
        assert done(sweep(providers(cloud))) == {"i-t1-1": "kept"}
    assert done(sweep(providers(cloud), own="dead")) == {"i-t1-1": "kept"}
    assert cloud.up() == ["i-t1-1"]


def test_a_machine_whose_run_was_deleted_is_ended_only_with_a_yes(run: Run, cloud: Cloud) -> None:
    shutil.rmtree(run.folder)
    assert done(sweep(providers(cloud))) == {"i-t1-1": "kept"}
    assert done(sweep(providers(cloud), agree=lambda left: left.why.startswith("no run in"))) == {"i-t1-1": "ended"}
    assert cloud.up() == []


def test_past_its_deadline_a_machine_is_ended_whoever_leased_it(cloud: Cloud) -> None:
    alone(cloud, overdue=True)
    assert done(sweep(providers(cloud))) == {"i-x": "ended"}


def test_what_a_living_process_holds_is_kept(cloud: Cloud) -> None:
    alone(cloud, held=True, overdue=True)
    assert done(sweep(providers(cloud), agree=lambda left: True)) == {"i-x": "kept"}


def test_a_machine_that_is_listed_after_it_was_proven_gone_is_ended_again(run: Run, cloud: Cloud) -> None:
    Leases(run, providers(cloud)).release()
    cloud._put("i-t1-1", Resource(provider="fake", id="i-t1-1", lease="t1", state="live", run="dead"))
    assert done(sweep(providers(cloud))) == {"i-t1-1": "ended"}
    assert cloud.up() == []


def test_a_machine_that_does_not_go_is_told_with_the_command_for_a_person(cloud: Cloud) -> None:
    alone(cloud, overdue=True)
    cloud.deaf_stops = 1_000_000
    swept = list(sweep(providers(cloud), patience=0.1))
    assert [one.done for one in swept] == ["not ended"]
    told = still_there(swept)
    assert told is not None
    assert (told.exit_code, told.next) == (70, "fakecloud terminate i-x && forge sweep")
    assert "the request was refused" in told.why


def test_a_list_that_cannot_be_had_is_told_and_one_without_access_is_passed_over(cloud: Cloud) -> None:
    class Closed(Cloud):
        def find(self, scope: str) -> list[Resource]:
            raise MissingAccess("no key")

    cloud.broken_looks = 1
    told: dict[str, str] = {}
    both = {"closed": as_provider(Closed(cloud.folder)), "fake": as_provider(cloud)}
    assert list(sweep(both, unlisted=told.__setitem__)) == []
    assert told == {"fake": "TimeoutError: the list cannot be had"}


def test_a_provider_that_cannot_be_imported_keeps_nobody_from_ending_the_machines_of_others(
    run: Run, cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry()
    real = registry.plugin

    def plugin(kind: str, name: str, *, ready: bool = True) -> object:
        if name == "aws":
            raise ForgeError("the provider aws cannot be imported", why="SyntaxError", next="mend it")
        return cloud if name == "local" else real(kind, name, ready=ready)

    monkeypatch.setattr(registry, "plugin", plugin)
    monkeypatch.setattr(registry, "names", lambda kind: ("aws", "local"))
    found, unlisted = machines.providers(registry), dict[str, str]()
    swept = list(sweep({**found, "fake": found["local"]}, unlisted=unlisted.__setitem__))
    assert "ended" in {one.done for one in swept}
    assert "the provider aws cannot be imported" in unlisted["aws"]
    assert cloud.up() == []
