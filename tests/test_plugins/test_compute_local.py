"""The local provider with real processes: what it quotes, and that no job outlives its lease, its stop or the engine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forge.errors import ForgeError, NoCapacity, UsageError
from forge.plugins.compute import _machine, local
from forge.plugins.compute.local import Local, LocalChannel
from forge.protocols import Lease, Need, Offer

NEED = Need(parameters=1_000_000, memory_gib=0.1, gpu=False, seconds=60)
SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]


def lease(token: str = "lease-1", seconds: int = 600, usd_per_hour: float = 0.0) -> Lease:
    offer = Offer(provider="local", name="cpu", usd_per_hour=usd_per_hour, device="cpu", cores=1, memory_gib=1)
    return Lease(token=token, run="run-a", offer=offer, deadline_seconds=seconds)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Local]:
    provider = Local(tmp_path / "state")
    yield provider
    for resource in provider.find("all"):
        provider.stop(resource)


def open_channel(provider: Local, root: Path, seconds: int = 600) -> LocalChannel:
    root.mkdir(exist_ok=True)
    return provider.channel(provider.start(lease(seconds=seconds)), root)


def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def read_pid(path: Path) -> int:
    until(lambda: path.exists() and path.read_text().strip() != "")
    return int(path.read_text())


# --- quoting ---------------------------------------------------------------------------------------------------


def test_quotes_the_cores_and_memory_that_this_process_may_use(here: Local) -> None:
    (offer,) = [offer for offer in here.quote(NEED) if offer.device == "cpu"]
    assert 1 <= offer.cores <= len(os.sched_getaffinity(0))
    assert offer.memory_gib > 0.1
    assert offer.usd_per_hour == 0


def test_offers_nothing_when_memory_is_too_small_or_a_gpu_is_needed_and_missing(
    here: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert here.quote(NEED.model_copy(update={"memory_gib": 1e6})) == []
    assert here.quote(NEED.model_copy(update={"gpu": True})) == []


def fake_nvidia_smi(folder: Path, body: str) -> None:
    folder.mkdir()
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{body}\n")
    tool.chmod(0o755)


def test_lists_gpus_that_nvidia_smi_reports_largest_first(
    here: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_nvidia_smi(tmp_path / "bin", "echo '0, Tesla T4, 15360, 7.5'\necho '1, NVIDIA H200, 143771, 9.0'")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    monkeypatch.setattr(_machine, "version", lambda name: "2.13.0")
    offers = here.quote(NEED)
    assert [offer.name for offer in offers] == ["gpu-1", "gpu-0", "cpu"]
    assert (offers[0].gpu, offers[0].gpu_memory_gib, offers[0].device) == ("NVIDIA H200", 140.4, "cuda")
    assert [offer.bf16 for offer in offers[:2]] == [True, False]
    assert [offer.name for offer in here.quote(NEED.model_copy(update={"memory_gib": 40, "gpu": True}))] == ["gpu-1"]


def test_a_gpu_is_not_offered_when_torch_is_built_for_cpu_and_the_reason_says_so(
    here: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_nvidia_smi(tmp_path / "bin", "echo '0, NVIDIA A10G, 23028, 8.6'")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    monkeypatch.setattr(_machine, "version", lambda name: "2.13.0+cpu")
    (offer,) = here.quote(NEED)
    assert offer.device == "cpu"
    assert "built for CPU only" in offer.reason


def test_a_broken_nvidia_smi_means_no_gpu(here: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvidia_smi(tmp_path / "bin", "echo 'NVIDIA-SMI has failed'; exit 9")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    assert [offer.device for offer in here.quote(NEED)] == ["cpu"]


# --- leases ----------------------------------------------------------------------------------------------------


def test_a_lease_is_found_by_token_run_and_all_also_by_another_process(here: Local, tmp_path: Path) -> None:
    resource = here.start(lease())
    other = Local(tmp_path / "state")
    assert other.find("lease-1") == other.find("run-a") == other.find("all") == [resource]
    assert other.find("run-b") == []


def test_starting_twice_is_one_lease_and_stopping_twice_is_fine(here: Local) -> None:
    first = here.start(lease())
    assert here.start(lease()) == first
    assert len(here.find("all")) == 1
    here.stop(first)
    here.stop(first)
    assert here.find("all") == []


def test_a_stopped_lease_opens_again_under_the_same_token(here: Local) -> None:
    here.stop(here.start(lease()))
    assert here.find("lease-1") == []
    here.start(lease())
    assert [resource.state for resource in here.find("lease-1")] == ["live"]


def test_leases_that_were_closed_a_month_ago_are_forgotten(here: Local, tmp_path: Path) -> None:
    for token in ("lease-old", "lease-new"):
        here.stop(here.start(lease(token)))
    old = tmp_path / "state" / "leases" / "lease-old"
    os.utime(old / "ended.json", (0, time.time() - 31 * 86400))
    here.start(lease("lease-now"))
    assert sorted(folder.name for folder in old.parent.iterdir()) == ["lease-new", "lease-now"]


def test_a_lease_from_before_a_reboot_is_gone(here: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    here.start(lease())
    monkeypatch.setattr(local, "_boot_id", lambda: "another boot")
    assert here.find("all") == []


def test_a_lease_past_its_deadline_is_gone_and_takes_no_job(here: Local, tmp_path: Path) -> None:
    resource = here.start(lease(seconds=0))
    assert here.find("all") == []
    with pytest.raises(NoCapacity, match="is not open"):
        here.channel(resource, tmp_path)


def test_a_stated_rate_is_settled_by_the_time_the_lease_was_open(here: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(local, "_now", lambda: clock[0])
    resource = here.start(lease(seconds=7200, usd_per_hour=0.5))
    clock[0] += 1800
    assert here.settle(resource) == 250_000
    here.stop(resource)
    clock[0] += 9999
    assert here.settle(resource) == 250_000
    here.start(lease(seconds=7200, usd_per_hour=0.5))
    clock[0] += 3600
    assert here.settle(resource) == 750_000


def test_a_token_that_is_a_path_is_refused(here: Local) -> None:
    with pytest.raises(UsageError):
        here.start(lease(token="../elsewhere"))


def test_another_providers_offer_is_refused(here: Local) -> None:
    foreign = lease().model_copy(update={"offer": lease().offer.model_copy(update={"provider": "aws"})})
    with pytest.raises(NoCapacity):
        here.start(foreign)


# --- files -----------------------------------------------------------------------------------------------------


def test_files_and_folders_travel_whole_and_a_second_put_replaces(here: Local, tmp_path: Path) -> None:
    channel = open_channel(here, tmp_path / "work")
    source = tmp_path / "data"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "a.txt").write_text("one")
    channel.put(source, "in/data")
    (source / "deep" / "a.txt").rename(source / "b.txt")
    channel.put(source, "in/data")
    channel.get("in/data", tmp_path / "back")
    assert sorted(path.name for path in (tmp_path / "back").rglob("*.txt")) == ["b.txt"]
    (tmp_path / "work" / "in" / "data" / "b.txt").write_text("changed by a job")
    assert (source / "b.txt").read_text() == "one"


def test_a_path_out_of_the_working_folder_is_refused(here: Local, tmp_path: Path) -> None:
    channel = open_channel(here, tmp_path / "work")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="leads out"):
        channel.put(tmp_path / "file", "../file2")
    with pytest.raises(UsageError, match="leads out"):
        channel.path("../../x")


def test_a_growing_file_is_read_from_where_the_last_read_ended(here: Local, tmp_path: Path) -> None:
    channel = open_channel(here, tmp_path / "work")
    assert channel.read("jobs/a/events.jsonl", 0) == b""
    (tmp_path / "events").write_bytes(b"one\ntwo\n")
    channel.put(tmp_path / "events", "jobs/a/events.jsonl")
    assert channel.read("jobs/a/events.jsonl", 4) == b"two\n"


def test_files_sent_into_a_jobs_folder_beforehand_do_not_count_as_its_start(here: Local, tmp_path: Path) -> None:
    channel = open_channel(here, tmp_path / "work")
    (tmp_path / "job.json").write_text("{}")
    channel.put(tmp_path / "job.json", "jobs/a/job.json")
    channel.spawn("a", ["cat", "job.json"], {})
    until(lambda: channel.poll("a") == 0)
    assert channel.read("jobs/a/log", 0) == b"{}"


def test_fetching_what_a_job_did_not_write_says_so(here: Local, tmp_path: Path) -> None:
    with pytest.raises(ForgeError, match="left no adapter"):
        open_channel(here, tmp_path / "work").get("adapter", tmp_path / "adapter")


# --- jobs ------------------------------------------------------------------------------------------------------


def test_a_job_runs_in_its_folder_with_its_environment_and_leaves_code_and_log(here: Local, tmp_path: Path) -> None:
    channel = open_channel(here, tmp_path / "work")
    script = "import os; print(os.environ['COLOUR'], os.environ.get('SECRET_KEY')); open('made', 'w'); raise SystemExit(6)"
    os.environ["SECRET_KEY"] = "hidden"
    try:
        channel.spawn("a", [sys.executable, "-c", script], {"COLOUR": "red"})
    finally:
        del os.environ["SECRET_KEY"]
    until(lambda: channel.poll("a") is not None)
    folder = Path(channel.path("jobs/a"))
    assert channel.poll("a") == 6
    assert (folder / "made").exists()
    assert (folder / "log").read_text() == "red None\n"


def test_a_job_is_told_how_long_its_machine_will_be_there(here: Local, tmp_path: Path) -> None:
    channel = open_channel(here, tmp_path / "work")
    channel.spawn("a", ["sh", "-c", "echo $FORGE_SECONDS_LEFT"], {})
    until(lambda: channel.poll("a") == 0)
    assert 500 < float((Path(channel.path("jobs/a")) / "log").read_text()) <= 600


def test_the_exit_code_is_still_known_to_another_process_later(here: Local, tmp_path: Path) -> None:
    channel = open_channel(here, tmp_path / "work")
    channel.spawn("a", ["sh", "-c", "exit 3"], {})
    until(lambda: channel.poll("a") == 3)
    other = Local(tmp_path / "state")
    assert other.channel(other.find("lease-1")[0], tmp_path / "work").poll("a") == 3


def test_spawning_twice_starts_once(here: Local, tmp_path: Path) -> None:
    channel = open_channel(here, tmp_path / "work")
    for _ in range(3):
        channel.spawn("a", ["sh", "-c", "echo started >> starts; sleep 0.2"], {})
    until(lambda: channel.poll("a") == 0)
    channel.spawn("a", ["sh", "-c", "echo started >> starts"], {})
    assert (Path(channel.path("jobs/a")) / "starts").read_text() == "started\n"


def test_a_program_that_does_not_exist_ends_with_127_and_its_name_in_the_log(here: Local, tmp_path: Path) -> None:
    channel = open_channel(here, tmp_path / "work")
    channel.spawn("a", ["/no/such/program"], {})
    until(lambda: channel.poll("a") == 127)
    assert "/no/such/program" in (Path(channel.path("jobs/a")) / "log").read_text()


def test_the_deadline_ends_a_job_that_sleeps(here: Local, tmp_path: Path) -> None:
    channel = open_channel(here, tmp_path / "work", seconds=1)
    channel.spawn("a", SLEEPER, {})
    until(lambda: channel.poll("a") is not None)
    assert channel.poll("a") == 124
    assert here.find("all") == []


def test_stop_asks_first_and_the_jobs_own_code_is_kept(here: Local, tmp_path: Path) -> None:
    channel = open_channel(here, tmp_path / "work")
    polite = "trap 'echo saved > saved; exit 9' TERM; touch ready; while :; do sleep 0.05; done"
    channel.spawn("a", ["sh", "-c", polite], {})
    until(lambda: (Path(channel.path("jobs/a")) / "ready").exists())
    channel.stop("a", grace_seconds=10)
    assert channel.poll("a") == 9
    assert (Path(channel.path("jobs/a")) / "saved").exists()


STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", '''
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.setsid()
open("grandchild", "w").write(str(os.getpid()))
time.sleep(600)
'''])
open("child", "w").write(str(os.getpid()))
time.sleep(600)
"""


