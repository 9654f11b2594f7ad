"""What jobs of Hugging Face push while nobody asks for them: taken by the next engine, and removed, with the real client on both sides."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfApi

from forge import onmachine, sweep
from forge.errors import ArtifactDamaged, ForgeError, MissingAccess
from forge.lease import Leases, as_provider
from forge.plugins.compute import _agent, _hf_results, _supervise
from forge.plugins.compute._channel import HostChannel
from forge.plugins.compute._hf_push import Pusher
from forge.plugins.compute.hf_jobs import HfJobs, HfJobsSettings
from forge.protocols import Lease, Offer
from forge.run import Run
from tests.servers.hosts import wait_until
from tests.servers.jobs_hub import JOBS_ONLY, UNIT_MICRO_USD, WRITER, JobsHub, hardware, jobs_hub
from tests.servers.model_hub import Repo
from tests.servers.rented import OFFER
from tests.test_engine.remote_toys import STEPS, new_run
from tests.test_plugins.hf_jobs_toys import Stepped, ends_as, make_toys_python, on, steps, undisturbed

WAITS = ".slm-forge/leases/*/waits"
T4 = Offer(provider="hf-jobs", name="t4-small", usd_per_hour=0.5, device="cuda", cores=4, memory_gib=30)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobsHub]:
    with jobs_hub(tmp_path / "hub") as made:
        made.prices.append(hardware(OFFER.name, UNIT_MICRO_USD, gpu="L4", vram="24 GB"))
        for name, value in {"HF_ENDPOINT": made.url, "HF_TOKEN": WRITER, "HF_HUB_DISABLE_XET": "1", "XDG_STATE_HOME": str(tmp_path / "state")}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("forge.plugins.compute._hf_hub.FIRST_PAUSE", 0.01)
        monkeypatch.setattr("forge.plugins.compute.hf_jobs.POLL_SECONDS", 0.3)
        monkeypatch.setattr("forge.plugins.compute._hf_channel.LOOK_SECONDS", 0.1)
        monkeypatch.setattr("forge.plugins.compute._hf_channel.NEWS_SECONDS", 0.5)
        yield made


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The artifacts of an undisturbed run elsewhere."""
    return undisturbed(tmp_path_factory.mktemp("straight"))


def provider(**settings: object) -> HfJobs:
    made = HfJobs(HfJobsSettings(**{"python": sys.executable, "timeout_seconds": 5.0, "results": "pushed", **settings}))
    made.creation_seconds, made.confirm_seconds = 0.1, 0.02   # type: ignore[attr-defined]
    return made


def lease(token: str = "lease-1") -> Lease:
    return Lease(token=token, run="run-1", offer=T4, deadline_seconds=600)


def files(hub: JobsHub) -> set[str]:
    """What the repositories hold."""
    return {name for repo in list(hub.repositories.repos.values()) for name in repo.at("main")[1]}


