"""The OpenSSH client as a transport: host keys pinned, nothing forwarded, one connection shared by all calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Target:
    """A machine as ssh reaches it.

    host: name or address. key: the private key's file; None = what the user's agent and configuration offer.
    host_keys: lines of a known_hosts file ("[10.0.0.2]:22 ssh-ed25519 AAAA…") or bare keys ("ssh-ed25519 AAAA…"), the only ones
    that are accepted; () = those of the user's own known_hosts. An unknown key is never accepted.
    user_config: follow ~/.ssh/config (aliases, ProxyJump); forwarding and the like stay off whatever it says.
    """

    host: str
    user: str = ""
    port: int = 0
    key: Path | None = None
    host_keys: tuple[str, ...] = ()
    user_config: bool = False


class SshTransport:
    """forge.plugins.compute._channel.Transport by `ssh`, multiplexed over one connection (ControlMaster) per target.

    connect_seconds: for the connection. alive_seconds: a silent connection counts as broken after three times this.
    """

    def __init__(self, target: Target, *, connect_seconds: float = 10.0, alive_seconds: float = 5.0) -> None: ...

    def stream(self, argv: Sequence[str], stdin: Iterable[bytes], *, seconds: float | None) -> Iterator[bytes]:
        """Run argv there. Raises Broken, Failed, or MissingAccess for a refused login, an unknown or a changed host key."""
        ...

    def close(self) -> None:
        """End the shared connection."""
        ...
