"""What a transport to a machine is, and programs of this machine as one."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

CHUNK = 1 << 20


class Broken(Exception):
    """A transport's connection failed, or may have: the program may or may not have run. Asked again by the channel."""


class Failed(Exception):
    """The program ran and failed, or could not be started. code: its exit code; text: what it wrote to stderr."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"exit code {code}: {text}")
        self.code, self.text = code, text


class Transport(Protocol):
    """Runs programs on one machine. where: the machine's name in messages; login: what a person types before a command there."""

    where: str
    login: str

    def stream(self, argv: Sequence[str], stdin: Iterable[bytes], *, seconds: float | None) -> Iterator[bytes]:
        """Start argv, feed it stdin, and yield what it writes.

        seconds: ends the call when it takes longer; None for transfers. Raises Broken when the connection failed, Failed when
        the program did, and ForgeErrors for what no waiting mends (host key, login).
        """
        ...

    def close(self) -> None:
        """Let go of connections; the transport can be used again."""
        ...


class Here:
    """A transport to this machine: for a cluster whose login node it is."""

    where: str = "this machine"
    login: str = ""

    def stream(self, argv: Sequence[str], stdin: Iterable[bytes], *, seconds: float | None) -> Iterator[bytes]:
        """Run argv here."""
        return run_program(argv, stdin, seconds=seconds, env=None)

    def close(self) -> None:
        """Nothing is held."""


def run_program(
    argv: Sequence[str], stdin: Iterable[bytes], *, seconds: float | None, env: Mapping[str, str] | None
) -> Iterator[bytes]:
    """Run a program here: fed from a thread, its stdout yielded. Raises Failed with its stderr, Broken when it takes too long."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=env, start_new_session=True)
        feeder = _Feeder(child, stdin)
        timer = threading.Timer(seconds or 0, child.kill)
        try:
            feeder.start()
            if seconds is not None:
                timer.start()
            assert child.stdout is not None
            while data := os.read(child.stdout.fileno(), CHUNK):
                yield data
            code = child.wait()
        finally:
            timer.cancel()
            child.kill()
            child.wait()
            feeder.join()
            if child.stdout is not None:
                child.stdout.close()
        if feeder.error is not None:
            raise feeder.error
        if seconds is not None and time.monotonic() - began >= seconds:
            raise Broken(f"no answer within {seconds:g} s")
        if code:
            errors.seek(0)
            raise Failed(code, errors.read().decode(errors="replace"))


def last_line(text: str) -> str:
    """What a program said last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


class _Feeder(threading.Thread):
    """Writes a program's stdin. error: why the bytes could not be had; the program is then ended, and takes nothing for the whole."""

    def __init__(self, child: subprocess.Popen[bytes], stdin: Iterable[bytes]) -> None:
        super().__init__(daemon=True)
        self.child, self.stdin = child, stdin
        self.error: Exception | None = None

    def run(self) -> None:
        assert self.child.stdin is not None
        try:
            for data in self.stdin:
                self.child.stdin.write(data)
            self.child.stdin.close()
        except (BrokenPipeError, ConnectionError):
            return   # its exit code says why it does not listen
        except Exception as error:  # noqa: BLE001 - raised again by run_program, in the caller's thread
            self.child.kill()
            self.error = error
