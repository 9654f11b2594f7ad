"""The OpenSSH client as a transport: host keys pinned, nothing forwarded, one connection shared by all calls."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from forge.errors import ForgeError, MissingAccess, UsageError
from forge.plugins.compute._transport import Broken, Failed, last_line, run_program

KEY_TYPES = ("ssh-", "ecdsa-", "sk-")
PINNED = "slm-forge-pinned"
"""The name under which pinned keys are looked up (HostKeyAlias), whatever the host is called."""
PERSIST_SECONDS = 60
"""How long the shared connection outlives its last call, ours or that of an engine that was killed."""
SOCKET_CHARS = 80
"""sockaddr_un takes 108 bytes, of which ssh needs 18 for a temporary name."""
OURS = ("HOME", "PATH", "USER", "LOGNAME", "LANG", "SSH_AUTH_SOCK", "TMPDIR")
"""What the ssh client sees of our environment, so that no SendEnv of a configuration can pass a key on."""
SCAN_SECONDS = 5


@dataclass(frozen=True)
class Target:
    """A machine as ssh reaches it.

    host: name or address. key: the private key's file; None = what the user's agent and configuration offer.
    host_keys: lines of a known_hosts file ("[10.0.0.2]:22 ssh-ed25519 AAAA…") or bare keys ("ssh-ed25519 AAAA…"), the only ones
    that are accepted; () = those of the user's own known_hosts. An unknown key is never accepted.
    user_config: follow ~/.ssh/config (aliases, ProxyJump); forwarding and the like stay off whatever it says.
    setting: how to say a pinned key to slm-forge, for messages; "" where the user cannot.
    """

    host: str
    user: str = ""
    port: int = 0
    key: Path | None = None
    host_keys: tuple[str, ...] = ()
    user_config: bool = False
    setting: str = ""

    @property
    def name(self) -> str:
        """user@host."""
        return f"{self.user}@{self.host}" if self.user else self.host


class SshTransport:
    """forge.plugins.compute._channel.Transport by `ssh`, multiplexed over one connection (ControlMaster) per target.

    connect_seconds: for the connection. alive_seconds: a silent connection counts as broken after three times this.
    """

    def __init__(self, target: Target, *, connect_seconds: float = 10.0, alive_seconds: float = 5.0) -> None:
        if target.host.startswith("-") or target.user.startswith("-") or not target.host:
            raise UsageError(f"{target.host!r} is not the name of a host")
        self.target, self.connect_seconds, self.alive_seconds = target, connect_seconds, alive_seconds
        self.where = target.host
        self.login = shlex.join(["ssh", *(["-p", str(target.port)] if target.port else []), *(["-i", str(target.key)] if target.key else []), target.name])

    def stream(self, argv: Sequence[str], stdin: Iterable[bytes], *, seconds: float | None) -> Iterator[bytes]:
        """Run argv there. Raises Broken, Failed, or MissingAccess for a refused login, an unknown or a changed host key."""
        command = [*self._ssh(), self.target.name, shlex.join(argv)]
        try:
            yield from run_program(command, stdin, seconds=seconds, env=_environment())
        except FileNotFoundError as error:
            raise MissingAccess("the ssh program is not installed", next="install OpenSSH's client (apt install openssh-client)") from error
        except Failed as error:
            if error.code == 255:   # ssh's own; no program of ours ends with it
                raise self._explain(error.text) from None
            raise

    def close(self) -> None:
        """End the shared connection."""
        subprocess.run([*self._ssh(), "-O", "exit", self.target.name], env=_environment(), capture_output=True, check=False)

    def _ssh(self) -> list[str]:
        target, folder = self.target, _runtime_folder()
        name = hashlib.sha256(repr((target, self.alive_seconds)).encode()).hexdigest()[:16]
        options = {
            "BatchMode": "yes", "StrictHostKeyChecking": "yes", "UpdateHostKeys": "no", "VerifyHostKeyDNS": "no", "LogLevel": "ERROR",
            "ForwardAgent": "no", "ForwardX11": "no", "ClearAllForwardings": "yes", "Tunnel": "no", "PermitLocalCommand": "no",
            "RemoteCommand": "none", "RequestTTY": "no", "ConnectTimeout": f"{max(1, round(self.connect_seconds))}",
            "ServerAliveInterval": f"{max(1, round(self.alive_seconds))}", "ServerAliveCountMax": "3", "TCPKeepAlive": "yes",
            "ControlMaster": "auto", "ControlPath": str(folder / name), "ControlPersist": str(PERSIST_SECONDS),
        }
        if target.host_keys:
            hosts = folder / f"{name}.hosts"
            hosts.write_text("".join(f"{PINNED} {_bare(key)}\n" for key in target.host_keys), encoding="utf-8")
            options |= {"UserKnownHostsFile": str(hosts), "GlobalKnownHostsFile": "/dev/null", "KnownHostsCommand": "none", "HostKeyAlias": PINNED}
        if target.key:
            options |= {"IdentitiesOnly": "yes"}
        if not target.user_config:   # ours alone: no agent either
            options |= {"IdentityAgent": "none"}
        return [
            "ssh", *([] if target.user_config else ["-F", "none"]), *(["-p", str(target.port)] if target.port else []),
            *(["-i", str(target.key)] if target.key else []), *[part for key, value in options.items() for part in ("-o", f"{key}={value}")],
        ]

    def _explain(self, text: str) -> Exception:
        """What ssh said, as an error: Broken is worth asking again."""
        low, last = text.lower(), last_line(text)
        if "remote host identification has changed" in low or (self.target.host_keys and "host key is known for" in low):
            return self._changed(text)
        if "host key is known for" in low or "host key verification failed" in low:
            return self._unknown()
        if "permission denied" in low or "too many authentication failures" in low:
            key = f"with the key {self.target.key}" if self.target.key else "with the keys of your agent and ~/.ssh"
            return MissingAccess(f"{self.target.name} refuses the login {key}", why=last, next=f"try {self.login} true by hand; --set ssh.key=FILE names another key")
        if "bad configuration option" in low or "terminating," in low:
            return UsageError("ssh does not understand its configuration", why=last, next="correct ~/.ssh/config")
        if self.target.key and not self.target.key.exists():
            return MissingAccess(f"there is no key {self.target.key}", next="name the private key with --set ssh.key=FILE")
        return Broken(last or "ssh ended without a word")

    def _changed(self, text: str) -> ForgeError:
        shown = re.search(r"SHA256:[A-Za-z0-9+/]+", text)
        seen = shown[0] if shown else "; ".join(fingerprint for _, fingerprint in scan(self.target)) or "another one"
        known = "; ".join(_fingerprint(key) for key in self.target.host_keys) or "what your known_hosts has"
        return MissingAccess(
            f"{self.where} shows another host key than the known one; nothing was sent to it",
            why=f"expected {known}, got {seen}: the machine was reinstalled, or somebody stands between you and it",
            next=f"ask whoever runs {self.where}; if the new key is right, replace it ({self._pin_command()})",
        )

    def _unknown(self) -> ForgeError:
        found = scan(self.target)
        shown = "; ".join(fingerprint for _, fingerprint in found) or "it could not be asked for one"
        return MissingAccess(
            f"the host key of {self.where} is not known, so nothing was sent to it",
            why=f"it shows {shown}; compare that with the host's own (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub there)",
            next=self._pin_command(found[0][0] if found else ""),
        )

    def _pin_command(self, key: str = "") -> str:
        port = f"-p {self.target.port} " if self.target.port else ""
        keyscan = f"ssh-keyscan {port}-t ed25519 {self.target.host} >> ~/.ssh/known_hosts"
        return f"{keyscan}, or --set {self.target.setting}='{key or 'ssh-ed25519 AAAA…'}'" if self.target.setting else keyscan


def scan(target: Target) -> list[tuple[str, str]]:
    """(key, fingerprint) of the host keys that a machine shows now, unverified; asks nothing else of it."""
    host, port = target.host, target.port or 22
    if target.user_config:
        told = _run(["ssh", "-G", target.name])
        fields = dict(line.split(" ", 1) for line in told.splitlines() if " " in line)
        host, port = fields.get("hostname", host), target.port or int(fields.get("port", port))
    lines = _run(["ssh-keyscan", "-T", str(SCAN_SECONDS), "-p", str(port), "-t", "ed25519,ecdsa,rsa", host]).splitlines()
    keys = sorted((_bare(line) for line in lines if line and not line.startswith("#")), key=lambda key: not key.startswith("ssh-ed25519"))
    return [(key, _fingerprint(key)) for key in keys]


def make_key(path: Path, comment: str) -> str:
    """A new ed25519 key pair without a passphrase at `path` (0600) and path.pub, unless it is there; the public line."""
    if not path.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)], check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return path.with_name(f"{path.name}.pub").read_text(encoding="utf-8").strip()


def _bare(line: str) -> str:
    """ "ssh-ed25519 AAAA…" out of a line of known_hosts, of a .pub file, or of the key alone."""
    words = line.split()
    at = next((number for number, word in enumerate(words) if word.startswith(KEY_TYPES)), None)
    if at is None or len(words) < at + 2:
        raise UsageError(f"{line[:60]!r} is not a host key", why="it looks like ssh-ed25519 AAAA…", next="ssh-keyscan -t ed25519 HOST shows it")
    return f"{words[at]} {words[at + 1]}"


def _fingerprint(key: str) -> str:
    with tempfile.NamedTemporaryFile("w", suffix=".pub") as file:
        file.write(f"{_bare(key)}\n")
        file.flush()
        words = _run(["ssh-keygen", "-lf", file.name]).split()
    return words[1] if len(words) > 1 else "a key that ssh-keygen cannot read"


def _run(argv: Sequence[str]) -> str:
    """A small program's stdout, "" when it fails or is not there."""
    if shutil.which(argv[0]) is None:
        return ""
    try:
        return subprocess.run(argv, env=_environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=4 * SCAN_SECONDS, check=False).stdout
    except subprocess.TimeoutExpired:
        return ""


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in OURS if name in os.environ}


def _runtime_folder() -> Path:
    """A short path that only this user can look into: for sockets, whose paths are limited."""
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    name = f"slm-forge-{os.getuid()}"
    if len(str(base / name)) + 17 > SOCKET_CHARS or not base.is_dir():
        base = Path("/tmp")
    folder = base / name
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise MissingAccess(f"{folder} is not this user's own folder", why="sockets of ssh connections lie in it", next=f"remove {folder}")
    return folder
