"""Amazon EC2: machines that end themselves, found by their tags, billed by the second.

Four layers keep a machine from outliving its run: (1) the same ClientToken for a repeated request, and the ledger's intent before
it; (2) the machine's own deadline and watchdog, armed before it can be reached, with terminate as what a shutdown means;
(3) `forge sweep`, by tag, from AWS's lists; (4) the settlement only from AWS's own word that it is gone.

A resource's id is "REGION/ID", since an id alone does not tell where to ask.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from forge.errors import ForgeError, MachineLost, MissingAccess, NoCapacity
from forge.phase import Requirement, Settings
from forge.plugins.compute import _aws_boot, _aws_preflight, _aws_s3
from forge.plugins.compute._aws_api import (
    ATTEMPT,
    DEADLINE,
    DEFAULT_REGION,
    LEASE,
    MANAGED,
    RUN,
    Account,
    check_access,
    code_of,
    tags_of,
)
from forge.plugins.compute._aws_bill import machine_cost, need_rates, worst_cost
from forge.plugins.compute._aws_notes import Note, all_notes, parse_time, read_note
from forge.plugins.compute._aws_offers import Catalogue
from forge.plugins.compute._aws_ready import describe, wait_until_ready
from forge.plugins.compute._aws_s3 import Bucket, StagedChannel
from forge.plugins.compute._aws_start import Starter, admit
from forge.plugins.compute._channel import Host, HostChannel, Watch
from forge.plugins.compute._environment import LockedEnvironment, ReadyPython
from forge.plugins.compute._ssh import SshTransport, Target
from forge.protocols import Lease, Need, Offer, Resource

STATES = {"pending": "starting", "running": "live", "shutting-down": "stopping", "stopping": "live", "stopped": "live"}
"""A stopped machine is not gone: its disk bills. What is "terminated" is."""
ROOT = "~/.slm-forge/leases"


class AwsSettings(Settings):
    """Machines at Amazon EC2."""

    region: str = Field("", description="where machines are leased; empty: AWS_REGION, AWS_DEFAULT_REGION, else us-east-1")
    also_regions: tuple[str, ...] = Field((), description="regions that are searched for what runs left, besides that one")
    profile: str = Field("", description="a profile of ~/.aws; empty: AWS's usual order (environment, profile, role)")
    types: tuple[str, ...] = Field((), description="instance types to consider; none: those with a GPU in configs/prices.yaml")
    disk_gib: int = Field(200, ge=8, le=16384, description="size of a machine's encrypted gp3 disk, GiB")
    image: str = Field("", description="machine image (ami-…); empty: AWS's newest Ubuntu 24.04 image, with NVIDIA's driver for GPUs")
    user: str = Field("ubuntu", pattern="[a-z_][a-z0-9_-]*", description="the image's login; it may use sudo")
    subnets: tuple[str, ...] = Field((), description="subnets to use, with a public address; none: the default one of each zone")
    my_ip: str = Field("", description="the only address that may reach a machine's ssh port; empty: as AWS sees this computer")
    idle_minutes: float = Field(20.0, gt=0, description="a machine that is not asked for so long ends its job at a checkpoint, and itself")
    bucket: str = Field("", description="a bucket of yours in the region, through which files of 1 GiB and more go to machines; empty: by ssh")
    python: str = Field("", description="a Python on the image with this version of slm-forge; empty: one is made there from the lock file")


class Aws:
    """EC2 in one region; what runs left is looked for in all that are configured or were used from this computer.

    creation_seconds, confirm_seconds: as in the protocol. boot_seconds: from the start until ssh must answer. look_seconds: how often
    the machine's watchdog looks. pause_seconds: between our looks at a machine that boots. retry_seconds: doubled at
    every retry. patience_seconds: how long a machine may not answer before it counts as lost.
    """

    name: ClassVar[str] = "aws"
    requires: ClassVar[tuple[Requirement, ...]] = (Requirement(module="boto3", extra="aws"),)
    settings: ClassVar[type[Settings]] = AwsSettings
    creation_seconds: float = 60.0
    confirm_seconds: float = 60.0
    boot_seconds: float = 600.0
    look_seconds: float = 60.0
    pause_seconds: float = 3.0
    poll_seconds: float = 3.0
    notice_seconds: float = 5.0
    retry_seconds: float = 0.5
    patience_seconds: float = 60.0
    alive_seconds: float = 5.0
    stage_bytes: int = 1 << 30

    def __init__(self, settings: AwsSettings | None = None, *, everywhere: bool = False) -> None:
        self._settings, self._everywhere = settings or AwsSettings(), everywhere
        self._accounts: dict[str, Account] = {}
        self._catalogues: dict[str, Catalogue] = {}

    def configured(self, settings: AwsSettings) -> Aws:
        """The same with other settings."""
        return Aws(settings)

    def everywhere(self) -> Aws:
        """The same, looking in every region that the account can use."""
        return Aws(self._settings, everywhere=True)

    def unready(self) -> str:
        """Why it cannot be used from here, without asking a network; "" when nothing is missing."""
        try:
            check_access()
        except MissingAccess as error:
            return f"{error.fact}: {error.next}"
        return ""

    def quote(self, need: Need) -> list[Offer]:
        """Types that fit, on demand and spot, cheapest first, at live prices. Raises MissingAccess without credentials."""
        check_access()
        with _asking(self.region):
            return self._catalogue(self.region).offers(need)

    def preflight(self, offer: Offer) -> list[str]:
        """Account, quota and rights, without starting anything."""
        with _asking(offer.region):
            kind = self._catalogue(offer.region).kinds.get(offer.name.split()[0])
            if kind is None:
                raise NoCapacity(f"EC2 does not offer {offer.name} any more", next="forge resume --from plan_fit")
            return _aws_preflight.preflight(self._account(offer.region), offer, kind)

    def start(self, lease: Lease) -> Resource:
        """The lease's machine, in the first zone that has room."""
        account = self._account(lease.offer.region or self.region)
        machine = Starter(account, self._catalogue(account.region), lease, look_seconds=self.look_seconds, pause_seconds=self.retry_seconds).start()
        tags = machine.get("Tags") or [{"Key": LEASE, "Value": lease.token}, {"Key": RUN, "Value": lease.run}]
        return self._machine(account, {**machine, "Tags": tags})

    def find(self, scope: str) -> list[Resource]:
        """Machines, and keys, groups and disks of machines that are gone, by tag, from every page of every region."""
        check_access()
        # Every run looks at its start and end: where nothing was leased from here, a network that is down must not hold it up.
        once = scope == "all" and not self._everywhere and next(all_notes(), None) is None
        found = [resource for region in self._regions() for resource in self._in_region(self._account(region), once)]
        if self._settings.bucket:
            found += _aws_s3.objects(self._account(self.region))
        return [one for one in found if scope in ("all", one.lease, one.run)]

    def stop(self, resource: Resource) -> None:
        """Ask for the end of a machine, or remove a thing. A group in use goes once its machine is gone."""
        region, name = _split(resource.id)
        if name.startswith("s3:"):
            _aws_s3.remove(self._account(region), name)
            return
        operation, field, listed = REMOVE[name.partition("-")[0]]
        try:
            self._account(region).ec2(operation, **{field: [name] if listed else name})
        except Exception as error:
            if not code_of(error).endswith(".NotFound") and code_of(error) not in ("DependencyViolation", "VolumeInUse"):
                raise

    def stop_command(self, resource: Resource) -> str:
        """For the AWS command line."""
        region, name = _split(resource.id)
        if name.startswith("s3:"):
            return _aws_s3.command(self._settings.bucket, name)
        by_hand = COMMANDS.get(name.partition("-")[0], "ec2 describe-instances --filters Name=tag:forge:lease,Values=")
        return f"aws {by_hand}{name} --region {region or self.region}" + (f" --profile {self._settings.profile}" if self._settings.profile else "")

    def channel(self, resource: Resource, root: Path) -> HostChannel:
        """Files and jobs by ssh, once the machine answers with the host key that it was given. Raises MachineLost."""
        region, machine = _split(resource.id)
        account, note = self._account(region), read_note(resource.lease)
        if note is None or not note.has_keys():
            raise MachineLost(
                f"{machine} cannot be reached from here", why="its key is on another computer, or was removed", next="forge resume leases another one",
            )
        self._admit(account, machine)
        address = wait_until_ready(account, machine, note, boot_seconds=self.boot_seconds, pause_seconds=self.pause_seconds)
        public = " ".join((note.folder / "host_key.pub").read_text(encoding="utf-8").split()[:2])
        target = Target(host=address, user=self._settings.user, key=note.folder / "key", host_keys=(public,))
        host = Host(SshTransport(target, alive_seconds=self.alive_seconds), patience_seconds=self.patience_seconds)
        watch = Watch(
            idle_seconds=self.idle_seconds, at_end=("sh", "-c", _aws_boot.END), notice_seconds=self.notice_seconds,
            notice=("python3", "-c", _aws_boot.NOTICE) if note.lease.offer.spot else (),
        )
        place = f"{ROOT}/{note.lease.token}"
        left = (note.ends - account.now).total_seconds() - _aws_boot.BOOT_SECONDS
        kind = StagedChannel if self._settings.bucket else HostChannel
        channel = kind(host, place, watch=watch, poll_seconds=self.poll_seconds, environment=self._environment())
        if isinstance(channel, StagedChannel):
            channel.bucket, channel.stage_bytes, channel.seconds = Bucket(account, note.lease), self.stage_bytes, left
        channel.host.call("open", {
            "root": place, "token": note.lease.token, "run": note.lease.run, "attempt": note.lease.attempt, "deadline_seconds": max(1.0, left),
        })
        return channel

    def settle(self, resource: Resource) -> int:
        """From AWS's own times. For a lease whose machine nobody saw: what AWS lists of its last attempt."""
        region, name = _split(resource.id)
        note = read_note(resource.lease)
        if name == resource.lease:
            return sum(self._cost(self._account(region), one, note) for region, one in self._machines_of(note))
        if not name.startswith("i-"):
            return 0
        account = self._account(region)
        machine = describe(account, name)
        if machine is None:
            known = need_rates(note, name)
            known.forget_keys()
            return worst_cost(known)
        return self._cost(account, machine, note)

    # --- helpers ------------------------------------------------------------------------------------------------

    @property
    def idle_seconds(self) -> float:
        """How long a machine goes on when nobody asks for it."""
        return 60 * self._settings.idle_minutes

    @property
    def region(self) -> str:
        """Where machines are leased."""
        return self._settings.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or DEFAULT_REGION

    def _account(self, region: str) -> Account:
        region = region or self.region
        if region not in self._accounts:
            self._accounts[region] = Account(self._settings, region)
        return self._accounts[region]

    def _catalogue(self, region: str) -> Catalogue:
        if region not in self._catalogues:
            self._catalogues[region] = Catalogue(self._account(region))
        return self._catalogues[region]

    def _regions(self) -> list[str]:
        known = [self.region, *self._settings.also_regions, *(note.region for note in all_notes())]
        if self._everywhere:
            known += [one["RegionName"] for one in self._account(self.region).ec2("describe_regions")["Regions"]]
        return list(dict.fromkeys(known))

    def _in_region(self, account: Account, once: bool) -> Iterator[Resource]:
        """Machines first: what they hold can only go after them."""
        ours = [{"Name": f"tag:{MANAGED}", "Values": ["1"]}]
        for group in account.pages("describe_instances", "Reservations", once=once, Filters=ours):
            for machine in group["Instances"]:
                if machine["State"]["Name"] in STATES:
                    yield self._machine(account, machine)
        for kind, operation, key, field in THINGS:
            for thing in account.pages(operation, key, once=once, Filters=ours):
                if kind != "volume" or thing["State"] not in ("in-use", "deleting", "deleted"):
                    yield self._resource(account, thing, thing[field], "live", kind)

    def _machine(self, account: Account, machine: dict[str, Any]) -> Resource:
        state = STATES.get(machine["State"]["Name"], "gone")
        return self._resource(account, machine, machine["InstanceId"], state, "machine").model_copy(update={"address": machine.get("PublicIpAddress", "")})

    def _resource(self, account: Account, thing: dict[str, Any], name: str, state: Any, kind: str) -> Resource:
        tags = tags_of(thing)
        ends = tags.get(DEADLINE, "")
        return Resource(
            provider=self.name, id=f"{account.region}/{name}", lease=tags.get(LEASE, ""), run=tags.get(RUN, ""), state=state, kind=kind,
            overdue=bool(ends) and account.now > parse_time(ends),
        )

    def _admit(self, account: Account, machine: str) -> None:
        """This computer's address may have changed since the start."""
        now = describe(account, machine)
        for group in (now or {}).get("NetworkInterfaces", [{}])[0].get("Groups", ()):
            admit(account, group["GroupId"])

    def _environment(self) -> ReadyPython | LockedEnvironment:
        return ReadyPython(self._settings.python) if self._settings.python else LockedEnvironment("~/.slm-forge/environments")

    def _machines_of(self, note: Note | None) -> Iterator[tuple[str, dict[str, Any]]]:
        if note is None:
            return
        filters = [{"Name": f"tag:{LEASE}", "Values": [note.lease.token]}, {"Name": f"tag:{ATTEMPT}", "Values": [str(note.lease.attempt)]}]
        for group in self._account(note.region).pages("describe_instances", "Reservations", Filters=filters):
            for machine in group["Instances"]:
                yield note.region, machine

    def _cost(self, account: Account, machine: dict[str, Any], note: Note | None) -> int:
        cost = machine_cost(account, machine, need_rates(note, machine["InstanceId"]))
        if note is not None and machine["State"]["Name"] == "terminated":
            note.forget_keys()
        return cost


