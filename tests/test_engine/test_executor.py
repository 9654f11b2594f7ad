"""Work that is cut into shards gives the same whoever does it, however many, and whatever is killed on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from forge.config import resolve
from forge.errors import ForgeError
from forge.executor import LocalExecutor, each, unfinished, write_shards
from forge.phases.prep import phase as prep
from forge.phases.prep.extract import ReadJob
from forge.pipeline import Pipeline
from forge.records import CorpusEntry
from forge.registry import Registry
from forge.run import Run
from forge.sections import all_sections
from forge.testing import run_phase, tiny_corpus

SHARDS = [[number, number + 1] for number in range(0, 14, 2)]


def total(shard: list[int]) -> tuple[int, int]:
    """The sum, and in which process."""
    return sum(shard), os.getpid()


def dies_once(shard: tuple[Path, int]) -> int:
    """Killed the first time that it comes to shard 2."""
    folder, number = shard
    if number == 2 and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    with (folder / "did").open("a") as file:
        file.write(f"{number}\n")
    return number


def breaks(shard: int) -> int:
    """Cannot do shard 1."""
    if shard == 1:
        raise ValueError("cannot be read")
    return shard


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_results_come_in_the_order_of_the_shards_from_any_number_of_workers(workers: int, tmp_path: Path) -> None:
    found = list(LocalExecutor(tmp_path / "shards", workers).map_shards(total, SHARDS))
    assert [number for number, _ in found] == [sum(shard) for shard in SHARDS]
    processes = {pid for _, pid in found}
    assert os.getpid() not in processes
    assert len(processes) <= workers


def test_a_shard_whose_process_is_killed_is_done_again_and_no_other(tmp_path: Path) -> None:
    shards = [(tmp_path, number) for number in range(4)]
    assert list(LocalExecutor(tmp_path / "shards", 2).map_shards(dies_once, shards)) == [0, 1, 2, 3]
    assert sorted((tmp_path / "did").read_text().split()) == ["0", "1", "2", "3"]


def test_a_shard_that_fails_again_and_again_is_an_error_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(ForgeError, match="3 times") as told:
        list(LocalExecutor(tmp_path / "shards", 2).map_shards(breaks, [0, 1, 2]))
    assert told.value.why == "ValueError: cannot be read"


def reads(shard: list[str]) -> list[str]:
    """Breaks at one item, or dies of another."""
    for one in each(shard, lambda item: f"document {item}"):
        if one == "broken.md":
            raise ValueError("cannot be read")
        if one == "huge.md":
            os.kill(os.getpid(), signal.SIGKILL)
    return shard


@pytest.mark.parametrize(("bad", "why"), [("broken.md", "ValueError: cannot be read, at document broken.md"), ("huge.md", "its process was killed, at document huge.md")])
def test_a_shard_that_fails_or_is_killed_is_told_with_the_item_it_had_come_to(bad: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(ForgeError, match="3 times") as told:
        list(LocalExecutor(tmp_path / "shards", 2).map_shards(reads, [["a.md"], ["b.md", bad, "c.md"]]))
    assert told.value.why == why
    assert "run.shards=0" in told.value.next


WRITES = """
import sys
from pathlib import Path
from forge.executor import write_shards
from forge.phases.prep import phase as prep
from forge.phases.prep.extract import ReadJob
from forge.records import CorpusEntry
from tests.test_engine.test_executor import jobs_of

