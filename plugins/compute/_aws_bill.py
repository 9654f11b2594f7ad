"""What a machine at EC2 cost: per second from its launch to its end, at least a minute, with its disk and its address."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

from forge.errors import ForgeError, MissingAccess
from forge.ledger import MICRO
from forge.plugins.compute._aws_api import Account
from forge.plugins.compute._aws_notes import Note
from forge.plugins.compute._aws_offers import HOURS_A_MONTH

LEAST_SECONDS = 60
"""AWS bills Linux machines, spot too, by the second with a minimum of a minute (aws.amazon.com/ec2/pricing); disks likewise."""


def machine_cost(account: Account, machine: Mapping[str, Any], note: Note) -> int:
    """Micro-dollars of one machine as describe_instances tells it, rounded up.

    Of one that runs, or whose end AWS does not date: until now, or its deadline at the latest, at which it ends itself.
    """
    began = machine["LaunchTime"].astimezone(UTC)
    over = ended(machine) or min(account.now, began + timedelta(seconds=note.lease.deadline_seconds))
    seconds = max(LEAST_SECONDS, math.ceil((over - began).total_seconds()))
    disk = Fraction(note.disk_gib) * Fraction(str(note.rates["disk_gib_month"])) / HOURS_A_MONTH
    rate = Fraction(str(note.rates["machine"]))
    if machine.get("InstanceLifecycle") == "spot":
        rate = min(rate, spot_rate(account, machine, rate, began, over))
    return micro(rate + disk + Fraction(str(note.rates["address"])), seconds)


def worst_cost(note: Note) -> int:
    """For a machine that EC2 has forgotten (after about an hour): it ended by itself at its deadline at the latest."""
    disk = Fraction(note.disk_gib) * Fraction(str(note.rates["disk_gib_month"])) / HOURS_A_MONTH
    hourly = Fraction(str(note.rates["machine"])) + disk + Fraction(str(note.rates["address"]))
    return micro(hourly, max(LEAST_SECONDS, note.lease.deadline_seconds))


def micro(usd_per_hour: Fraction, seconds: int) -> int:
    """Micro-dollars, rounded up."""
    return math.ceil(usd_per_hour * seconds * MICRO / 3600)


def ended(machine: Mapping[str, Any]) -> datetime | None:
    """When a machine ended, None while it has not. EC2 writes it as "User initiated (2026-11-21 20:32:53 GMT)"."""
    if machine["State"]["Name"] not in ("terminated", "shutting-down", "stopped"):
        return None
    found = re.search(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:GMT|UTC)\)", machine.get("StateTransitionReason", ""))
    if found is None:
        return None
    return datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)


def spot_rate(account: Account, machine: Mapping[str, Any], most: Fraction, began: datetime, over: datetime) -> Fraction:
    """USD an hour, the mean of the zone's spot price over the machine's life; `most` where AWS does not tell."""
    request = {
        "InstanceTypes": [machine["InstanceType"]], "ProductDescriptions": ["Linux/UNIX"], "AvailabilityZone": machine["Placement"]["AvailabilityZone"],
        "StartTime": began, "EndTime": over,
    }
    try:
        rows = list(account.pages("describe_spot_price_history", "SpotPriceHistory", **request))
    except MissingAccess:
        return most
    zone = machine["Placement"]["AvailabilityZone"]
    changes = sorted((row["Timestamp"].astimezone(UTC), Fraction(row["SpotPrice"])) for row in rows if row["AvailabilityZone"] == zone)
    if not changes or changes[0][0] > began:
        return most
    return _mean(changes, began, over)


def _mean(changes: list[tuple[datetime, Fraction]], began: datetime, over: datetime) -> Fraction:
    """The mean over time of a price that holds from each change to the next."""
    total, seconds = Fraction(0), Fraction((over - began).total_seconds())
    if seconds <= 0:
        return changes[-1][1]
    ends = [at for at, _ in changes[1:]] + [over]
    for (at, price), until in zip(changes, ends, strict=True):
        total += price * max(Fraction(0), Fraction((min(until, over) - max(at, began)).total_seconds()))
    return total / seconds


def need_rates(note: Note | None, machine: str) -> Note:
    """The note, when it has prices. Raises ForgeError otherwise: the reservation then stands."""
    if note is None or not note.rates:
        raise ForgeError(
            f"what {machine} cost is not known here", why="this computer has no note of its lease", next="see the bill at AWS, by the tag forge:lease",
        )
    return note
