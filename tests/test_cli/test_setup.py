"""Setting up: a sample to try, settings to read, plugins to write and check, skills to install, the doctor."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from forge import conformance
from forge.extending import TEMPLATES
from tests.test_cli.conftest import Command

BROKEN_PLUGINS = {
    "does not parse": ("def (:", 1, "cannot be imported"),
    "imports what is not there": ("import no_such_library", 1, "no_such_library"),
    "exports nothing": ("x = 1", 1, "exports nothing"),
    "exports an unfinished extractor": ('class E:\n    name = "e"\nextractor = E()', 1, "has no media_types"),
    "lets the library's error through": (
        'class E:\n    name = "e"\n    media_types = ("a/b",)\n    extensions = {}\n    magic = {}\n    requires = ()\n'
        '    def extract(self, path, ctx):\n        raise ValueError("broken")\nextractor = E()', 1, "extract() raised ValueError: broken",
    ),
    "has no name": ("class E:\n    pass\nextractor = E()", 1, "has no name"),
}


def test_init_writes_settings_and_a_sample_that_a_run_can_read(forge: Command, work: Path) -> None:
    ran = forge("init", "--sample")
    assert ran.code == 0
    assert ran.last == "next: forge run sample --dry-run"
    assert forge("run", "sample", "--dry-run", "--until", "audit").code == 0
    assert len(list((work / "sample").iterdir())) >= 5


def test_init_never_overwrites(forge: Command, work: Path) -> None:
    (work / "forge.yaml").write_text("run:\n  seed: 3\n", encoding="utf-8")
    assert "exists already" in forge("init").error(2)[0]
    assert (work / "forge.yaml").read_text(encoding="utf-8") == "run:\n  seed: 3\n"


def test_the_settings_that_init_writes_are_valid(forge: Command, work: Path) -> None:
    forge("init")
    text = (work / "forge.yaml").read_text(encoding="utf-8")
    (work / "forge.yaml").write_text(text.replace("# audit:", "audit:").replace("#   ", "  ").replace("# synth:", "synth:"), encoding="utf-8")
    assert forge("config", "show", "--json").code == 0


def test_config_show_groups_by_section_and_fits_into_100_columns(forge: Command, work: Path) -> None:
    (work / "forge.yaml").write_text("audit:\n  min_words: 5\n", encoding="utf-8")
    rows = forge("config", "show", "--set", "run.seed=3").out.splitlines()
    assert max(map(len, rows)) <= 100
    assert rows[0] == "run"
    assert {"gate", "prep", "audit", "train"} <= set(rows)
    assert any(row.startswith("* seed ") and row.endswith("(from --set)") for row in rows)
    changed = rows.index(next(row for row in rows if row.startswith("* min_words")))
    assert "(from forge.yaml)" in " ".join(rows[changed : changed + 2])
    values = forge("config", "show", "--set", "run.seed=3", "--json").json
    assert {"key": "run.seed", "value": 3, "origin": "--set", "description": "seed of every random choice"} in values


def test_one_section_can_be_shown_alone(forge: Command) -> None:
    rows = forge("config", "show", "audit").out.splitlines()
    assert rows[0] == "audit"
    assert "prep" not in rows
    assert 'did you mean "audit"?' in forge("config", "show", "adit").error(2)[1]


def test_init_starts_from_a_recipe(forge: Command, work: Path) -> None:
    assert forge("init", "--recipe", "biomed-yesno").code == 0
    assert "rank: [4, 8, 16" in (work / "forge.yaml").read_text(encoding="utf-8")
    assert {row["key"]: row["origin"] for row in forge("config", "show", "--json").json}["plan_fit.sweep"] == "forge.yaml:sweep"
    assert "no recipe" in forge("init", "other", "--recipe", "biomed-yesnt").error(2)[0]


def test_recipes_are_listed_copied_and_used(forge: Command, work: Path) -> None:
    names = [row["name"] for row in forge("config", "recipes", "--json").json]
    if not names:
        pytest.skip("no recipe ships yet")
    assert forge("config", "copy", names[0], "mine.yaml").code == 0
    assert "exists already" in forge("config", "copy", names[0], "mine.yaml").error(2)[0]
    assert forge("config", "show", "--recipe", "mine.yaml").code == 0


def test_phases_are_listed_in_the_order_of_a_run(forge: Command) -> None:
    names = [phase["name"] for phase in forge("phases", "--json").json]
    assert names == ["prep", "audit", "synth", "shape", "plan_fit", "provision", "train", "eval", "quantize", "publish", "teardown"]


def test_plugins_are_listed_with_what_they_need(forge: Command) -> None:
    rows = forge("plugins", "list", "--json").json
    assert {"kind": "teacher", "name": "offline", "state": "ready"} in rows
    assert {row["kind"] for row in rows} >= {"extractor", "teacher", "provider"}


@pytest.mark.parametrize("kind", sorted(TEMPLATES))
def test_a_new_plugin_package_passes_its_check_and_is_used(forge: Command, work: Path, kind: str) -> None:
    ran = forge("plugins", "new", kind, "my_notes")
    assert ran.last == f"next: forge plugins check forge-{kind}-my-notes"
    assert "exists already" in forge("plugins", "new", kind, "my_notes").error(2)[0]
    checked = forge("plugins", "check", f"forge-{kind}-my-notes", "--json").json
    assert "protocol" in [check["name"] for check in checked["checks"]]
    rows = forge("plugins", "list", "--plugin-dir", f"forge-{kind}-my-notes", "--json").json
    assert any(row["name"] == "my_notes" for row in rows)


def test_a_plugin_file_is_checked_alone_whatever_lies_beside_it(forge: Command, work: Path) -> None:
    from forge.plugins.extractors import notebook

    (work / "own").mkdir()
    (work / "own" / "notebook.py").write_text(Path(notebook.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    (work / "own" / "helper.py").write_text("nothing = 1\n", encoding="utf-8")
    cell = '{"nbformat": 4, "cells": [{"cell_type": "markdown", "source": "A boat lies in the harbour."}]}'
    (work / "a.ipynb").write_text(cell, encoding="utf-8")
    assert "A boat lies" in forge("plugins", "check", "own/notebook.py", "--sample", "a.ipynb").out


def test_a_check_leaves_no_temporary_files(forge: Command, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = work / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    forge("plugins", "new", "extractor", "notes")
    assert forge("plugins", "check", "forge-extractor-notes").code == 0
    assert list(temporary.iterdir()) == []


def test_a_check_prints_the_passages_of_the_vectors_and_of_a_sample(forge: Command, work: Path) -> None:
    forge("plugins", "new", "extractor", "notes")
    (work / "a.notes").write_text("First paragraph.\n\nSecond paragraph.", encoding="utf-8")
    ran = forge("plugins", "check", "forge-extractor-notes", "--sample", "a.notes")
    assert "renews no lease twice" in ran.out
    assert "Second paragraph." in ran.out
    assert ran.last == "next: forge run CORPUS --plugin-dir forge-extractor-notes"


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"file": "example.notes", "must_include": ["no such phrase"]}', "the text does not include 'no such phrase'"),
        ('{"file": "example.notes", "must_not_include": ["watchdog"]}', "the text includes 'watchdog'"),
        ('{"file": "absent.notes"}', "expected.jsonl:1 names absent.notes"),
        ('{"path": "example.notes"}', "expected.jsonl:1 is no test vector"),
    ],
)
def test_a_vector_that_is_not_met_fails_the_check(forge: Command, work: Path, line: str, fault: str) -> None:
    forge("plugins", "new", "extractor", "notes")
    (work / "forge-extractor-notes/vectors/expected.jsonl").write_text(line + "\n", encoding="utf-8")
    assert fault in forge("plugins", "check", "forge-extractor-notes").error(1)[0]


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("import time; time.sleep(60)", "took longer than"),
        ("import os; os._exit(3)", "ended the process"),
        ("yield 'text'", "yielded str"),
        ("import random; yield Piece(text=str(random.random()))", "read differently the second time"),
        ("yield Piece(text='')", "gave no text"),
        ("raise ExtractError('always')", "was not read"),
    ],
)
def test_an_extractor_that_misbehaves_fails_the_check(
    forge: Command, work: Path, monkeypatch: pytest.MonkeyPatch, body: str, fault: str
) -> None:
    monkeypatch.setattr(conformance, "SECONDS_PER_FILE", 1.0)
    forge("plugins", "new", "extractor", "notes")
    module = work / "forge-extractor-notes/forge_extractor_notes.py"
    text = module.read_text(encoding="utf-8")
    start = text.index("        try:\n")
    module.write_text(f"{text[:start]}        {body}\n        yield from ()\n\n\nextractor = NotesExtractor()\n", encoding="utf-8")
    row = forge("plugins", "check", "forge-extractor-notes").error(1)
    assert fault in row[0], row


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('{".notes": MEDIA_TYPE}', '{".Notes": MEDIA_TYPE}', 'the extension ".Notes"'),
        ('{".notes": MEDIA_TYPE}', '{".notes": "text/other"}', "maps .notes to text/other"),
        ("magic: ClassVar[Mapping[bytes, str]] = {}", 'magic: ClassVar[Mapping[bytes, str]] = {b"P": MEDIA_TYPE}', "claims too much"),
        ("(MEDIA_TYPE,)", "()", "names no media types"),
    ],
)
def test_claims_that_prep_could_not_follow_fail_the_check(forge: Command, work: Path, old: str, new: str, fault: str) -> None:
    forge("plugins", "new", "extractor", "notes")
    module = work / "forge-extractor-notes/forge_extractor_notes.py"
    text = module.read_text(encoding="utf-8")
    assert old in text
    module.write_text(text.replace(old, new), encoding="utf-8")
    assert fault in forge("plugins", "check", "forge-extractor-notes").error(1)[0]


def test_an_own_extractor_reads_its_files(forge: Command, work: Path) -> None:
    forge("plugins", "new", "extractor", "notes")
    (work / "a.notes").write_text("First paragraph.\n\nSecond paragraph.", encoding="utf-8")
    ran = forge("extract", "a.notes", "--out", "text.jsonl", "--passages", "--plugin-dir", "forge-extractor-notes", "--json")
    assert ran.code == 0, ran.err
    line = json.loads((work / "text.jsonl").read_text(encoding="utf-8"))
    assert "Second paragraph." in line["text"]
    assert line["passages"][0]["locator"].startswith("paragraph=1")


@pytest.mark.parametrize("fault", BROKEN_PLUGINS)
def test_a_broken_plugin_is_told_what_is_wrong(forge: Command, work: Path, fault: str) -> None:
    text, code, part = BROKEN_PLUGINS[fault]
    (work / "own").mkdir()
    (work / "own" / "e.py").write_text(text, encoding="utf-8")
    rows = forge("plugins", "check", "own/e.py").error(code)
    assert part in rows[0] + rows[1]
    if "lets" not in fault and "unfinished" not in fault:
        (work / "corpus").mkdir()
        (work / "corpus" / "a.txt").write_text("text", encoding="utf-8")
        assert "own/e.py" in forge("run", "corpus", "--plugin-dir", "own").error(code)[0]
        assert forge("runs", "--json").json == []


def test_a_bad_plugin_name_and_a_missing_file(forge: Command) -> None:
    assert "cannot be a plugin name" in forge("plugins", "new", "extractor", "Not-A-Name").error(2)[0]
    assert "there is no plugin" in forge("plugins", "check", "nowhere.py").error(2)[0]


def test_skills_are_listed_shown_and_installed(forge: Command, work: Path) -> None:
    names = [row["name"] for row in forge("skills", "list", "--json").json]
    assert names[:2] == ["forge", "prep"]
    assert forge("skills", "show", "prep").out.startswith("---\nname: forge-prep")
    ran = forge("skills", "install")
    assert ran.code == 0
    assert ran.last.startswith("next: ")
    assert (work / ".claude" / "skills" / "forge-plan-fit" / "SKILL.md").is_file()
    assert forge("skills", "install", "--agents").code == 0
    assert (work / ".agents" / "skills" / "forge-prep" / "SKILL.md").is_file()


def test_the_doctor_names_a_missing_extra_and_how_to_get_it(forge: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None if name == "torch" else real(name, package))
    ran = forge("doctor")
    assert ran.code == 1
    row = next(row for row in ran.out.splitlines() if "extra [train]" in row)
    assert row.startswith("✗")
    assert "pip install 'slm-forge[train]'" in ran.out
    rows = forge("run", "--dry-run", str(Path(__file__).parent)).error(4)
    assert rows[1] == "  why: the [train] extra is not installed"


def test_extract_and_dedup_work_on_files(forge: Command, work: Path) -> None:
    folder = work / "in"
    folder.mkdir()
    text = "The quick brown fox jumps over the lazy dog while the cat sleeps on the warm roof of the old house."
    (folder / "a.md").write_text(text, encoding="utf-8")
    (folder / "b.md").write_text(text + " Today.", encoding="utf-8")
    ran = forge("extract", folder, "--out", "text.jsonl", "--json")
    assert (ran.code, ran.json["ok"]) == (0, 2)
    rows = [f'{{"id": "{name}", "text": "{text} {tail}"}}' for name, tail in (("a", ""), ("b", "Now."), ("c", "Now."))]
    (work / "rows.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    assert forge("dedup", "rows.jsonl", "--out", "kept.jsonl").code == 0
    assert len((work / "kept.jsonl").read_text(encoding="utf-8").splitlines()) < 3


def test_a_tool_that_lost_a_file_does_not_succeed(forge: Command, work: Path) -> None:
    folder = work / "in"
    folder.mkdir()
    assert "0 gave text" in forge("extract", folder, "--out", "none.jsonl").error(1)[0]
    (folder / "a.md").write_text("A sentence that is good.", encoding="utf-8")
    (folder / "b.pdf").write_bytes(b"%PDF-1.4 broken")
    ran = forge("extract", folder, "--out", "text.jsonl")
    assert "1 of 2 files failed" in ran.error(1)[0]
    for words in (["extract", "nowhere", "--out", "x"], ["dedup", "nowhere.jsonl", "--out", "x"]):
        assert forge(*words).error(2)
    (work / "bad.jsonl").write_text("not json\n", encoding="utf-8")
    assert forge("dedup", "bad.jsonl", "--out", "x.jsonl").code in (1, 2)


@pytest.mark.local
@pytest.mark.slow
def test_the_first_minute_works_from_an_empty_folder(forge: Command, work: Path) -> None:
    assert forge("init", "--sample").code == 0
    ran = forge("run", "sample", "--dry-run")
    assert ran.code == 0, ran.err
    assert "rehearsed in" in ran.out
    assert "forecast of the real run" in ran.out
    assert ran.last == "next: forge run sample --budget USD"
    for words in (["status"], ["report"], ["plan"], ["show", "eval"], ["cost"], ["logs"]):
        assert forge(*words).last.startswith("next: ")
    again = forge("run", "sample", "--dry-run")
    assert "nothing to do" in again.out


def test_doctor_has_a_line_for_each_provider_with_what_it_lacks(forge: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    found = {one["name"]: one for one in forge("doctor", "--json").json}
    assert found["provider local"]["state"] == "ok"
    assert (found["provider ssh"]["state"], found["provider ssh"]["detail"]) == ("missing", "no host is named")
    assert found["provider aws"]["state"] == "missing"
    monkeypatch.setenv("FORGE__SSH__HOST", "me@gpu1")
    assert {one["name"]: one["state"] for one in forge("doctor", "--json").json}["provider ssh"] == "ok"