def test_stop_ends_grandchildren_that_ignore_sigterm_and_left_the_session(here: Local, tmp_path: Path) -> None:
    channel = open_channel(here, tmp_path / "work")
    channel.spawn("a", [sys.executable, "-c", STUBBORN], {})
    folder = Path(channel.path("jobs/a"))
    child, grandchild = read_pid(folder / "child"), read_pid(folder / "grandchild")
    channel.stop("a", grace_seconds=0.2)
    assert gone(child)
    assert gone(grandchild)
    assert channel.poll("a") == 128 + signal.SIGKILL


def test_a_job_that_ends_takes_what_it_left_running_with_it(here: Local, tmp_path: Path) -> None:
    channel = open_channel(here, tmp_path / "work")
    channel.spawn("a", ["sh", "-c", "sleep 600 & echo $! > left; exit 0"], {})
    left = read_pid(Path(channel.path("jobs/a")) / "left")
    until(lambda: channel.poll("a") == 0)
    assert gone(left)


def test_stopping_the_lease_ends_its_jobs(here: Local, tmp_path: Path) -> None:
    channel = open_channel(here, tmp_path / "work")
    channel.spawn("a", SLEEPER, {})
    here.stop(here.find("lease-1")[0])
    assert channel.poll("a") == 128 + signal.SIGTERM
    assert here.find("all") == []


