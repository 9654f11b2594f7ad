"""What a job has brought out of a machine that is gone: taken once, for what it was made, and never lost to an error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from forge.context import InputFile
from forge.errors import ForgeError
from forge.jobs import JobNotes
from forge.keeping import KeptHere
from forge.left import LeftBehind, save_all
from forge.phase import Output
from forge.remote import Unfetched
from forge.run import Run
from forge.store import hash_path
from forge.testing import tiny_corpus
from forge.worker import Failure, JobResult

FINGERPRINT = "f" * 64


class Leavings:
    """A folder that has what a machine had, under the same names."""

    durable, poll_seconds = False, 0.01

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fails: Exception | None = None

    def read(self, remote: str, offset: int) -> bytes:
        if self.fails:
            raise self.fails
        path = self.folder / remote
        return path.read_bytes()[offset:] if path.exists() else b""

    def get(self, remote: str, local: Path) -> None:
        if not (self.folder / remote).exists():
            raise ForgeError(f"there is no {remote}")
        shutil.copytree(self.folder / remote, local)

    def put(self, local: Path, remote: str, sha256: str = "") -> None:
        """Nothing is held in what does not change."""


class World:
    """A run whose job "train" ended on a machine of lease-1, and what that left."""

    def __init__(self, run: Run, folder: Path) -> None:
        self.run, self.left, self.is_up, self.events = run, Leavings(folder), False, list[dict[str, Any]]()
        self.note = JobNotes(run.state, "train").begin(FINGERPRINT, "lease-1/1")
        provider = SimpleNamespace(name="cloud", left=lambda token: self.left if token == "lease-1" else None)
        self.phase: Any = SimpleNamespace(name="train", where="machine", writes=(Output(name="weights", path="weights"),))
        self.pipeline: Any = SimpleNamespace(
            run=run, seed=1, forced=set[str](), forward=self.events.append, phases=[self.phase],
            leases=SimpleNamespace(provider_of=lambda token: provider, is_listed=lambda token: self.is_up),
        )
        self.job = folder / "jobs" / self.note.name
        self.job.mkdir(parents=True)

    def ends_well(self) -> None:
        weights = self.left.folder / "phases" / "train" / "out" / "weights"
        weights.mkdir(parents=True)
        (weights / "w.bin").write_bytes(b"weights")
        made = {"train": {"weights": InputFile(path="/there/weights", sha256=hash_path(weights))}}
        self.says(JobResult(metrics={"train": {"loss": 1.5}}, outputs=made), {"event": "progress", "phase": "train", "done": 8})

    def says(self, result: JobResult, *events: dict[str, Any]) -> None:
        (self.job / "result.json").write_text(result.model_dump_json(), encoding="utf-8")
        (self.job / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")

    def take(self, fingerprint: str = FINGERPRINT, *, of_live: bool = False) -> dict[str, Any] | None:
        return LeftBehind(self.pipeline, self.phase).take(fingerprint, of_live=of_live)

    @property
    def out(self) -> Path:
        return self.run.folder / "work" / "train" / "out"

    def told(self) -> str:
        return (self.run.folder / "events.jsonl").read_text(encoding="utf-8")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    run = Run.create(tiny_corpus(tmp_path / "corpus", {"a.txt": "a"}), dry_run=False, run_id="run-1")
    yield World(run, tmp_path / "left")
    run.close()


def test_a_result_is_taken_with_what_the_job_said_while_nobody_listened(world: World) -> None:
    world.ends_well()
    assert world.take() == {"loss": 1.5}
    assert (world.out / "weights" / "w.bin").read_bytes() == b"weights"
    assert [event["done"] for event in world.events] == [8]
    assert world.take() == {"loss": 1.5}
    assert len(world.events) == 1, "told once"
    assert "is taken from there" in world.told()


def test_it_is_taken_for_what_it_was_made_and_not_from_a_machine_that_is_up(world: World) -> None:
    world.ends_well()
    assert world.take("e" * 64) is None
    world.is_up = True
    assert world.take() is None
    assert world.take(of_live=True) == {"loss": 1.5}, "it is listed, but does not answer"


def test_a_phase_that_shall_run_again_takes_the_result_of_its_new_job_only(world: World) -> None:
    world.ends_well()
    world.pipeline.forced.add("train")
    left = LeftBehind(world.pipeline, world.phase)
    assert left.take(FINGERPRINT) is None
    again = JobNotes(world.run.state, "train").begin(FINGERPRINT, "lease-1/1")
    world.job.rename(world.job.with_name(again.name))
    assert left.take(FINGERPRINT) == {"loss": 1.5}


@pytest.mark.parametrize("failure", [Failure(kind="bug", fact="it broke"), None])
def test_of_a_job_that_did_not_end_well_the_checkpoint_is_brought(world: World, failure: Failure | None) -> None:
    kept = world.left.folder / "phases" / "train" / "kept"
    (kept / "2" / "checkpoint-4").mkdir(parents=True)
    (kept / "2" / "checkpoint-4" / "state.json").write_text("4", encoding="utf-8")
    (kept / "2.json").write_text(json.dumps({"number": 2, "path": "checkpoint-4", "folder": True}), encoding="utf-8")
    world.says(JobResult(failure=failure), *({"event": "kept", "phase": "train", "number": number} for number in (1, 2)))
    if failure is None:
        (world.job / "result.json").unlink()
    assert world.take() is None
    here = KeptHere(world.run.state, "train", FINGERPRINT, world.run.folder / "work" / "train").all()
    assert [(one.number, Path(one.here, "state.json").read_text(encoding="utf-8")) for one in here] == [(2, "4")]


def spoil(world: World) -> None:
    (world.left.folder / "phases" / "train" / "out" / "weights" / "w.bin").write_bytes(b"changed")


def garble(world: World) -> None:
    (world.job / "result.json").write_text('{"half": ', encoding="utf-8")


@pytest.mark.parametrize("damage", [spoil, garble])
def test_what_was_damaged_is_told_and_not_used(world: World, damage: Callable[[World], None]) -> None:
    world.ends_well()
    damage(world)
    assert world.take() is None
    assert "what was brought out of the machine is not used" in world.told()


def test_an_error_on_the_way_leaves_the_lease_open_unless_the_machine_is_up(world: World) -> None:
    world.ends_well()
    world.left.fails = ConnectionError("no network yet")
    with pytest.raises(Unfetched, match="could not be fetched") as told:
        world.take()
    assert "forge resume run-1 tries again; forge teardown run-1 removes it" in told.value.next
    world.is_up = True
    assert world.take(of_live=True) is None
    assert "no network yet" in world.told()


def test_what_lies_at_a_lease_that_is_closed_for_another_one_is_saved_before(world: World) -> None:
    world.ends_well()
    save_all(world.pipeline, "lease-1")
    assert not world.out.exists(), "its own lease stays"
    save_all(world.pipeline, "lease-2")
    world.left.fails = ConnectionError("gone with its lease")
    assert world.take() == {"loss": 1.5}
    (world.out / "weights" / "w.bin").write_bytes(b"changed")
    with pytest.raises(Unfetched):
        world.take()
