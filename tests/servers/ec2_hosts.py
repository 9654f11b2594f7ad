"""Machines for the EC2 emulator: each is a set of Linux namespaces with a real sshd, its user-data and a metadata service."""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer

import pytest

from tests.programs import REQUIRED, program

INIT = Path(__file__).with_name("ec2_init.sh")
CLONE_NEWNET = 0x40000000
METADATA = ("169.254.169.254", 80)
BOOT_SECONDS = 20.0
_slots = itertools.count()


def needs_hosts() -> None:
    """Ends the test here, skipped, where machines cannot be made: not Linux, not root, no sshd. In CI that is a failure."""
    program("sshd", "/usr/sbin/sshd", install="apt-get install openssh-server")
    program("ip", "/usr/sbin/ip", install="apt-get install iproute2")
    if sys.platform != "linux" or os.geteuid() != 0:
        if REQUIRED:
            pytest.fail("machines are Linux namespaces, which need root")
        pytest.skip("machines are Linux namespaces, which need root")


class Host:
    """One machine. `ended(reason)` is called when it went down by itself: "shutdown" or "spot"."""

    def __init__(self, folder: Path, name: str, *, key: str, user_data: bytes, minute: float, ended: Callable[[str], None]) -> None:
        slot = next(_slots) % 60
        net = f"10.{200 + os.getpid() // 256 % 50}.{os.getpid() % 256}"
        self.name, self.folder, self.ended = name, folder, ended
        self.gateway, self.address = f"{net}.{4 * slot + 1}", f"{net}.{4 * slot + 2}"
        self.link = f"fe{os.getpid() % 100000}x{slot}"
        self.notice = ""
        self._stopped = threading.Event()
        self._metadata: ThreadingHTTPServer | None = None
        folder.mkdir(parents=True)
        (folder / "authorized_keys").write_text(key + "\n", encoding="utf-8")
        (folder / "user-data").write_bytes(user_data)
        self._started = threading.Event()
        # The thread lives as long as the machine: the kernel ends a child with PDEATHSIG when the thread that made it ends.
        self._thread = threading.Thread(target=self._live, args=(minute,), daemon=True)
        self._thread.start()
        self._started.wait(BOOT_SECONDS)

    def take_back(self, seconds: float) -> None:
        """A spot notice; the machine is taken `seconds` later."""
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
        self.notice = json.dumps({"action": "terminate", "time": at})
        threading.Thread(target=self._take, args=(seconds,), daemon=True).start()

    def kill(self) -> None:
        """Pull the plug. Returns when every process of the machine is gone."""
        self._stopped.set()
        if self._process.poll() is None:
            self._process.kill()
        self._thread.join(BOOT_SECONDS)

    def path(self, inside: str) -> Path:
        """A file of the machine (below /home, /run ...), as it can be reached from here."""
        return Path(f"/proc/{self._process.pid}/root") / inside.lstrip("/")

    def cut(self) -> None:
        """The network is gone; the machine goes on."""
        subprocess.run(["ip", "link", "set", self.link, "down"], check=True)

    def heal(self) -> None:
        """The network is back."""
        subprocess.run(["ip", "link", "set", self.link, "up"], check=True)

    def _take(self, seconds: float) -> None:
        if not self._stopped.wait(seconds):
            self.kill()
            self.ended("spot")

    def _live(self, minute: float) -> None:
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--pid", "--mount", "--uts", "--ipc", "--fork", "--kill-child"]
        with (self.folder / "console").open("wb") as console:
            self._process = subprocess.Popen(
                [*command, "bash", str(INIT), str(self.folder), self.name, f"{self.address}/30", self.gateway, str(minute)],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
            )
        self._started.set()
        self._connect()
        self._process.wait()
        if self._metadata is not None:
            self._metadata.shutdown()
            self._metadata.server_close()
        # The kernel takes the cable with the last of the network namespace, which a connection that hangs may hold for minutes.
        subprocess.run(["ip", "link", "del", self.link], check=False, capture_output=True)
        if not self._stopped.is_set():
            self._stopped.set()
            self.ended("shutdown")

    def _connect(self) -> None:
        """A cable into the machine's network namespace, then its metadata service in there."""
        place, ours = f"/proc/{self._process.pid}/ns/net", _link("/proc/self/ns/net")
        _until(lambda: self._process.poll() is not None or _link(place) not in (ours, ""))
        if self._process.poll() is not None:
            return
        lines = [
            f"link add {self.link} type veth peer name eth0 netns {self._process.pid}",
            f"addr add {self.gateway}/30 dev {self.link}", f"link set {self.link} up",
        ]
        subprocess.run(["ip", "link", "del", self.link], check=False, capture_output=True)   # of a machine of long ago that had this slot
        told = subprocess.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n", text=True, check=False, capture_output=True)
        if told.returncode and self._process.poll() is None:
            raise RuntimeError(f"{self.name} has no network: {told.stderr}")
        _until(lambda: self._process.poll() is not None or (self.folder / "network").exists())
        if self._process.poll() is None:
            self._metadata = _serve_metadata(place, self)


def end_all(hosts: list[Host]) -> None:
    """Pull every plug and remove what they wrote."""
    for host in hosts:
        host.kill()
        shutil.rmtree(host.folder, ignore_errors=True)


def _serve_metadata(namespace: str, host: Host) -> ThreadingHTTPServer:
    """IMDSv2 inside a network namespace: this thread goes there, opens the socket and comes back; the socket stays."""
    server = ThreadingHTTPServer(METADATA, _metadata_of(host), bind_and_activate=False)
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(namespace, os.O_RDONLY)
    try:
        _enter(there)
        server.socket.close()
        server.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        TCPServer.server_bind(server)   # HTTPServer's asks the name service who it is
        server.server_activate()
    finally:
        _enter(own)
        os.close(there)
        os.close(own)
    threading.Thread(target=server.serve_forever, args=(0.2,), daemon=True).start()
    return server


def _metadata_of(host: Host) -> type[BaseHTTPRequestHandler]:
    class Metadata(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            wanted = self.path == "/latest/api/token" and self.headers.get("X-aws-ec2-metadata-token-ttl-seconds")
            self.reply(200 if wanted else 400, f"token-of-{host.name}")

        def do_GET(self) -> None:
            known = {"/latest/meta-data/instance-id": host.name, "/latest/meta-data/spot/instance-action": host.notice}
            if self.headers.get("X-aws-ec2-metadata-token") != f"token-of-{host.name}":
                self.reply(401, "")
            elif text := known.get(self.path):
                self.reply(200, text)
            else:
                self.reply(404, "")

        def reply(self, code: int, text: str) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

        def address_string(self) -> str:
            return str(self.client_address[0])

    return Metadata


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _link(place: str) -> str:
    try:
        return str(Path(place).readlink())
    except OSError:
        return ""


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + BOOT_SECONDS
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)


__all__ = ["Host", "end_all", "needs_hosts"]