def killed_after_spawn(number: int) -> Callable[[str], None]:
    """kill -9 of the engine after the n-th program was started (the first one checks the Python)."""
    count = [0]

    def step(name: str) -> None:
        count[0] += name == "after spawn"
        if count[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return step


def go(hub: JobsHub) -> None:
    """Let the toy go on that waits."""
    wait_until(lambda: [place for job in hub.jobs.values() for place in job.folder.glob(WAITS)])
    for job in hub.jobs.values():
        for place in job.folder.glob(WAITS):
            (place.parent / "go").touch()


def finished_alone(hub: JobsHub, python: str, tmp_path: Path, *, timeout: bool) -> None:
    """An engine that is killed while its job works; the job ends well, and then its container, by the Hub's timeout or by itself."""
    new_run(tmp_path).close()
    assert on(Stepped(python, killed_after_spawn(2), results="pushed", idle_minutes=8 / 60), train__wait_at=6) == "killed"
    go(hub)
    if timeout:
        wait_until(lambda: [name for name in files(hub) if name.endswith("result.json")], lambda: str(files(hub)))
        hub.end(hub.jobs[min(hub.jobs)], "ERROR")
    wait_until(lambda: hub.up() == [], lambda: str(files(hub)))
    assert [name for name in files(hub) if name.endswith("result.json")]


def progress(events: Path) -> list[int]:
    """The steps of training that an event tells of."""
    told = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    return [one["done"] for one in told if one["event"] == "progress" and one.get("phase") == "train"]


# --- whole runs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replanned", [False, True])
def test_an_engine_that_is_gone_until_after_the_timeout_takes_the_pushed_result(
    hub: JobsHub, tmp_path: Path, straight: dict[str, str], monkeypatch: pytest.MonkeyPatch, replanned: bool
) -> None:
    monkeypatch.setenv("FORGE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("forge.plugins.compute.hf_jobs.AGENT_GRACE_SECONDS", 0.0)
    python = make_toys_python(tmp_path / "python")
    finished_alone(hub, python, tmp_path, timeout=replanned)
    repo = next(iter(hub.repositories.repos.values()))
    assert repo.private
    assert {name.split("/")[0] for name in files(hub)} == {".gitattributes", "slm-forge.json", "phases", "jobs", "pushed"}
    assert not [name for name in files(hub) if "/kept/" in name], "checkpoints go when the phase is done"
    told = len(hub.jobs)

    # the second time under a plan with more time, and so for another lease: the earlier one is closed before training is looked at
    more = {"plan_it__deadline_seconds": 700} if replanned else {}
    hub.broken = 10**6   # the Hub is down when the engine comes back: nothing is removed
    assert "Unfetched: what train has left of lease-" in on(Stepped(python, results="pushed"), train__wait_at=6, **more)
    hub.broken = 0
    assert (len(hub.jobs), len(hub.repositories.repos)) == (told, 1)

    assert on(Stepped(python, results="pushed"), train__wait_at=6, **more) == "done"
    ends_as(hub, straight)
    assert steps(hub) == [list(range(1, STEPS + 1)), []], "the second job only polishes"
    assert hub.bill() == 2 * UNIT_MICRO_USD
    assert hub.repositories.repos == {}
    here = progress(tmp_path / "home" / "runs" / "toy" / "events.jsonl")
    there = progress(next(hub.jobs[min(hub.jobs)].folder.glob(".slm-forge/leases/*/jobs/train-*/events.jsonl")))
    assert here == there != [], "what the job said while nobody listened is told, once"


def test_a_job_that_is_lost_with_its_engine_goes_on_from_the_pushed_checkpoint(
    hub: JobsHub, tmp_path: Path, straight: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORGE_HOME", str(tmp_path / "home"))
    python = make_toys_python(tmp_path / "python")
    new_run(tmp_path).close()
    assert on(Stepped(python, killed_after_spawn(2), results="pushed"), train__wait_at=6) == "killed"
    wait_until(lambda: any("/kept/" in name for name in files(hub)))
    kept = max(int(name.split("/checkpoint-")[1].split("/")[0]) for name in files(hub) if name.startswith("phases/") and "/checkpoint-" in name)
    hub.end(hub.jobs[min(hub.jobs)], "ERROR")

    def let_go() -> None:
        wait_until(lambda: len(hub.jobs) > 1 and list(hub.jobs[max(hub.jobs)].folder.glob(WAITS)))
        go(hub)

    threading.Thread(target=let_go, daemon=True).start()
    assert on(Stepped(python, results="pushed"), train__wait_at=6) == "done"
    ends_as(hub, straight)
    first, second = steps(hub)
    assert (first, second) == ([1, 2, 3, 4, 5], list(range(kept + 1, STEPS + 1)))
    assert hub.bill() == 2 * UNIT_MICRO_USD
    assert hub.repositories.repos == {}


def test_a_push_that_fails_is_told_and_the_result_comes_through_the_port(
    hub: JobsHub, tmp_path: Path, straight: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORGE_HOME", str(tmp_path / "home"))
    new_run(tmp_path).close()
    events = tmp_path / "home" / "runs" / "toy" / "events.jsonl"

    def refuse() -> None:
        wait_until(lambda: "slm-forge.json" in files(hub))
        hub.refuse_commits = (403, "storage is full")
        wait_until(lambda: "are not pushed to ann/slm-forge-lease-" in events.read_text(encoding="utf-8"))
        go(hub)

    threading.Thread(target=refuse, daemon=True).start()
    assert on(Stepped(make_toys_python(tmp_path / "python"), results="pushed"), train__wait_at=6) == "done"
    ends_as(hub, straight)
    assert "storage is full" in events.read_text(encoding="utf-8")
    assert hub.repositories.repos == {}


# --- the repository ----------------------------------------------------------------------------------------------


def prepared(made: HfJobs, root: Path, tell: Callable[[str], None] = lambda text: None) -> Any:
    channel = made.channel(made.start(lease()), root)
    channel.prepare(tell)
    return channel


def test_the_repository_is_private_found_by_its_marker_and_removed_with_the_lease(hub: JobsHub, run: Run, tmp_path: Path) -> None:
    made = provider()
    leases = Leases(run, {"hf-jobs": as_provider(made)})
    leases.acquire(T4, 600, "lease-1")
    leases.channel("lease-1").prepare(lambda text: None)
    hub.repositories.repos.update({f"ann/{name}": Repo(private=True, branches={"main": [("1", {})]}) for name in ("slm-forge-notes", "slm-forge-x-1-0123456789ab", "a-model")})
    elsewhere = provider(results="fetched")   # whatever the settings are by now
    found = {one.kind: one for one in elsewhere.find("all")}
    assert set(found) == {"machine", "results"}
    assert found["results"].id.startswith("ann/slm-forge-lease-1-1-")
    assert (found["results"].lease, found["results"].run) == ("lease-1", "run-1")
    assert made.stop_command(found["results"]) == f"hf repos delete {found['results'].id}"
    assert {one.kind for one in made.find("run-1")} == {"machine", "results"}
    assert made.find("other") == []
    hub.repositories.hides = True   # as lists may, for a moment: it is asked for by its name, which was noted
    assert {one.kind for one in provider().find("all")} == {"machine", "results"}

    things = {one.kind: one for proof in leases.release() for one in proof.things}
    assert (things["results"].state, len(things["results"].seen_gone)) == ("gone", 2)
    assert sorted(hub.repositories.repos) == ["ann/a-model", "ann/slm-forge-notes", "ann/slm-forge-x-1-0123456789ab"]
    assert run.ledger.totals().settled == hub.bill()


def test_a_repository_without_our_marker_is_left_alone_and_told(hub: JobsHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.plugins.compute._hf_money.token_hex", lambda n: "ab" * n)
    name = "ann/slm-forge-lease-1-1-abababababab"
    hub.repositories.repos[name] = Repo(private=True, branches={"main": [("1", {"thesis.md": hub.repositories.keep(b"mine")})]})
    told: list[str] = []
    made = provider()
    channel = prepared(made, tmp_path, told.append)
    assert f"{name} was not made by slm-forge" in " ".join(told)
    assert [one.kind for one in made.find("all")] == ["machine"]
    assert made.left("lease-1") is None
    with pytest.raises(ForgeError, match="left alone"):
        made.stop(made.find("all")[0].model_copy(update={"kind": "results", "id": name}))
    assert hub.repositories.repos[name].at("main")[1].keys() == {"thesis.md"}
    assert channel.watch.idle_seconds == made.idle_seconds, "a job whose results stay in it does not go on alone"


def test_a_public_repository_of_that_name_gets_nothing(hub: JobsHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.plugins.compute._hf_money.token_hex", lambda n: "ab" * n)
    hub.repositories.repos["ann/slm-forge-lease-1-1-abababababab"] = Repo(private=False, branches={"main": [("1", {})]})
    made = provider()
    job = made.job(made.start(lease()).id)
    with pytest.raises(ForgeError, match="is public"):
        made.make_repository(job)
    assert files(hub) == set()


def test_an_image_without_the_hubs_client_is_told_and_its_jobs_end_when_nobody_asks(hub: JobsHub, tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\ncase "$3" in *push*) exec {sys.executable} -S "$@";; esac\nexec {sys.executable} "$@"\n')
    bare.chmod(0o755)
    told: list[str] = []
    made = provider(python=str(bare))
    channel = prepared(made, tmp_path, told.append)
    assert "its Python has no huggingface_hub" in " ".join(told)
    assert channel.watch.idle_seconds == made.idle_seconds


def test_one_whose_maker_was_killed_before_the_marker_is_known_by_its_word(hub: JobsHub) -> None:
    made = provider()
    resource = made.start(lease(token="lease_x" * 10))
    hub.refuse_commits = (403, "storage is full")
    with pytest.raises(MissingAccess):
        made.make_repository(made.job(resource.id))
    assert files(hub) == {".gitattributes"}
    found = next(one for one in made.find("lease_x" * 10) if one.kind == "results")
    made.stop(found)
    assert hub.repositories.repos == {}
    made.stop(found)


def test_neither_the_jobs_spec_nor_its_processes_carry_the_token(hub: JobsHub, tmp_path: Path) -> None:
    made = provider()
    channel = prepared(made, tmp_path)
    assert WRITER not in json.dumps(hub.jobs[min(hub.jobs)].spec)
    channel.spawn("train-0123456789ab-1", ["/bin/sleep", "60"], {})
    pids = [pid for process in hub.processes() for pid in _supervise.descendants(process)]
    told = [Path(f"/proc/{pid}/{name}").read_bytes() for pid in pids for name in ("cmdline", "environ") if Path(f"/proc/{pid}").exists()]
    assert json.loads(channel.read("lease.json", 0))["deadline_seconds"] <= 540, "a tenth of the time is for the last push"
    assert len(pids) >= 4, "the agent, the pusher, a watcher and its job"
    assert not [text for text in told if WRITER.encode() in text]


def test_rights_and_the_named_token_are_asked_for_before_the_plan(hub: JobsHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", JOBS_ONLY)
    assert provider(results="fetched").preflight(T4)
    with pytest.raises(MissingAccess, match="may not start jobs") as told:
        provider().preflight(T4)
    assert "repo.write is not among them" in told.value.why
    monkeypatch.setenv("HF_TOKEN", WRITER)
    with pytest.raises(MissingAccess, match="names PUSH_TOKEN, which is not set"):
        provider(results_token="PUSH_TOKEN").preflight(T4)
    monkeypatch.setenv("PUSH_TOKEN", "hf_other")
    assert provider(results_token="PUSH_TOKEN").push_token() == "hf_other"


def test_sweep_keeps_job_and_results_for_a_run_that_may_come_back(hub: JobsHub, run: Run) -> None:
    made = provider()
    clouds = {"hf-jobs": as_provider(made)}
    leases = Leases(run, clouds)
    leases.acquire(T4, 600, "lease-1")

    def judged() -> list[tuple[str, str]]:
        return [(one.resource.kind, one.action) for one in sweep.find_left(clouds)]

    assert judged() == [("machine", "end")], "without results a dead run's job is of no use"
    made.make_repository(made.job(min(hub.jobs)))
    assert judged() == [("machine", "keep"), ("results", "keep")]
    hub.end(hub.jobs[min(hub.jobs)], "ERROR")
    assert judged() == [("results", "keep")]
    repo = next(iter(hub.repositories.repos.values()))
    repo.created, created = "2020-01-01T00:00:00.000Z", repo.created
    assert judged() == [("results", "end")], "as a host of one's own: for 30 days"
    repo.created = created
    run.state.execute("UPDATE lease SET state='STOPPING'")
    assert judged() == [("results", "end")], "its end was asked for and could not be proven"
    assert [(one.done, one.kind) for one in sweep.sweep(clouds)] == [("ended", "results")]
    assert (hub.repositories.repos, hub.up()) == ({}, [])
    assert run.ledger.totals().settled == hub.bill()


def test_what_keeping_a_job_may_cost_is_the_rest_of_its_lease(hub: JobsHub, run: Run) -> None:
    leases = Leases(run, {"hf-jobs": as_provider(provider())})
    leases.acquire(T4, 600, "lease-1")
    pipeline: Any = SimpleNamespace(leases=leases, run=run)
    told = onmachine._keep(pipeline, "lease-1", leases.machine("lease-1"))
    assert "which ends when its work is done, in 10 min at the latest ($0.08)" in told


# --- the program that pushes ------------------------------------------------------------------------------------------


class World:
    """A lease's folder as jobs leave it, and a pusher over it."""

    def __init__(self, hub: JobsHub, root: Path) -> None:
        self.hub, self.root, self.job = hub, root, root / "jobs" / "train-0123456789ab-1"
        (self.job / ".job").mkdir(parents=True)
        (self.job / ".job" / "results").touch()
        self.api = HfApi(endpoint=hub.url, token=WRITER)
        self.repo = self.of("run-1")
        self.pusher = Pusher(root, self.repo, self.api, kept_seconds=0.0)

    def of(self, run: str) -> str:
        """The repository, asked for by a run."""
        return _hf_results.make(self.api, "ann", {"lease": "lease-1", "run": run, "attempt": 1}, "ab" * 16)

    def keep(self, number: int, path: str, data: bytes) -> None:
        """As forge.keeping does it."""
        place = self.root / "phases" / "train" / "kept" / str(number) / Path(path).name
        place.mkdir(parents=True)
        (place / "model.safetensors").write_bytes(data)
        place.parent.with_suffix(".json").write_text(json.dumps({"number": number, "path": path, "folder": True, "here": ""}), encoding="utf-8")
        with (self.job / "events.jsonl").open("a", encoding="utf-8") as events:
            events.write(json.dumps({"event": "kept", "phase": "train", "number": number}) + "\n")

    def end(self, code: int, failure: dict[str, str] | None = None) -> None:
        (self.job / "result.json").write_text(json.dumps({"outputs": {"train": {}} if failure is None else {}, "failure": failure}), encoding="utf-8")
        (self.job / ".job" / "rc").write_text(str(code), encoding="utf-8")

    def files(self) -> set[str]:
        return set(self.hub.repositories.repos[self.repo].at("main")[1]) - {".gitattributes", "slm-forge.json"}

    def commits(self) -> int:
        return len(self.hub.repositories.repos[self.repo].branches["main"])


@pytest.fixture
def world(hub: JobsHub, tmp_path: Path) -> World:
    return World(hub, tmp_path / "lease-1")


def test_a_repository_is_made_once_and_never_shared(world: World) -> None:
    assert world.of("run-1") == world.repo
    with pytest.raises(ForgeError, match="belongs to another lease"):
        world.of("run-2")


def test_a_checkpoint_is_one_commit_and_replaces_its_forerunner(world: World, tmp_path: Path) -> None:
    before = world.commits()
    world.keep(1, "checkpoint-2", b"two")
    world.keep(2, "checkpoint-4", b"four")
    assert world.pusher.look()
    assert world.commits() == before + 1, "only the newest"
    world.keep(3, "sweep/best", b"best")
    world.keep(4, "checkpoint-6", b"six")
    assert world.pusher.look()
    assert world.commits() == before + 1, "what took long is not followed at once"
    world.pusher.next_kept = 0.0
    assert world.pusher.look()
    assert world.commits() == before + 3
    kept = {name for name in world.files() if name.startswith("phases/")}
    assert kept == {f"phases/train/kept/{name}" for name in ("3.json", "3/best/model.safetensors", "4.json", "4/checkpoint-6/model.safetensors")}
    assert not [name for name in world.files() if "/2" in name]
    left = _hf_results.Left(world.api, world.repo)
    left.get("phases/train/kept/4/checkpoint-6", tmp_path / "back")
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == b"six"
    assert left.read("jobs/train-0123456789ab-1/events.jsonl", 0) == (world.job / "events.jsonl").read_bytes()


def test_a_job_whose_watcher_was_killed_does_not_keep_the_container_up(world: World) -> None:
    (world.job / ".job" / "pid").write_text(f"{os.getpid()} 1 boot", encoding="utf-8")
    assert world.pusher.look()
    (world.job / ".job" / "pid").write_text("4194305 1 boot", encoding="utf-8")   # more than a pid can be
    world.pusher.look()
    assert not world.pusher.look()


def test_checkpoints_wait_for_their_time_and_the_last_one_does_not(world: World) -> None:
    world.pusher.kept_seconds = 3600.0
    world.keep(1, "checkpoint-2", b"two")
    assert world.pusher.look()
    world.keep(2, "checkpoint-4", b"four")
    before = world.commits()
    assert world.pusher.look()
    assert world.commits() == before
    world.end(86, {"kind": "Interrupted", "fact": "stopped"})
    world.pusher.look()
    assert world.commits() == before + 1
    assert not world.pusher.look(), "nothing keeps the container up any more"
    assert "phases/train/kept/2/checkpoint-4/model.safetensors" in world.files()


def test_a_repository_that_became_public_gets_nothing_more(world: World) -> None:
    world.hub.repositories.repos[world.repo].private = False
    world.keep(1, "checkpoint-2", b"two")
    before = world.commits()
    assert not world.pusher.look()
    assert world.commits() == before
    assert "not private any more" in (world.root / "push.log").read_text(encoding="utf-8")


def test_a_push_that_failed_is_tried_again_and_both_are_told_once(world: World) -> None:
    world.keep(1, "checkpoint-2", b"two")
    world.hub.refuse_commits = (503, "overloaded")
    assert not world.pusher.look()
    world.pusher.pause = 1e-9
    assert not world.pusher.look()
    world.hub.refuse_commits, world.pusher.pause = (0, ""), 60.0
    assert not world.pusher.look(), "not before its time"
    world.pusher.pause = 1e-9
    assert world.pusher.look()
    lines = (world.root / "push.log").read_text(encoding="utf-8").splitlines()
    assert [line.split(" to ")[0] for line in lines] == ["results are not pushed", "results are pushed again"]


def test_what_was_damaged_in_the_repository_is_refused(world: World, tmp_path: Path) -> None:
    out = world.root / "phases" / "train" / "out"
    out.mkdir(parents=True)
    (out / "model.safetensors").write_bytes(b"right")
    world.end(0)
    world.pusher.look()
    sha256 = world.hub.repositories.repos[world.repo].at("main")[1]["phases/train/out/model.safetensors"]
    world.hub.repositories.blobs[sha256] = b"wrong"
    with pytest.raises(ArtifactDamaged, match="is not what the job pushed"):
        _hf_results.Left(world.api, world.repo).get("phases/train/out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("manifest", [b'[["../../stolen", 1, "00", false]]', b'[["/etc/stolen", 1, "00", false]]', b'{"no": "list"}', b"no json"])
def test_a_list_of_files_that_leads_elsewhere_is_refused(world: World, tmp_path: Path, manifest: bytes) -> None:
    world.api.upload_file(path_or_fileobj=manifest, path_in_repo="pushed/phases/train/out.json", repo_id=world.repo)
    with pytest.raises(ArtifactDamaged):
        _hf_results.Left(world.api, world.repo).get("phases/train/out", tmp_path / "a" / "out")
    transport = SimpleNamespace(where="host")
    host: Any = SimpleNamespace(transport=transport, call=lambda *args, **more: json.loads(manifest) if manifest[:2] == b"[[" else manifest.decode())
    with pytest.raises(ArtifactDamaged):   # and so of a host
        HostChannel(host, "~/x").get("phases/train/out", tmp_path / "a" / "out")
    assert not (tmp_path / "a").exists()


def test_the_container_stays_up_while_the_pusher_has_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_agent, "LOOK_SECONDS", 0.01)
    sign, agent = tmp_path / "sign", _agent.Agent(0, "key")
    waiting = threading.Thread(target=lambda: agent.wait(60.0, 0.5, str(sign)), daemon=True)
    waiting.start()
    ends = time.monotonic() + 1.0
    while time.monotonic() < ends:
        sign.touch()
        time.sleep(0.05)
    assert waiting.is_alive(), "nobody has asked for a second"
    waiting.join(30)
    assert not waiting.is_alive()
    agent.server_close()
