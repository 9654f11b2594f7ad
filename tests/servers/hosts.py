"""A machine to reach over ssh: a real sshd in namespaces of its own (network, processes, mounts), with a home folder of its own.

    with SshHost(tmp_path) as host:
        host.target            how to reach it, its host key pinned
        host.partition()       nothing passes; the connection is not closed    host.heal()
        host.power_off()       every process is gone at once; the disk stays   host.power_on()
        host.swap_host_key()   another sshd answers at the same address

Needs root, iproute2 and openssh-server; skipped elsewhere, except in CI.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from pathlib import Path
from types import TracebackType

import pytest

from forge.plugins.compute._ssh import Target, make_key
from tests.programs import REQUIRED, program

NUMBERS = itertools.count(os.getpid() % 4096 * 4)
INIT = """
set -e
mount --make-rprivate /
mount -t proc proc /proc
mkdir -p /run/sshd
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/boot_id" /proc/sys/kernel/random/boot_id
ip link set lo up
echo up > "$1/up"
trap 'exit 0' TERM
sleep infinity & wait
"""


class SshHost:
    """One machine. folder: its disk, seen from the test: folder/home is the login's home."""

    def __init__(self, folder: Path, *, path: str = "", home_bytes: int = 0) -> None:
        """path: folders put before the login's PATH. home_bytes: size of the home's file system; 0 = that of the disk."""
        if os.geteuid() != 0:
            (pytest.fail if REQUIRED else pytest.skip)("network namespaces need root")
        self.sshd_program = program("sshd", "/usr/sbin/sshd", install="apt install openssh-server")
        self.ip = program("ip", "/usr/sbin/ip", "/sbin/ip", install="apt install iproute2")
        number = next(NUMBERS) % 16384
        self.net, self.link = f"forge{number}", f"fv{number}"
        block = 4 * number
        self.gateway, self.address = (f"10.{214 + (block >> 16)}.{block >> 8 & 255}.{block + last & 255}" for last in (1, 2))
        self.folder, self.home, self.login_path, self.home_bytes = folder, folder / "home", path, home_bytes
        self.key, self.host_key, self.log = folder / "login", folder / "host", folder / "sshd.log"
        self.machine: subprocess.Popen[bytes] | None = None
        self.sshd: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> SshHost:
        self.home.mkdir(parents=True)
        (self.folder / "passwd").write_text(f"root:x:0:0:root:{self.home}:/bin/bash\nsshd:x:105:65534::/run/sshd:/usr/sbin/nologin\n")
        (self.folder / "authorized_keys").write_text(make_key(self.key, "login") + "\n")
        make_key(self.host_key, "host")
        self._ip("netns", "add", self.net)
        self._ip("link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.net)
        self._ip("addr", "add", f"{self.gateway}/30", "dev", self.link)
        self._ip("link", "set", self.link, "up")
        self._ip("-n", self.net, "addr", "add", f"{self.address}/30", "dev", "eth0")
        self._ip("-n", self.net, "link", "set", "eth0", "up")
        try:
            self.power_on()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.power_off()
        subprocess.run([self.ip, "netns", "del", self.net], check=False, capture_output=True)

    @property
    def target(self) -> Target:
        """How the test reaches it."""
        return Target(self.address, user="root", key=self.key, host_keys=(self.public_host_key,))

    @property
    def public_host_key(self) -> str:
        """ "ssh-ed25519 AAAA…"."""
        return " ".join(self.host_key.with_name("host.pub").read_text().split()[:2])

    def partition(self) -> None:
        """Nothing passes any more, in either direction."""
        self._ip("link", "set", self.link, "down")

    def heal(self) -> None:
        """Packets pass again."""
        self._ip("link", "set", self.link, "up")

    def power_off(self) -> None:
        """Everything on it is killed at once, without a word to anybody who is connected."""
        if self.machine is None:
            return
        if self.sshd is not None:
            self.sshd.kill()
            self.sshd.wait()
        for pid in self._children(self.machine.pid):
            os.kill(pid, signal.SIGKILL)
        self.machine.kill()
        self.machine.wait()
        self.machine = self.sshd = None

    def power_on(self) -> None:
        """Boot it, with a boot id of its own, and wait for its sshd."""
        (self.folder / "boot_id").write_text(f"{uuid.uuid4()}\n")
        (self.folder / "up").unlink(missing_ok=True)
        command = [self.ip, "netns", "exec", self.net, "unshare", "--pid", "--mount", "--uts", "--ipc", "--fork", "--kill-child", "bash", "-c", INIT, "init", str(self.folder)]
        with (self.folder / "console").open("ab") as console:
            self.machine = subprocess.Popen(command, stdout=console, stderr=console, stdin=subprocess.DEVNULL)
        wait_until((self.folder / "up").exists, lambda: (self.folder / "console").read_text())
        if self.home_bytes:
            self.run("mount", "-t", "tmpfs", "-o", f"size={self.home_bytes}", "tmpfs", str(self.home))
        self.serve(self.host_key, self.log)

    def serve(self, host_key: Path, log: Path) -> None:
        """Start an sshd with a host key, in place of the running one; sessions that are open stay open."""
        if self.sshd is not None:
            self.sshd.kill()
            self.sshd.wait()
        environment = f"PATH={self.login_path}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".replace("PATH=:", "PATH=")
        options = {
            "UsePAM": "no", "PidFile": "none", "PasswordAuthentication": "no", "StrictModes": "no", "LogLevel": "DEBUG1", "AcceptEnv": "*",
            "AuthorizedKeysFile": str(self.folder / "authorized_keys"), "SetEnv": environment, "PermitRootLogin": "yes", "UseDNS": "no",
            "AllowAgentForwarding": "yes", "MaxStartups": "100",
        }
        flags = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
        with log.open("ab") as out:
            self.sshd = subprocess.Popen(
                [*self._enter(), self.sshd_program, "-f", "/dev/null", "-D", "-e", "-p", "22", "-h", str(host_key), *flags],
                stdout=out, stderr=out, stdin=subprocess.DEVNULL,
            )
        wait_until(self._answers, log.read_text)

    def swap_host_key(self) -> Path:
        """Somebody else's sshd answers at this address; its log."""
        make_key(self.folder / "impostor", "impostor")
        log = self.folder / "impostor.log"
        self.run("pkill", "-f", "sshd:", check=False)   # sessions of the real one end too
        self.serve(self.folder / "impostor", log)
        return log

    def run(self, *argv: str, check: bool = True) -> str:
        """Run a program on the machine, without ssh."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.home)}
        return subprocess.run([*self._enter(), *argv], check=check, capture_output=True, text=True, env=environment).stdout

    def processes(self, word: str) -> list[str]:
        """Command lines on the machine that hold a word."""
        lines = self.run("ps", "-eo", "stat=,args=").splitlines()
        return [line for line in lines if word in line and not line.startswith("Z") and "ps -eo" not in line]

    def _enter(self) -> list[str]:
        assert self.machine is not None
        pid = self._children(self.machine.pid)[0]
        tool = shutil.which("nsenter") or "nsenter"
        return [tool, "-t", str(pid), "-n", "-m", "-p", "-u", "-i", "--"]

    def _children(self, pid: int) -> list[int]:
        try:
            return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except OSError:
            return []

    def _answers(self) -> bool:
        try:
            with socket.create_connection((self.address, 22), timeout=1) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def _ip(self, *words: str) -> None:
        subprocess.run([self.ip, *words], check=True, capture_output=True)


def wait_until(holds: object, why: object = lambda: "", seconds: float = 90.0) -> None:
    """Wait for holds() to be true; why() tells what went wrong."""
    assert callable(holds)
    assert callable(why)
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"did not happen in {seconds:g} s: {why()}"
        time.sleep(0.02)
