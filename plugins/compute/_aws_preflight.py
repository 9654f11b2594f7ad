"""What can be proven at plan time without starting anything: who we are, the quota, and every right that a run needs."""

from __future__ import annotations

import re
from typing import Any

from forge.errors import MissingAccess, NoCapacity
from forge.plugins.compute._aws_api import MANAGED, RIGHTS, Account, code_of, specification
from forge.plugins.compute._aws_offers import Kind
from forge.protocols import Offer

QUOTAS = {
    # Family letters -> (on demand, spot), in vCPUs; codes from the Service Quotas console, EC2.
    "g": ("L-DB2E81BA", "L-3819A6DF"), "p": ("L-417A185B", "L-7212CCBC"), "p5": ("L-417A185B", "L-C4BD4855"), "": ("L-1216C47A", "L-34B43A08"),
}
NOT_THERE = "0" * 17
"""Of a thing that does not exist: whether it might be removed is asked with DryRun."""
NO_KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g"
"""Well formed, and nobody's."""


def preflight(account: Account, offer: Offer, kind: Kind) -> list[str]:
    """What was proven. Raises MissingAccess or NoCapacity with what to do."""
    who = account.call("sts", "get_caller_identity")
    return [f"AWS account {who['Account']} as {who['Arn']}", _quota(account, offer, kind), *_rights(account, offer, kind)]


def _quota(account: Account, offer: Offer, kind: Kind) -> str:
    """Raises NoCapacity when the account may not have so many cores of the family."""
    code = QUOTAS[_family(kind.name)][1 if offer.spot else 0]
    try:
        most = float(account.call("service-quotas", "get_service_quota", ServiceCode="ec2", QuotaCode=code)["Quota"]["Value"])
    except MissingAccess:
        return f"quota {code} not checked: servicequotas:GetServiceQuota is not allowed"
    used = _cores_in_use(account, kind, spot=offer.spot)
    if used + kind.cores > most:
        raise NoCapacity(
            f"the account's quota does not allow a {kind.name} in {account.region}",
            why=f"{code} is {most:.0f} vCPUs, {used} are in use, {kind.cores} are needed",
            next=f"ask for more at https://{account.region}.console.aws.amazon.com/servicequotas/home/services/ec2/quotas/{code}",
        )
    return f"quota {code}: {kind.cores} of {most - used:.0f} free vCPUs"


def _cores_in_use(account: Account, kind: Kind, *, spot: bool) -> int:
    filters = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
    machines = [one for group in account.pages("describe_instances", "Reservations", Filters=filters) for one in group["Instances"]]
    family = [one for one in machines if _family(one["InstanceType"]) == _family(kind.name) and (one.get("InstanceLifecycle") == "spot") == spot]
    return sum(one.get("CpuOptions", {}).get("CoreCount", 1) * one.get("CpuOptions", {}).get("ThreadsPerCore", 1) for one in family)


def _family(kind: str) -> str:
    """ "g" for G and VT, "p" for P to P4, "p5" for those after it, "" for the standard families: they have quotas of their own."""
    letters = re.match("[a-z]+", kind)
    first = letters[0] if letters else ""
    if first == "p":
        return "p" if kind[1] in "234" else "p5"
    return "g" if first in ("g", "gr", "vt") else ""


def _rights(account: Account, offer: Offer, kind: Kind) -> list[str]:
    """Ask for everything with DryRun: AWS says whether it would be allowed. Raises MissingAccess for what a machine cannot start without."""
    subnets = list(account.pages("describe_subnets", "Subnets", Filters=[{"Name": "default-for-az", "Values": ["true"]}]))
    making, removing = _making(account, offer, kind, subnets[0]["VpcId"] if subnets else ""), _removing()
    missing = [operation for operation, request in making if not _allowed(account, operation, request)]
    if missing:
        raise MissingAccess(f"AWS does not allow {_names(missing)}", why="asked with DryRun; nothing was made", next=RIGHTS)
    refused = [operation for operation, request in removing if not _allowed(account, operation, request)]
    proven = f"{len(making) + len(removing) - len(refused)} rights proven with DryRun; nothing was made"
    # A policy that goes by tags refuses what it is asked about a thing that does not exist, though it would allow the real one.
    return [proven, *([f"not proven, unless the policy goes by the tag {MANAGED}: {_names(refused)}"] if refused else [])]


def _making(account: Account, offer: Offer, kind: Kind, vpc: str) -> list[tuple[str, dict[str, Any]]]:
    tags = {MANAGED: "1"}
    machine: dict[str, Any] = {
        "ImageId": offer.image, "InstanceType": kind.name, "MinCount": 1, "MaxCount": 1,
        "TagSpecifications": specification(("instance", "volume"), tags),
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}, "InstanceInitiatedShutdownBehavior": "terminate",
    }
    group = {"GroupName": "forge-preflight", "Description": "slm-forge", "TagSpecifications": specification(("security-group",), tags)}
    if vpc:
        group["VpcId"] = vpc
    key = {"KeyName": "forge-preflight", "PublicKeyMaterial": NO_KEY, "TagSpecifications": specification(("key-pair",), tags)}
    return [("run_instances", machine), ("create_security_group", group), ("import_key_pair", key)]


def _removing() -> list[tuple[str, dict[str, Any]]]:
    return [
        ("terminate_instances", {"InstanceIds": [f"i-{NOT_THERE}"]}), ("delete_security_group", {"GroupId": f"sg-{NOT_THERE}"}),
        ("delete_key_pair", {"KeyName": "forge-preflight"}), ("delete_volume", {"VolumeId": f"vol-{NOT_THERE}"}),
    ]


def _allowed(account: Account, operation: str, request: dict[str, Any]) -> bool:
    """Every answer but a refusal means that the right is there: DryRunOperation, or that the thing does not exist."""
    try:
        account.ec2_once(operation, DryRun=True, **request)
    except MissingAccess:
        return False
    except Exception as error:
        if not code_of(error):
            raise
    return True


def _names(operations: list[str]) -> str:
    return ", ".join(f"ec2:{''.join(word.capitalize() for word in operation.split('_'))}" for operation in operations)
