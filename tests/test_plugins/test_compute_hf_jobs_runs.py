"""Whole runs on Hugging Face Jobs: the engine killed, the job deleted by its owner, the rehearsal of the real chain."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.hosts import wait_until
from tests.servers.jobs_hub import UNIT_MICRO_USD, WRITER, JobsHub, hardware, jobs_hub
from tests.servers.rented import OFFER
from tests.test_engine.remote_toys import STEPS, artifacts, kill_at, money, new_run
from tests.test_plugins.hf_jobs_toys import Stepped, ends_as, make_toys_python, on, steps, undisturbed

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "examples" / "handbook" / "guide"
FORGE = """
import sys
from forge.cli.app import main
from forge.plugins.compute import hf_jobs
hf_jobs.HfJobs.creation_seconds = hf_jobs.HfJobs.confirm_seconds = hf_jobs.POLL_SECONDS = 0.2
sys.argv[0] = "forge"
main()
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobsHub]:
    with jobs_hub(tmp_path / "hub") as made:
        made.prices.append(hardware(OFFER.name, UNIT_MICRO_USD, gpu="L4", vram="24 GB"))
        monkeypatch.setenv("HF_ENDPOINT", made.url)
        monkeypatch.setenv("HF_TOKEN", WRITER)
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("forge.plugins.compute.hf_jobs.POLL_SECONDS", 0.05)
        monkeypatch.setattr("forge.plugins.compute._hf_hub.FIRST_PAUSE", 0.01)
        yield made


@pytest.fixture
def toys_python(tmp_path: Path) -> str:
    return make_toys_python(tmp_path / "python")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The artifacts of an undisturbed run elsewhere."""
    return undisturbed(tmp_path_factory.mktemp("straight"))


def test_kill_9_of_the_engine_here_and_there_ends_in_the_same_bytes_and_the_hubs_bill(
    hub: JobsHub, toys_python: str, tmp_path: Path, straight: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said, number = "killed", 1
    while said == "killed":
        monkeypatch.setenv("FORGE_HOME", str(tmp_path / f"home-{number}"))
        new_run(tmp_path / str(number)).close()
        said = on(Stepped(toys_python, kill_at(number)))
        if said == "killed":
            assert on(Stepped(toys_python)) == "done"
        settled, reserved, _ = money()
        assert (reserved, hub.up()) == (0, []), number
        assert settled in (UNIT_MICRO_USD, 2 * UNIT_MICRO_USD)
        made = artifacts()
        assert {name: made[name] for name in ("weights", "curve", "model")} == {name: straight[name] for name in ("weights", "curve", "model")}, number
        number += 17   # a sample: CI has two cores; the provider's own steps are all in test_compute_hf_jobs.py
    assert said == "done"
    assert number > 40
    assert max(map(len, steps(hub))) == STEPS


def test_a_job_that_its_owner_deletes_is_lost_and_another_goes_on_from_the_checkpoint(
    hub: JobsHub, toys_python: str, tmp_path: Path, straight: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORGE_HOME", str(tmp_path / "home"))
    new_run(tmp_path).close()

    def delete() -> None:
        wait_until(lambda: list(tmp_path.glob("hub/*/.slm-forge/leases/*/waits")))
        wait_until(lambda: list((tmp_path / "home").glob("runs/toy/work/train/kept/*/*/checkpoint-4/state.json")))
        hub.end(hub.jobs[min(hub.jobs)], "DELETED")
        wait_until(lambda: len(hub.jobs) > 1)
        wait_until(lambda: list(hub.jobs[max(hub.jobs)].folder.glob(".slm-forge/leases/*/waits")))
        for place in hub.jobs[max(hub.jobs)].folder.glob(".slm-forge/leases/*/waits"):
            (place.parent / "go").touch()

    threading.Thread(target=delete, daemon=True).start()
    assert on(Stepped(toys_python), train__wait_at=6) == "done"
    ends_as(hub, straight)
    first, second = steps(hub)
    assert (first, second[-1]) == ([1, 2, 3, 4, 5], STEPS)
    assert second[0] == 5, "from the checkpoint after step 4"
    assert hub.bill() == 2 * UNIT_MICRO_USD


@pytest.mark.slow
def test_the_rehearsal_of_the_real_chain_trains_in_a_job_and_comes_back(hub: JobsHub, tmp_path: Path) -> None:
    settings = {"hf-jobs": {"python": sys.executable, "flavors": ["cpu-basic"]}}
    (tmp_path / "forge.yaml").write_text(json.dumps(settings), encoding="utf-8")

    def forge(*arguments: str, code: int = 0) -> str:
        env = {**os.environ, "FORGE_HOME": str(tmp_path / ".forge"), "XDG_STATE_HOME": str(tmp_path / "state"), "HF_HUB_OFFLINE": "0"}
        done = subprocess.run([sys.executable, "-c", FORGE, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=280)
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    waiting = forge("run", str(GUIDE), "--dry-run", "--budget", "1", "--provider", "hf-jobs", "--id", "first", code=3)
    assert hub.posts == 0, "nothing is leased before a person has agreed"
    approval = re.search(r"forge approve first --plan ([0-9a-f]+)", " ".join(waiting.split()))
    assert approval
    forge("approve", "first", "--plan", approval[1])
    forge("resume", "first")
    status = json.loads(forge("status", "first", "--json"))
    assert {phase["status"] for phase in status["phases"]} == {"done"}
    assert (round(status["spent_usd"] * 1e6), status["reserved_usd"]) == (hub.bill(), 0)
    assert (hub.posts, hub.up(), hub.processes()) == (1, [], [])
    assert list((tmp_path / ".forge" / "runs" / "first" / "phases" / "quantize").rglob("*.gguf"))
