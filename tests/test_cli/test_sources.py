"""forge run over a list of sources, one file, and --preview, as a person types them."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from forge.run import runs_folder
from forge.testing import tiny_corpus
from tests.test_cli.conftest import Command

TEXT = "The pump starts when the valve is open. It stops when the tank is full. A red lamp shows that the fuse is gone.\n\n"


@pytest.fixture
def mixed(work: Path) -> Path:
    """A sources.yaml over a folder, a file and a SQLite query."""
    tiny_corpus(work / "lab", {"guide/a.md": "# Pump\n\n" + TEXT, "guide/b.md": "# Tank\n\n" + TEXT.replace("pump", "tank"), "notes.jsonl": '{"text": "One note."}\n{"text": "Two."}\n'})
    with sqlite3.connect(work / "lab" / "shop.db") as made:
        made.execute("CREATE TABLE ticket(id, title, body)")
        made.executemany("INSERT INTO ticket VALUES(?, ?, ?)", [(2, "Leak", "Replace the gasket of the pump, then tighten the four bolts crosswise."), (1, "Noise", "Fill the oil up to the mark.")])
    made.close()
    return tiny_corpus(work / "lab", {"sources.yaml": (
        "version: 1\nsources:\n"
        "  - {name: guide, kind: folder, path: guide}\n"
        "  - {name: notes, kind: file, path: notes.jsonl}\n"
        "  - {name: tickets, kind: sqlite, path: shop.db, query: 'SELECT * FROM ticket', id: id, text: '{title}: {body}'}\n"
    )}) / "sources.yaml"


def documents(run: str) -> dict[str, str]:
    """Path -> status of every document of a run."""
    lines = (runs_folder() / run / "phases" / "prep" / "documents.jsonl").read_text(encoding="utf-8").splitlines()
    return {document["source"]["path"]: document["status"] for document in map(json.loads, lines)}


def test_sources_of_several_kinds_become_passages_with_their_names(forge: Command, mixed: Path) -> None:
    ran = forge("run", mixed, "--id", "one", "--until", "prep")
    assert ran.code == 0, ran.err
    assert documents("one") == {"guide/a.md": "ok", "guide/b.md": "ok", "notes/notes.jsonl": "ok", "tickets/rows.jsonl": "ok"}
    passages = (runs_folder() / "one" / "phases" / "prep" / "passages.jsonl").read_text(encoding="utf-8")
    assert "Leak: Replace the gasket" in passages
    assert "source tickets (sqlite): 1 files" in ran.err


def test_a_second_run_fetches_nothing_and_a_changed_entry_only_itself(forge: Command, mixed: Path) -> None:
    forge("run", mixed, "--until", "prep")
    assert "fetched" not in forge("run", mixed, "--until", "prep").err
    assert "source tickets" in forge("run", mixed, "--until", "prep", "--refetch").err
    mixed.write_text(mixed.read_text(encoding="utf-8").replace("{title}: ", "{title} - "), encoding="utf-8")
    ran = forge("run", mixed, "--until", "prep")
    assert "source tickets" in ran.err
    assert len(list(runs_folder().iterdir())) == 1


def test_a_preview_shows_counts_and_samples_and_starts_nothing(forge: Command, mixed: Path) -> None:
    ran = forge("run", mixed, "--preview")
    assert ran.code == 0
    assert [line.split()[:4] for line in ran.out.splitlines()[1:4]] == [["guide", "folder", "2", str(2 * len(TEXT) + 16)], ["notes", "file", "1", "2"], ["tickets", "sqlite", "1", "2"]]
    assert "Noise: Fill the oil up to the mark." in ran.out
    assert ran.last == f"next: forge run {mixed} --dry-run"
    assert not runs_folder().exists()
    found = forge("run", mixed, "--preview", "--json").json
    assert [(row["name"], row["preview"]["rows"], len(row["preview"]["samples"])) for row in found] == [("guide", None, 2), ("notes", 2, 2), ("tickets", 2, 2)]


def test_a_folder_and_a_file_can_be_previewed_too(forge: Command, mixed: Path) -> None:
    assert forge("run", mixed.parent / "guide", "--preview", "--json").json[0]["preview"]["files"] == 2
    assert forge("run", mixed.parent / "notes.jsonl", "--preview", "--json").json[0]["preview"]["rows"] == 2
    forge("run", mixed.parent / "nowhere", "--preview").error(2)


def test_a_source_that_cannot_be_previewed_does_not_hide_the_others(forge: Command, mixed: Path) -> None:
    mixed.write_text(mixed.read_text(encoding="utf-8").replace("shop.db", "gone.db"), encoding="utf-8")
    ran = forge("run", mixed, "--preview")
    assert "guide" in ran.out
    assert ran.error(2)[0] == f'error: source "tickets": there is no file at {mixed.parent}/gone.db'


def test_one_file_is_a_corpus(forge: Command, mixed: Path) -> None:
    ran = forge("run", mixed.parent / "notes.jsonl", "--id", "one", "--until", "prep")
    assert ran.code == 0, ran.err
    assert documents("one") == {"notes.jsonl": "ok"}


def test_a_mistake_in_the_list_is_told_before_a_run_is_made(forge: Command, mixed: Path) -> None:
    mixed.write_text(mixed.read_text(encoding="utf-8").replace("path: guide", "pth: guide"), encoding="utf-8")
    assert 'did you mean "path"?' in forge("run", mixed).error(2)[1]
    assert not runs_folder().exists()


def test_resume_goes_on_with_the_snapshot(forge: Command, mixed: Path) -> None:
    forge("run", mixed, "--id", "one", "--until", "prep")
    (mixed.parent / "shop.db").unlink()   # the source is gone, its snapshot is not
    ran = forge("resume", "one", "--from", "prep", "--until", "prep")
    assert ran.code == 0, ran.err
    assert "fetched" not in ran.err
    assert documents("one")["tickets/rows.jsonl"] == "ok"


def test_a_real_run_reads_what_its_rehearsal_fetched(forge: Command, mixed: Path) -> None:
    assert "source tickets (sqlite): fetching" in forge("run", mixed, "--id", "drill", "--dry-run", "--until", "prep").err
    ran = forge("run", mixed, "--id", "real", "--until", "prep")
    assert "source tickets (sqlite): 1 files of run drill are used again" in ran.err
    assert documents("real")["tickets/rows.jsonl"] == "ok"
    assert "fetching" in forge("run", mixed, "--new", "--until", "prep").err
