"""Shards of prep and audit as SLURM arrays on two nodes."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from forge.errors import ForgeError, OverBudget
from forge.lease import Leases, as_provider
from forge.plugins.compute.slurm import SETTLE_SECONDS, Slurm
from forge.run import Run
from forge.testing import tiny_corpus
from tests.servers.slurm import Cluster
from tests.test_engine.remote_toys import life
from tests.test_engine.test_executor import prepared, write_corpus
from tests.test_plugins.slurm_world import nodes_python, provider, until

CLUSTER = {"cores": 4, "min_job_age": 3600}
NAMES = ("documents", "passages", "clean", "drops", "audit")


def where(shard: tuple[Path, int]) -> tuple[int, str]:
    """The shard's number, and the node that did it. The first time shard 1 is begun its task is killed."""
    folder, number = shard
    if number == 1 and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.3)
    return number, os.environ["SLURMD_NODENAME"]


def breaks(shard: int) -> int:
    """Cannot do shard 1."""
    if shard == 1:
        raise ValueError("cannot be read")
    return shard


@pytest.fixture
def site(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    """A provider whose nodes can import these tests."""
    return provider(tmp_path / "shared", monkeypatch, python=nodes_python(tmp_path), cores=2)


def test_shards_are_done_on_both_nodes_in_order_and_a_killed_task_costs_its_own(slurm: Cluster, site: Slurm, tmp_path: Path) -> None:
    shards = [(tmp_path, number) for number in range(6)]
    found = list(site.executor(tmp_path / "work" / "prep" / "work" / "shards", "run-a", 4, lambda: None).map_shards(where, shards))
    assert [number for number, _ in found] == list(range(6))
    assert {node for _, node in found} == {"n1", "n2"}
    until(lambda: slurm.run("squeue", "-h") == "")


def test_a_shard_that_cannot_be_done_says_why_and_a_stop_cancels_the_array(slurm: Cluster, site: Slurm, tmp_path: Path) -> None:
    with pytest.raises(ForgeError, match="did not come to their end") as told:
        list(site.executor(tmp_path / "a" / "b" / "shards", "run-a", 2, lambda: None).map_shards(breaks, [0, 1, 2]))
    assert told.value.why == "ValueError: cannot be read"

    def stop() -> None:
        if slurm.run("squeue", "-h", "-t", "running"):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        list(site.executor(tmp_path / "c" / "d" / "shards", "run-a", 2, stop).map_shards(time.sleep, [600, 600]))
    assert not [one for one in site.find("all") if one.state in ("starting", "live")]


def test_prep_and_audit_on_the_cluster_write_the_bytes_of_one_process(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_corpus(tmp_path)
    monkeypatch.setattr(Slurm, "queue_seconds", 0.3)
    monkeypatch.setenv("FORGE_HOME", str(tmp_path / "here"))
    here = prepared(tmp_path, "here")
    monkeypatch.setenv("FORGE_HOME", str(tmp_path / "there"))
    there = prepared(tmp_path, "there", executor="slurm", shards=3)
    assert {name: there[name] for name in NAMES} == {name: here[name] for name in NAMES}
    assert len(slurm.run("squeue", "-h", "--array", "--states=all", "-o", "%j").split()) >= 6


def slow(shard: int) -> int:
    """Takes a second."""
    time.sleep(1)
    return shard


def test_shards_with_a_price_are_reserved_before_and_paid_by_their_hours_through_a_kill(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three tasks at $6 an hour, two minutes and SLURM's one to end them, and ten per cent: $0.99."""
    site = provider(tmp_path / "shared", monkeypatch, python=nodes_python(tmp_path), usd_per_hour=6.0, task_minutes=2)
    monkeypatch.setattr(Slurm, "creation_seconds", 1.0)
    Run.create(tiny_corpus(tmp_path / "c", {"a.txt": "a"}), dry_run=False, run_id="paid").close()

    def done(budget: int, tick: Callable[[], None] = lambda: None) -> tuple[int, int]:
        """A process that maps the shards; settled and reserved afterwards."""
        run = Run.open("paid")
        run.ledger.budget, run.ledger.gate_open = budget, True
        try:
            found = list(site.executor(tmp_path / "work" / "prep" / "work" / "shards", "paid", 3, tick, Leases(run, {"slurm": as_provider(site)})).map_shards(slow, range(6)))
            assert found == [0, 1, 2, 3, 4, 5]
        finally:
            run.close()
        return books()

    def books() -> tuple[int, int]:
        run = Run.open("paid")
        totals = run.ledger.totals()
        run.close()
        return totals.settled, totals.reserved

    def die() -> None:
        if len(slurm.run("squeue", "-h", "--array", "-t", "running").splitlines()) == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(OverBudget, match=r"3 tasks could cost \$0.99") as told:
        done(989_000)
    assert "slurm.task_minutes" in told.value.next
    assert (books(), slurm.run("squeue", "-h")) == ((0, 0), "")
    assert life(lambda: done(1_000_000, die) and None) == "killed"
    assert books() == (0, 990_001), "rounded up"
    settled, reserved = done(1_000_000)
    spans = [json.loads(path.read_text()) for path in (tmp_path / "shared").glob("shards-paid-*/leases/*/spans/*.json")]
    assert len(spans) == 3, "the array of the process that was killed was gone on with"
    assert (settled, reserved) == (math.ceil(6e6 / 3600 * sum(math.ceil(span["seconds"]) + SETTLE_SECONDS for span in spans)), 0)
    assert all(2 <= span["seconds"] < 120 for span in spans)
