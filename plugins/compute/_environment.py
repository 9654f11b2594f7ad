"""The Python that jobs on a machine run with: one that is there already, or one made there from a lock file with hashes."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import as_file, files
from pathlib import Path

from forge.errors import ForgeError, MissingAccess
from forge.plugins.compute._channel import HostChannel
from forge.plugins.compute._wheel import DISTRIBUTION, build_wheel, code_sha256
from forge.store import hash_file

Tell = Callable[[str], None]

ASK = "import json; from importlib.metadata import version; from forge.plugins.compute._wheel import code_sha256 as c; print(json.dumps([version('slm-forge'), c()]))"
CMAKE_ARGS = "-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF"
"""As in the Makefile: llama.cpp's native build crashes on some processors."""
LOG_TAIL = 2000


@dataclass(frozen=True)
class ReadyPython:
    """A Python on the machine that has slm-forge and what the run's phases need."""

    python: str

    def __call__(self, channel: HostChannel, tell: Tell) -> str:
        """The Python, once it has told that it has this version. Raises MissingAccess."""
        name = f"check-python-{_short(self.python + code_sha256())}"
        code, log = run_job(channel, name, [self.python, "-I", "-c", ASK], tell, "")
        where = channel.host.transport.where
        if code:
            raise MissingAccess(
                f"{self.python} on {where} cannot run slm-forge", why=log.strip().splitlines()[-1] if log.strip() else f"exit code {code}",
                next=f"install slm-forge {version(DISTRIBUTION)} there, or leave ssh.python empty: an environment is then made from a lock file",
            )
        found, code_there = json.loads(log.strip().splitlines()[-1])
        if found != version(DISTRIBUTION):
            raise MissingAccess(
                f"{self.python} on {where} has slm-forge {found}, this is {version(DISTRIBUTION)}", why="both sides must be the same version",
                next=f"install {version(DISTRIBUTION)} there, or leave ssh.python empty",
            )
        if code_there != code_sha256():
            tell(f"slm-forge on {where} is {found} too, but its code differs from the one here")
        return self.python


@dataclass(frozen=True)
class LockedEnvironment:
    """An environment made from a lock file in `folder` on the machine, kept there for the next run.

    lock: the file; None = configs/machine.lock.
    """

    folder: str
    lock: Path | None = None

    def __call__(self, channel: HostChannel, tell: Tell) -> str:
        """The environment's Python; made when it is not there, which takes minutes. Raises ForgeError with pip's reason."""
        with tempfile.TemporaryDirectory() as scratch, self._file() as lock:
            return self._make(channel, lock, build_wheel(Path(scratch)), tell)

    def name(self) -> str:
        """What the lock's packages are called in `folder`, without slm-forge (_host_environment.py). Raises ForgeError for a bad lock."""
        with self._file() as lock:
            check_lock(lock)
            return hash_file(lock)[:16]

    def _file(self) -> AbstractContextManager[Path]:
        return nullcontext(self.lock) if self.lock else as_file(files("forge") / "configs" / "machine.lock")

    def _make(self, channel: HostChannel, lock: Path, wheel: Path, tell: Tell) -> str:
        check_lock(lock)
        script, where = Path(__file__).with_name("_host_environment.py"), channel.host.transport.where
        sent = {name: (path, hash_file(path)) for name, path in {"lock": lock, "wheel": wheel, "script": script}.items()}
        places = {name: f"environment/{sha256}/{path.name}" for name, (path, sha256) in sent.items()}
        for name, (path, sha256) in sent.items():
            channel.put(path, places[name], sha256)
        spec = {
            "lock": channel.path(places["lock"]), "lock_sha256": sent["lock"][1], "wheel": channel.path(places["wheel"]),
            "wheel_sha256": sent["wheel"][1], "folder": self.folder, "cmake_args": CMAKE_ARGS,
        }
        text = json.dumps(spec, sort_keys=True)
        name = _short(text + sent["script"][1])
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write(text)
            file.flush()
            channel.put(Path(file.name), f"environment/{name}.json")
        command = [channel.host.python, "-I", channel.path(places["script"]), channel.path(f"environment/{name}.json")]
        code, log = run_job(channel, f"environment-{name}", command, tell, f"making the environment on {where}: minutes, the first time")
        if code:
            failed = [line for line in log.splitlines() if line.startswith("failed: ")]
            raise ForgeError(
                f"the environment on {where} could not be made", why=failed[-1].removeprefix("failed: ") if failed else log[-LOG_TAIL:],
                next="forge resume tries again; --set ssh.python=PATH takes a ready one",
            )
        return log.strip().splitlines()[-1]


def check_lock(lock: Path) -> None:
    """Raise ForgeError for a lock file that is not there, or that names a package without a hash."""
    remedy = "make one with uv pip compile --generate-hashes, or --set ssh.lock= for the one that ships"
    if not lock.is_file():
        raise ForgeError(f"there is no lock file {lock}", next=remedy)
    blocks = re.split(r"^(?=[A-Za-z0-9])", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)
    bare = [block.split("=")[0].strip() for block in blocks if block[:1].isalnum() and "--hash=sha256:" not in block]
    if bare:
        raise ForgeError(f"the lock file {lock.name} has no hash for {', '.join(bare[:5])}", why="what is installed on a host is checked byte for byte", next=remedy)


def run_job(channel: HostChannel, name: str, argv: list[str], tell: Tell, slow: str) -> tuple[int, str]:
    """Run a small program of ours as a job; its exit code and output. One that failed before is run again, under another number.

    slow: what to tell the user when it takes long; "" = nothing.
    """
    job = next(f"{name}-{number}" for number in range(1, 1000) if not _failed(channel, f"{name}-{number}"))
    channel.spawn(job, argv, {}, results=False)
    pause = 0.2
    while (code := channel.poll(job)) is None:
        if slow and pause >= channel.poll_seconds:
            tell(slow)
            slow = ""
        time.sleep(pause)
        pause = min(1.5 * pause, channel.poll_seconds)
    return code, channel.read(f"jobs/{job}/log", 0).decode(errors="replace")


def _failed(channel: HostChannel, job: str) -> bool:
    """-1 is a job that was never started, or one that is gone without a code: that one left its watcher's pid."""
    code = channel.poll(job)
    return code not in (None, 0, -1) or (code == -1 and bool(channel.read(f"jobs/{job}/.job/pid", 0)))


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
