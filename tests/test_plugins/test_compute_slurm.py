"""The slurm provider on a real slurmctld with two nodes and fake GPUs."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

from forge.errors import MissingAccess, NoCapacity
from forge.plugins.compute._slurm_nodes import for_node, head_address
from forge.plugins.compute.slurm import Slurm
from tests.servers.slurm import Cluster
from tests.test_plugins.slurm_world import (
    NEED,
    OFFER,
    lease,
    log,
    open_channel,
    provider,
    stages,
    until,
)

# --- quoting ---------------------------------------------------------------------------------------------------


def test_partitions_are_offered_with_a_gpu_of_their_type(slurm: Cluster, site: Slurm) -> None:
    offers = site.quote(NEED)
    assert [(offer.name, offer.gpu, offer.gpus, offer.device) for offer in offers] == [
        ("main 1 x h200", "h200", 1, "cuda"), ("short 1 x h200", "h200", 1, "cuda"),
    ]
    assert offers[0].gpu_memory_gib == pytest.approx(140.4)
    assert "0.5 h" in offers[1].reason


def test_settings_choose_partition_gpus_and_price(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = provider(tmp_path, monkeypatch, partition="main", gres="gpu:h200:2", usd_per_gpu_hour=1.5, usd_per_hour=0.25, nodes=2)
    (offer,) = site.quote(NEED)
    assert (offer.gpus, offer.nodes, offer.usd_per_hour) == (2, 2, 2 * (0.25 + 2 * 1.5))
    assert site.quote(NEED.model_copy(update={"memory_gib": 1e6})) == []


def test_without_slurm_there_is_no_offer_and_start_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    site = provider(tmp_path, monkeypatch)
    assert site.quote(NEED) == []
    assert "login node" in site.unready()
    with pytest.raises(MissingAccess, match="is not installed"):
        site.find("all")


def test_preflight_asks_slurm_without_handing_anything_in(slurm: Cluster, site: Slurm) -> None:
    said = site.preflight(OFFER)
    assert "SLURM would start it at" in said[0]
    assert "slurm.folder" in said[1]
    for offer in site.quote(NEED):
        assert site.preflight(offer), "a whole node is not more than it has"
    with pytest.raises(NoCapacity, match="would refuse"):
        site.preflight(OFFER.model_copy(update={"region": "no-such-partition"}))
    assert slurm.run("squeue", "-h") == ""


# --- leases ----------------------------------------------------------------------------------------------------


def test_starting_twice_is_one_job_and_it_is_found_by_token_run_and_all(slurm: Cluster, site: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = site.start(lease())
    assert site.start(lease()).id == first.id
    until(lambda: stages(site) == ["live"])
    other = provider(tmp_path, monkeypatch)
    for scope in ("lease-1", "run-a", "all"):
        assert [(one.id, one.lease, one.run, one.held) for one in other.find(scope)] == [(first.id, "lease-1", "run-a", True)]
    assert other.find("run-b") == []
    site.stop(first)
    until(lambda: stages(site) == [])
    site.stop(first)


def test_a_job_gets_its_gpu_and_only_the_environment_that_it_is_given(slurm: Cluster, site: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "hidden")
    channel = open_channel(site, tmp_path)
    script = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['COLOUR'], os.environ.get('SECRET_KEY')); open('made', 'w'); raise SystemExit(6)"
    channel.spawn("a", [sys.executable, "-c", script], {"COLOUR": "red"})
    channel.spawn("a", [sys.executable, "-c", script], {"COLOUR": "red"})
    until(lambda: channel.poll("a") is not None)
    channel.spawn("a", [sys.executable, "-c", script], {"COLOUR": "red"})
    assert channel.poll("a") == 6
    assert log(channel, "a") == "0 red None\n"
    assert Path(channel.path("jobs/a/made")).exists()


def test_a_job_runs_on_every_node_of_its_lease_and_is_told_where_they_meet(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = provider(tmp_path, monkeypatch, nodes=2)
    channel = open_channel(site, tmp_path, lease(nodes=2))
    script = "import os; print(os.environ['SLURMD_NODENAME'], *(os.environ['FORGE_' + name] for name in ('NODES', 'NODE_RANK', 'HEAD')))"
    channel.spawn("a", [sys.executable, "-c", script], {})
    until(lambda: channel.poll("a") is not None)
    assert channel.poll("a") == 0, log(channel, "a")
    lines = sorted(log(channel, "a").splitlines())
    head = lines[0].split()[3]
    assert re.fullmatch(r"127\.0\.0\.1:[23]\d{4}", head), "where srun came from: nobody resolves n1"
    assert lines == [f"n1 2 0 {head}", f"n2 2 1 {head}"]


def test_the_first_node_is_met_where_srun_came_from_and_not_on_its_own_loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's /etc/hosts names a machine 127.0.1.1 to itself; scontrol is replaced, since the names of a test's nodes resolve nowhere."""
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho n1; echo localhost\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_LAUNCH_NODE_IPADDR", "127.0.1.1")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n1,localhost")
    assert head_address(0, "n1") == "127.0.0.1", "its address on the way to the other one"
    assert head_address(1, "n1") == "127.0.1.1"
    monkeypatch.setenv("SLURM_LAUNCH_NODE_IPADDR", "2001:db8::1")
    assert head_address(0, "n1") == "[2001:db8::1]"
    monkeypatch.delenv("SLURM_LAUNCH_NODE_IPADDR")
    assert head_address(1, "n1") == "n1"


