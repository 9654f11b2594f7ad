"""Asking the Hub: with a timeout of its own, again after a break, its refusals in words."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from forge.errors import ForgeError, MissingAccess, NoCapacity

PORT = 49984
RUN, LEASE, ATTEMPT, START = "forge-run", "forge-lease", "forge-attempt", "forge-start"
"""Labels of a job."""
ATTEMPTS, FIRST_PAUSE = 3, 0.5

T = TypeVar("T")


class NotThere(ForgeError):
    """The Hub does not know what was asked for."""


def ask(act: Callable[[], T]) -> T:
    """act() that changes nothing or may be repeated: again after a pause when the Hub or the line failed; refusals in words."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    for attempt in range(1, ATTEMPTS + 1):
        try:
            return act()
        except HfHubHTTPError as error:
            if (refusal := explain(error)) is not None and not isinstance(refusal, NoCapacity):
                raise refusal from error
            if attempt == ATTEMPTS:
                raise
        except OfflineModeIsEnabled as error:
            raise MissingAccess("HF_HUB_OFFLINE forbids to ask Hugging Face for machines", next="unset HF_HUB_OFFLINE") from error
        except httpx2.TransportError:
            if attempt == ATTEMPTS:
                raise
        time.sleep(FIRST_PAUSE * 2 ** (attempt - 1))
    raise AssertionError


def explain(error: Exception) -> ForgeError | None:
    """A clear no of the Hub, after which nothing was made; None when what it did is not known."""
    status = int(getattr(getattr(error, "response", None), "status_code", 0) or 0)
    words = " ".join(str(getattr(error, "server_message", "") or error).split())[:200]
    if status == 401:
        return no_token("the Hub does not accept it")
    if status == 402:
        return MissingAccess("Hugging Face wants credit before it runs jobs", why=words, next="add credit at huggingface.co/settings/billing, then forge resume")
    if status == 403:
        return may_not(words)
    if status == 404:
        return NotThere("the Hub does not know it", why=words)
    if status == 429:
        return NoCapacity("Hugging Face takes no more requests for now", why=words, next="forge resume in some minutes")
    if 400 <= status < 500:
        return ForgeError("Hugging Face does not take the job", why=words, next="forge config show hf-jobs")
    return None


def check_rights(told: Mapping[str, Any], namespace: str, wanted: Sequence[str] = ("job.write",)) -> None:
    """Raise MissingAccess when the token says itself that it may not start jobs for the namespace, or lacks a right that is wanted besides."""
    user = str(told["name"])
    owners = {user} | {str(one["name"]) for one in told.get("orgs", [])}
    if namespace not in owners:
        raise MissingAccess(
            f"the token may not run jobs for {namespace}", why=f"it belongs to {user}; known: {', '.join(sorted(owners))}",
            next="forge resume --set hf-jobs.namespace=NAME, or another HF_TOKEN",
        )
    access = told.get("auth", {}).get("accessToken", {})
    if access.get("role") == "read":
        raise may_not(f"it may only read; it belongs to {user}")
    if access.get("role") == "fineGrained":
        scoped = access.get("fineGrained", {}).get("scoped", [])
        rights = {right for scope in scoped if scope.get("entity", {}).get("name") == namespace for right in scope.get("permissions", [])}
        for right in wanted:
            if right not in rights:
                raise may_not(f"its permissions for {namespace} are {', '.join(sorted(rights)) or 'none'}; {right} is not among them")


def check_url(url: str, job_id: str, endpoint: str) -> None:
    """Our token goes to this address: it must be the job's own, or on this machine when the Hub is."""
    place, hub = urlsplit(url), urlsplit(endpoint)
    if place.scheme == "https" and (place.hostname or "").startswith(f"{job_id}--{PORT}.".lower()):
        return
    if hub.hostname in ("127.0.0.1", "localhost") and place.hostname == hub.hostname:
        return
    raise ForgeError(f"the job {job_id} names an address that is not its own", why=url, next=f"hf jobs inspect {job_id}")


_limited: list[float] = []


def limit_waiting(seconds: float) -> None:
    """Give the library's client a timeout: it has none, and a Hub that takes a request and never answers would hold us for ever."""
    if _limited == [seconds]:
        return
    import httpx2
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    def client() -> httpx2.Client:
        made: httpx2.Client = default_client_factory()
        made.timeout = httpx2.Timeout(seconds, connect=min(seconds, 10.0))
        return made

    set_client_factory(client)
    _limited[:] = [seconds]


def label(text: str) -> str:
    """Labels hold letters, digits, dashes and underscores, at most 100; other texts stand for themselves by their hash."""
    return text if re.fullmatch(r"[A-Za-z0-9_-]{1,100}", text) else hashlib.sha256(text.encode()).hexdigest()[:32]


def key(lease: str) -> str:
    """The lease's key, made from the token that starts the job: no file holds it, and any machine with that token can go on."""
    return hmac.new(hub_token().encode(), f"slm-forge job {label(lease)}".encode(), hashlib.sha256).hexdigest()


def hub_token() -> str:
    from huggingface_hub import get_token

    return get_token() or ""


def no_token(why: str) -> MissingAccess:
    return MissingAccess("Hugging Face Jobs needs a token", why=why, next="hf auth login, or export HF_TOKEN=… that may start jobs")


def may_not(why: str) -> MissingAccess:
    return MissingAccess("the token of the Hub may not start jobs", why=why, next="export HF_TOKEN=… with the right to start and manage jobs (job.write)")
