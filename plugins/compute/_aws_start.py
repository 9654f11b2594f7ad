"""One machine for one lease: its key, its group, then one request per type and zone until one of them has room."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from forge.errors import ForgeError, MachineLost, MissingAccess, NoCapacity
from forge.plugins.compute._aws_api import (
    ATTEMPT,
    DEADLINE,
    LEASE,
    MANAGED,
    MOST_ATTEMPTS,
    NO_CAPACITY,
    NO_QUOTA,
    RUN,
    Account,
    code_of,
    is_transient,
    no_quota,
    specification,
)
from forge.plugins.compute._aws_boot import user_data
from forge.plugins.compute._aws_notes import TIME, Note, read_note
from forge.plugins.compute._aws_offers import Catalogue, Kind
from forge.protocols import Lease

CHECK_IP = "https://checkip.amazonaws.com"
TAKEN_SECONDS = 10.0


class Starter:
    """Starts the machine of one lease."""

    def __init__(self, account: Account, catalogue: Catalogue, lease: Lease, *, look_seconds: float, pause_seconds: float) -> None:
        self.account, self.catalogue, self.lease = account, catalogue, lease
        self.settings, self.look_seconds, self.pause_seconds = account.settings, look_seconds, pause_seconds
        self.fresh = False

    def start(self) -> dict[str, Any]:
        """The machine as RunInstances tells it. Raises NoCapacity when no type and zone has room; nothing is left then."""
        subnets = self._subnets()
        note = self._note()
        group = self._group(note, next(iter(subnets.values()))["VpcId"])
        admit(self.account, group)
        key = self._key(note)
        refusals: list[str] = []
        for kind, zone in self._places(note, subnets):
            note = note.but(place=f"{kind.name} {zone}", rates=self._rates(kind), disk_gib=self.settings.disk_gib)
            try:
                machine = self._run(self._request(note, kind, subnets[zone]["SubnetId"], group, key))
            except Exception as error:  # noqa: BLE001 - judged by _refusal, which raises all but a lack of room
                refusals.append(self._refusal(error, note, kind, zone))
                continue
            note.but(machine=machine["InstanceId"])
            return machine
        self._remove(note, group, key)
        raise NoCapacity(
            f"EC2 has no {self.lease.offer.name} now", why="; ".join(refusals) or "no zone of yours has the type",
            next="forge resume tries again; --set aws.region=… or another offer may have room",
        )

    def _run(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """RunInstances, asked again with the same token while the answer is lost, throttled, or a failure of the service."""
        for attempt in range(1, MOST_ATTEMPTS + 1):
            try:
                machine: dict[str, Any] = self.account.ec2_once("run_instances", **request)["Instances"][0]
                return machine
            except Exception as error:
                if attempt == MOST_ATTEMPTS or not is_transient(error):
                    raise
                time.sleep(self.pause_seconds * 2**attempt * random.uniform(0.5, 1.0))
        raise AssertionError

    def _refusal(self, error: Exception, note: Note, kind: Kind, zone: str) -> str:
        """Why this place has no room; raises what another place would not mend."""
        code = code_of(error)
        if code in NO_CAPACITY:
            return f"{kind.name} in {zone}: {code}"
        if code in NO_QUOTA or isinstance(error, MissingAccess):
            self._remove(note, note.name, note.name)
            raise no_quota(error, kind.name, self.account.region) if code in NO_QUOTA else error
        if code == "IdempotentInstanceTerminated":
            raise MachineLost("the machine of this lease is gone already", why=str(error), next=f"forge resume {self.lease.run}") from error
        if code == "IdempotentParameterMismatch":
            raise ForgeError(
                "EC2 was asked for this machine before, in other words", why="what this computer knew of the lease was changed or removed",
                next=f"forge teardown {self.lease.run}, then forge resume {self.lease.run}",
            ) from error
        raise error

    def _note(self) -> Note:
        """What was written down for this attempt, or a new note. The deadline is by AWS's clock, which is not ours."""
        known = read_note(self.lease.token)
        if known is not None and known.lease.attempt == self.lease.attempt and known.region == self.account.region:
            return known
        self.fresh = True
        deadline = self.account.now + timedelta(seconds=self.lease.deadline_seconds)
        note = Note(lease=self.lease, region=self.account.region, deadline=deadline.strftime(TIME))
        note.write()
        return note

    def _places(self, note: Note, subnets: Mapping[str, Any]) -> Iterator[tuple[Kind, str]]:
        """(type, zone) in the order to ask; where an earlier request may have been heard comes first."""
        kinds = self.catalogue.kinds
        own = kinds.get(self.lease.offer.name.split()[0])
        if own is None:
            raise NoCapacity(f"EC2 does not offer {self.lease.offer.name} any more", next="forge resume --from plan_fit")
        most = self.lease.offer.usd_per_hour - self.catalogue.extras_per_hour() + 1e-6   # the offer's price is rounded
        others = [kind for kind in kinds.values() if kind != own and kind.usd_per_hour <= most and kind.as_good_as(self.lease.offer)]
        first = tuple(note.place.split())
        if first and first[0] in kinds and first[1] in subnets:
            yield kinds[first[0]], first[1]
        for kind in (own, *others):
            for zone in self.catalogue.zones(kind.name):
                if zone in subnets and (kind.name, zone) != first:
                    yield kind, zone

    def _request(self, note: Note, kind: Kind, subnet: str, group: str, key: str) -> dict[str, Any]:
        lease, settings = self.lease, self.settings
        image = lease.offer.image or self.catalogue.image(bool(kind.gpu))
        request = {
            "ImageId": image, "InstanceType": kind.name, "MinCount": 1, "MaxCount": 1, "KeyName": key,
            "ClientToken": client_token(lease, kind.name, subnet), "InstanceInitiatedShutdownBehavior": "terminate",
            "UserData": user_data(
                deadline_seconds=lease.deadline_seconds, idle_seconds=60.0 * settings.idle_minutes, look_seconds=self.look_seconds,
                grace_seconds=self.look_seconds, user=settings.user, host_key=note.key("host_key"), packages=not settings.python,
            ),
            "NetworkInterfaces": [{"DeviceIndex": 0, "SubnetId": subnet, "Groups": [group], "AssociatePublicIpAddress": True, "DeleteOnTermination": True}],
            "BlockDeviceMappings": [{
                "DeviceName": self._root_device(image),
                "Ebs": {"VolumeSize": settings.disk_gib, "VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True},
            }],
            "MetadataOptions": {"HttpEndpoint": "enabled", "HttpTokens": "required", "HttpPutResponseHopLimit": 1},
            "TagSpecifications": specification(("instance", "volume", "network-interface"), self._tags(note)),
        }
        if lease.offer.spot:
            spot = {"MaxPrice": f"{kind.usd_per_hour:.6f}", "SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
            request["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": spot}
        return request

    def _root_device(self, image: str) -> str:
        """The name of the image's first disk, which is made larger. Raises ForgeError when the image is gone, or larger."""
        found = list(self.account.pages("describe_images", "Images", ImageIds=[image]))
        if not found:
            raise ForgeError(f"the machine image {image} is not in {self.account.region}", next="forge resume --from plan_fit")
        name = str(found[0]["RootDeviceName"])
        sizes = [one["Ebs"].get("VolumeSize", 0) for one in found[0].get("BlockDeviceMappings", ()) if one.get("DeviceName") == name and "Ebs" in one]
        if sizes and max(sizes) > self.settings.disk_gib:
            raise ForgeError(f"the machine image needs {max(sizes)} GiB", next=f"forge resume --set aws.disk_gib={max(sizes)}")
        return name

    def _rates(self, kind: Kind) -> dict[str, float]:
        table = self.catalogue.table
        return {"machine": kind.usd_per_hour, "disk_gib_month": float(table["disk_usd_per_gib_month"]), "address": float(table["address_usd_per_hour"])}

    def _tags(self, note: Note) -> dict[str, str]:
        return {
            "Name": note.name, MANAGED: "1", RUN: self.lease.run, LEASE: self.lease.token, ATTEMPT: str(self.lease.attempt), DEADLINE: note.deadline,
        }

    def _subnets(self) -> dict[str, dict[str, Any]]:
        """By zone: aws.subnets, or the default one of each zone."""
        if self.settings.subnets:
            found = self.account.pages("describe_subnets", "Subnets", SubnetIds=list(self.settings.subnets))
        else:
            found = self.account.pages("describe_subnets", "Subnets", Filters=[{"Name": "default-for-az", "Values": ["true"]}])
        subnets = {one["AvailabilityZone"]: one for one in found}
        if not subnets:
            raise ForgeError(
                f"there is no default network in {self.account.region}", why="its VPC was deleted, or the account never had one",
                next="aws ec2 create-default-vpc, or forge run … --set aws.subnets=[subnet-…]",
            )
        return subnets

    def _group(self, note: Note, vpc: str) -> str:
        """The machine's security group, made when it is not there; its name makes that idempotent."""
        request = {"GroupName": note.name, "Description": "slm-forge: ssh from one address", "VpcId": vpc}
        try:
            tags = specification(("security-group",), self._tags(note))
            return str(self.account.ec2("create_security_group", **request, TagSpecifications=tags)["GroupId"])
        except Exception as error:
            if code_of(error) != "InvalidGroup.Duplicate":
                raise
        return _group_id(self.account, note.name)

    def _key(self, note: Note) -> str:
        """The key pair's name at AWS. It was imported before if there is one of that name: the name is of this attempt."""
        public = note.key("key").with_suffix(".pub").read_bytes()
        request = {"KeyName": note.name, "PublicKeyMaterial": public, "TagSpecifications": specification(("key-pair",), self._tags(note))}
        try:
            self.account.ec2("import_key_pair", **request)
        except Exception as error:
            if code_of(error) != "InvalidKeyPair.Duplicate":
                raise
            if self.fresh:   # made by another computer, or before this one's notes were removed: it is another key
                self.account.ec2("delete_key_pair", KeyName=note.name)
                self.account.ec2("import_key_pair", **request)
        return note.name

    def _remove(self, note: Note, group: str, key: str) -> None:
        """Nothing was started: its key and group go too. What cannot be removed now is found by its tag."""
        group = group if group.startswith("sg-") else _group_id(self.account, note.name)
        self.account.ec2("delete_key_pair", KeyName=key)
        self.account.ec2("delete_security_group", GroupId=group)
        note.forget_keys()


def client_token(lease: Lease, kind: str, subnet: str) -> str:
    """The same for a repeated request, another one for another attempt, type or zone. At most 64 characters (EC2: "Ensuring idempotency")."""
    return "forge-" + hashlib.sha256(f"{lease.token}/{lease.attempt}/{kind}/{subnet}".encode()).hexdigest()[:48]


def admit(account: Account, group: str) -> None:
    """Let this computer's address reach port 22 of the group, and nobody else."""
    cidr = own_address(account.settings.my_ip)
    wanted = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": cidr, "Description": "slm-forge"}]}
    now = account.ec2("describe_security_groups", GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
    ranges = [one["CidrIp"] for rule in now for one in rule.get("IpRanges", ())]
    if ranges == [cidr]:
        return
    if now:
        account.ec2("revoke_security_group_ingress", GroupId=group, IpPermissions=now)
    account.ec2("authorize_security_group_ingress", GroupId=group, IpPermissions=[wanted])


def own_address(setting: str) -> str:
    """This computer's public address as a range: aws.my_ip, or what AWS sees."""
    if setting:
        return setting if "/" in setting else f"{setting}/32"
    import urllib.request  # 40 ms: every command loads this module

    try:
        with urllib.request.urlopen(CHECK_IP, timeout=TAKEN_SECONDS) as answer:
            return f"{answer.read().decode().strip()}/32"
    except OSError as error:
        raise ForgeError(f"{CHECK_IP} did not tell this computer's address", why=str(error), next="forge resume --set aws.my_ip=203.0.113.7") from error


def _group_id(account: Account, name: str) -> str:
    found = list(account.pages("describe_security_groups", "SecurityGroups", Filters=[{"Name": "group-name", "Values": [name]}]))
    return str(found[0]["GroupId"]) if found else ""
