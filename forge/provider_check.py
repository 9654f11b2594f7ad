"""What every provider of machines has to do, tried out: part of the conformance suite (forge.conformance).

Without `start` only what costs nothing is tried. With it the cheapest offer is leased for some minutes, jobs run on it, and it is
ended; an offer at $0.00 (this machine, your own host) is always tried.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forge.errors import ForgeError, MissingAccess, NoCapacity
from forge.lease import end, looks_at
from forge.machines import has_price
from forge.phase import Settings
from forge.protocols import Channel, Lease, Need, Offer, Provider, Resource
from forge.store import hash_path

NEED = Need(parameters=1_000_000, memory_gib=0.1, gpu=False, seconds=60)
DEADLINE_SECONDS = 900
PATIENCE_SECONDS = 120.0
EXIT_CODE = 7
CANARY = "FORGE_CHECK_CANARY_TOKEN"
JOB = (
    "import os, sys, time; from pathlib import Path; print('said', flush=True); Path('count').open('a').write('x'); "
    f"Path('seen').write_text(os.environ.get('{CANARY}', 'nothing') + ' ' + os.environ.get('GIVEN', '')); sys.exit({EXIT_CODE})"
)
SLEEPER = "import time; print('up', flush=True); time.sleep(600)"


@dataclass(frozen=True)
class Seen:
    """One check that passed, and what it saw."""

    name: str
    detail: str


def check_provider(plugin: Any, *, start: bool = False) -> Iterator[Seen]:
    """The checks that passed. Raises ForgeError at the first that did not. start: also lease a machine that costs money."""
    yield Seen("declares", _check_declared(plugin))
    provider: Provider = plugin
    yield Seen("lists", _check_lists(provider))
    try:
        offers = provider.quote(NEED)
    except MissingAccess as error:
        yield Seen("quotes", f"not tried: {error.fact}")
        return
    yield Seen("quotes", _check_offers(provider, offers))
    free = [offer for offer in offers if offer.usd_per_hour == 0 and has_price(offer)]
    cheapest = free or (sorted(offers, key=lambda offer: offer.usd_per_hour) if start else [])
    if not cheapest:
        yield Seen("machine", "not tried: no offer is free; --start leases one that costs money" if offers else "not tried: it offers nothing here")
        return
    yield from check_machine(provider, cheapest[0])


def check_machine(provider: Provider, offer: Offer) -> Iterator[Seen]:
    """Lease, work and end; whatever is found wrong, the machine is ended."""
    lease = Lease(token=f"check-{secrets.token_hex(6)}", run="check", offer=offer, deadline_seconds=DEADLINE_SECONDS)
    try:
        resource = provider.start(lease)
        yield Seen("starts", _check_started(provider, lease, resource))
        with tempfile.TemporaryDirectory() as folder:
            channel = provider.channel(resource, Path(folder) / "root")
            python = channel.prepare(lambda text: None)
            yield Seen("files", _check_files(channel, Path(folder)))
            yield Seen("jobs", _check_jobs(channel, python))
    finally:
        why = end(provider, lease.token, looks_at(provider), patience=PATIENCE_SECONDS)
    _demand(not why, "the machine does not go", why)
    yield Seen("ends", _check_ended(provider, lease, resource))


# --- without a machine -----------------------------------------------------------------------------------------


def _check_declared(plugin: Any) -> str:
    settings = getattr(plugin, "settings", None)
    if settings is not None:
        _demand(isinstance(settings, type) and issubclass(settings, Settings), "settings is no forge.phase.Settings", "unknown keys must be errors")
        _demand(hasattr(plugin, "configured"), "it has settings and no configured()", "they would never reach it")
        again = plugin.configured(settings())
        _demand(getattr(again, "name", None) == plugin.name, "configured() gives a provider of another name", "its leases would not be found again")
    for name in ("creation_seconds", "confirm_seconds"):
        value = getattr(plugin, name, 0.0)
        _demand(isinstance(value, (int, float)) and value >= 0, f"{name} is {value!r}", "it has to be seconds, 0 or more")
    return f"{'settings, ' if settings else ''}a machine is proven gone after {max(0.0, float(getattr(plugin, 'confirm_seconds', 60.0))):g} s"


def _check_lists(provider: Provider) -> str:
    nowhere = Resource(provider=provider.name, id="check-nothing", lease="check-nothing", state="live")
    try:
        listed = provider.find("all")
        unknown = provider.find(f"check-{secrets.token_hex(6)}")
    except MissingAccess as error:
        return f"not tried: {error.fact}"
    _demand(not unknown, "find() lists something for a lease that never was", "a scope must be respected, or the machines of others are ended")
    for one in listed:
        _demand(isinstance(one, Resource) and one.provider == provider.name, f"find() lists {one!r}", "it must list forge.protocols.Resource of its own")
    _quietly(lambda: provider.stop(nowhere), "stop() of what is not there", "it must be idempotent")
    return f"{len(listed)} now; nothing for a lease that never was"


def _check_offers(provider: Provider, offers: list[Offer]) -> str:
    names = [offer.name for offer in offers]
    _demand(len({*names}) == len(names), "two offers have the same name", "a plan finds its machine again by the name")
    for offer in offers:
        _demand(offer.provider == provider.name, f"the offer {offer.name} says it is of {offer.provider}", f"it must say {provider.name}")
        price = offer.usd_per_hour
        _demand(math.isfinite(price) and price >= 0, f"the offer {offer.name} costs {price} an hour", "no worst case can be reserved for it")
        _demand(offer.cores > 0 and offer.memory_gib >= NEED.memory_gib, f"the offer {offer.name} does not fit the need", "quote() must only give what fits")
    return f"{len(offers)} offers"


# --- with one --------------------------------------------------------------------------------------------------


def _check_started(provider: Provider, lease: Lease, resource: Resource) -> str:
    again = provider.start(lease)
    _demand(again.id == resource.id, "start() twice made two machines", "it must be idempotent by (token, attempt)")
    _demand(resource.lease == lease.token and resource.run == lease.run, "the machine does not say whose it is", "lease and run come from its tags")
    for scope in (lease.token, lease.run, "all"):
        ids = [one.id for one in _patiently(lambda scope=scope: provider.find(scope), provider)]  # type: ignore[misc]
        _demand(resource.id in ids, f"find({scope!r}) does not list the machine", "what is not listed is not ended")
    machines = [one for one in provider.find(lease.token) if one.kind == "machine" and one.state != "gone"]
    _demand(len(machines) == 1, f"{len(machines)} machines for one lease", "start() twice must not make two")
    return resource.id


def _patiently(ask: Callable[[], list[Resource]], provider: Provider) -> list[Resource]:
    """A list, asked for again while a new machine may not be on it yet."""
    until = time.monotonic() + float(getattr(provider, "creation_seconds", 60.0))
    while not (found := ask()) and time.monotonic() < until:
        time.sleep(0.5)
    return found


def _check_files(channel: Channel, folder: Path) -> str:
    source, back = folder / "sent", folder / "back"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "b.bin").write_bytes(bytes(range(256)) * 40)
    (source / "a.txt").write_text("äöü\n", encoding="utf-8")
    for _ in range(2):
        channel.put(source, "check/tree", hash_path(source))
    channel.get("check/tree", back)
    _demand(hash_path(back) == hash_path(source), "a folder came back changed", "every byte and name must survive put() and get()")
    (source / "a.txt").write_text("new\n", encoding="utf-8")
    channel.put(source / "a.txt", "check/tree/a.txt", hash_path(source / "a.txt"))
    _demand(channel.read("check/tree/a.txt", 0) == b"new\n", "a file that was sent again is the old one", "put() replaces")
    _demand(channel.read("check/tree/deep/b.bin", 10_000) == (bytes(range(256)) * 40)[10_000:], "read() does not begin at its offset", "the log would be told twice")
    _demand(channel.read("check/none", 0) == b"", "read() of a file that is not there gives bytes", "it must be empty")
    _demand(Path(channel.path("check/tree")).is_absolute(), f"path() gives {channel.path('check/tree')!r}", "it must be absolute on the machine")
    _demand(_raises(lambda: channel.get("check/none", folder / "none")), "get() of what is not there raises nothing", "the local one must be whole or not there")
    return "a folder, a file again, from an offset on"


def _check_jobs(channel: Channel, python: str) -> str:
    os.environ[CANARY] = "a secret of ours"
    try:
        for _ in range(2):
            channel.spawn("check-1", [python, "-c", JOB], {"GIVEN": "this"})
    finally:
        del os.environ[CANARY]
    code = _wait(channel, "check-1")
    _demand(code == EXIT_CODE, f"a job that exits with {EXIT_CODE} is said to have exited with {code}", "poll() must give the job's own code")
    channel.spawn("check-1", [python, "-c", JOB], {})
    time.sleep(0.5)
    _demand(channel.read("jobs/check-1/count", 0) == b"x", "a job id was started twice", "what became of the first does not matter")
    seen = channel.read("jobs/check-1/seen", 0).decode()
    _demand(seen == "nothing this", f"the job sees {json.dumps(seen)} in its environment", "it must see what it was given and no secret of ours")
    _demand(b"said" in channel.read("jobs/check-1/log", 0), "the job's output is not in jobs/<job>/log", "nobody could see why it failed")
    _demand(channel.poll("check-none") == -1, "a job that was never started has no code -1", "it would be waited for without end")
    channel.spawn("check-2", [python, "-c", SLEEPER], {})
    _demand(channel.poll("check-2") is None, "a job that runs has an exit code", "it would be taken for ended")
    channel.stop("check-2", grace_seconds=1.0)
    stopped = _wait(channel, "check-2")
    _demand(stopped != 0, "a job that was stopped is said to have ended well", "its result would be waited for")
    return f"started once, exit code {code}, no secret of ours, stopped with {stopped}"


def _wait(channel: Channel, job: str) -> int:
    until = time.monotonic() + PATIENCE_SECONDS
    while (code := channel.poll(job)) is None:
        _demand(time.monotonic() < until, f"the job {job} does not end", f"it was waited for {PATIENCE_SECONDS:g} s")
        time.sleep(channel.poll_seconds)
    return code


def _check_ended(provider: Provider, lease: Lease, resource: Resource) -> str:
    left = [one.id for one in provider.find(lease.token) if one.state != "gone"]
    _demand(not left, f"{', '.join(left)} is still listed", "everything that start() made has to go with stop()")
    gone = resource.model_copy(update={"state": "gone"})
    _quietly(lambda: provider.stop(gone), "stop() of a machine that is gone", "it must be idempotent")
    first, second = provider.settle(gone), provider.settle(gone)
    _demand(isinstance(first, int) and first >= 0, f"settle() gives {first!r}", "it must be whole micro-dollars")
    _demand(first == second, "a machine that is gone costs more each time it is settled", "its bill counts to its end")
    _demand(_raises(lambda: provider.channel(gone, Path(tempfile.gettempdir())).poll("x")), "a channel to a machine that is gone answers", "a job could be started on it")
    return f"nothing is listed; it cost {first} micro-dollars"


def _raises(act: Callable[[], Any]) -> bool:
    """Whether it raises a ForgeError (MachineLost, NoCapacity), as it must."""
    try:
        act()
    except (ForgeError, NoCapacity):
        return True
    return False


def _quietly(act: Callable[[], Any], what: str, why: str) -> None:
    try:
        act()
    except Exception as error:
        raise ForgeError(f"{what} raises {type(error).__name__}: {error}", why=why) from error


def _demand(holds: bool, fact: str, why: str) -> None:
    if not holds:
        raise ForgeError(fact, why=why)
