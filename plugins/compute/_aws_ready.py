"""Waits until a machine answers with the host key that it was given. Not a byte is sent to one that has another."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from typing import Any

from forge.errors import MachineLost
from forge.plugins.compute._aws_api import Account, code_of
from forge.plugins.compute._aws_notes import Note

SCAN_SECONDS = 5


def wait_until_ready(account: Account, machine: str, note: Note, *, boot_seconds: float, pause_seconds: float) -> str:
    """The machine's address, once its pinned host key is there: its deadline and its watchdog are armed then.

    Raises MachineLost when it ends before, or has not come up after boot_seconds.
    """
    give_up_at, why = time.monotonic() + boot_seconds, "it has no address yet"
    while time.monotonic() < give_up_at:
        now = describe(account, machine)
        state = now["State"]["Name"] if now else "not listed"
        if state in ("shutting-down", "terminated", "stopping", "stopped"):
            raise MachineLost(f"the machine {machine} ended before it was up", why=_reason(now or {}), next="forge resume")
        address = (now or {}).get("PublicIpAddress", "")
        if address and (why := _scan(address, note)) == "":
            return str(address)
        time.sleep(pause_seconds)
    raise MachineLost(f"the machine {machine} did not come up within {boot_seconds / 60:.0f} minutes", why=why, next="forge resume leases another one")


def describe(account: Account, machine: str) -> dict[str, Any] | None:
    """One machine as EC2 lists it; None when it does not, which it may not do for seconds after the start."""
    try:
        found = [one for group in account.pages("describe_instances", "Reservations", InstanceIds=[machine]) for one in group["Instances"]]
    except Exception as error:
        if code_of(error) == "InvalidInstanceID.NotFound":
            return None
        raise
    return found[0] if found else None


def _scan(address: str, note: Note) -> str:
    """Why the machine is not ready; "" when it has the host key that we gave it."""
    wanted = " ".join((note.folder / "host_key.pub").read_text(encoding="utf-8").split()[:2])
    command = ["ssh-keyscan", "-T", str(SCAN_SECONDS), "-t", "ed25519", address]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10 * SCAN_SECONDS).stdout
    keys = [" ".join(line.split()[1:3]) for line in told.splitlines() if not line.startswith("#")]
    if wanted in keys:
        return ""
    return f"{address} has another host key than the one that it was given" if keys else f"{address} does not answer on port 22"


def _reason(machine: Mapping[str, Any]) -> str:
    return str(machine.get("StateReason", {}).get("Message") or machine.get("StateTransitionReason") or "EC2 does not say why")
