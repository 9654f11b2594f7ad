"""Hugging Face Jobs, with the real huggingface_hub client against a local Hub whose jobs really run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from forge.errors import ForgeError, MachineLost, MissingAccess, NoCapacity
from forge.lease import Leases, as_provider
from forge.plugins.compute._channel import Failed
from forge.plugins.compute.hf_jobs import HfJobs, HfJobsSettings
from forge.protocols import Lease, Need, Offer
from forge.run import Run
from forge.testing import tiny_corpus
from tests.servers.jobs_hub import NARROW, READER, UNIT_MICRO_USD, WRITER, JobsHub, jobs_hub

ROOT = Path(__file__).resolve().parents[2]
NEED = Need(parameters=1, memory_gib=1.0, gpu=True, seconds=60)
T4 = Offer(provider="hf-jobs", name="t4-small", usd_per_hour=0.5, device="cuda", cores=4, memory_gib=30)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobsHub]:
    with jobs_hub(tmp_path / "hub") as made:
        monkeypatch.setenv("HF_ENDPOINT", made.url)
        monkeypatch.setenv("HF_TOKEN", WRITER)
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("forge.plugins.compute._hf_hub.FIRST_PAUSE", 0.01)
        monkeypatch.setattr("forge.plugins.compute.hf_jobs.POLL_SECONDS", 0.05)
        yield made


def provider(**settings: object) -> HfJobs:
    """With this Python as the one in the image, and a Hub whose lists are settled at once."""
    made = HfJobs(HfJobsSettings(**{"python": sys.executable, "timeout_seconds": 5.0, **settings}))
    made.creation_seconds, made.confirm_seconds = 0.1, 0.02   # type: ignore[attr-defined]
    return made


def lease(attempt: int = 1, seconds: int = 600, token: str = "lease-1") -> Lease:
    return Lease(token=token, run="run-1", offer=T4, deadline_seconds=seconds, attempt=attempt)


# --- what is offered -------------------------------------------------------------------------------------------


def test_offers_carry_the_hubs_price_and_memory_and_fit_the_need(hub: JobsHub) -> None:
    cheap, large = provider().quote(NEED)
    assert (cheap.name, large.name) == ("t4-small", "l4x4")
    assert (round(cheap.usd_per_hour, 5), cheap.gpus, cheap.bf16) == (0.49998, 1, False)
    assert (large.gpus, large.gpu_memory_gib, large.bf16) == (4, 22.4, True), "the Hub tells the memory of all four"
    assert [offer.name for offer in provider().quote(NEED.model_copy(update={"gpu": False}))] == ["cpu-basic", "t4-small", "l4x4"]
    assert [offer.name for offer in provider(flavors=["l4x4"]).quote(NEED)] == ["l4x4"]
    assert provider().quote(NEED.model_copy(update={"disk_gib": 500.0})) == []


def test_without_a_token_nothing_is_offered_and_the_sweep_passes_it_over(hub: JobsHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    assert provider().quote(NEED) == []
    with pytest.raises(MissingAccess, match="needs a token"):
        provider().find("all")


@pytest.mark.parametrize(("token", "why"), [(READER, "it may only read"), (NARROW, "job.write is not among them")])
def test_a_token_that_may_not_start_jobs_is_refused_before_the_plan(hub: JobsHub, monkeypatch: pytest.MonkeyPatch, token: str, why: str) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(MissingAccess, match="may not start jobs") as told:
        provider().preflight(T4)
    assert why in told.value.why
    assert hub.posts == 0


def test_preflight_proves_rights_and_starts_nothing(hub: JobsHub) -> None:
    assert "may start jobs for ann" in provider().preflight(T4)[0]
    with pytest.raises(MissingAccess, match="may not run jobs for strangers"):
        provider(namespace="strangers").preflight(T4)
    with pytest.raises(NoCapacity):
        provider().preflight(T4.model_copy(update={"name": "h900"}))
    assert hub.posts == 0


# --- one job, whatever the line does ----------------------------------------------------------------------------


def test_a_job_always_has_a_deadline_its_labels_and_no_token_of_the_hub(hub: JobsHub) -> None:
    provider().start(lease(seconds=77))
    spec = next(iter(hub.jobs.values())).spec
    assert spec["timeoutSeconds"] == 60, "whole minutes, as they are billed"
    assert {key: spec["labels"][key] for key in ("forge-run", "forge-lease", "forge-attempt")} == {
        "forge-run": "run-1", "forge-lease": "lease-1", "forge-attempt": "1"
    }
    assert list(spec["secrets"]) == ["FORGE_AGENT_KEY"]
    assert WRITER not in json.dumps(spec)


def test_an_answer_that_is_lost_leads_to_one_job(hub: JobsHub, run: Run) -> None:
    hub.lose, hub.hide = 1, 1
    made = provider()
    Leases(run, {"hf-jobs": as_provider(made)}).acquire(T4, 600, "lease-1")
    assert (hub.posts, len(hub.jobs), len(hub.up())) == (1, 1, 1)
    assert Leases(run, {"hf-jobs": as_provider(made)}).release_all() == []
    assert (hub.up(), run.ledger.totals().settled, hub.bill()) == ([], UNIT_MICRO_USD, UNIT_MICRO_USD)


@pytest.mark.parametrize("does", [True, False])
def test_a_hub_that_never_answers_is_given_up_listed_and_not_asked_twice(hub: JobsHub, run: Run, does: bool) -> None:
    hub.deaf, hub.deaf_does = 1, does
    made = provider(timeout_seconds=0.5)
    leases = Leases(run, {"hf-jobs": as_provider(made)})
    if does:
        leases.acquire(T4, 600, "lease-1")
        assert (hub.posts, len(hub.jobs)) == (1, 1)
        return
    with pytest.raises(ForgeError, match="did not say whether it started"):
        leases.acquire(T4, 600, "lease-1")
    assert (hub.posts, len(hub.jobs)) == (1, 0)
    leases.acquire(T4, 600, "lease-1")
    assert (hub.posts, len(hub.jobs)) == (2, 1)


def test_the_same_attempt_is_one_job_even_when_it_is_over(hub: JobsHub) -> None:
    first = provider().start(lease())
    assert provider().start(lease()).id == first.id
    provider().stop(first)
    provider().stop(first)
    assert provider().start(lease()).state == "gone"
    second = provider().start(lease(attempt=2))
    assert second.id != first.id
    assert [one.id for one in provider().find("lease-1")] == [second.id]
    assert provider().find("run-1") == provider().find("all") == provider().find("lease-1")


def test_a_job_of_an_earlier_run_of_the_same_name_is_not_this_ones(hub: JobsHub) -> None:
    first = provider().start(lease())
    provider().stop(first)
    provider().settle(first)
    assert provider().start(lease()).id != first.id


def test_refusals_are_words_and_leave_nothing(hub: JobsHub) -> None:
    for refusal, kind in (((402, "no credit"), MissingAccess), ((403, "no"), MissingAccess), ((429, "slow down"), NoCapacity), ((400, "flavor"), ForgeError)):
        hub.refuse = refusal
        with pytest.raises(kind):
            provider().start(lease())
    assert hub.jobs == {}


def test_lists_that_fail_for_a_moment_are_asked_again(hub: JobsHub) -> None:
    made = provider().start(lease())
    hub.broken = 2
    assert [one.id for one in provider().find("all")] == [made.id]


@pytest.mark.parametrize("forgets", [True, False])
def test_a_job_that_its_owner_deleted_is_lost_and_not_done(hub: JobsHub, tmp_path: Path, forgets: bool) -> None:
    hub.forgets = forgets
    made = provider()
    resource = made.start(lease())
    channel = made.channel(resource, tmp_path)
    channel.prepare(lambda text: None)
    channel.spawn("j", ["/bin/sleep", "60"], {})
    assert channel.poll("j") is None
    hub.end(hub.jobs[resource.id], "DELETED")
    with pytest.raises(MachineLost, match="is over: deleted"):
        channel.poll("j")
    assert UNIT_MICRO_USD <= made.settle(resource) <= 3 * UNIT_MICRO_USD, "what is not known is the time since it was asked for"
    assert made.find("all") == []


def test_a_job_is_billed_by_begun_minutes_of_running_at_the_price_it_was_started_at(hub: JobsHub) -> None:
    hub.keep_waiting = True
    waits = provider().start(lease(token="waits"))
    hub.keep_waiting = False
    runs = provider().start(lease(token="runs"))
    hub.prices[1]["unitCostMicroUSD"] = 10 * UNIT_MICRO_USD
    job = hub.jobs[runs.id]
    job.started = time.time() - 61
    assert provider().settle(runs.model_copy(update={"id": "runs"})) == 2 * UNIT_MICRO_USD, "by its label, when it was never seen"
    assert provider().settle(runs) == 2 * UNIT_MICRO_USD
    hub.end(hub.jobs[waits.id], "CANCELED")
    assert provider().settle(waits) == 0


# --- files and programs in it ------------------------------------------------------------------------------------


def test_files_go_there_and_back_whole_through_breaks(hub: JobsHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.plugins.compute._agent.PART", 256 * 2**10)
    made = provider()
    channel = made.channel(made.start(lease()), tmp_path)
    assert channel.prepare(lambda text: None) == sys.executable
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "large.bin").write_bytes(bytes(range(256)) * 12_000)   # 3 MB: a dozen parts side by side
    (tree / "small.txt").write_text("ünï", encoding="utf-8")
    channel.put(tree, "inputs/tree")
    hub.cut = True
    threading.Timer(0.4, lambda: setattr(hub, "cut", False)).start()
    channel.get("inputs/tree", tmp_path / "back")
    assert (tmp_path / "back" / "deep" / "large.bin").read_bytes() == (tree / "deep" / "large.bin").read_bytes()
    assert (tmp_path / "back" / "small.txt").read_text(encoding="utf-8") == "ünï"
    assert channel.read("inputs/tree/nothing", 0) == b""


def test_a_job_in_it_is_started_once_watched_and_stopped(hub: JobsHub, tmp_path: Path) -> None:
    made = provider()
    channel = made.channel(made.start(lease()), tmp_path)
    channel.prepare(lambda text: None)
    script = "import os; print(sorted(k for k in os.environ if 'FORGE' in k or 'HF' in k)); open('started','a').write('x')"
    for _ in range(2):
        channel.spawn("one", [sys.executable, "-c", script], {"HF_GIVEN": "1"})
    while (code := channel.poll("one")) is None:
        time.sleep(0.02)
    assert code == 0
    assert channel.read("jobs/one/started", 0) == b"x"
    assert b"FORGE_AGENT_KEY" not in channel.read("jobs/one/log", 0)
    assert b"HF_GIVEN" in channel.read("jobs/one/log", 0)
    channel.spawn("two", ["/bin/sleep", "60"], {})
    channel.stop("two", grace_seconds=1.0)
    assert channel.poll("two") not in (0, None)


def test_a_program_whose_answers_are_lost_runs_once(hub: JobsHub, tmp_path: Path) -> None:
    made = provider()
    channel = made.channel(made.start(lease()), tmp_path)
    channel.prepare(lambda text: None)
    mark = tmp_path / "mark"
    hub.lose_proxied = 2
    told = b"".join(channel.host.transport.stream(["/bin/sh", "-c", f"echo x >> {mark}; cat; exit 0"], [b"a" * 10, b"b"], seconds=30.0))
    assert told == b"a" * 10 + b"b"
    assert mark.read_text(encoding="utf-8") == "x\n"
    with pytest.raises(Failed, match="exit code 3: no"):
        list(channel.host.transport.stream(["/bin/sh", "-c", "echo no >&2; exit 3"], [], seconds=30.0))
    with pytest.raises(Failed, match="exit code 127"):
        list(channel.host.transport.stream(["/no/such/program"], [], seconds=30.0))


def test_another_key_opens_nothing(hub: JobsHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = provider()
    resource = made.start(lease())
    made.channel(resource, tmp_path).prepare(lambda text: None)
    with pytest.raises(MissingAccess, match="does not take our key"):
        made.channel(resource.model_copy(update={"lease": "other"}), tmp_path).poll("x")


def test_a_job_that_waits_for_hardware_is_waited_for_and_given_up_in_time(hub: JobsHub, tmp_path: Path) -> None:
    hub.keep_waiting = True
    made = provider(start_minutes=0.005)
    told: list[str] = []
    resource = made.start(lease())
    assert resource.state == "starting"
    with pytest.raises(NoCapacity, match="did not come up"):
        made.channel(resource, tmp_path).prepare(told.append)
    assert "nothing is billed until it runs" in told[0]


def test_the_hub_ends_it_at_its_deadline_and_the_agent_when_nobody_asks(hub: JobsHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.plugins.compute.hf_jobs.AGENT_GRACE_SECONDS", 0.0)
    late = provider().start(lease(seconds=1, token="late"))
    alone = provider(idle_minutes=1 / 60).start(lease(token="alone"))
    ends = time.monotonic() + 20
    while hub.up() and time.monotonic() < ends:
        time.sleep(0.05)
    assert [hub.jobs[one.id].stage in ("COMPLETED", "ERROR") for one in (late, alone)] == [True, True]
    assert hub.processes() == []


# --- kill -9 -----------------------------------------------------------------------------------------------------


def test_kill_9_at_every_step_leaves_no_job_and_the_ledger_says_what_the_hub_bills(hub: JobsHub, tmp_path: Path) -> None:
    told = {
        "provider": "hf-jobs", "settings": {"python": sys.executable, "timeout_seconds": 5.0, "results": "pushed"}, "offer": T4.model_dump(),
        "corpus": str(tiny_corpus(tmp_path / "corpus", {"a.txt": "a"})), "patches": {"forge.plugins.compute.hf_jobs.POLL_SECONDS": 0.05},
        "only": ["start", "prepare", "spawn", "stop", "settle"],   # the engine around them: test_compute_hf_jobs_runs.py
    }
    env = {**os.environ, "FORGE_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    walked = subprocess.run(
        [sys.executable, "-m", "tests.test_plugins.machine_walk", json.dumps(told)], env=env, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )
    assert walked.returncode == 0, walked.stderr
    ends = [json.loads(line) for line in walked.stdout.splitlines()]
    assert {"before start", "after start", "after prepare", "after spawn", "after stop", "after settle"} <= {end["step"] for end in ends}
    for end in ends:
        jobs = [job for job in hub.jobs.values() if job.spec["labels"]["forge-run"] == end["run"]]
        bill = sum(UNIT_MICRO_USD for job in jobs if job.started)
        assert (end["settled"], end["reserved"], set(end["states"]) <= {"SETTLED"}) == (bill, 0, True), end
        assert len(jobs) <= 2
    assert (hub.up(), hub.processes(), hub.repositories.repos) == ([], [], {})
    assert hub.repositories.writes, "each had a repository for what its jobs push"
