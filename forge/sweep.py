"""Finds machines, and what was made for them, that any run left, from what the providers list and not from our records, and ends them.

A run that was killed for good, a folder of runs that was deleted, a database that was lost: what still stands is found by
the tag that every machine carries. `forge sweep` does it on demand; every run does it at its start and end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from forge.errors import MissingAccess, RunBusy, StillBilling
from forge.lease import KEPT_MACHINE, Leases, as_provider, end, is_kept, looks_at
from forge.protocols import RESULTS, Provider, Resource
from forge.records import Record
from forge.run import Run, home, run_ids


class Left(Record):
    """A machine, or a thing made for one, that a provider lists. action: "end" it, "ask" first, or "keep" it, and why."""

    resource: Resource
    action: Literal["end", "ask", "keep"]
    why: str


class Swept(Record):
    """What became of one machine, or thing made for one. done: "ended", "kept", "not ended" (it may still bill). command: ends it by hand."""

    provider: str
    id: str
    kind: str
    lease: str
    run: str
    done: Literal["ended", "kept", "not ended", "would be ended"]
    why: str
    seen_gone: tuple[str, ...] = ()
    command: str = ""


def find_left(providers: Mapping[str, Provider], *, own: str = "", unlisted: Callable[[str, str], None] = lambda name, why: None) -> list[Left]:
    """All machines that the providers list, judged. own: the run that asks; its machines are its own business.

    unlisted(provider, why): is told of a provider whose list cannot be had. One without access is passed over: nothing
    can have been leased through it from here.
    """
    found: list[Left] = []
    for name, provider in sorted(providers.items()):
        try:
            listed = [resource for resource in provider.find("all") if resource.state != "gone"]
            brought_out = {resource.lease for resource in listed if resource.kind == RESULTS and not resource.overdue}
            found += [_judge(resource, own, goes_on=resource.lease in brought_out) for resource in listed]
        except MissingAccess:
            continue
        except Exception as error:  # noqa: BLE001 - told to the caller, who decides whether not knowing is an error
            unlisted(name, f"{type(error).__name__}: {error}")
    return found


def sweep(
    providers: Mapping[str, Provider], *, own: str = "", dry_run: bool = False, agree: Callable[[Left], bool] = lambda left: False,
    unlisted: Callable[[str, str], None] = lambda name, why: None, patience: float | None = None,
) -> Iterator[Swept]:
    """End what was left. agree: asked for each machine of which no run here knows; without its yes such a machine is kept.

    patience: seconds that a machine may take to go, instead of forge.lease.GIVE_UP_SECONDS. All of a lease is ended together.
    """
    ended: dict[tuple[str, str], Swept] = {}
    for left in find_left(providers, own=own, unlisted=unlisted):
        lease = (left.resource.provider, left.resource.lease or left.resource.id)
        wanted = lease in ended or left.action == "end" or (left.action == "ask" and (dry_run or agree(left)))
        if wanted and dry_run:
            yield _told(left, "would be ended")
        elif wanted:
            if lease not in ended:
                ended[lease] = _end(left, providers, patience)
            yield ended[lease].model_copy(update={"id": left.resource.id, "kind": left.resource.kind})
        else:
            yield _told(left, "kept")


def still_there(swept: list[Swept]) -> StillBilling | None:
    """The error for machines that did not go."""
    stuck = [one for one in swept if one.done == "not ended"]
    if not stuck:
        return None
    by_hand = [one.command for one in stuck if one.command]
    return StillBilling(
        f"{len(stuck)} machine(s) could not be confirmed as gone", why="; ".join(f"{one.provider} {one.id}: {one.why}" for one in stuck),
        next=" && ".join([*by_hand, "forge sweep"]),
    )


def _judge(resource: Resource, own: str, *, goes_on: bool) -> Left:
    """goes_on: what the lease's jobs make is brought out of the machine, for a run that may come back."""
    if resource.run and resource.run == own:
        return Left(resource=resource, action="keep", why="this run works with it")
    known = resource.run in run_ids()
    if known and (why := _why_wanted(resource, goes_on and not resource.overdue)):
        return Left(resource=resource, action="keep", why=why)
    if known:
        return Left(resource=resource, action="end", why=f"run {resource.run} does not run any more")
    if resource.held:
        return Left(resource=resource, action="keep", why="a living process of another folder of runs holds it")
    if resource.overdue:
        return Left(resource=resource, action="end", why="past its deadline")
    return Left(resource=resource, action="ask", why=f"no run in {home()} knows it")


def _why_wanted(resource: Resource, goes_on: bool) -> str:
    """Why a known run's machine is not left over; "" when it is."""
    run = Run.open(resource.run)
    try:
        if run.is_busy():
            return f"run {run.id} is at work"
        if goes_on and run.state.row("SELECT 1 FROM lease WHERE state IN ('REQUESTED', 'LIVE')"):   # its end was not asked for
            return f"run {run.id} can take what its jobs bring out: forge resume {run.id}, or forge teardown {run.id}"
        return f"run {run.id} was stopped and keeps it for its resume" if is_kept(run.state.get(KEPT_MACHINE), resource.lease) else ""
    finally:
        run.close()


def _end(left: Left, providers: Mapping[str, Provider], patience: float | None) -> Swept:
    """Through the run's own ledger where it knows the lease, so that the money is settled; else by the provider alone."""
    resource = left.resource
    try:
        patience = 1.0 if _release_in_its_run(resource, providers, patience) else patience
    except RunBusy:
        return _told(left, "kept")
    its = providers[resource.provider]
    looks = looks_at(its)
    why = end(its if resource.lease else as_provider(_Alone(its, resource)), resource.lease, looks, patience=patience)
    if why:
        command = getattr(its, "stop_command", None)
        return _told(left, "not ended").model_copy(update={"why": why, "command": str(command(resource)) if command else ""})
    return _told(left, "ended").model_copy(update={"seen_gone": tuple(looks.times)})


class _Alone:
    """A provider's view of one thing that belongs to no lease."""

    def __init__(self, provider: Provider, resource: Resource) -> None:
        self.provider, self.resource = provider, resource

    def find(self, scope: str) -> list[Resource]:
        return [one for one in self.provider.find("all") if one.id == self.resource.id]

    def stop(self, resource: Resource) -> None:
        self.provider.stop(resource)


def _release_in_its_run(resource: Resource, providers: Mapping[str, Provider], patience: float | None) -> bool:
    """Whether there is such a run here; its leases are then ended, or have been waited for."""
    if resource.run not in run_ids():
        return False
    run = Run.open(resource.run)
    try:
        with run.lock():
            Leases(run, providers, patience=patience).release()
    finally:
        run.close()
    return True


def _told(left: Left, done: Literal["ended", "kept", "not ended", "would be ended"]) -> Swept:
    one = left.resource
    return Swept(provider=one.provider, id=one.id, kind=one.kind, lease=one.lease, run=one.run, done=done, why=left.why)