def test_a_killed_watcher_takes_the_job_along_and_counts_as_minus_one(here: Local, tmp_path: Path) -> None:
    channel = open_channel(here, tmp_path / "work")
    channel.spawn("a", ["sh", "-c", "sleep 600 & echo $! > child; echo $$ > self; wait"], {})
    folder = Path(channel.path("jobs/a"))
    job, child = read_pid(folder / "self"), read_pid(folder / "child")
    os.kill(int((folder / ".job" / "pid").read_text().split()[0]), signal.SIGKILL)
    until(lambda: gone(job))
    until(lambda: channel.poll("a") == -1)
    until(lambda: gone(child))


def test_a_job_that_was_never_started_counts_as_minus_one(here: Local, tmp_path: Path) -> None:
    assert open_channel(here, tmp_path / "work").poll("nothing") == -1


ENGINE = """
import sys, threading, time
from pathlib import Path
from forge.plugins.compute.local import Local
from forge.protocols import Lease, Offer
root = Path(sys.argv[1])
provider = Local(root / "state")
offer = Offer(provider="local", name="cpu", usd_per_hour=0, device="cpu", cores=1, memory_gib=1)
resource = provider.start(Lease(token="lease-1", run="run-a", offer=offer, deadline_seconds=600))
channel = provider.channel(resource, root / "work")
start = lambda: channel.spawn("a", ["sh", "-c", "sleep 600 & echo $! > child; echo $$ > self; wait"], {})
thread = threading.Thread(target=start)
thread.start(); thread.join()
(root / "started").write_text("yes")
time.sleep(600)
"""


def test_kill_minus_nine_of_the_engine_ends_the_job_and_its_children(here: Local, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    engine = subprocess.Popen([sys.executable, "-c", ENGINE, str(tmp_path)])
    until(lambda: (tmp_path / "started").exists())
    folder = tmp_path / "work" / "jobs" / "a"
    job, child = read_pid(folder / "self"), read_pid(folder / "child")
    time.sleep(0.3)
    assert not gone(job), "the thread that started the job has ended; the job must live on"
    engine.kill()
    engine.wait()
    until(lambda: gone(job) and gone(child))
    channel = here.channel(here.find("lease-1")[0], tmp_path / "work")
    until(lambda: channel.poll("a") == 128 + signal.SIGTERM)
