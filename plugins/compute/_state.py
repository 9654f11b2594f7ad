"""Where what providers must remember on this machine lies: leases of this machine, keys of leased ones."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def state_home() -> Path:
    """$XDG_STATE_HOME/slm-forge, ~/.local/state/slm-forge, or a folder under the temporary one without a home."""
    if base := os.environ.get("XDG_STATE_HOME"):
        return Path(base) / "slm-forge"
    try:
        return Path.home() / ".local" / "state" / "slm-forge"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"slm-forge-{os.getuid()}"


def private_folder(*parts: str) -> Path:
    """A folder below state_home() that only this user may look into; made when it is not there."""
    folder = state_home().joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    return folder


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only this user may read, never readable by others on the way; replaces an older one whole."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(handle)
    partial.replace(path)
