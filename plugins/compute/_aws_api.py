"""Calls to one AWS region: how they are retried, what their errors mean, the tags of what we make, and AWS's own clock."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from forge.errors import ForgeError, MissingAccess, NoCapacity

MANAGED, RUN, LEASE, ATTEMPT, DEADLINE = "forge:managed", "forge:run", "forge:lease", "forge:attempt", "forge:deadline"
DEFAULT_REGION = "us-east-1"
NO_CAPACITY = {
    "InsufficientInstanceCapacity", "InsufficientHostCapacity", "SpotMaxPriceTooLow", "InsufficientCapacity", "InsufficientFreeAddressesInSubnet",
    "Unsupported", "UnfulfillableCapacity",
}
"""Try the next zone or type. "Unsupported" is said of a type that a zone does not have."""
NO_QUOTA = {"VcpuLimitExceeded", "MaxSpotInstanceCountExceeded", "InstanceLimitExceeded"}
NO_ACCESS = {
    "UnauthorizedOperation", "AuthFailure", "AccessDenied", "AccessDeniedException", "InvalidClientTokenId", "UnrecognizedClientException",
    "ExpiredToken", "ExpiredTokenException", "OptInRequired", "InvalidAccessKeyId", "Blocked", "PendingVerification", "SignatureDoesNotMatch",
    "MissingAuthenticationToken", "InvalidSignatureException", "NotAuthorized",
}
TRANSIENT = {
    "RequestLimitExceeded", "Throttling", "ThrottlingException", "InternalError", "InternalFailure", "Unavailable", "ServiceUnavailable",
    "RequestTimeout", "EC2ThrottledException", "RequestThrottled",
}
"""Asked again with the same ClientToken."""
MOST_ATTEMPTS = 5
NO_CREDENTIALS = {
    "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "TokenRetrievalError", "SSOTokenLoadError", "UnauthorizedSSOTokenError",
}
CLOCK = {"RequestExpired", "RequestTimeTooSkewed"}
RIGHTS = "docs/machines.md has the policy that slm-forge needs"


class Account:
    """The account's services in one region. settings: the section `aws`."""

    def __init__(self, settings: Any, region: str) -> None:
        self.settings, self.region = settings, region
        self._clients: dict[tuple[str, bool], Any] = {}
        self._lock = Lock()
        self.now = datetime.now(UTC)
        """AWS's clock at the last answer."""

    def call(self, service: str, operation: str, **request: Any) -> dict[str, Any]:
        """One call. Raises MissingAccess for what the account may not do; other errors as botocore has them."""
        return self._ask(self.client(service), service, operation, request)

    def ec2(self, operation: str, **request: Any) -> dict[str, Any]:
        """One call of EC2."""
        return self.call("ec2", operation, **request)

    def ec2_once(self, operation: str, **request: Any) -> dict[str, Any]:
        """One call of EC2 that is not repeated by itself: botocore would ask a full zone five times (its error is a 500)."""
        return self._ask(self.client("ec2", once=True), "ec2", operation, request)

    def _ask(self, client: Any, service: str, operation: str, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(client, operation)(**request)
        except Exception as error:
            raise explained(error, f"{service}:{_title(operation)}") from error
        return self._heard(answer)

    def pages(self, operation: str, key: str, *, once: bool = False, **request: Any) -> Iterator[dict[str, Any]]:
        """All items of a listing of EC2, page by page. once: a page that cannot be had is not asked for again."""
        client = self.client("ec2", once=once)
        try:
            if not client.can_paginate(operation):
                yield from self._heard(getattr(client, operation)(**request))[key]
                return
            for page in client.get_paginator(operation).paginate(**request):
                yield from self._heard(page)[key]
        except Exception as error:
            raise explained(error, f"ec2:{_title(operation)}") from error

    def _heard(self, answer: dict[str, Any]) -> dict[str, Any]:
        date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        if date:
            from email.utils import parsedate_to_datetime

            self.now = parsedate_to_datetime(date).astimezone(UTC)
        return answer

    def client(self, service: str, *, once: bool = False) -> Any:
        """A client of a service in this region; made once."""
        with self._lock:
            if (service, once) not in self._clients:
                self._clients[service, once] = self._new_client(service, 1 if once else MOST_ATTEMPTS)
            return self._clients[service, once]

    def _new_client(self, service: str, attempts: int) -> Any:
        from botocore.config import Config

        check_access()
        # The price list has its own few endpoints; us-east-1 knows the prices of every region.
        region = DEFAULT_REGION if service == "pricing" else self.region
        config = Config(retries={"mode": "standard", "total_max_attempts": attempts}, connect_timeout=5, read_timeout=60)
        with _making:
            return _session(self.settings.profile).client(service, region_name=region, config=config)


_making = Lock()
"""A session makes one client at a time (boto3: "Multithreading with clients")."""


@cache
def _session(profile: str) -> Any:
    """One for all: reading the description of EC2 takes it a third of a second."""
    import boto3

    return boto3.session.Session(profile_name=profile or None)


SIGNS = (
    "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_WEB_IDENTITY_TOKEN_FILE",
)


def check_access() -> None:
    """Raise MissingAccess when there is no sign of credentials, without loading boto3 (half a second) or asking a network."""
    named = any(os.environ.get(name) for name in SIGNS)
    files = [os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"), os.environ.get("AWS_CONFIG_FILE", "~/.aws/config")]
    if named or any(_exists(file) for file in files) or _on_ec2():
        return
    raise MissingAccess(
        "no AWS credentials", why="neither AWS_ACCESS_KEY_ID nor AWS_PROFILE is set, and there is no ~/.aws", next="aws configure, or set AWS_PROFILE",
    )


def code_of(error: BaseException) -> str:
    """AWS's code of an error ("InsufficientInstanceCapacity"), "" for one that AWS did not answer."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def is_transient(error: BaseException) -> bool:
    """Whether asking once more may help: no answer at all (the call may have been heard), throttled, or a failure of the service."""
    return code_of(error) in TRANSIENT or (not code_of(error) and type(error).__module__.startswith(("botocore", "urllib3")))


def explained(error: Exception, action: str) -> Exception:
    """MissingAccess or NoCapacity for what AWS has refused for good, else the error itself."""
    code, text = code_of(error), str(error)
    if isinstance(error, ForgeError):
        return error
    if code in NO_ACCESS:
        return MissingAccess(f"AWS does not allow {action}", why=text, next=RIGHTS)
    if code in CLOCK:
        return ForgeError("AWS does not take signatures of this machine's time", why=text, next="set this machine's clock, then forge resume")
    if type(error).__name__ in NO_CREDENTIALS:
        return MissingAccess("no AWS credentials", why=text, next="aws configure, aws sso login, or set AWS_PROFILE")
    return error


def no_quota(error: BaseException, kind: str, region: str) -> NoCapacity:
    """The account may not have so many of a type."""
    return NoCapacity(
        f"the account's quota does not allow a {kind} in {region}", why=str(error),
        next=f"ask for more at https://{region}.console.aws.amazon.com/servicequotas/home/services/ec2/quotas, then forge resume",
    )


def tags_of(thing: Mapping[str, Any]) -> dict[str, str]:
    """The tags of an item of a listing."""
    return {tag["Key"]: tag["Value"] for tag in thing.get("Tags", ())}


def specification(kinds: tuple[str, ...], tags: Mapping[str, str]) -> list[dict[str, Any]]:
    """TagSpecifications for things that a call makes."""
    pairs = [{"Key": key, "Value": value} for key, value in sorted(tags.items())]
    return [{"ResourceType": kind, "Tags": pairs} for kind in kinds]


def _title(operation: str) -> str:
    return "".join(word.capitalize() for word in operation.split("_"))


def _exists(file: str) -> bool:
    return Path(file).expanduser().is_file()


def _on_ec2() -> bool:
    """A machine of EC2 may have a role, unless its user says not to look."""
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return False
    try:
        return Path("/sys/class/dmi/id/sys_vendor").read_text(encoding="utf-8").startswith("Amazon EC2")
    except OSError:
        return False
