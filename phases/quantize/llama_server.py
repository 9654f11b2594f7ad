"""`forge serve --engine llama-server`: llama.cpp's own server on the shipped file, for a GPU and for several answers at a time.

It is told what our own server (serving.py) keeps to: the shipped system prompt, lengths and greedy sampling. What differs: a client's own
temperature counts here, `abstained` is not told, and the Host of a request is not looked at.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from forge.errors import ForgeError, MissingAccess, UsageError
from forge.phases.quantize.jinja_template import read_template
from forge.phases.quantize.tool import Shipped, read_shipped

PROGRAM = "llama-server"
ADDRESS = "127.0.0.1"
AT_ONCE = 4
"""Answers that are made beside each other, each with a context of the shipped length."""
START_SECONDS = 600      # a large model from a slow disk
PR_SET_PDEATHSIG = 1


class LlamaServer:
    """llama.cpp's server as a process that ends when we do, however we end. Raises ForgeError where it does not start."""

    def __init__(self, folder: Path, *, name: str, port: int) -> None:
        program = find_program()
        self.shipped = read_shipped(folder)
        self.file, self.port = self.shipped.file, _take_port(port)
        self._folder = tempfile.TemporaryDirectory(prefix="forge-serve-")
        template, self._log = Path(self._folder.name) / "chat_template.jinja", Path(self._folder.name) / "llama-server.log"
        template.write_text(template_with_system(read_template(self.file), self.shipped.system), encoding="utf-8")
        command = command_line(program, self.shipped, template, name=name, port=self.port)
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,     # Ctrl-C is for us: ended by it at the same moment, the server would seem to have died
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
                env={**os.environ, "LLAMA_ARG_CORS_ORIGINS": "localhost"},     # by default it answers scripts of any web page
            )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.end()
            raise

    @property
    def url(self) -> str:
        """Where clients find it; OpenAI's take it as base_url."""
        return f"http://{ADDRESS}:{self.port}/v1"

    def serve_forever(self, poll_interval: float = 0.2) -> None:
        """Returns when the server has ended by itself, which it has no reason for: with a ForgeError."""
        while self.process.poll() is None:
            time.sleep(poll_interval)
        raise self._death("answering")

    def end(self) -> None:
        """Ends the process and removes what it was given."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        self._folder.cleanup()

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise self._death("starting")
            try:
                with urllib.request.urlopen(f"http://{ADDRESS}:{self.port}/health", timeout=5):
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):      # not listening yet, or still loading (503)
                time.sleep(0.1)
        raise ForgeError(f"{PROGRAM} does not answer after {START_SECONDS} s", why=self._last_words(), next="forge serve RUN --engine forge")

    def _death(self, doing: str) -> ForgeError:
        code = self.process.returncode
        how = signal.Signals(-code).name if code < 0 else f"code {code}"
        return ForgeError(f"{PROGRAM} ended with {how} while {doing}", why=self._last_words(), next="forge serve RUN --engine forge")

    def _last_words(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return " | ".join(line.strip() for line in lines[-3:])


def find_program() -> str:
    """llama-server on PATH. Raises MissingAccess without it."""
    if found := shutil.which(PROGRAM):
        return found
    raise MissingAccess(
        f"{PROGRAM} is not on PATH", why="it comes with llama.cpp (brew install llama.cpp, winget install llama.cpp, or its releases), not with slm-forge",
        next="forge serve RUN --engine forge",
    )


def command_line(program: str, shipped: Shipped, template: Path, *, name: str, port: int) -> list[str]:
    """The server's command for the shipped settings. --no-repack: repacked weights crash CPUs with AMX (ggml-org/llama.cpp#20824)."""
    settings = {
        "--model": shipped.file, "--alias": name, "--host": ADDRESS, "--port": port, "--chat-template-file": template, "--reasoning-format": "none",
        "--ctx-size": shipped.context_tokens * AT_ONCE, "--parallel": AT_ONCE, "--n-predict": shipped.answer_tokens,
        "--temp": 0, "--top-k": 1, "--repeat-penalty": "1.0",
    }
    return [program, *(str(part) for setting in settings.items() for part in setting), "--jinja", "--no-repack", "--no-webui"]


def template_with_system(template: str, system: str) -> str:
    """The chat template, which puts the shipped system prompt in front of turns without their own: the server has no setting for it."""
    if not system:
        return template
    first = f"[{{'role': 'system', 'content': {json.dumps(system, ensure_ascii=False)}}}]"
    newline = "\n" if template.startswith("\n") else ""     # trim_blocks takes the one after a block
    return f"{{% if messages[0]['role'] != 'system' %}}{{% set messages = {first} + messages %}}{{% endif %}}{newline}{template}"


def _take_port(port: int) -> int:
    """The port, or a free one for 0; the server itself would tell of a taken one only in its log."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((ADDRESS, port))
        except OSError as error:
            raise UsageError(f"port {port} cannot be used", why=error.strerror or str(error), next="forge serve RUN --port 0 takes a free one") from error
        return int(one.getsockname()[1])


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
