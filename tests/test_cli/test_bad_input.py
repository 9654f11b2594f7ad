"""What goes wrong on a user's machine: each ends in three lines (fact, why, next) and the right exit code, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from forge.run import Run
from tests.test_cli.conftest import Command, finish, program

HANDBOOK = Path(__file__).resolve().parents[2] / "examples" / "handbook"
PROSE = (
    "The ledger keeps every reservation until the act that it belongs to has reported its real cost. "
    "A reservation that never reports back stays counted, because what may have been spent is treated as spent. "
)

PAID_TEACHER = '''
"""A teacher that costs money and counts its calls in a file."""
from pathlib import Path
from forge.plugins.teachers.offline import teacher as offline
from forge.protocols import TeacherCapabilities


class Fake:
    name = "fake"
    requires = ()

    def capabilities(self):
        return TeacherCapabilities(paid=True, deterministic=True)

    def price(self, request):
        return {price}

    def generate(self, requests):
        for response in offline.generate(requests):
            with Path({calls!r}).open("a") as file:
                file.write("called\\n")
            yield response.model_copy(update={{"micro_usd": {price} // 2}})


teacher = Fake()
'''


@pytest.fixture
def prose(work: Path) -> Path:
    """A small corpus that prep reads in a moment."""
    folder = work / "prose"
    folder.mkdir()
    for number in range(3):
        (folder / f"part{number}.md").write_text(f"# Part {number}\n\n{PROSE * 4}\n", encoding="utf-8")
    return folder


def test_a_corpus_that_is_not_there_starts_no_run(forge: Command, work: Path) -> None:
    (work / "documents").mkdir()
    rows = forge("run", "document").error(2)
    assert rows[:2] == ["error: there is no corpus at document", '  why: did you mean "documents"?']
    assert forge("runs", "--json").json == []


def test_an_empty_folder(forge: Command, work: Path) -> None:
    (work / "empty" / "deeper").mkdir(parents=True)
    ran = forge("run", "empty")
    assert ran.error(1)[:2] == ["error: the corpus is empty", "  why: empty holds no file"]
    assert "✓" not in ran.err + ran.out
    assert forge("runs", "--json").json == []


@pytest.mark.local
def test_a_folder_without_extractable_text(forge: Command, work: Path) -> None:
    folder = work / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    (folder / "empty.txt").write_text("", encoding="utf-8")
    ran = forge("run", folder)
    assert ran.error(1)[0].startswith("error: no file yielded text")
    assert "✓ prep" not in ran.err


@pytest.mark.local
def test_only_damaged_files(forge: Command, work: Path) -> None:
    folder = work / "damaged"
    folder.mkdir()
    (folder / "a.pdf").write_bytes(b"%PDF-1.4 broken")
    (folder / "b.docx").write_bytes(b"PK\x03\x04 broken")
    ran = forge("run", folder)
    rows = ran.error(1)
    assert "no file yielded text (2 names: 2 failed)" in rows[0]
    assert "a.pdf" in ran.err
    assert "b.docx" in ran.err


def test_more_damaged_files_than_allowed_fail_the_run_and_the_loss_can_be_accepted(forge: Command, prose: Path) -> None:
    for number in range(3):
        (prose / f"broken{number}.pdf").write_bytes(b"%PDF-1.4 broken" + bytes([number]))
    rows = forge("run", prose, "--until", "prep").error(1)
    assert "3 of 6 readable files failed" in rows[0]
    flag = rows[-1].partition("--set ")[2].split()[0]
    assert forge("resume", "--until", "prep", "--set", flag).code == 0


def test_a_corpus_may_be_one_file(forge: Command, prose: Path) -> None:
    ran = forge("run", prose / "part0.md", "--until", "prep")
    assert ran.code == 0
    assert "· part0.md ·" in ran.err


def test_a_home_inside_the_corpus_is_no_part_of_it(forge: Command, prose: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGE_HOME", str(prose / "my-runs"))
    assert forge("run", prose, "--until", "prep").code == 0
    again = forge("run", prose, "--until", "prep")
    assert "unchanged" in again.err
    documents = Run.open().folder / "phases" / "prep" / "documents.jsonl"
    assert "my-runs" not in documents.read_text(encoding="utf-8")


@pytest.mark.parametrize("budget", ["0", "0.01"])
def test_a_paid_teacher_over_budget_is_refused_before_its_first_call(forge: Command, work: Path, budget: str) -> None:
    plugins = paid_teacher(work, micro_usd=50_000)
    words = ("--plugin-dir", plugins, "--set", "synth.teacher=fake", "--until", "synth")
    rows = forge("run", HANDBOOK / "guide", "--budget", budget, *words).error(5)
    assert "could cost $0.05" in rows[0]
    assert calls(work) == 0
    told = forge("cost", "--json").json
    assert (told["settled_micro_usd"], told["reserved_micro_usd"]) == (0, 0)
    assert forge("status", "--json").json["outcome"] == "failed"


def test_a_larger_budget_continues_what_a_small_one_stopped_and_pays_nothing_twice(forge: Command, work: Path) -> None:
    plugins = paid_teacher(work, micro_usd=10_000)
    words = ("--plugin-dir", plugins, "--set", "synth.teacher=fake", "--until", "synth")
    assert forge("run", HANDBOOK / "guide", "--budget", "0.05", "--before-gate", "0.05", *words).code == 5
    first = calls(work)
    spent = forge("cost", "--json").json
    assert first > 0
    assert spent["settled_micro_usd"] + spent["reserved_micro_usd"] <= 50_000
    assert "--before-gate" in forge("resume", "--budget", "100", "--until", "synth").error(5)[-1]
    assert forge("resume", "--before-gate", "90", "--until", "synth").code == 0
    whole = calls(work)
    assert forge("resume", "--until", "synth", "--from", "synth").code == 0
    assert calls(work) == whole
    assert forge("cost", "--json").json["settled_micro_usd"] == whole * 5_000


def test_a_damaged_artifact_is_made_again(forge: Command, prose: Path) -> None:
    forge("run", prose, "--until", "prep")
    run = Run.open()
    artifact = run.store.get("passages")
    assert artifact is not None
    blob = run.folder / "artifacts" / artifact.sha256[:2] / artifact.sha256
    good = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    assert forge("resume", "--until", "prep").code == 0
    assert blob.read_bytes() == good


def test_a_damaged_state_says_which_run_and_how_to_start_anew(forge: Command, prose: Path) -> None:
    forge("run", prose, "--until", "prep", "--id", "old")
    state = Run.open("old").folder / "state.db"
    for beside in state.parent.glob("state.db-*"):
        beside.unlink()
    state.unlink()
    state.write_bytes(os.urandom(8192))
    for words in (["run", str(prose)], ["resume", "old"], ["status", "old"], ["cost", "old"]):
        rows = forge(*words).error(1)
        assert "old" in rows[0]
        assert "--new" in rows[-1]
    assert forge("run", prose, "--until", "prep", "--new").code == 0


def test_a_home_below_a_file_cannot_be_written(forge: Command, prose: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGE_HOME", str(prose / "part0.md" / "home"))
    rows = forge("run", prose).error(1)
    assert rows[0].startswith("error: cannot write to")
    assert "FORGE_HOME" in rows[-1]


def test_a_read_only_disk_says_so(prose: Path, work: Path) -> None:
    with small_disk(work / "disk", "8m") as disk:
        home = {"FORGE_HOME": str(disk)}
        assert finish(program("run", prose, "--until", "prep", "--id", "one", module="forge", env=home)).code == 0
        remount(disk, "ro")
        rows = finish(program("run", prose, "--new", module="forge", env=home)).error(1)
        assert "read-only" in rows[1].lower()
        rows = finish(program("resume", "one", module="forge", env=home)).error(1)
        assert "read-only" in rows[1].lower() or "readonly" in rows[1]


def test_a_full_disk_says_so_and_the_run_goes_on_after_room_was_made(
    forge: Command, prose: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        (prose / f"long{number}.txt").write_text(f"Chapter {number}. " + f"{PROSE} Number {number}. " * 100, encoding="utf-8")
    with small_disk(work / "disk", "1m") as disk:
        monkeypatch.setenv("FORGE_HOME", str(disk))
        rows = forge("run", prose, "--until", "prep", "--id", "one").error(1)
        assert rows[0] == "error: the disk is full"
        remount(disk, "size=64m")
        ran = forge("resume", "one", "--until", "prep")
        assert ran.code == 0, ran.err
        assert forge("status", "one", "--json").json["outcome"] == "stopped"


def test_a_disk_that_is_full_from_the_start(forge: Command, prose: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(work / "disk", "64k") as disk:
        monkeypatch.setenv("FORGE_HOME", str(disk / "home"))
        (disk / "filler").write_bytes(bytes(48 * 1024))
        assert "full" in " ".join(forge("run", prose, "--until", "prep").error(1))


def paid_teacher(work: Path, *, micro_usd: int) -> Path:
    """A folder with a teacher "fake" that costs `micro_usd` a request at worst, half of it in fact."""
    folder = work / "own-plugins"
    folder.mkdir()
    text = PAID_TEACHER.format(price=micro_usd, calls=str(work / "calls.txt"))
    (folder / "fake.py").write_text(text, encoding="utf-8")
    return folder


def calls(work: Path) -> int:
    """How often the paid teacher was called."""
    file = work / "calls.txt"
    return len(file.read_text(encoding="utf-8").splitlines()) if file.exists() else 0


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A disk of its own in memory; skips where mounting is not allowed."""
    place.mkdir()
    if os.geteuid() != 0 or mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)):
        pytest.skip("needs to mount a tmpfs")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def remount(place: Path, option: str) -> None:
    """Change a mounted disk."""
    if mount("-o", f"remount,{option}", str(place)):
        pytest.skip(f"cannot remount with {option}")


def mount(*words: str) -> int:
    """Exit status of mount."""
    return subprocess.run(["mount", *words], capture_output=True, check=False).returncode
