"""AWS with real machines behind it: sshd, user-data, deadlines, notices; runs that are killed anywhere, and controllers that never return."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from forge.errors import MachineLost, NoCapacity, StillBilling
from forge.protocols import Lease
from forge.records import digest
from forge.run import Run
from forge.sweep import sweep
from tests.servers.ec2 import Cloud, Machine, ec2_cloud
from tests.servers.ec2_hosts import Host
from tests.test_engine.remote_toys import STEPS, artifacts, life, money, new_run
from tests.test_plugins.aws_world import (
    NEED,
    NOTHING,
    KillAtEachStep,
    StepAws,
    books_are_right,
    go,
    kill_self,
    mill,
    new_provider,
    plan_on,
)


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with ec2_cloud(tmp_path_factory.mktemp("ec2"), minute=60.0) as cloud:
        yield cloud


@pytest.fixture
def cloud(account: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    for name, value in account.environment().items():
        monkeypatch.setenv(name, value)
    yield account
    account.minute = 60.0
    account.reset()


@pytest.fixture
def aws(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StepAws:
    provider = new_provider(tmp_path)
    plan_on(monkeypatch, provider.quote(NEED)[0])
    return provider


def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.05)


def test_a_run_trains_on_a_machine_and_comes_back(aws: StepAws, cloud: Cloud, tmp_path: Path) -> None:
    new_run(tmp_path).close()
    assert life(lambda: go(aws)) == "done"
    assert set(artifacts()) >= {"weights", "curve", "model"}
    assert len(cloud.machines) == 1
    books_are_right(cloud)


def test_kill_minus_nine_at_every_single_step_and_resume(aws: StepAws, cloud: Cloud, tmp_path: Path) -> None:
    aws.checked = False
    aws.step = deaths = KillAtEachStep(tmp_path / "deaths")
    new_run(tmp_path).close()
    lives = 0
    while (said := life(lambda: mill(aws))) == "killed":
        lives += 1
        assert len(cloud.up()) <= 1
        assert lives < 100
    assert said == "done"
    assert {"up, after run_instances", "work, after spawn", "work, before get phases", "down, after terminate_instances"} <= {*deaths.seen()}
    assert len(deaths.seen()) > 35
    assert "flour" in artifacts()
    books_are_right(cloud)


@pytest.mark.parametrize("step", [
    "after create_security_group", "after import_key_pair", "before run_instances", "after run_instances", "after prepare", "after spawn",
    "after get phases", "after terminate_instances", "after delete_key_pair",
])
def test_kill_minus_nine_and_sweep(aws: StepAws, cloud: Cloud, tmp_path: Path, step: str) -> None:
    aws.checked = False
    aws.step = lambda name: kill_self() if name == step else None
    new_run(tmp_path).close()
    assert life(lambda: mill(aws)) == "killed"
    aws.step = lambda name: None
    assert life(lambda: sweep_up(aws)) == "done"
    books_are_right(cloud)


def sweep_up(provider: StepAws) -> None:
    """`forge sweep`."""
    swept = list(sweep({"aws": provider}))
    assert {one.done for one in swept} <= {"ended"}, swept


# --- what AWS does ---------------------------------------------------------------------------------------------


def test_a_lost_answer_is_looked_up_and_one_machine_works(aws: StepAws, cloud: Cloud, tmp_path: Path) -> None:
    new_run(tmp_path).close()
    cloud.fault("RunInstances", "lost", times=5)   # as often as it is asked: the engine has to look
    aws.checked = False
    assert life(lambda: mill(aws)) == "done"
    assert len(cloud.machines) == 1
    books_are_right(cloud)


def test_a_machine_that_is_not_listed_at_first_is_neither_asked_for_again_nor_taken_for_gone(aws: StepAws, cloud: Cloud, tmp_path: Path) -> None:
    new_run(tmp_path).close()
    aws.checked, aws.creation_seconds, aws.confirm_seconds = False, 2.0, 0.02
    aws.step = lambda name: kill_self() if name == "after run_instances" else None
    assert life(lambda: mill(aws)) == "killed"
    cloud.fault("DescribeInstances", "hidden", times=4)
    aws.step = lambda name: None
    assert life(lambda: mill(aws)) == "done"
    assert len(cloud.machines) == 1
    books_are_right(cloud)


def test_no_room_in_any_zone_ends_with_seven_costs_nothing_and_leaves_nothing(aws: StepAws, cloud: Cloud, tmp_path: Path) -> None:
    new_run(tmp_path).close()
    cloud.fault("RunInstances", "capacity", times=-1)
    assert life(lambda: mill(aws)).startswith("NoCapacity: ")
    assert NoCapacity.exit_code == 7
    books_are_right(cloud)
    assert cloud.bill() == 0


def test_a_machine_that_died_unseen_is_paid_and_the_next_has_a_token_of_its_own(aws: StepAws, cloud: Cloud, tmp_path: Path) -> None:
    new_run(tmp_path).close()
    aws.checked = False
    aws.step = lambda name: kill_self() if name == "after run_instances" else None
    assert life(lambda: mill(aws)) == "killed"
    cloud.end(cloud.machines[0])
    aws.step = lambda name: None
    assert life(lambda: mill(aws)) == "done"
    assert len(cloud.machines) == 2
    books_are_right(cloud)


@pytest.mark.parametrize("kind", ["error", "expired"])
def test_while_terminate_fails_the_lease_stays_open_and_says_how_to_end_it_by_hand(aws: StepAws, cloud: Cloud, tmp_path: Path, kind: str) -> None:
    new_run(tmp_path).close()
    aws.checked = False
    cloud.fault("TerminateInstances", kind, times=-1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("forge.lease.GIVE_UP_SECONDS", 1.0)
        said = life(lambda: mill(aws))
    assert said.startswith("StillBilling: ")
    assert f"aws ec2 terminate-instances --instance-ids {cloud.machines[0].id} --region us-east-1" in said
    assert StillBilling.exit_code == 70
    assert money()[1] > 0, "its worst case stays reserved"
    cloud.forgive()
    assert life(lambda: sweep_up(aws)) == "done"
    books_are_right(cloud)


def test_a_controller_that_never_returns_leaves_no_machine_past_its_deadline(aws: StepAws, cloud: Cloud) -> None:
    cloud.minute = 3.0
    chosen = aws.quote(NEED)[0]
    for number in range(4):
        aws.start(Lease(token=f"lease-{number}", run="gone-for-ever", offer=chosen, deadline_seconds=120))
    assert len(cloud.up()) == 4
    until(lambda: cloud.up() == [], seconds=3.0 + 15.0)   # a minute is three seconds there: shutdown -P +1
    leftovers = aws.find("all")
    assert sorted(one.kind for one in leftovers) == ["group"] * 4 + ["key"] * 4
    for one in leftovers:
        aws.stop(one)
    assert cloud.left() == NOTHING


def test_a_machine_that_nobody_asks_for_ends_itself(cloud: Cloud, tmp_path: Path) -> None:
    provider = new_provider(tmp_path, idle_minutes=0.05)
    provider.look_seconds = 0.5
    provider.start(Lease(token="lease-1", run="run-a", offer=provider.quote(NEED)[0], deadline_seconds=36000))
    until(lambda: cloud.up() == [])


def test_a_job_that_nobody_asks_for_ends_at_a_checkpoint_and_its_machine_with_it(cloud: Cloud, tmp_path: Path) -> None:
    provider = new_provider(tmp_path, idle_minutes=0.03)
    provider.look_seconds = 600.0   # the machine's own watchdog is not what ends it here
    resource = provider.start(Lease(token="lease-1", run="run-a", offer=provider.quote(NEED)[0], deadline_seconds=36000))
    channel = provider.channel(resource, tmp_path)
    channel.spawn("a", ["sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done"], {})
    until(lambda: cloud.up() == [])


def test_a_machine_with_another_host_key_than_it_was_given_is_told_nothing(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.plugins.compute._aws_boot.SCRIPT", "#!/bin/bash\nshutdown -P +{minutes}\n")
    provider = new_provider(tmp_path)
    provider.boot_seconds = 3.0
    resource = provider.start(Lease(token="lease-1", run="run-a", offer=provider.quote(NEED)[0], deadline_seconds=36000))
    with pytest.raises(MachineLost, match="did not come up") as told:
        provider.channel(resource, tmp_path)
    assert "another host key" in told.value.why
    assert "Accepted" not in (host_of(cloud.machines[0]).folder / "console").read_text()


def test_a_machine_that_does_not_answer_any_more_is_ended_and_another_one_goes_on(aws: StepAws, cloud: Cloud, tmp_path: Path) -> None:
    new_run(tmp_path).close()
    aws.checked, aws.boot_seconds, aws.patience_seconds = False, 60.0, 0.5
    spawned, was_cut = tmp_path / "spawned", tmp_path / "cut"

    def step(name: str) -> None:
        """After the first job was started its machine is cut off; only the first one is given up quickly."""
        if name == "after spawn" and not spawned.exists():
            spawned.touch()
            until(was_cut.exists)
            aws.boot_seconds = 1.0
        elif name == "before run_instances":
            aws.boot_seconds = 60.0

    def cut() -> None:
        until(spawned.exists)
        host_of(cloud.machines[0]).cut()
        was_cut.touch()

    aws.step = step
    with beside(cut):
        assert life(lambda: mill(aws)) == "done"
    assert len(cloud.machines) == 2
    books_are_right(cloud)


@pytest.mark.timeout(120)
def test_a_spot_notice_saves_a_checkpoint_and_the_next_machine_goes_on_from_it(aws: StepAws, cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan_on(monkeypatch, aws.quote(NEED)[1])
    new_run(tmp_path).close()

    def conduct() -> None:
        """At step 5 the first machine is taken back; the second may go on."""
        until(lambda: len(cloud.machines) == 1 and trains(cloud.machines[0]))
        made.append(steps_of(cloud.machines[0]))
        host_of(cloud.machines[0]).take_back(60)
        until(lambda: len(cloud.machines) == 2 and trains(cloud.machines[1]))
        made.append(steps_of(cloud.machines[1]))
        (disk(cloud.machines[1]) / "go").touch()

    made: list[list[int]] = []
    with beside(conduct):
        assert life(lambda: go(aws, train__wait_at=5)) == "done"
    assert [machine.state.lifecycle for machine in cloud.machines] == ["spot", "spot"]
    assert made == [[1, 2, 3, 4], []], "no step was made twice"
    run = Run.open("toy")
    data, curve = ((run.folder / "phases" / name).read_text(encoding="utf-8") for name in ("plan_it/data.json", "train/curve.json"))
    run.close()
    assert json.loads(curve) == straight_curve(data), "as if nothing had happened"
    books_are_right(cloud)


@contextmanager
def beside(work: Callable[[], None]) -> Iterator[None]:
    """Something that happens meanwhile. Its failure ends the test."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        yield
        done.result()