jobs = [ReadJob(entry=CorpusEntry(kind="file", sha256=f"{n}", path=f"{n}.md", size=3), sidecars={}) for n in range(3)]
names = ["same", "".join(["sa", "me"])] if sys.argv[2] == "1" else ["same"] * 2
print(write_shards(Path(sys.argv[1]), jobs_of, [jobs, names]))
"""


def jobs_of(shard: list[ReadJob]) -> list[str]:
    """The paths."""
    return [job.entry.path for job in shard]


def test_every_process_knows_the_same_work_by_the_same_name(tmp_path: Path) -> None:
    told = {
        subprocess.run([sys.executable, "-c", WRITES, str(tmp_path / seed), seed], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True).stdout
        for seed in ("1", "2")
    }
    assert len(told) == 1
    jobs = [ReadJob(entry=CorpusEntry(path=f"{number}.md", kind="file"), sidecars={}) for number in range(2)]
    assert list(LocalExecutor(tmp_path / "shards", 1).map_shards(same, [jobs])) == [jobs]


def same(shard: list[ReadJob]) -> list[ReadJob]:
    """What it gets."""
    return shard


def test_shards_are_written_one_at_a_time(tmp_path: Path) -> None:
    made: list[weakref.ref[Shard]] = []
    write_shards(tmp_path / "shards", total, fresh_shards(made))
    assert len(made) == 5
    assert unfinished(tmp_path / "shards") == list(range(5))


class Shard(list[int]):
    """One that can be referred to weakly."""


def fresh_shards(made: list[weakref.ref[Shard]]) -> Iterator[Shard]:
    for number in range(5):
        assert sum(one() is not None for one in made) <= 1
        shard = Shard([number])
        made.append(weakref.ref(shard))
        yield shard


def test_a_later_process_goes_on_with_the_results_that_are_there_and_other_work_begins_anew(tmp_path: Path) -> None:
    shards = [(tmp_path, number) for number in range(3)]
    (tmp_path / "died").touch()
    stopped = LocalExecutor(tmp_path / "shards", 1, tick=lambda: stop_after(tmp_path / "shards", 1))
    with pytest.raises(InterruptedError):
        list(stopped.map_shards(dies_once, shards))
    assert list(LocalExecutor(tmp_path / "shards", 1).map_shards(dies_once, shards)) == [0, 1, 2]
    did = (tmp_path / "did").read_text().split()
    assert set(did) == {"0", "1", "2"}
    assert did.count("0") == 1   # the second may have been at work when the first process was stopped
    write_shards(tmp_path / "shards", total, SHARDS)
    assert unfinished(tmp_path / "shards") == list(range(7))


def stop_after(folder: Path, results: int) -> None:
    if len(list(folder.glob("*.result"))) >= results:
        raise InterruptedError


def prepared(folder: Path, name: str, **run: object) -> dict[str, str]:
    """The artifacts of prep and audit of a run over the folder's corpus."""
    registry = Registry()
    made = Run.create(folder / "corpus", dry_run=False, run_id=name)
    flags = [f"run.{key}={json.dumps(value)}" for key, value in run.items()] + ["audit.min_passages=1", "audit.quality_signals=0", "audit.near_duplicate=1.0"]
    config = resolve(all_sections(registry), environment={}, folder=Path("/nonexistent"), flags=flags)
    with made.lock():
        made.remember(config)
        Pipeline(made, registry, config).execute("audit")
    found = {one.name: one.sha256 for one in made.store.all() if not one.telemetry}
    made.close()
    return found


def write_corpus(folder: Path) -> None:
    """Twelve short documents, two of them in French."""
    topics = ("pumps", "valves", "filters", "gauges", "seals", "motors", "tanks", "hoses", "clamps", "sensors")
    english = {f"{topic}.md": f"# About {topic}\n\n" + " ".join(f"The {topic} in hall {number} are inspected by a trained person every {number} weeks, and the result is written down." for number in range(2, 9)) for topic in topics}
    french = {f"fr-{number}.md": "# Les pompes\n\n" + " ".join(f"La pompe numéro {number}{place} doit être contrôlée chaque semaine par une personne formée." for place in range(8)) for number in range(2)}
    tiny_corpus(folder / "corpus", {**english, **french})


def test_prep_and_audit_write_the_same_bytes_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_corpus(tmp_path)
    expected: dict[str, str] = {}
    for name, run in {"whole": {}, "two": {"shards": 2}, "five": {"shards": 5}}.items():
        monkeypatch.setenv("FORGE_HOME", str(tmp_path / name))
        found = prepared(tmp_path, name, **run)
        expected = expected or found
        assert {key: found[key] for key in ("documents", "passages", "clean", "drops", "audit")} == {key: expected[key] for key in ("documents", "passages", "clean", "drops", "audit")}
        assert not [*tmp_path.rglob("shards-*")]   # the phases are done


def test_reading_in_shards_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.context.LOOK_SECONDS", 0.0)
    write_corpus(tmp_path)
    run = run_phase(prep, tmp_path / "run", corpus=tmp_path / "corpus", shards=3)
    assert "1 of 3 shards" in {fields["note"] for kind, fields in run.events if kind == "progress"}
