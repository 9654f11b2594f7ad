"""Runs the Python on the card as it stands, in the staged folder: a reader's first minute, before there is a reader."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from importlib.util import find_spec

from forge.phases.publish.staged import Staged

PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
IMPORTED = re.compile(r"^\s*(?:from|import)\s+(\w+)", re.MULTILINE)
NEEDED = {"transformers": "torch"}
"""What a library needs besides itself before the card's lines run."""

LARGEST = 200_000_000
"""Parameters: a larger model in float32 is no business of the machine that writes cards."""
SECONDS = 180
DIED = "died with"


def snippets_of(body: str) -> list[tuple[str, str]]:
    """(library, code) of every Python snippet; the library is the first that it imports, sys for none."""
    return [((IMPORTED.findall(code) or ["sys"])[0], code) for code in PYTHON.findall(body)]


def run_snippets(staged: Staged) -> tuple[list[str], list[str]]:
    """(problems, what was not run and why). A snippet must end well and print something."""
    problems: list[str] = []
    left: list[str] = []
    for library, code in snippets_of(staged.body):
        if reason := why_not(library, staged.facts.parameters):
            left.append(f"{library}: {reason}")
        elif problem := _run(code, staged):
            (left if problem.startswith(DIED) else problems).append(f"README.md: the {library} snippet {problem}")
    return problems, left


def why_not(library: str, parameters: int) -> str:
    """Why a snippet is not run here; empty when it can be."""
    if parameters > LARGEST:
        return f"{parameters:,} parameters, snippets are tried up to {LARGEST:,}"
    absent = [name for name in (library, NEEDED.get(library, library)) if find_spec(name) is None]
    return f"{absent[0]} is not installed here" if absent else ""


def _run(code: str, staged: Staged) -> str:
    """What went wrong; empty when the snippet did what it says. Without the network: it uses what lies in the folder."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        ran = subprocess.run(
            [sys.executable, "-c", code], cwd=staged.folder, env=environment, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"did not end within {SECONDS} s"
    if ran.returncode < 0:   # a native library on a processor that it was not built for; quantize's own checks ran apart from it
        return f"{DIED} {signal.Signals(-ran.returncode).name} on this machine"
    if ran.returncode:
        words = [line for line in ran.stderr.strip().splitlines() if line.strip()]
        return f"fails: {(words or ['it said nothing'])[-1][:200]}"
    return "" if ran.stdout.strip() else "prints no answer"