def host_of(machine: Machine) -> Host:
    assert machine.host is not None
    return machine.host


def disk(machine: Machine) -> Path:
    """The lease's folder on a machine."""
    return next(host_of(machine).path("/home/ubuntu/.slm-forge/leases").glob("lease-*"), Path("/nonexistent"))


def trains(machine: Machine) -> bool:
    return machine.host is not None and (disk(machine) / "waits").exists()


def steps_of(machine: Machine) -> list[int]:
    path = disk(machine) / "steps"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def straight_curve(data: str) -> list[int]:
    """What an undisturbed run of the toy draws."""
    chain, curve = "", []
    for step in range(1, STEPS + 1):
        chain = digest(chain, data, str(step))
        curve.append(int(chain[:4], 16))
    return curve


# --- large files -----------------------------------------------------------------------------------------------


def test_a_large_file_goes_by_way_of_the_bucket_in_checked_parts_and_leaves_nothing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ec2_cloud(tmp_path / "ec2", bind="0.0.0.0") as cloud:
        for name, value in cloud.environment().items():
            monkeypatch.setenv(name, value)
        provider = new_provider(tmp_path, bucket="ours")
        provider.stage_bytes = 1 << 20
        provider._account("us-east-1").call("s3", "create_bucket", Bucket="ours")
        resource = provider.start(Lease(token="lease-1", run="run-a", offer=provider.quote(NEED)[0], deadline_seconds=36000))
        channel = provider.channel(resource, tmp_path).channel
        channel.bucket.part_bytes = 5 << 20
        gateway = host_of(cloud.machines[0]).gateway
        signed = channel.bucket.address
        channel.bucket.address = lambda key, seconds: signed(key, seconds).replace("127.0.0.1", gateway)
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "weights.bin").write_bytes(os.urandom(11 << 20))
        (tmp_path / "model" / "config.json").write_text("{}")

        sent: list[str] = []

        def breaks_off(name: str) -> None:
            sent.extend([name] if name == "after upload_part" else [])
            if len(sent) == 2 and name == "after upload_part":
                raise ConnectionError("the connection broke")

        provider.step = breaks_off
        with pytest.raises(ConnectionError):
            channel.put(tmp_path / "model", "inputs/abc/model")
        assert [one.kind for one in provider.find("lease-1")] == ["machine", "key", "group", "upload"], "its parts would bill"
        provider.step = lambda name: sent.append(name) if name == "after upload_part" else None
        channel.put(tmp_path / "model", "inputs/abc/model")
        assert len(sent) == 3, "two parts were there"
        there = disk(cloud.machines[0]) / "inputs" / "abc" / "model"
        assert (there / "weights.bin").read_bytes() == (tmp_path / "model" / "weights.bin").read_bytes()
        assert (there / "config.json").read_text() == "{}"
        channel.put(tmp_path / "model", "inputs/abc/model")
        assert len(sent) == 3
        assert "object" in {one.kind for one in provider.find("run-a")}
        while left := provider.find("all"):
            for one in left:
                provider.stop(one)
        assert cloud.left() == NOTHING
