"""Other clouds through SkyPilot: a stand-in for its program, whose machines have a real sshd."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from forge.errors import ForgeError, MachineLost, MissingAccess, NoCapacity
from forge.lease import Leases, as_provider
from forge.plugins.compute.sky import Sky, SkySettings, parse_json
from forge.protocols import Lease, Need, Offer
from forge.run import Run
from forge.testing import tiny_corpus
from tests.servers.hosts import wait_until
from tests.servers.sky import RATE, SkyCloud, sky_cloud

ROOT = Path(__file__).resolve().parents[2]
NEED = Need(parameters=1, memory_gib=1.0, gpu=True, seconds=60)


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SkyCloud]:
    with sky_cloud(tmp_path / "sky") as made:
        monkeypatch.setenv("PATH", f"{made.program.parent}:{os.environ['PATH']}")
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        monkeypatch.setattr("forge.plugins.compute._sky_channel.POLL_SECONDS", 0.05)
        yield made


def provider(**settings: object) -> Sky:
    """With this Python on the machines, and lists that are settled at once."""
    made = Sky(SkySettings(**{"python": sys.executable, **settings}))
    made.creation_seconds, made.confirm_seconds = 0.1, 0.02   # type: ignore[misc,attr-defined]
    return made


def offer(cloud: SkyCloud) -> Offer:
    return next(one for one in provider().quote(NEED) if one.name == "aws/us-east-1 g5.xlarge")


def lease(cloud: SkyCloud, attempt: int = 1, seconds: int = 600) -> Lease:
    return Lease(token="lease-1", run="run-1", offer=offer(cloud), deadline_seconds=seconds, attempt=attempt)


# --- what is offered -------------------------------------------------------------------------------------------


def test_every_cloud_of_the_catalog_is_offered_with_its_price_and_the_disks(cloud: SkyCloud) -> None:
    offers = provider().quote(NEED)
    assert {one.name.partition("/")[0] for one in offers} == {"aws", "lambda", "runpod"}, "without an instance type, or no NVIDIA GPU: left out"
    assert [one.name for one in offers][:2] == ["aws/us-west-2 g4dn.xlarge spot", "runpod/US 1x_RTX4090_SECURE spot"]
    found = {one.name: one for one in offers}
    assert (found["aws/us-west-2 g4dn.xlarge"].gpu_memory_gib, found["aws/us-west-2 g4dn.xlarge"].bf16) == (16.0, False)
    assert found["aws/us-east-1 g5.xlarge"].usd_per_hour == round(RATE + 100 * 0.17 / 730, 6)
    assert "lambda/us-east-1 gpu_1x_a10 spot" not in found
    assert [one.name for one in provider(infra=["lambda"]).quote(NEED)] == ["lambda/us-east-1 gpu_1x_a10"]
    with pytest.raises(NoCapacity, match="disk_gib is 50"):
        provider(disk_gib=50).quote(NEED.model_copy(update={"disk_gib": 60.0}))
    assert provider().quote(NEED.model_copy(update={"gpu_memory_gib": 80.0})) == []


def test_without_the_program_nothing_is_offered_and_the_sweep_passes_it_over() -> None:
    assert provider(program="no-such-sky").quote(NEED) == []
    with pytest.raises(MissingAccess, match="there is no program no-such-sky"):
        provider(program="no-such-sky").find("all")


def test_a_cloud_without_access_is_refused_when_the_plan_is_made(cloud: SkyCloud) -> None:
    assert "SkyPilot has access to aws" in provider().preflight(offer(cloud))[0]
    with pytest.raises(NoCapacity, match="SkyPilot has no access to lambda"):
        provider().preflight(offer(cloud).model_copy(update={"name": "lambda/us-east-1 gpu_1x_a10"}))
    assert cloud.clusters == {}


def test_lines_before_the_answer_are_passed_over() -> None:
    assert parse_json('Failed to connect to SkyPilot API server\n\x1b[32m✓ started\x1b[0m\n[\n {"a": NaN}\n]\n')[0]["a"] != 0
    with pytest.raises(RuntimeError, match="did not answer in JSON"):
        parse_json("Traceback")


# --- one cluster ------------------------------------------------------------------------------------------------


def test_what_is_launched_ends_by_itself_and_holds_no_training(cloud: SkyCloud) -> None:
    provider().start(lease(cloud, seconds=77))
    task = cloud.clusters["forge-lease-1-1"].task
    assert task["resources"] == {"infra": "aws/us-east-1", "instance_type": "g5.xlarge", "disk_size": 100, "use_spot": False}
    assert task["run"].startswith("exec python3 - 77 1020 600 ~/.slm-forge/leases/lease-1 <<'FORGE'\n")
    assert cloud.clusters["forge-lease-1-1"].autostop == 1
    assert provider().start(lease(cloud)).id == "forge-lease-1-1"
    assert len(cloud.clusters) == 1


def test_an_answer_that_is_lost_leads_to_one_cluster_and_its_bill(cloud: SkyCloud, run: Run) -> None:
    cloud.lost = 1
    leases = Leases(run, {"sky": as_provider(provider())})
    leases.acquire(offer(cloud), 600, "lease-1")
    assert cloud.up() == ["forge-lease-1-1"]
    assert [one.run for one in provider().find("all")] == ["run-1"]
    cloud.deaf_downs = 1
    assert leases.release_all() == []
    assert (cloud.up(), run.ledger.totals().settled, run.ledger.totals().reserved) == ([], cloud.bill(), 0)


def test_an_engine_that_is_killed_while_sky_launches_finds_its_cluster_again(cloud: SkyCloud, run: Run) -> None:
    wanted, cloud.slow = offer(cloud), 1.0
    engine = os.fork()
    if engine == 0:
        Leases(run, {"sky": as_provider(provider())}).acquire(wanted, 600, "lease-1")
        os._exit(0)
    wait_until(lambda: "launch -y" in cloud.calls)
    os.kill(engine, signal.SIGKILL)
    os.waitpid(engine, 0)
    cloud.slow = 0.0
    leases = Leases(run, {"sky": as_provider(provider())})
    assert leases.resource("lease-1").id == "forge-lease-1-1"
    assert cloud.calls.count("launch -y") == 1
    assert leases.release_all() == []
    assert (cloud.up(), run.ledger.totals().settled) == ([], cloud.bill())


def test_no_capacity_and_no_access_are_words_and_leave_nothing(cloud: SkyCloud) -> None:
    cloud.capacity = False
    with pytest.raises(NoCapacity) as told:
        provider().start(lease(cloud))
    assert told.value.why.startswith("Failed to acquire resources in all zones in us-east-1")
    cloud.access = ()
    with pytest.raises(MissingAccess, match="no access to a cloud"):
        provider().start(lease(cloud))
    assert cloud.clusters == {}


def test_a_cluster_that_does_not_go_is_told_with_the_command(cloud: SkyCloud) -> None:
    made = provider()
    resource = made.start(lease(cloud))
    cloud.deaf_downs = 1
    with pytest.raises(ForgeError, match="did not take forge-lease-1-1 down") as told:
        made.stop(resource)
    assert told.value.next == "sky down -y forge-lease-1-1"
    made.stop(resource)
    made.stop(resource)
    assert made.find("lease-1") == []


# --- work on it -------------------------------------------------------------------------------------------------


def test_files_and_jobs_go_over_ssh_and_another_host_key_is_refused(cloud: SkyCloud, tmp_path: Path) -> None:
    made = provider()
    resource = made.start(lease(cloud))
    channel = made.channel(resource, tmp_path)
    assert channel.prepare(lambda text: None) == sys.executable
    (tmp_path / "given").write_text("given", encoding="utf-8")
    channel.put(tmp_path / "given", "inputs/given")
    channel.spawn("j", ["/bin/sh", "-c", "cat ../../inputs/given > made"], {})
    wait_until(lambda: channel.poll("j") is not None)
    assert channel.read("jobs/j/made", 0) == b"given"
    host = cloud.clusters[resource.id].host
    log = host.swap_host_key()
    made.channel(resource, tmp_path).host.transport.close()
    with pytest.raises(MissingAccess, match="another host key"):
        made.channel(resource, tmp_path).poll("j")
    assert "Accepted" not in log.read_text(encoding="utf-8")


def test_a_cluster_that_somebody_took_down_is_lost(cloud: SkyCloud, tmp_path: Path) -> None:
    made = provider()
    resource = made.start(lease(cloud))
    cloud.down(cloud.clusters[resource.id])
    with pytest.raises(MachineLost, match="is gone"):
        made.channel(resource, tmp_path).prepare(lambda text: None)


def test_with_nobody_left_it_is_taken_down_at_the_deadline_or_when_idle(cloud: SkyCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.plugins.compute.sky.WATCH_GRACE_SECONDS", 0.0)
    provider().start(lease(cloud, seconds=1))
    provider(idle_minutes=1 / 60).start(lease(cloud, attempt=2))
    assert len(cloud.clusters) == 2
    wait_until(lambda: cloud.up() == [])
    assert all("FORGE" in yaml.safe_dump(one.task) for one in cloud.clusters.values())


def test_kill_9_at_every_step_leaves_no_cluster_and_the_ledger_says_what_it_cost(cloud: SkyCloud, tmp_path: Path) -> None:
    told = {
        "provider": "sky", "settings": {"python": sys.executable}, "offer": offer(cloud).model_dump(), "corpus": str(tiny_corpus(tmp_path / "corpus", {"a.txt": "a"})),
        "patches": {"forge.plugins.compute._sky_channel.POLL_SECONDS": 0.05},
        "only": ["start", "prepare", "get", "stop", "settle"],   # what lies between is the channel that ssh has, too
    }
    walked = subprocess.run(
        [sys.executable, "-m", "tests.test_plugins.machine_walk", json.dumps(told)], env={**os.environ, "FORGE_HOME": str(tmp_path / "home")},
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )
    assert walked.returncode == 0, walked.stderr
    ends = [json.loads(line) for line in walked.stdout.splitlines()]
    assert {"before start", "after start", "after prepare", "after get", "after stop", "after settle"} <= {end["step"] for end in ends}
    for end in ends:
        assert (end["settled"], end["reserved"], {*end["states"]} <= {"SETTLED"}) == (cloud.bill(end["run"]), 0, True), end
    assert cloud.up() == []