def test_every_node_that_is_asked_to_stop_may_save_although_another_one_has_ended(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """srun would end all nodes with the first whose code is not 0."""
    site = provider(tmp_path, monkeypatch, nodes=2)
    channel = open_channel(site, tmp_path, lease(nodes=2))
    script = """
import os, signal, time
rank = int(os.environ["FORGE_NODE_RANK"])
def save(*_):
    time.sleep(3 * rank); open(f"saved-{rank}", "w").close(); os._exit(130)
signal.signal(signal.SIGTERM, save)
print("here", flush=True); time.sleep(600)
"""
    channel.spawn("a", [sys.executable, "-c", script], {})
    until(lambda: log(channel, "a").count("here") == 2)
    channel.stop("a", grace_seconds=20)
    assert channel.poll("a") == 130
    assert [Path(channel.path(f"jobs/a/saved-{rank}")).exists() for rank in (0, 1)] == [True, True]


def test_why_another_node_failed_is_where_the_engine_reads_it(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """srun ends the first node with SIGKILL: without this it would be a worker that died without a word."""
    site = provider(tmp_path, monkeypatch, nodes=2)
    channel = open_channel(site, tmp_path, lease(nodes=2))
    job = Path(channel.path("jobs/a/job.json"))
    job.parent.mkdir(parents=True)
    job.write_text(json.dumps({"plugin_dirs": [], "phases": [{"name": "train", "folder": channel.path("phases/train")}]}))
    script = """
import os, pathlib, sys, time
if os.environ["FORGE_NODE_RANK"] == "0":
    time.sleep(600)
pathlib.Path(sys.argv[1]).with_name("result.json").write_text("no such GPU")
sys.exit(1)
"""
    channel.spawn("a", [sys.executable, "-c", script, str(job)], {})
    until(lambda: channel.poll("a") is not None)
    assert channel.poll("a") == 1, "a failure, not a machine that was taken back"
    assert channel.read("jobs/a/result.json", 0) == b"no such GPU"


def test_other_nodes_work_in_folders_of_their_own_and_only_for_phases_that_need_them(tmp_path: Path) -> None:
    job = tmp_path / "jobs" / "train-1" / "job.json"
    job.parent.mkdir(parents=True)
    command = ["python", "-m", "forge.worker", str(job)]
    for phase, expected in {"train": str(tmp_path / "jobs" / "train-1" / "node1" / "job.json"), "eval": "true"}.items():
        job.write_text(json.dumps({"plugin_dirs": [], "phases": [{"name": phase, "folder": "/shared/phases/train"}]}))
        assert for_node(command, 0) == command
        assert for_node(command, 1)[-1] == expected
    assert json.loads((job.parent / "node1" / "job.json").read_text())["phases"][0]["folder"] == "/shared/phases/train.node1"