THINGS = (
    ("volume", "describe_volumes", "Volumes", "VolumeId"), ("key", "describe_key_pairs", "KeyPairs", "KeyPairId"),
    ("group", "describe_security_groups", "SecurityGroups", "GroupId"),
)
REMOVE = {
    "i": ("terminate_instances", "InstanceIds", True), "vol": ("delete_volume", "VolumeId", False), "key": ("delete_key_pair", "KeyPairId", False),
    "sg": ("delete_security_group", "GroupId", False),
}
COMMANDS = {
    "i": "ec2 terminate-instances --instance-ids ", "vol": "ec2 delete-volume --volume-id ", "key": "ec2 delete-key-pair --key-pair-id ",
    "sg": "ec2 delete-security-group --group-id ",
}


@contextmanager
def _asking(region: str) -> Iterator[None]:
    """What botocore raises (no network, no such region) as a ForgeError: the plan then shows why there are no offers."""
    try:
        yield
    except ForgeError:
        raise
    except Exception as error:
        raise ForgeError(f"EC2 in {region} cannot be asked", why=f"{type(error).__name__}: {error}", next="forge resume") from error


def _split(name: str) -> tuple[str, str]:
    """Region and id; a lease's token has no region."""
    region, slash, rest = name.partition("/")
    return (region, rest) if slash else ("", name)


provider = Aws()
