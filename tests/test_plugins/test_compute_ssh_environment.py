"""An environment on a host from a lock file with hashes: pip, a simple index on loopback, a venv, the running slm-forge as a wheel."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from forge.errors import ForgeError, MissingAccess
from forge.plugins.compute import _environment
from forge.plugins.compute._environment import check_lock
from forge.plugins.compute._wheel import build_wheel
from tests.servers.hosts import SshHost
from tests.test_plugins.ssh_world import ended, opened, reach

ROOT = Path(__file__).parents[2]
SERVE = "import http.server, functools, sys; http.server.ThreadingHTTPServer(('127.0.0.1', 8033), functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1])).serve_forever()"


ASK = (
    "import tinydep, forge; from importlib.metadata import version; from forge.plugins.compute._wheel import code_sha256;"
    "print(tinydep.answer, version('slm-forge'), code_sha256())"
)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshHost]:
    """A host whose python3 can make environments, with an index on its own loopback and no way to any other."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "python3").symlink_to(Path(sys.executable).resolve())
    with SshHost(tmp_path / "host", path=str(tools)) as host:
        (tmp_path / "index").mkdir()
        server = subprocess.Popen([*host._enter(), sys.executable, "-c", SERVE, str(tmp_path / "index")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        yield host
        server.kill()
        server.wait()


def publish(folder: Path, name: str, files: dict[str, str]) -> str:
    """A small wheel on the index; its sha256."""
    page = folder / "simple" / name
    page.mkdir(parents=True, exist_ok=True)
    info = f"{name}-1.0.dist-info"
    members = {**files, f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    lines = [f"{member},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text)}" for member, text in members.items()]
    wheel = page / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for member, text in {**members, f"{info}/RECORD": "\n".join([*lines, f"{info}/RECORD,,"]) + "\n"}.items():
            archive.writestr(zipfile.ZipInfo(member), text)
    (page / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def lock_file(path: Path, **hashes: str) -> Path:
    """A lock over some packages of the index."""
    lines = [f"{name}==1.0 \\\n    --hash=sha256:{sha256}\n" for name, sha256 in hashes.items()]
    path.write_text("# made by a test\n--index-url http://127.0.0.1:8033/simple\n" + "".join(lines))
    return path


def code_of(wheel: Path) -> str:
    """code_sha256() of the code in a wheel."""
    hasher = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(name for name in archive.namelist() if name.startswith("forge/")):
            hasher.update(f"{name} {hashlib.sha256(archive.read(name)).hexdigest()}\n".encode())
    return hasher.hexdigest()


def test_a_tampered_wheel_is_refused_and_with_the_right_one_an_environment_is_made_once(
    host: SshHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = build_wheel(tmp_path)
    monkeypatch.setattr(_environment, "build_wheel", lambda folder: wheel)   # the same one, whoever edits the checkout meanwhile
    right = publish(tmp_path / "index", "tinydep", {"tinydep.py": "answer = 42\n"})
    lock = lock_file(tmp_path / "machine.lock", tinydep=right)
    tampered = publish(tmp_path / "index", "tinydep", {"tinydep.py": "answer = 43\n"})
    _, channel = opened(host, reach(host, lock=str(lock)))
    with pytest.raises(ForgeError, match="could not be made") as refused:
        channel.prepare(lambda text: None)
    assert right in refused.value.why
    assert tampered in refused.value.why
    environments = host.home / ".slm-forge/environments"
    assert not list(environments.glob("*/ready"))
    publish(tmp_path / "index", "tinydep", {"tinydep.py": "answer = 42\n"})
    python = channel.prepare(lambda text: None)
    assert python.startswith(str(environments))
    channel.spawn("ask", [python, "-c", ASK], {})
    assert ended(channel, "ask") == 0
    assert channel.read("jobs/ask/log", 0).decode().split() == ["42", version("slm-forge"), code_of(wheel)]
    made = Path(python).parent.stat().st_mtime_ns
    resource, other = opened(host, reach(host, lock=str(lock)), token="lease-2")
    assert other.prepare(lambda text: None) == python
    assert Path(python).parent.stat().st_mtime_ns == made
    reach(host).stop(resource)
    assert Path(python).exists()


def test_a_lock_that_names_a_package_without_a_hash_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    lock = tmp_path / "machine.lock"
    lock.write_text("--index-url http://127.0.0.1:8033/simple\none==1.0 \\\n    --hash=sha256:" + 64 * "0" + "\ntinydep==1.0\n")
    with pytest.raises(ForgeError, match="has no hash for tinydep"):
        check_lock(lock)
    with pytest.raises(ForgeError, match="there is no lock file"):
        check_lock(tmp_path / "none")


def test_a_ready_python_is_taken_when_it_has_this_slm_forge_and_refused_when_it_has_none(host: SshHost, tmp_path: Path) -> None:
    _, channel = opened(host, reach(host, python=sys.executable))
    assert channel.prepare(lambda text: None) == sys.executable
    _, other = opened(host, reach(host, python="/usr/bin/python3"), token="lease-2")
    with pytest.raises(MissingAccess, match="cannot run slm-forge") as refused:
        other.prepare(lambda text: None)
    assert "leave ssh.python empty" in refused.value.next


def test_the_wheel_is_the_same_however_slm_forge_is_installed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    first, second = (build_wheel(tmp_path / name) for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        names = archive.namelist()
    assert {"forge/worker.py", "forge/phases/train/__init__.py", "forge/plugins/compute/_host.py", "forge/configs/machine.lock"} <= set(names)
    assert [name for name in names if "__pycache__" in name or name.startswith("tests/")] == []


def test_the_lock_that_ships_has_the_versions_that_are_tested_and_a_hash_for_each() -> None:
    pins = dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    tested = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    blocks = re.findall(r"^([a-z0-9.-]+)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", (ROOT / "configs/machine.lock").read_text(), re.MULTILINE)
    locked = {name: version for name, version, _ in blocks}
    lines = [line for line in (ROOT / "configs/machine.lock").read_text().splitlines() if line[:1].isalnum()]
    assert len(lines) == len(blocks)
    assert {"torch", "transformers", "trl", "peft", "gguf", "llama-cpp-python", "pydantic", "typer"} <= set(locked)
    assert {name: version for name, version in locked.items() if tested.get(name, version) != version} == {}
    assert "cuda-toolkit" in locked
