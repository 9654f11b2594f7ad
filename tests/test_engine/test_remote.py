"""A phase on a rented machine: whatever is killed, cut off or taken back, one result, one job at a time, one bill."""

from __future__ import annotations

import json
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forge.cli.ending import _rows
from forge.lease import Leases, as_provider
from forge.machines import everywhere
from forge.protocols import Resource
from forge.run import Run
from forge.sweep import sweep
from tests.servers.rented import Rented, Step, host
from tests.test_engine.remote_toys import (
    STEPS,
    artifacts,
    kill_at,
    life,
    money,
    new_run,
    run_job,
    steps,
    work_on,
)

EVERY_STEP = list(range(1, STEPS + 1))


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Rented]:
    with host(tmp_path / "cloud", run_job):
        yield Rented(tmp_path / "cloud")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The artifacts of an undisturbed run."""
    place = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch, host(place / "cloud", run_job):
        patch.setenv("FORGE_HOME", str(place / "home"))
        new_run(place).close()
        assert life(lambda: work_on({"rented": Rented(place / "cloud")})) == "done"
        return artifacts()


@pytest.fixture
def begun(tmp_path: Path) -> None:
    """A run that waits at the gate."""
    new_run(tmp_path).close()


def when(name: str, number: int, act: Callable[[], None]) -> Step:
    """A step that acts once, at the n-th call of a name."""
    count = [0]

    def step(called: str) -> None:
        count[0] += called == name
        if called == name and count[0] == number:
            act()

    return step


def books_are_right(cloud: Rented) -> None:
    settled, reserved, cap = money()
    assert (settled, reserved) == (cloud.bill(), 0)
    assert settled <= cap
    assert cloud.up() == []
    assert not list(cloud.folder.glob("disks/*/two_at_once"))


def notices() -> list[str]:
    run = Run.open("toy")
    lines = (run.folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    run.close()
    return [event["text"] for event in map(json.loads, lines) if event["event"] == "notice"]


def test_a_phase_runs_on_a_rented_machine_and_comes_back(begun: None, cloud: Rented, straight: dict[str, str]) -> None:
    assert life(lambda: work_on({"rented": cloud})) == "done"
    assert artifacts() == straight
    assert set(straight) >= {"weights", "curve", "model"}
    assert steps(cloud) == [EVERY_STEP]
    books_are_right(cloud)


def test_what_was_made_on_a_machine_is_not_sent_there_again(begun: None, cloud: Rented) -> None:
    assert life(lambda: work_on({"rented": cloud})) == "done"
    (disk,) = (cloud.folder / "disks").iterdir()
    sent = {path.name for path in (disk / "inputs").glob("*/*")}
    assert "data.json" in sent
    assert "weights" not in sent


def test_after_a_kill_the_next_engine_goes_on_with_the_job_that_still_runs(begun: None, cloud: Rented, straight: dict[str, str]) -> None:
    cloud.step = when("after spawn", 1, lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert life(lambda: work_on({"rented": cloud}, train__wait_at=5)) == "killed"
    cloud.step = when("after poll", 1, lambda: (cloud.disk(cloud.machines()[0]) / "go").touch())
    assert life(lambda: work_on({"rented": cloud}, train__wait_at=5)) == "done"
    assert steps(cloud) == [EVERY_STEP]
    assert len(list(cloud.disk(cloud.machines()[0]).glob("jobs/train-*"))) == 1
    books_are_right(cloud)


def test_nothing_that_a_job_says_is_told_twice(begun: None, cloud: Rented) -> None:
    cloud.step = when("before get", 1, lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert life(lambda: work_on({"rented": cloud})) == "killed"
    cloud.step = lambda name: None
    assert life(lambda: work_on({"rented": cloud})) == "done"
    run = Run.open("toy")
    lines = [json.loads(line) for line in (run.folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    run.close()
    done = [line["done"] for line in lines if line["event"] == "progress" and line.get("phase") == "train"]
    assert len(done) == len(set(done))


def test_taken_back_while_it_trains_another_machine_goes_on_from_the_checkpoint(begun: None, cloud: Rented, straight: dict[str, str]) -> None:
    def take_back() -> None:
        (cloud.disk(cloud.machines()[0]) / "taken_back").touch()

    def work() -> None:
        looked = [0]

        def stop() -> bool:   # asked in every round of the loop that follows a job
            disk = cloud.disk(cloud.machines()[0])
            if (disk / "waits").exists() and not looked[0]:
                looked[0] = 1
                take_back()
            if len(cloud.machines()) > 1:
                (cloud.disk(cloud.machines()[-1]) / "go").touch()
            return False

        work_on({"rented": cloud}, stop=lambda: bool(cloud.machines()) and stop(), train__wait_at=6)

    assert life(work) == "done"
    assert steps(cloud) == [[1, 2, 3, 4, 5], [6, 7, 8]], "the checkpoint that it saved in its last seconds"
    assert {name: sha256 for name, sha256 in artifacts().items() if name != "plan"} == {name: sha256 for name, sha256 in straight.items() if name != "plan"}
    assert any("takes the machine back" in text for text in notices())
    assert money()[0] == cloud.bill() == 2 * 10_000
    books_are_right(cloud)


@pytest.mark.parametrize("number", [1, 3, 5], ids=["first checkpoint", "third", "result"])
def test_lost_while_a_checkpoint_is_fetched_the_last_whole_one_is_used(begun: None, cloud: Rented, straight: dict[str, str], number: int) -> None:
    cloud.step = when("before get", number, lambda: cloud.lose(cloud.machines()[0]))
    assert life(lambda: work_on({"rented": cloud}, train__step_seconds=0.05)) == "done"
    first, second = steps(cloud)
    assert second == list(range(2 * (number - 1) + 1, STEPS + 1)), f"the first machine made {first}; {number - 1} checkpoints were here"
    assert artifacts() == straight
    books_are_right(cloud)


def test_a_break_in_the_connection_starts_nothing_twice(begun: None, cloud: Rented, straight: dict[str, str]) -> None:
    cut = cloud.folder / "cut"
    broken = when("after spawn", 1, cut.touch)

    def step(name: str) -> None:
        if name == "before find" and cut.exists():
            cut.unlink()
        broken(name)

    cloud.step = step
    assert life(lambda: work_on({"rented": cloud})) == "done"
    assert steps(cloud) == [EVERY_STEP]
    assert artifacts() == straight
    books_are_right(cloud)


def test_lost_while_the_result_is_fetched_it_is_had_again_from_a_machine_that_is_still_there(begun: None, cloud: Rented, straight: dict[str, str]) -> None:
    cut = cloud.folder / "cut"
    broken = when("before get", STEPS // 2 + 1, cut.touch)

    def step(name: str) -> None:
        if name == "before find" and cut.exists():
            cut.unlink()
        broken(name)

    cloud.step = step
    assert life(lambda: work_on({"rented": cloud}, train__step_seconds=0.05)) == "done"
    assert steps(cloud) == [EVERY_STEP]
    assert artifacts() == straight
    books_are_right(cloud)


def test_a_job_that_nobody_asked_for_is_started_again_where_it_was(begun: None, cloud: Rented, straight: dict[str, str]) -> None:
    cloud.step = when("after spawn", 1, lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert life(lambda: work_on({"rented": cloud}, train__wait_at=4)) == "killed"
    disk = cloud.disk(cloud.machines()[0])
    until(lambda: (disk / "waits").exists())
    (disk / "abandoned").touch()
    until(lambda: not (disk / "running").exists())
    (disk / "abandoned").unlink()
    (disk / "go").touch()
    cloud.step = lambda name: None
    assert life(lambda: work_on({"rented": cloud}, train__wait_at=4)) == "done"
    assert steps(cloud) == [EVERY_STEP]
    assert set(artifacts()) == set(straight)
    books_are_right(cloud)


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)


def test_past_its_deadline_a_job_is_not_moved_to_another_machine_by_itself(begun: None, cloud: Rented, straight: dict[str, str]) -> None:
    def stop() -> bool:
        disk = cloud.disk(cloud.machines()[0])
        if (disk / "waits").exists():
            (disk / "past_deadline").touch()
        return False

    said = life(lambda: work_on({"rented": cloud}, stop=lambda: bool(cloud.machines()) and stop(), train__wait_at=6))
    assert said.startswith("PastDeadline: the machine's time was over before train was done")
    assert "forge resume toy leases it once more" in said
    books_are_right(cloud)
    cloud.step = when("before spawn", 1, lambda: (cloud.disk(cloud.machines()[1]) / "go").touch())
    assert life(lambda: work_on({"rented": cloud}, train__wait_at=6)) == "done"
    assert steps(cloud) == [[1, 2, 3, 4, 5], [6, 7, 8]]
    books_are_right(cloud)


def test_a_machine_that_goes_when_its_time_is_over_is_not_replaced_by_itself(begun: None, cloud: Rented) -> None:
    cloud.step = when("before poll", 1, lambda: cloud.lose(cloud.machines()[0]))
    said = life(lambda: work_on({"rented": cloud}, plan_it__deadline_seconds=0))
    assert said.startswith("PastDeadline")
    assert len(cloud.machines()) == 1
    books_are_right(cloud)


def test_a_job_for_other_settings_is_ended_before_another_one_begins(begun: None, cloud: Rented) -> None:
    cloud.step = when("after spawn", 1, lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert life(lambda: work_on({"rented": cloud}, train__wait_at=5)) == "killed"
    until(lambda: (cloud.disk(cloud.machines()[0]) / "waits").exists())
    cloud.step = lambda name: None
    assert life(lambda: work_on({"rented": cloud}, train__wait_at=0)) == "done"
    assert steps(cloud) == [[1, 2, 3, 4, *EVERY_STEP]]
    books_are_right(cloud)


def test_machines_that_are_lost_again_and_again_are_not_leased_for_ever(begun: None, cloud: Rented) -> None:
    cloud.step = lambda name: cloud.lose(cloud.machines()[-1]) if name == "before spawn" else None
    said = life(lambda: work_on({"rented": cloud}))
    assert "train lost 5 machines" in said
    assert "forge resume toy" in said
    assert len(cloud.machines()) == 5
    books_are_right(cloud)


def test_another_machine_is_leased_only_when_the_budget_holds_it(begun: None, cloud: Rented) -> None:
    cloud.step = when("before spawn", 1, lambda: cloud.lose(cloud.machines()[-1]))
    said = life(lambda: work_on({"rented": cloud}, run__budget_usd=0.37))   # a lease of ten minutes at $2/h and 10 %: $0.366667
    assert said.startswith("OverBudget")
    assert len(cloud.machines()) == 1
    books_are_right(cloud)


@pytest.mark.parametrize("durable", [False, True], ids=["a rented machine", "this machine"])
def test_a_stopped_run_brings_its_checkpoint_home_and_goes_on_at_another_provider(
    begun: None, cloud: Rented, straight: dict[str, str], tmp_path: Path, durable: bool
) -> None:
    cloud.durable = durable

    def stop() -> bool:
        return bool(cloud.machines()) and (cloud.disk(cloud.machines()[0]) / "waits").exists()

    assert life(lambda: work_on({"rented": cloud}, stop=stop, train__wait_at=6)).startswith("Interrupted")
    books_are_right(cloud)
    with host(tmp_path / "other", run_job):
        other = Rented(tmp_path / "other", name="other")
        (other.folder / "disks").mkdir(exist_ok=True)
        other.step = when("before spawn", 1, lambda: (other.disk(other.machines()[0]) / "go").touch())
        assert life(lambda: work_on({"rented": cloud, "other": other}, train__wait_at=6, plan_it__provider="other")) == "done"
    assert (steps(cloud), steps(other)) == ([[1, 2, 3, 4, 5]], [[6, 7, 8]])
    same = {"weights", "curve", "model", "data"}
    assert {name: artifacts()[name] for name in same} == {name: straight[name] for name in same}
    assert money()[:2] == (cloud.bill() + other.bill(), 0)
    assert other.up() == []


def test_a_plan_that_only_names_another_machine_keeps_what_was_trained(begun: None, cloud: Rented, tmp_path: Path) -> None:
    assert life(lambda: work_on({"rented": cloud}, until="train")) == "done"
    with host(tmp_path / "other", run_job):
        other = Rented(tmp_path / "other", name="other")
        assert life(lambda: work_on({"rented": cloud, "other": other}, plan_it__provider="other")) == "done"
    assert (steps(cloud), steps(other)) == ([EVERY_STEP], [[]])


def test_a_setting_without_effect_loses_no_training(begun: None, cloud: Rented) -> None:
    cloud.step = when("after spawn", 1, lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert life(lambda: work_on({"rented": cloud})) == "killed"
    cloud.step = lambda name: None
    assert life(lambda: work_on({"rented": cloud}, train__report_to="somebody")) == "done"
    assert life(lambda: work_on({"rented": cloud}, train__report_to="nobody")) == "done"
    assert steps(cloud) == [EVERY_STEP]
    books_are_right(cloud)


def test_what_a_broken_job_printed_is_here_when_its_machine_is_gone(begun: None, cloud: Rented) -> None:
    said = life(lambda: work_on({"rented": cloud}, train__break_at=3))
    assert said.startswith("ForgeError: RuntimeError: the toy broke")
    run = Run.open("toy")
    (log,) = run.folder.glob("work/train/jobs/*/log")
    run.close()
    assert str(log) in said
    assert "words on standard output" in log.read_text(encoding="utf-8")
    books_are_right(cloud)
    assert life(lambda: work_on({"rented": cloud}, train__break_at=0)) == "done"


def test_no_machine_waits_for_a_person_at_the_gate(begun: None, cloud: Rented) -> None:
    cloud.step = when("after spawn", 1, lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert life(lambda: work_on({"rented": cloud}, train__wait_at=5)) == "killed"
    cloud.step = lambda name: None
    said = life(lambda: work_on({"rented": cloud}, plan_it__deadline_seconds=700, agree=False))
    assert said.startswith("WaitingAtGate")
    books_are_right(cloud)


def test_plugin_folders_of_the_user_are_sent_along(begun: None, cloud: Rented, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "mine.py").write_text("class P:\n    name = 'mine'\n    requires = ()\ntask = P()\n", encoding="utf-8")
    assert life(lambda: work_on({"rented": cloud}, plugin_dirs=(folder,))) == "done"
    (sent,) = cloud.folder.glob("disks/*/plugins/*/mine.py")
    assert sent.read_text(encoding="utf-8") == (folder / "mine.py").read_text(encoding="utf-8")


def test_every_thing_that_was_made_is_proven_gone(begun: None, cloud: Rented) -> None:
    assert life(lambda: work_on({"rented": cloud})) == "done"
    run = Run.open("toy")
    (proof,) = Leases(run, {"rented": as_provider(cloud)}).proofs()
    run.close()
    assert [(one.kind, one.state) for one in proof.things] == [("machine", "gone"), ("key", "gone")]
    assert proof.micro_usd == cloud.bill()


def test_the_proof_names_the_machines_that_were_lost_too(begun: None, cloud: Rented) -> None:
    cloud.step = when("before spawn", 1, lambda: cloud.lose(cloud.machines()[0]))
    assert life(lambda: work_on({"rented": cloud})) == "done"
    run = Run.open("toy")
    (proof,) = Leases(run, {"rented": as_provider(cloud)}).proofs()
    run.close()
    assert sorted(one.kind for one in proof.things) == ["key", "key", "machine", "machine"]
    assert all(one.state == "gone" and len(one.seen_gone) >= 2 for one in proof.things)
    rows = _rows("toy", proof)
    assert [row[2:5:2] for row in rows] == [("machine", "gone"), ("machine", "gone"), ("key", "gone"), ("key", "gone")]
    assert all("not listed at 20" in row[-1] for row in rows)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, where a hundred runs do not wait for a disk."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=base) as folder:
        yield Path(folder)


@pytest.mark.fault
def test_killed_at_every_step_it_ends_in_the_same_bytes_with_nothing_left(
    memory: Path, straight: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lives, number = 0, 0
    while True:
        number += 1
        place = memory / str(number)
        monkeypatch.setenv("FORGE_HOME", str(place / "home"))
        new_run(memory).close()
        with host(place / "cloud", run_job):
            cloud = Rented(place / "cloud", kill_at(number))
            first = life(lambda: work_on({"rented": cloud}))  # noqa: B023 - called at once
            cloud.step = lambda name: None
            assert first in ("killed", "done"), first
            assert life(lambda: work_on({"rented": cloud})) == "done", f"killed at step {number}"  # noqa: B023
            assert artifacts() == straight, f"killed at step {number}"
            books_are_right(cloud)
            done = [step for made in steps(cloud) for step in made]
            assert set(done) == set(EVERY_STEP)
            lives += 1
        if first == "done":
            break
    assert lives > 40


def interrupted_with(cloud: Rented, policy: str) -> str:
    """A run that is stopped while its job waits before step 6."""
    def stop() -> bool:
        return bool(cloud.machines()) and (cloud.disk(cloud.machines()[0]) / "waits").exists()

    return life(lambda: work_on({"rented": cloud}, stop=stop, train__wait_at=6, run__on_interrupt=policy))


def test_a_kept_machine_goes_on_with_its_job_and_the_resume_takes_it_up(begun: None, tmp_path: Path, straight: dict[str, str]) -> None:
    with host(tmp_path / "cloud", run_job):
        cloud = Rented(tmp_path / "cloud", idle_seconds=900)
        said = interrupted_with(cloud, "keep")
        assert "its job goes on on rented gpu.large, which ends it when nobody has asked for 15 min ($0.50)" in said
        assert "forge resume toy goes on with it, forge teardown toy ends it" in said
        assert money()[1] > 0, "its reservation stays"
        (one, two) = sweep({"rented": as_provider(cloud)}, own="another")
        assert {one.done, two.done, one.why} == {"kept", "run toy was stopped and keeps it for its resume"}
        (cloud.disk(cloud.machines()[0]) / "go").touch()
        until(lambda: not (cloud.disk(cloud.machines()[0]) / "running").exists())
        assert life(lambda: work_on({"rented": cloud}, train__wait_at=6)) == "done"
        assert steps(cloud) == [EVERY_STEP]
        books_are_right(cloud)


def test_a_kept_machine_that_nobody_resumes_is_ended_after_its_grace(
    begun: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with host(tmp_path / "cloud", run_job):
        cloud = Rented(tmp_path / "cloud", idle_seconds=900)
        interrupted_with(cloud, "keep")
        real = time.time
        monkeypatch.setattr("forge.lease.time.time", lambda: real() + 1100)
        swept = list(sweep({"rented": as_provider(cloud)}, own="another"))
        assert {(one.kind, one.done) for one in swept} == {("machine", "ended"), ("key", "ended")}
        books_are_right(cloud)


def test_a_machine_that_would_not_end_by_itself_is_not_kept(begun: None, cloud: Rented) -> None:
    assert interrupted_with(cloud, "keep").startswith("Interrupted")
    books_are_right(cloud)


def test_a_thing_that_belongs_to_no_lease_is_swept_too(cloud: Rented) -> None:
    cloud._put(Resource(provider="rented", id="group-1", lease="", state="live", kind="group", overdue=True))
    (one,) = sweep({"rented": as_provider(cloud)})
    assert (one.kind, one.id, one.done) == ("group", "group-1", "ended")
    assert cloud.up() == []


def test_a_thing_of_no_lease_that_stays_comes_with_the_command_that_ends_it(cloud: Rented, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud._put(Resource(provider="rented", id="group-1", lease="", state="live", kind="group", overdue=True))
    monkeypatch.setattr(cloud, "stop", lambda resource: None)
    monkeypatch.setattr(cloud, "stop_command", lambda resource: f"rented delete {resource.id}", raising=False)
    (one,) = sweep({"rented": as_provider(cloud)}, patience=0.1)
    assert (one.done, one.command) == ("not ended", "rented delete group-1")


def test_sweep_looks_in_all_regions_when_asked(cloud: Rented, tmp_path: Path) -> None:
    class Regional(Rented):
        def everywhere(self) -> Rented:
            return cloud

    cloud._put(Resource(provider="rented", id="group-1", lease="", state="live", kind="group", overdue=True))
    here = {"rented": as_provider(Regional(tmp_path / "here"))}
    assert list(sweep(here)) == []
    assert [one.done for one in sweep(everywhere(here))] == ["ended"]


TROUBLES = ("kill", "lose", "cut", "take back", "abandon")


@pytest.mark.fault
@pytest.mark.parametrize("seed", range(8))
def test_random_troubles_one_after_the_other_end_in_the_same_bytes(
    memory: Path, straight: dict[str, str], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    dice = random.Random(seed)
    monkeypatch.setenv("FORGE_HOME", str(memory / "home"))
    new_run(memory).close()
    with host(memory / "cloud", run_job):
        cloud = Rented(memory / "cloud")
        for _ in range(dice.randint(2, 5)):
            (cloud.folder / "cut").unlink(missing_ok=True)
            cloud.step = troubles(cloud, random.Random(dice.random()))
            said = life(lambda: work_on({"rented": cloud}, train__step_seconds=0.01))
            assert said in ("killed", "done") or said.startswith(("MachineLost", "ForgeError", "StillBilling")), said
        (cloud.folder / "cut").unlink(missing_ok=True)
        cloud.step = lambda name: None
        assert life(lambda: work_on({"rented": cloud}, train__step_seconds=0.01)) == "done"
        assert artifacts() == straight
        books_are_right(cloud)


def troubles(cloud: Rented, dice: random.Random) -> Step:
    """One or two troubles at random moments of a life."""
    due = {dice.randint(1, 60): dice.choice(TROUBLES) for _ in range(dice.randint(1, 2))}
    count = [0]

    def step(name: str) -> None:
        count[0] += 1
        trouble, up = due.get(count[0]), [name for name in cloud.machines() if name in cloud.up()]
        if trouble == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif trouble == "cut":
            (cloud.folder / "cut").touch()
        elif (cloud.folder / "cut").exists() and dice.random() < 0.5:
            (cloud.folder / "cut").unlink()
        if up and trouble == "lose":
            cloud.lose(up[0])
        elif up and trouble in ("take back", "abandon"):
            (cloud.disk(up[0]) / {"take back": "taken_back", "abandon": "abandoned"}[trouble]).touch()

    return step
