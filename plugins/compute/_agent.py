"""Runs programs in a container that has no ssh, asked over one HTTP port; sent there as text, standard library only, Python >= 3.8.

    FORGE_AGENT_KEY=… FORGE_AGENT_PORT=49984 FORGE_AGENT_SECONDS=3600 FORGE_AGENT_IDLE=900 python3 _agent.py

    GET    /health                    200 when it serves (no key needed)
    PUT    /call?id=I&offset=N        a part of the standard input of call I; parts may come in any order, and twice
    POST   /call?id=I                 {"argv": [...], "size": bytes of input} and, when no part was sent, "stdin": base64
                                      starts call I once, however often it is asked
    GET    /call?id=I&offset=N&length=M   what it wrote from N on, X-Size of it so far, X-Code and X-Err when it has ended
    DELETE /call?id=I                 end it, if it runs, and forget it

Every request but /health carries X-Forge-Key; every answer X-Forge-Agent, so that it is not mistaken for a proxy's. This is the
container's first process: when it ends, so does the container, and the bill. It ends FORGE_AGENT_SECONDS after its start,
and when nobody has asked for FORGE_AGENT_IDLE seconds; a change of the file FORGE_AGENT_SIGN, if one is named, counts as asking.
Both count on the monotonic clock, which no change of the time moves.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

PART = 4 * 2**20
ANSWER_SECONDS = 10.0
"""How long an answer waits for the end of a call: proxies cut what is silent for long."""
LOOK_SECONDS = 0.5
ERRORS = 4000
NOT_STARTED, NOT_WHOLE = 127, -1


class Call:
    """One program: its input and outputs lie in files below `folder`, its exit code here."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.code, self.started = folder, -1, False
        self.stdin, self.out, self.err = (folder / name for name in ("in", "out", "err"))
        self.ended = threading.Event()
        self.process: Any = None

    def put(self, offset: int, data: bytes) -> None:
        """Write a part of the input."""
        handle = os.open(self.stdin, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            while data:
                written = os.pwrite(handle, data, offset)
                offset, data = offset + written, data[written:]
        finally:
            os.close(handle)

    def start(self, argv: list[str], size: int) -> None:
        """Start the program on its input of `size` bytes."""
        self.started = True
        if not self.stdin.exists() or self.stdin.stat().st_size != size:
            self.end(NOT_WHOLE, "the input is not whole")
            return
        with self.stdin.open("rb") as stdin, self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(argv, stdin=stdin, stdout=out, stderr=err, start_new_session=True)
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self) -> None:
        """Wait for the end, in a thread."""
        self.end(self.process.wait())

    def end(self, code: int, text: str = "") -> None:
        """Note the exit code; text: why it could not be started."""
        if text:
            self.err.write_text(text, encoding="utf-8")
        self.code = code
        self.ended.set()

    def answer(self, offset: int, length: int) -> tuple[bytes, dict[str, str]]:
        """What it wrote from `offset` on, and how it is."""
        self.ended.wait(ANSWER_SECONDS)
        over = self.ended.is_set()
        data, size = b"", 0
        if self.out.exists():
            with self.out.open("rb") as out:
                size = os.fstat(out.fileno()).st_size
                out.seek(offset)
                data = out.read(min(length, PART))
        headers = {"X-Size": str(size)}
        if over:
            tail = self.err.read_bytes()[-ERRORS:]
            headers.update({"X-Code": str(self.code), "X-Err": base64.b64encode(tail).decode()})
        return data, headers


