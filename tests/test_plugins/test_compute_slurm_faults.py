"""What goes wrong in a cluster, on a real slurmctld: jobs taken away, limits, nodes drained and lost, the controller down, jobs forgotten."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from forge.errors import ForgeError, MachineLost
from forge.plugins.compute import _slurm_channel
from forge.plugins.compute._slurm import Unanswered
from forge.plugins.compute._slurm_channel import SharedFolderChannel
from forge.plugins.compute.slurm import Slurm
from forge.protocols import ABANDONED, PAST_DEADLINE, PREEMPTED
from tests.servers.slurm import Cluster
from tests.test_plugins.slurm_world import (
    SLEEPER,
    lease,
    log,
    open_channel,
    provider,
    saver,
    stages,
    until,
)

CLUSTER = {"cores": 4, "min_job_age": 2}


def started(site: Slurm, tmp_path: Path, saved: Path, **changes: object) -> SharedFolderChannel:
    """A lease on whose machine the saver runs as job "a"."""
    channel = open_channel(site, tmp_path, lease(**changes))  # type: ignore[arg-type]
    channel.spawn("a", saver(saved), {})
    until(lambda: "from 0" in log(channel, "a"))
    return channel


def node_of(slurm: Cluster) -> str:
    return slurm.run("squeue", "-h", "-t", "running", "-o", "%N").strip()


def test_a_job_that_an_administrator_cancels_saves_its_checkpoint_and_counts_as_taken_back(slurm: Cluster, site: Slurm, tmp_path: Path) -> None:
    channel = started(site, tmp_path, tmp_path / "saved")
    slurm.run("scancel", "--name=forge-lease-1")
    until(lambda: channel.poll("a") is not None)
    assert channel.poll("a") == PREEMPTED
    assert int((tmp_path / "saved").read_text()) >= 0
    until(lambda: stages(site) == [])


def test_the_leases_deadline_ends_the_job_with_a_checkpoint_and_the_machine_is_gone(slurm: Cluster, site: Slurm, tmp_path: Path) -> None:
    channel = started(site, tmp_path, tmp_path / "saved", seconds=8)
    until(lambda: channel.poll("a") is not None)
    assert channel.poll("a") == PAST_DEADLINE
    assert (tmp_path / "saved").exists()
    until(lambda: stages(site) == [])


@pytest.mark.parametrize(("seconds", "code"), [(60, PAST_DEADLINE), (7200, PREEMPTED)], ids=["of the lease", "of the partition"])
def test_the_schedulers_warning_of_its_time_limit(slurm: Cluster, site: Slurm, tmp_path: Path, seconds: int, code: int) -> None:
    channel = started(site, tmp_path, tmp_path / "saved", seconds=seconds)
    slurm.run("scancel", "--signal=USR1", "--batch", "--name=forge-lease-1")
    until(lambda: channel.poll("a") is not None)
    assert channel.poll("a") == code
    assert (tmp_path / "saved").exists()
    until(lambda: stages(site) == [])


def test_a_lease_that_nobody_asks_for_ends_itself(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = provider(tmp_path, monkeypatch, idle_minutes=0.03)
    channel = started(site, tmp_path, tmp_path / "saved")
    until(lambda: stages(site) == [])
    assert channel.poll("a") == ABANDONED
    assert (tmp_path / "saved").exists()


def test_a_requeued_job_goes_on_from_its_checkpoint_under_its_id(slurm: Cluster, site: Slurm, tmp_path: Path) -> None:
    channel = started(site, tmp_path, tmp_path / "saved")
    slurm.run("scontrol", "requeue", slurm.run("squeue", "-h", "-o", "%i").strip())
    until(lambda: (tmp_path / "saved").exists())
    assert channel.poll("a") is None
    until(lambda: log(channel, "a").count("from ") == 2)
    assert int(log(channel, "a").splitlines()[1].split()[1]) == int((tmp_path / "saved").read_text())
    assert channel.poll("a") is None
    assert "Restarts=1" in slurm.run("scontrol", "show", "job", slurm.run("squeue", "-h", "-o", "%i").strip())
    channel.stop("a", grace_seconds=10)
    assert channel.poll("a") == 130


def test_a_node_that_dies_gives_its_job_to_another_one(slurm: Cluster, site: Slurm, tmp_path: Path) -> None:
    channel = started(site, tmp_path, tmp_path / "saved")
    first = node_of(slurm)
    slurm.kill_node(first)
    try:
        (tmp_path / "saved").write_text("7")   # what it had saved before
        assert channel.poll("a") is None
        slurm.run("scontrol", "update", f"nodename={first}", "state=down", "reason=power")
        until(lambda: log(channel, "a").count("from ") == 2)
        assert channel.poll("a") is None
        assert node_of(slurm) != first
        assert f"from 7 on {node_of(slurm)}" in log(channel, "a")
    finally:
        slurm.start_node(first)   # the tests after this one have the same cluster


def test_a_drained_node_finishes_its_job_and_the_next_lease_starts_elsewhere(slurm: Cluster, site: Slurm, tmp_path: Path) -> None:
    channel = started(site, tmp_path, tmp_path / "saved")
    first = node_of(slurm)
    slurm.run("scontrol", "update", f"nodename={first}", "state=drain", "reason=maintenance")
    second = open_channel(site, tmp_path, lease("lease-2"))
    second.spawn("b", ["sh", "-c", "echo $SLURMD_NODENAME"], {})
    until(lambda: second.poll("b") == 0)
    assert log(second, "b").strip() != first
    assert channel.poll("a") is None
    channel.stop("a", grace_seconds=10)
    assert channel.poll("a") == 130


def test_a_controller_that_is_down_is_not_a_machine_that_is_gone(slurm: Cluster, site: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    channel = open_channel(site, tmp_path)
    channel.spawn("a", saver(tmp_path / "saved", steps=100), {})
    channel.spawn("b", saver(tmp_path / "other"), {})
    until(lambda: "from 0" in log(channel, "a") and "from 0" in log(channel, "b"))
    slurm.stop_controller()
    try:
        with pytest.raises(Unanswered):
            site.find("lease-1")
        with pytest.raises(Unanswered):
            site.start(lease("lease-2"))
        until(lambda: channel.poll("a") == 0)
        assert channel.poll("b") is None
    finally:
        slurm.start_controller()
    assert [one.lease for one in site.find("all") if one.state != "gone"] == ["lease-1"]
    assert channel.poll("b") is None


def test_a_controller_that_stays_away_while_the_job_is_silent_means_the_machine_is_lost(slurm: Cluster, site: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    channel = started(site, tmp_path, tmp_path / "saved")
    first = node_of(slurm)
    slurm.stop_controller()
    slurm.kill_node(first)
    monkeypatch.setattr(Slurm, "controller_seconds", 1.0)
    try:
        with pytest.raises(MachineLost, match="has not answered"):
            until(lambda: channel.poll("a") is not None)
    finally:
        slurm.start_node(first)
        slurm.start_controller()


def test_a_job_that_slurm_has_forgotten_is_known_from_its_files(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = provider(tmp_path, monkeypatch, usd_per_gpu_hour=3600.0)
    resource = site.start(lease(usd_per_hour=3600.0))
    channel = site.channel(resource, tmp_path)
    channel.spawn("a", ["sh", "-c", "exit 6"], {})
    channel.spawn("b", SLEEPER, {})
    until(lambda: "here" in log(channel, "b") and channel.poll("a") == 6)
    watcher = int(Path(channel.path("jobs/b/.job/pid")).read_text().split()[0])
    os.kill(psutil.Process(watcher).ppid(), signal.SIGKILL)   # the holder has no time to write anything
    until(lambda: not site.find("lease-1"), seconds=60)
    assert channel.poll("a") == 6
    with pytest.raises(MachineLost, match="not in the queue any more"):
        until(lambda: channel.poll("b") is not None)
    assert channel.poll("never asked for") == -1
    assert 1_000_000 < site.settle(resource) < 60_000_000


def test_a_holder_that_is_never_seen_says_that_the_folder_is_not_shared(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = tmp_path / "python"
    silent.write_text("#!/bin/sh\nsleep 600\n")
    silent.chmod(0o755)
    monkeypatch.setattr(_slurm_channel, "UNSEEN_SECONDS", 0.5)
    site = provider(tmp_path, monkeypatch, python=str(silent))
    channel = open_channel(site, tmp_path)
    channel.spawn("a", SLEEPER, {})
    with pytest.raises(ForgeError, match=r"nothing of it is seen") as told:
        until(lambda: channel.poll("a") is not None)
    assert "slurm.folder" in told.value.next


def test_a_python_that_is_not_on_the_nodes_is_said_with_what_slurm_wrote(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = provider(tmp_path, monkeypatch, python="/no/such/python")
    channel = open_channel(site, tmp_path)
    channel.spawn("a", SLEEPER, {})
    with pytest.raises(ForgeError, match="could not start on n") as told:
        until(lambda: channel.poll("a") is not None)
    assert "/no/such/python" in told.value.why


def test_a_second_job_for_the_same_lease_ends_at_once(slurm: Cluster, site: Slurm, tmp_path: Path) -> None:
    channel = started(site, tmp_path, tmp_path / "saved")
    twin = slurm.run("sbatch", "--parsable", "--job-name=forge-lease-1", "--export=NONE", "--gres=gpu:1", "--output=/dev/null", str(tmp_path / "lease-1" / "leases" / "lease-1-1" / "hold.sh")).strip()
    until(lambda: "COMPLETED" in slurm.run("squeue", "-h", "--states=all", "-j", twin, "-o", "%T"))
    assert channel.poll("a") is None


def test_a_killed_forge_leaves_no_submission_behind(slurm: Cluster, site: Slurm, tmp_path: Path) -> None:
    """sbatch dies with the process that called it; whatever it had handed in is found by name."""
    slow = tmp_path / "bin"
    slow.mkdir()
    (slow / "sbatch").write_text("#!/bin/sh\nsleep 2\nexec /usr/bin/sbatch \"$@\"\n")
    (slow / "sbatch").chmod(0o755)
    code = f"""
import os; os.environ["PATH"] = {str(slow)!r} + ":" + os.environ["PATH"]
from pathlib import Path
from forge.plugins.compute.slurm import Slurm, SlurmSettings
from tests.test_plugins.slurm_world import lease
print("go", flush=True)
Slurm(SlurmSettings(folder={str(tmp_path)!r})).start(lease())
"""
    engine = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert engine.stdout
    engine.stdout.readline()
    until(lambda: (tmp_path / "lease-1" / "leases" / "lease-1-1" / "hold.sh").exists())
    time.sleep(0.3)
    engine.kill()
    engine.wait()
    time.sleep(2.5)
    assert stages(site) == []
