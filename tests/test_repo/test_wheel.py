"""The built wheel, installed by pip in a clean environment outside the repository, works.

`make setup` fills .wheelhouse with the core dependencies, so this needs no network. torch and llama.cpp are borrowed
from the developer's environment through a .pth file: installing gigabytes anew would prove nothing about our wheel.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WHEELHOUSE = ROOT / ".wheelhouse"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)], check=True, capture_output=True
    )
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """A new environment with nothing but the wheel and its declared core dependencies; returns its bin folder."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin/python"), "-m", "pip", "install", "-q", "--no-index", "--find-links", str(WHEELHOUSE)]
    done = subprocess.run([*pip, f"{wheel}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stderr}\n`make setup` fills {WHEELHOUSE.name}"
    return folder / "bin"


def command(bin_folder: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [str(bin_folder / arguments[0]), *arguments[1:]], cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=280
    )


def test_the_wheel_holds_everything_and_installs_one_name(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"forge"}
    for needed in (
        "forge/phases/audit/SKILL.md", "forge/phases/SKILL.md", "forge/configs/gates.yaml", "forge/configs/recipes/local-chat.yaml",
        "forge/Modelfile.j2", "forge/py.typed", "forge/plugins/extractors/pdf/__init__.py", "forge/phases/publish/card.md.j2",
    ):
        assert needed in names
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]


@pytest.mark.parametrize(
    "arguments",
    [
        ["forge", "--help"], ["slm-forge", "--version"], ["forge", "phases"], ["forge", "plugins", "list"], ["forge", "config", "show"],
        ["forge", "config", "recipes"], ["forge", "skills", "list"], ["forge", "skills", "show", "plan_fit"], ["forge", "runs"],
        ["forge", "init", "here", "--sample"], ["python", "-m", "forge", "--version"],
    ],
    ids=" ".join,
)
def test_every_entry_point_runs_with_only_the_declared_dependencies(clean: Path, tmp_path: Path, arguments: list[str]) -> None:
    done = command(clean, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_a_missing_extra_is_said_before_anything_starts(clean: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.md").write_text("# A\n\nText.\n", encoding="utf-8")
    done = command(clean, "forge", "run", "corpus", "--dry-run", cwd=tmp_path)
    assert done.returncode == 4
    assert "pip install 'slm-forge[" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_text_tools_work_without_any_extra(clean: Path, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# A heading\n\nSome text that stands below it.\n", encoding="utf-8")
    done = command(clean, "forge", "extract", "a.md", "--out", "out.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Some text" in (tmp_path / "out.jsonl").read_text(encoding="utf-8")


@pytest.mark.local
def test_the_installed_wheel_rehearses_the_whole_chain(clean: Path, tmp_path: Path) -> None:
    site = next((clean.parent / "lib").glob("python3.*")) / "site-packages"
    borrowed = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    (site / "zz_borrowed.pth").write_text(f"{borrowed}\n", encoding="utf-8")
    try:
        where = command(clean, "python", "-c", "import forge; print(forge.__file__)", cwd=tmp_path)
        assert str(clean.parent) in where.stdout
        assert command(clean, "forge", "init", ".", "--sample", cwd=tmp_path).returncode == 0
        done = command(clean, "forge", "run", "sample", "--dry-run", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "$0.00" in done.stdout
    finally:
        (site / "zz_borrowed.pth").unlink()
