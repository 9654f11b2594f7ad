"""Runs on the machine as a job: makes a Python environment from a lock file with hashes. Standard library only, Python 3.8 and later.

    python3 -I _host_environment.py SPEC.json      {"lock", "lock_sha256", "wheel", "wheel_sha256", "folder", "cmake_args"}

    folder/<lock>/            a venv with what the lock file names, installed by pip --require-hashes
    folder/<lock>-<wheel>/    a venv that sees it and holds slm-forge: another version of slm-forge costs no second torch
    .../ready                 written last; a folder without it is made anew

Names are the first 16 digits of the sha256. The last line of stdout is the environment's Python.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

OLDEST = (3, 11)
FROM_SOURCE = "llama-cpp-python"
"""Comes as source only. Without a C++ compiler it is left out: models are then exported as F16 and Q8_0, as on any machine without one."""


def main(spec_file: str) -> int:
    """Make what is missing; 0 when the environment is ready."""
    spec = json.loads(Path(spec_file).read_text(encoding="utf-8"))
    folder = Path(spec["folder"]).expanduser()
    for name in ("lock", "wheel"):
        if _sha256(Path(spec[name])) != spec[f"{name}_sha256"]:
            return _fail(f"{spec[name]} is not the file that was sent")
    base = folder / spec["lock_sha256"][:16]
    whole = folder / f"{spec['lock_sha256'][:16]}-{spec['wheel_sha256'][:16]}"
    try:
        _make(base, lambda: _install(base, Path(spec["lock"]), spec.get("cmake_args", "")))
        _make(whole, lambda: _add(whole, base, Path(spec["wheel"])))
    except (OSError, subprocess.CalledProcessError, RuntimeError) as error:
        return _fail(str(error))
    _say(str(whole / "bin" / "python"))
    return 0


def _make(place: Path, build: Callable[[], None]) -> None:
    """build() unless it is ready; two runs that want the same one wait for each other."""
    with _alone(place):
        if (place / "ready").exists():
            _say(f"{place} is ready")
            return
        shutil.rmtree(str(place), ignore_errors=True)
        build()
        (place / "ready").touch()


def _install(place: Path, lock: Path, cmake_args: str) -> None:
    python = _newest_python()
    _say(f"{place} is made with {python}")
    _run([python, "-m", "venv", str(place)])
    pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--no-cache-dir", "--progress-bar", "off", "--require-hashes", "--no-deps"]
    wheels, source = _split(lock.read_text(encoding="utf-8"))
    (place / "wheels.txt").write_text(wheels, encoding="utf-8")
    _run([*pip, "--only-binary", ":all:", "-r", str(place / "wheels.txt")])
    if source and not (shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")):
        _say(f"{FROM_SOURCE} is left out: there is no C++ compiler here")
        return
    if source:
        (place / "source.txt").write_text(source, encoding="utf-8")
        os.environ["CMAKE_ARGS"] = cmake_args
        os.environ["PATH"] = f"{place / 'bin'}:{os.environ.get('PATH', '/usr/bin:/bin')}"   # cmake and ninja of the lock
        _run([*pip, "--no-build-isolation", "-r", str(place / "source.txt")])


def _add(place: Path, base: Path, wheel: Path) -> None:
    _run([str(base / "bin" / "python"), "-m", "venv", "--without-pip", str(place)])
    packages = next((place / "lib").glob("python3*/site-packages"))
    below = next((base / "lib").glob("python3*/site-packages"))
    (packages / "locked.pth").write_text(f"import site; site.addsitedir({str(below)!r})\n", encoding="utf-8")
    with zipfile.ZipFile(str(wheel)) as archive:
        archive.extractall(str(packages))
    _run([str(place / "bin" / "python"), "-c", "import forge"])


def _split(text: str) -> tuple[str, str]:
    """The lock's blocks that come as wheels, and those that are built; options ("--index-url …") go to both."""
    wheels: list[str] = []
    source: list[str] = []
    into = [0]
    for line in text.splitlines(keepends=True):
        if line[:1].isalnum():
            into = [1] if line.replace("_", "-").startswith(FROM_SOURCE) else [0]
        elif line.startswith(("--", "#")):
            into = [0, 1] if line.startswith("--") else []
        for number in into:
            (wheels, source)[number].append(line)
    return "".join(wheels), "".join(source) if any(line[:1].isalnum() for line in source) else ""


def _newest_python() -> str:
    """A Python that slm-forge runs on and that can make environments. Raises RuntimeError with what to install."""
    tried = []
    for name in (sys.executable, "python3", "python3.13", "python3.12", "python3.11", "python3.14"):
        code = "import sys, ensurepip, venv; print(sys.version_info[:2] >= (3, 11))"
        try:
            told = subprocess.run([name, "-I", "-c", code], capture_output=True, check=False, timeout=60)
        except OSError:
            continue
        if told.stdout.strip() == b"True":
            return name
        tried.append(f"{name} {'is too old' if told.stdout else 'has no venv'}")
    wanted = ".".join(map(str, OLDEST))
    raise RuntimeError(f"no Python {wanted} or later that can make a venv ({', '.join(tried)}): install python{wanted} and python{wanted}-venv, or name a ready one by ssh.python")


def _run(argv: list[str]) -> None:
    told = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    text = told.stdout.decode(errors="replace")
    _say(text)
    if told.returncode:
        raise RuntimeError(_why(text) or f"{' '.join(argv[:4])} ended with {told.returncode}")


def _why(text: str) -> str:
    """pip's own reason: the line that says ERROR, and for a wrong hash all that follows."""
    at = text.find("DO NOT MATCH THE HASHES")
    if at >= 0:
        return " ".join(text[text.rfind("\n", 0, at) + 1:].split())[:2000]
    errors = [line.strip() for line in text.splitlines() if "error" in line.lower() or "No space left" in line]
    return errors[-1] if errors else ""


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _fail(why: str) -> int:
    _say(f"failed: {why}")
    return 1


def _sha256(path: Path) -> str:
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        for data in iter(lambda: file.read(1 << 20), b""):
            hasher.update(data)
    return hasher.hexdigest()


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[None]:
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(str(place.with_name(f".{place.name}.lock")), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