class Agent(ThreadingHTTPServer):
    """The calls, and when somebody last asked for one."""

    daemon_threads = True

    def __init__(self, port: int, key: str) -> None:
        super().__init__(("0.0.0.0", port), Handler)
        self.key, self.asked = key, time.monotonic()
        self.lock = threading.Lock()
        self.calls: dict[str, Call] = {}
        self.spool = Path(tempfile.mkdtemp(prefix="forge-agent-"))

    def call(self, name: str) -> Call:
        """Call `name`, made when it is new."""
        with self.lock:
            if name not in self.calls:
                folder = self.spool / name
                folder.mkdir(mode=0o700)
                self.calls[name] = Call(folder)
            return self.calls[name]

    def start(self, call: Call, told: dict[str, Any]) -> None:
        """Start a call that has not been started."""
        with self.lock:
            if call.started:
                return
            if "stdin" in told:
                call.put(0, base64.b64decode(told["stdin"]))
            try:
                call.start(told["argv"], told["size"])
            except OSError as error:
                call.end(NOT_STARTED, str(error))

    def forget(self, name: str) -> None:
        """End a call and remove its files."""
        with self.lock:
            call = self.calls.pop(name, None)
        if call is None:
            return
        if call.process is not None and call.process.poll() is None:
            os.killpg(call.process.pid, signal.SIGKILL)
        shutil.rmtree(call.folder, ignore_errors=True)

    def reap(self) -> None:
        """Collect orphans: they come to a container's first process. The calls' own are left to those who wait for them."""
        with self.lock:
            own = {call.process.pid for call in self.calls.values() if call.process is not None}
            while True:
                try:
                    found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                except ChildProcessError:
                    return
                if found is None or found.si_pid in own:
                    return
                os.waitpid(found.si_pid, os.WNOHANG)

    def wait(self, seconds: float, idle: float, sign: str) -> None:
        """Return when the deadline has passed or nobody has asked for `idle` seconds, nor changed the file `sign`."""
        ends, seen = time.monotonic() + seconds, self.changed(sign)
        while time.monotonic() < min(ends, self.asked + idle):
            time.sleep(LOOK_SECONDS)
            self.reap()
            if (now := self.changed(sign)) != seen:
                seen, self.asked = now, time.monotonic()

    def changed(self, path: str) -> int:
        """When a file was changed, by whatever clock; 0 when there is none."""
        try:
            return Path(path).expanduser().stat().st_mtime_ns if path else 0
        except OSError:
            return 0


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Agent

    def do_GET(self) -> None:
        """Health, or how a call is; the same for all methods: the body is always read, the key always looked at."""
        body, place = self.body(), urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(place.query).items()}
        if place.path == "/health":
            self.reply(200, b"slm-forge\n")
        elif not hmac.compare_digest(self.headers.get("X-Forge-Key", "").encode(), self.server.key.encode()):
            self.reply(403, b"wrong key\n")
        elif place.path != "/call" or not re.fullmatch("[0-9a-f]{1,64}", asked.get("id", "")):
            self.reply(404, b"no such thing\n")
        else:
            self.server.asked = time.monotonic()
            self.about(asked["id"], int(asked.get("offset", "0")), int(asked.get("length", PART)), body)

    do_PUT = do_POST = do_DELETE = do_GET

    def about(self, name: str, offset: int, length: int, body: bytes) -> None:
        """Do what is asked about a call."""
        if self.command == "DELETE":
            self.server.forget(name)
            self.reply(200, b"")
            return
        call = self.server.call(name)
        if self.command == "PUT":
            call.put(offset, body)
            self.reply(200, b"")
            return
        if self.command == "POST":
            self.server.start(call, json.loads(body))
        if not call.started:
            self.server.forget(name)
            self.reply(404, b"no such call\n")
            return
        self.reply(200, *call.answer(offset, length))

    def body(self) -> bytes:
        """What the request carries; proxies may send it in chunks."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = []
        while True:
            size = int(self.rfile.readline().split(b";")[0], 16)
            found.append(self.rfile.read(size))
            self.rfile.readline()
            if not size:
                return b"".join(found)

    def reply(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Answer, and keep the connection."""
        self.send_response(code)
        for name, text in {"Content-Length": str(len(body)), "X-Forge-Agent": "1", **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: the log is for what jobs write."""


def main() -> None:
    """Serve until the deadline, or until nobody asks any more. What it was told is not passed on to what it starts."""
    key, port, seconds, idle = (os.environ.pop(f"FORGE_AGENT_{name}") for name in ("KEY", "PORT", "SECONDS", "IDLE"))
    sign = os.environ.pop("FORGE_AGENT_SIGN", "")
    agent = Agent(int(port), key)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))   # a container's first process ignores it unless it says so
    threading.Thread(target=agent.serve_forever, daemon=True).start()
    agent.wait(float(seconds), float(idle), sign)
    os._exit(0)


if __name__ == "__main__":
    main()
