"""What this computer remembers of a lease at AWS: the keys of its machine, and what a repeated request has to say again.

    $XDG_STATE_HOME/slm-forge/aws/<token>/lease.json           the newest attempt; no secrets
                                         /<attempt>/key, host_key   removed when the machine is settled

AWS takes a repeated request with the same ClientToken for the same one only when every parameter is the same: so the keys,
the deadline and the place are written down before the first call.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field

from forge.errors import UsageError
from forge.plugins.compute._state import private_folder, state_home, write_private
from forge.protocols import Lease
from forge.records import Record

TIME = "%Y-%m-%dT%H:%M:%SZ"
KEPT_SECONDS = 30 * 86400.0
"""How long a note is kept, for a settlement that comes late."""


class Note(Record):
    """One attempt. deadline: UTC by AWS's clock. place: "g5.xlarge us-east-1b", the one that was asked for last; rates in USD an hour."""

    lease: Lease
    region: str
    deadline: str
    place: str = ""
    machine: str = ""
    rates: dict[str, float] = Field(default_factory=dict)
    disk_gib: int = 0

    @property
    def folder(self) -> Path:
        """Where its keys lie."""
        return private_folder("aws", self.lease.token, str(self.lease.attempt))

    @property
    def name(self) -> str:
        """The name of what is made for it at AWS."""
        return f"forge-{self.lease.token}-{self.lease.attempt}"

    @property
    def ends(self) -> datetime:
        """The deadline, by AWS's clock."""
        return parse_time(self.deadline)

    def but(self, **changes: object) -> Note:
        """The same with changes, written down."""
        changed = self.model_copy(update=changes)
        changed.write()
        return changed

    def write(self) -> None:
        """Write it down, whole."""
        write_private(private_folder("aws", self.lease.token) / "lease.json", self.model_dump_json().encode())

    def key(self, name: str) -> Path:
        """An ed25519 key of this attempt ("key": logs in; "host_key": the machine's own), made when it is not there."""
        path = self.folder / name
        if not path.with_suffix(".pub").exists():
            path.unlink(missing_ok=True)
            draft = self.folder / f"{name}.draft"
            for file in (draft, self.folder / f"{name}.draft.pub"):
                file.unlink(missing_ok=True)
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", str(draft)], check=True, stdin=subprocess.DEVNULL)
            draft.replace(path)
            (self.folder / f"{name}.draft.pub").replace(path.with_suffix(".pub"))
        return path

    def has_keys(self) -> bool:
        """This computer can log in."""
        return all((self.folder / name).exists() for name in ("key", "key.pub", "host_key.pub"))

    def forget_keys(self) -> None:
        """The machine is gone."""
        shutil.rmtree(self.folder, ignore_errors=True)


def parse_time(text: str) -> datetime:
    """ "2026-11-21T20:32:53Z" """
    return datetime.strptime(text, TIME).replace(tzinfo=UTC)


def read_note(token: str) -> Note | None:
    """What is known of a lease; None when it was not started from here."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}", token):
        raise UsageError(f"{token!r} is not a lease token")
    path = state_home() / "aws" / token / "lease.json"
    return Note.model_validate_json(path.read_text(encoding="utf-8")) if path.exists() else None


def all_notes() -> Iterator[Note]:
    """Every lease that was started from here in the last month."""
    for path in sorted((state_home() / "aws").glob("*/lease.json")):
        if time.time() - path.stat().st_mtime > KEPT_SECONDS:
            shutil.rmtree(path.parent)
        else:
            yield Note.model_validate(json.loads(path.read_text(encoding="utf-8")))
