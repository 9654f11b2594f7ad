"""ssh to a machine that SkyPilot made, by the alias that it wrote: its host key is learnt once and pinned from then on.

SkyPilot itself checks no host keys (StrictHostKeyChecking no). The key that is seen at the first contact with a new machine is
written down, and another one is refused before anything is sent.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from forge.errors import MissingAccess
from forge.plugins.compute._channel import Broken
from forge.plugins.compute._ssh import PINNED, SshTransport, Target

LEARN_SECONDS = 30.0


class PinnedAlias:
    """forge.plugins.compute._channel.Transport to a host of ~/.ssh/config. folder: where its key is kept."""

    def __init__(self, alias: str, folder: Path) -> None:
        self.where = self.alias = alias
        self.login = f"ssh {alias}"
        self._known = folder / "known_hosts"
        self._inner: SshTransport | None = None

    def stream(self, argv: Sequence[str], stdin: Iterable[bytes], *, seconds: float | None) -> Iterator[bytes]:
        """Run argv there."""
        if self._inner is None:
            self._inner = SshTransport(Target(self.alias, host_keys=self._keys(), user_config=True))
        return self._inner.stream(argv, stdin, seconds=seconds)

    def close(self) -> None:
        """End the shared connection."""
        if self._inner is not None:
            self._inner.close()

    def _keys(self) -> tuple[str, ...]:
        if not self._known.exists():
            self._learn()
        return tuple(line.split(" ", 1)[1] for line in self._known.read_text(encoding="utf-8").splitlines() if line.startswith(f"{PINNED} "))

    def _learn(self) -> None:
        """One connection that accepts the key, and runs nothing of ours."""
        partial = self._known.with_name("known_hosts.partial")
        partial.unlink(missing_ok=True)
        options = {
            "BatchMode": "yes", "StrictHostKeyChecking": "accept-new", "UserKnownHostsFile": str(partial), "GlobalKnownHostsFile": "/dev/null",
            "HostKeyAlias": PINNED, "HashKnownHosts": "no", "UpdateHostKeys": "no", "ForwardAgent": "no", "ForwardX11": "no", "ClearAllForwardings": "yes",
            "ConnectTimeout": "10", "LogLevel": "ERROR", "ControlMaster": "no", "ControlPath": "none",
        }
        command = ["ssh", *[part for key, value in options.items() for part in ("-o", f"{key}={value}")], self.alias, "true"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LEARN_SECONDS, stdin=subprocess.DEVNULL)
        except FileNotFoundError as error:
            raise MissingAccess("the ssh program is not installed", next="install OpenSSH's client (apt install openssh-client)") from error
        except subprocess.TimeoutExpired as error:
            raise Broken(f"{self.alias} does not answer") from error
        if done.returncode or not partial.exists():
            raise Broken(done.stderr.strip() or f"{self.alias} shows no host key")
        partial.replace(self._known)
