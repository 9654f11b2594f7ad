"""What is imported: help without pydantic, looking without torch, all of it quickly."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.test_cli.conftest import ROOT, Command

HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "llama_cpp", "gguf", "tokenizers", "numpy", "lxml", "pypdfium2")
CHECK = """
import sys
sys.argv = ["forge", *{words!r}]
{toys}
from forge.cli.app import run_command
code = run_command(sys.argv[1:])
print("code", code, "heavy", sorted(set({names!r}) & set(sys.modules)), file=sys.stderr)
"""
TOYS = "from forge import registry\nfrom tests.test_cli.toy_forge import points_with_toys\nregistry._points = points_with_toys(registry._points)"


def loaded(words: list[str], names: tuple[str, ...], *, toys: str = "") -> str:
    """The line that names the exit code and which of `names` a command loaded."""
    script = CHECK.format(words=words, names=names, toys=toys)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True, timeout=60, env=environment, check=True)
    return ran.stderr.splitlines()[-1]


def test_help_loads_neither_pydantic_nor_anything_heavy(work: Path) -> None:
    assert loaded(["--help"], ("pydantic", "yaml", "sqlite3", "rich", "click", *HEAVY)) == "code 0 heavy []"


@pytest.mark.parametrize("words", [[], ["run", "--help"], ["--version"], ["config", "--help"]], ids=" ".join)
def test_other_help_loads_what_typer_needs_and_no_more(work: Path, words: list[str]) -> None:
    assert loaded(words, ("yaml", "sqlite3", "rich", *HEAVY)) == "code 0 heavy []"   # typer 0.29 parses arguments with pydantic


@pytest.mark.parametrize("words", [["phases"], ["config", "show"], ["doctor"], ["plugins", "list"], ["skills", "list"], ["runs"]], ids=" ".join)
def test_looking_at_the_installation_loads_nothing_heavy(work: Path, words: list[str]) -> None:
    assert loaded(words, HEAVY).endswith("heavy []")


def test_looking_at_a_run_loads_nothing_heavy(toys: Command, corpus: Path) -> None:
    assert toys("run", corpus, "--budget", "1", "--id", "one").code == 0
    for words in (["status"], ["runs"], ["plan", "one"], ["cost"], ["report"], ["logs"], ["show", "read"]):
        assert loaded(words, HEAVY, toys=TOYS) == "code 0 heavy []", words


def test_help_is_there_at_once(work: Path) -> None:
    def seconds() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "forge", "--help"], check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        return time.perf_counter() - began

    assert min(seconds() for _ in range(5)) < 0.6   # 0.12 s on an idle machine
