"""What was typed wrongly is answered with the nearest spelling and exit code 2; nothing is started."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from forge.docs import command_reference
from tests.test_cli.conftest import ROOT, Command, finish, program


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (["rnu", "corpus"], "run"),
        (["run", "corpus", "--budgt", "3"], "--budget"),
        (["run", "corpus", "--set", "slow.itmes=3"], "items"),
        (["run", "corpus", "--set", "slwo.items=3"], "slow"),
        (["run", "corpus", "--until", "slwo"], "slow"),
        (["run", "corpus", "--recipe", "chat-loar"], "chat-lora"),
        (["run", "corpsu"], "corpus"),
        (["status", "frist"], "first"),
        (["resume", "first", "--from", "raed"], "read"),
        (["show", "raed", "first"], "read"),
        (["logs", "first", "--phase", "raed"], "read"),
        (["config", "shw"], "show"),
        (["config", "show", "--set", "slow.itmes=3"], "items"),
        (["config", "copy", "chat-loar"], "chat-lora"),
        (["skills", "show", "forge-raed"], "read"),
        (["plugins", "new", "extracter", "x"], "extractor"),
    ],
)
def test_a_mistyped_word_gets_the_nearest_spelling(
    toys: Command, corpus: Path, words: list[str], nearest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forge.config.recipe_names", lambda: ["chat-lora", "medical-ner"])
    assert toys("run", "corpus", "--budget", "1", "--id", "first", "--until", "read").code == 0
    rows = toys(*words).error(2)
    assert f'did you mean "{nearest}"?' in rows[1].replace("'", '"') or f"did you mean {nearest}?" in rows[1]


def test_a_mistyped_command_line_starts_no_run(toys: Command, corpus: Path) -> None:
    for words in (["--set", "slow.itmes=3"], ["--until", "slwo"], ["--recipe", "nonsense"], ["--plugin-dir", "nowhere"], ["--id", "Not An Id"]):
        assert toys("run", corpus, *words).code == 2
    assert toys("runs", "--json").json == []


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["run"], "missing argument"),
        (["run", "corpus", "--budget", "abc"], "'--budget'"),
        (["run", "corpus", "--budget", "-1"], "'--budget'"),
        (["run", "corpus", "--set", "slow.items"], "is not section.key=value"),
        (["run", "corpus", "--set", "slow.items=-3"], "slow.items cannot be -3"),
        (["run", "corpus", "--set", "slow.items=[1"], "slow.items"),
        (["show"], "missing argument"),
        (["extract", "corpus"], "'--out'"),
    ],
)
def test_a_wrong_value_names_the_option(toys: Command, corpus: Path, words: list[str], part: str) -> None:
    assert part in toys(*words).error(2)[0]


def test_an_unknown_key_in_a_file_names_the_file(toys: Command, corpus: Path) -> None:
    Path("forge.yaml").write_text("slow:\n  itmes: 4\n", encoding="utf-8")
    rows = toys("run", corpus).error(2)
    assert rows[0] == 'error: unknown setting "slow.itmes" (forge.yaml)'
    assert rows[1] == '  why: did you mean "items"?'


@pytest.mark.parametrize("text", ["slow: [1, 2\n", "- a\n- b\n", "slow: 3\n", "slow:\n  items: many\n", "\x00\x01"])
def test_a_broken_settings_file_is_a_usage_error(toys: Command, corpus: Path, text: str) -> None:
    Path("forge.yaml").write_text(text, encoding="utf-8")
    assert any("forge.yaml" in row or "slow.items" in row for row in toys("run", corpus).error(2))


def test_a_wrong_environment_variable_is_named(toys: Command, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGE__SLOW__ITMES", "3")
    assert "$FORGE__SLOW__ITMES" in toys("run", corpus).error(2)[0]


def test_errors_are_json_with_json(toys: Command, corpus: Path) -> None:
    for words in (["run", "nowhere"], ["rnu"], ["run", "corpus", "--budgt", "3"], ["status", "nope"]):
        ran = toys(*words, "--json")
        told = json.loads(ran.err)
        assert (ran.code, told["exit_code"]) == (2, 2)
        assert set(told) == {"error", "why", "next", "exit_code"}


def test_forge_alone_shows_how_to_start(toys: Command) -> None:
    ran = toys()
    assert ran.code == 0
    for text in ("forge init --sample", "forge run sample --dry-run", "Look:", "Set up:"):
        assert text in ran.out
    for group in ("config", "plugins", "skills"):
        assert "Commands:" in toys(group).out


def test_help_fits_into_eighty_columns(toys: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for words in ([], ["run"], ["status"], ["config", "show"], ["extract"]):
        assert max(map(len, toys(*words, "--help").out.splitlines())) <= 80


def test_the_command_reference_is_current() -> None:
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == command_reference(), "run make docs"


def test_the_shell_completes_run_ids_and_phases(toys: Command, corpus: Path) -> None:
    assert toys("run", corpus, "--id", "abc1", "--until", "read").code == 0
    for words, expected in ((["status", "a"], "abc1"), (["resume", "abc1", "--from", "sl"], "slow"), (["show", "fin"], "finish")):
        environment = {"_FORGE_COMPLETE": "complete_bash", "COMP_WORDS": f"forge {' '.join(words)}", "COMP_CWORD": str(len(words))}
        ran = finish(program(env={**os.environ, "PYTHONPATH": str(ROOT), **environment}))
        assert expected in ran.out.split(), ran.err
