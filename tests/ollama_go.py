"""Go's own text/template with what Ollama adds to it: tests/ollama_go/main.go, built once per session."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.programs import program

SOURCE = Path(__file__).parent / "ollama_go"


def build_ollama_go(folder: Path) -> Path:
    """The program, built without a network from Go's standard library alone: 0.3 CPU s with Debian's Go, whose library comes compiled."""
    go = program("go", "/usr/lib/go-*/bin/go", install="apt-get install --no-install-recommends golang-go")
    binary = folder / "ollama_go"
    alone = {"GOPROXY": "off", "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local", "GOCACHE": str(folder / "cache"), "GOPATH": str(folder / "path")}
    subprocess.run([go, "build", "-o", str(binary), "."], cwd=SOURCE, env={**os.environ, **alone}, check=True, timeout=300)
    return binary


def ask_go(binary: Path, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """One answer for each request: {"text": …}, {"parse": why Go refuses it} or {"run": where Go stops}."""
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run([str(binary)], input=lines, capture_output=True, text=True, encoding="utf-8", check=True, timeout=120)
    return [json.loads(line) for line in done.stdout.splitlines()]
