"""The worked example of an extractor plugin is installed by pip, for real, and reads its files without being named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from forge.conformance import check_plugin

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples" / "plugins").glob("forge-extractor-*"))


@pytest.mark.parametrize("package", EXAMPLES, ids=lambda package: package.name)
def test_an_example_conforms(package: Path) -> None:
    assert [check.name for check in check_plugin(package)] == ["imports", "protocol", "declares", "bad files", "vectors"]


@pytest.mark.slow
def test_an_installed_example_reads_its_files(tmp_path: Path) -> None:
    package = ROOT / "examples/plugins/forge-extractor-bibtex"
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation", "--target", str(site)]
    done = subprocess.run([*pip, str(package)], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    env = {**os.environ, "PYTHONPATH": str(site)}
    extract = [sys.executable, "-m", "forge", "extract", str(package / "vectors"), "--out", "text.jsonl", "--json"]
    ran = subprocess.run(extract, capture_output=True, text=True, check=False, cwd=tmp_path, env=env)
    assert ran.returncode == 0, ran.stderr
    lines = {line["path"]: line for line in map(json.loads, (tmp_path / "text.jsonl").read_text(encoding="utf-8").splitlines())}
    assert "Leases that end by themselves: A deadline on the machine" in lines["references.bib"]["text"]
    without = {**env, "PYTHONPATH": ""}
    subprocess.run(extract, capture_output=True, check=False, cwd=tmp_path, env=without)
    lines = {line["path"]: line for line in map(json.loads, (tmp_path / "text.jsonl").read_text(encoding="utf-8").splitlines())}
    assert "@article" in lines["references.bib"]["text"]
