"""Run the command line inside the test, or as a program of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge import registry
from forge.cli.app import run_command
from tests.test_cli.toy_forge import points_with_toys
from tests.test_engine.toys import Buy

ROOT = Path(__file__).resolve().parents[2]


class Ran:
    """What a command left: exit code, stdout, stderr."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        """stdout as JSON."""
        return json.loads(self.out)

    @property
    def last(self) -> str:
        """The last line of stdout."""
        return self.out.rstrip().rpartition("\n")[2]

    def error(self, code: int) -> list[str]:
        """The lines of its error message, after checking that it is one: fact, why, next; no traceback."""
        assert self.code == code, self.err
        assert "Traceback" not in self.err + self.out
        rows = [line for line in self.err.splitlines() if line.startswith(("error:", "waiting:", "  why:", "  next:"))]
        assert rows, f"no error message in {self.err!r}"
        assert rows[0].startswith(("error:", "waiting:"))
        assert rows[-1].startswith("  next:")
        return rows


Command = Callable[..., Ran]


@pytest.fixture
def forge(work: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """forge("run", "corpus"): the installed phases, in this process, in an empty working directory."""

    def run(*words: str | Path) -> Ran:
        code = run_command([str(word) for word in words])
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return run


@pytest.fixture
def toys(forge: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The same over toy phases: read -> slow, buy -> plan_it -> gate -> finish, close."""
    monkeypatch.setattr(registry, "_points", points_with_toys(registry._points))
    Buy.calls.clear()
    Buy.fail_after = -1
    return forge


@pytest.fixture
def corpus(work: Path) -> Path:
    """A folder of two small documents."""
    folder = work / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text("one two three", encoding="utf-8")
    (folder / "b.txt").write_text("four five", encoding="utf-8")
    return folder


def program(*words: str | Path, module: str = "tests.test_cli.toy_forge", **options: Any) -> subprocess.Popen[str]:
    """Start forge as a program of its own; stdin is closed, streams are pipes unless told otherwise."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", **options.pop("env", {})}
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, words)], text=True, env=environment, **{**streams, **options}
    )


def finish(process: subprocess.Popen[str], seconds: float = 60) -> Ran:
    """Wait for a program and return what it left."""
    out, err = process.communicate(timeout=seconds)
    return Ran(process.returncode, out or "", err or "")
