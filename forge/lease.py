"""Leases: a machine's worst case is reserved before it is asked for, and only the provider's word frees the money.

INTENT -> REQUESTED -> LIVE -> STOPPING -> CONFIRMED_GONE -> SETTLED. The intent row and its reservation are one
transaction with the check of the cap, before any call; what a call without an answer has done is looked up, never asked
for again blindly. Gone is what the provider does not list, twice, some time apart, and past the time in which it may not
list a new machine yet. Those times are counted by this process, from its own first look, so that no step of the clock and
no resume shortens them.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from forge.errors import ForgeError, Interrupted, MachineLost, NoCapacity, StillBilling
from forge.ledger import Ended, micro_usd
from forge.protocols import Channel, Lease, Offer, Provider, Resource
from forge.records import Record, canonical_json
from forge.run import Run

SLACK = 1.10
"""Worst case = rate x (deadline + 10 %): boot and shutdown are billed too."""

CREATION_SECONDS = CONFIRM_SECONDS = 60.0
"""For providers that do not say: how long a new machine may be missing from their lists (SkyPilot met a second on EC2, and
its fix waits; PR 4443), and how far apart the two looks are that prove a machine gone."""
GIVE_UP_SECONDS = 300.0
"""How long a machine that does not go is waited for, beyond those times."""
POLL_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 5.0
KEPT_MACHINE = "machine_kept"
"""State of a run that was stopped with on_interrupt=keep: its lease, and until when it is nobody else's to end."""
UP = ("starting", "live")
BROKEN_LOOKS = 5
"""Lists in a row that cannot be had before a resume gives up; the lease stays as it is."""


class Thing(Record):
    """A machine, or a thing made for one (key, group, volume), as it was listed last; "gone" once that is proven, at seen_gone."""

    kind: str
    id: str
    state: str
    seen_gone: tuple[str, ...] = ()


class Proof(Record):
    """What is known of one lease: its state, the machine, what it cost, and when the provider did not list it any more.

    seen_gone: UTC times of the looks that found nothing. command: ends the machine by hand, where the provider knows one.
    things: all that the provider ever listed for it, those of machines that were lost and replaced too.
    """

    lease: str
    provider: str
    resource: str
    state: str
    micro_usd: int | None = None
    seen_gone: tuple[str, ...] = ()
    why: str = ""
    command: str = ""
    things: tuple[Thing, ...] = ()

    @property
    def is_gone(self) -> bool:
        """Nothing bills any more."""
        return self.state in ("CONFIRMED_GONE", "SETTLED")


@dataclass(frozen=True)
class Machine:
    """A leased machine to work on. place: names it among all that the run ever had (token and attempt). name: for people."""

    provider: Provider
    channel: Channel
    place: str
    name: str
    usd_per_hour: float


@dataclass
class Looks:
    """Consecutive looks at the provider's list that found nothing running."""

    creation_seconds: float
    confirm_seconds: float
    began: float = field(default_factory=time.monotonic)
    gone_at: list[float] = field(default_factory=list)
    times: list[str] = field(default_factory=list)

    def absent(self) -> bool:
        """Note that nothing was listed; True when that proves it."""
        now = time.monotonic()
        self.gone_at.append(now)
        self.times.append(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        return len(self.gone_at) > 1 and now - self.gone_at[0] >= self.confirm_seconds and now - self.began >= self.creation_seconds

    def present(self) -> None:
        """Something was listed: start counting again."""
        self.gone_at.clear()
        self.times.clear()


class Leases:
    """The machines of one run."""

    def __init__(
        self, run: Run, providers: Mapping[str, Provider], stop_requested: Callable[[], bool] = lambda: False, *, patience: float | None = None
    ) -> None:
        """patience: seconds that a machine may take to go, instead of GIVE_UP_SECONDS."""
        self.run, self.providers, self.stop_requested, self.patience = run, providers, stop_requested, patience
        self._seen: dict[str, tuple[float, float]] = {}

    def acquire(self, offer: Offer, deadline_seconds: int, token: str) -> Lease:
        """Reserve, then start; idempotent by token. Raises OverBudget before any call."""
        self._live(offer, deadline_seconds, token)
        return self._lease(self._row(token))

    def resource(self, token: str) -> Resource:
        """The machine of a lease as its provider reports it now; a new one, reserved anew, when it is gone."""
        row = self.run.state.row("SELECT * FROM lease WHERE token=?", token)
        if row is None:
            raise ForgeError(f"the lease {token} is not in the ledger", next=f"forge resume {self.run.id} --from provision")
        return self._live(Offer.model_validate_json(row["offer"]), row["deadline_seconds"], token)

    def machine(self, token: str) -> Machine:
        """The machine of a lease, ready to be worked on; a new one, reserved anew, when it is gone. May raise MachineLost."""
        resource = self.resource(token)
        row = self._row(token)
        offer, provider = Offer.model_validate_json(row["offer"]), self.providers[resource.provider]
        place = f"{token}/{row['attempt']}"
        if place not in self._seen:   # the wall clock only says how old it was at first sight; from there on the other clock counts
            self._seen[place] = (time.monotonic(), min(max(0.0, time.time() - row["created"]), row["deadline_seconds"]))
        channel = provider.channel(resource, self.run.folder / "machine")
        return Machine(provider, channel, place, f"{resource.provider} {offer.name}", offer.usd_per_hour)

    def channel(self, token: str) -> Channel:
        """Files and jobs on the machine of a lease."""
        return self.machine(token).channel

    def is_past_deadline(self, token: str) -> bool:
        """Whether the time of the lease's present machine is over."""
        row = self._row(token)
        if row["state"] == "SETTLED" or (seen := self._seen.get(f"{token}/{row['attempt']}")) is None:
            return False
        return bool(time.monotonic() - seen[0] + seen[1] >= row["deadline_seconds"])

    def seconds_left(self, token: str) -> float:
        """Until the deadline of a machine that was seen here."""
        row = self._row(token)
        seen = self._seen.get(f"{token}/{row['attempt']}", (time.monotonic(), 0.0))
        return max(0.0, float(row["deadline_seconds"]) - (time.monotonic() - seen[0] + seen[1]))

    def provider_of(self, token: str) -> Provider | None:
        """Whose machine a lease is; None for one that is not known here."""
        row = self.run.state.row("SELECT provider FROM lease WHERE token=?", token)
        return self.providers.get(row["provider"]) if row else None

    def is_listed(self, token: str) -> bool:
        """Whether the provider lists a machine of the lease now."""
        provider = self.provider_of(token)
        return provider is not None and any(one.state in UP and one.kind == "machine" for one in provider.find(token))

    def open(self, offer: Offer, deadline_seconds: int, token: str, prepare: Callable[[Lease], None]) -> Lease:
        """Reserve for work that somebody else asks the provider for, listed under this token (forge.executor.Books); end() closes it.

        prepare(lease): called before anything may be asked for. What an earlier process left open is ended and settled first.
        Raises OverBudget, StillBilling.
        """
        if (row := self.run.state.row("SELECT * FROM lease WHERE token=?", token)) and row["state"] != "SETTLED":
            self.end(token)
        self._intend(offer, deadline_seconds, token)
        lease = self._lease(self._row(token))
        prepare(lease)
        self._mark(token, "REQUESTED")
        return lease

    def is_open(self, token: str) -> bool:
        """Whether something may be at work under this token, whichever process asked for it."""
        row = self.run.state.row("SELECT state FROM lease WHERE token=?", token)
        return row is not None and row["state"] not in ("INTENT", "SETTLED")

    def set_aside(self, token: str, job: str, usd: float, what: str) -> None:
        """Reserve for what a leased machine starts beside itself, once for each job however often it is asked; settled with the lease.

        usd: the most that it can cost. Raises OverBudget.
        """
        batch, key = _beside(token), f"lease {token} {job}"
        if key not in self.run.ledger.under_way(batch):
            self.run.ledger.begin({key: micro_usd(usd * SLACK)}, what, batch)

    def end(self, token: str) -> None:
        """End the machine of one lease and settle it. Raises StillBilling when that cannot be proven."""
        row = self._row(token)
        if row["state"] != "SETTLED":
            self._release(row)
        if self._row(token)["state"] not in ("CONFIRMED_GONE", "SETTLED"):
            raise still_billing(self.run, [token])

    def end_others(self, token: str) -> None:
        """End what is still leased under other tokens: an earlier plan's machine is not waited for any more."""
        for row in self.run.state.rows("SELECT token FROM lease WHERE token<>? AND state<>'SETTLED' ORDER BY created", token):
            self.end(row["token"])

    def release_all(self) -> list[str]:
        """Stop every machine of the run and wait for the provider to confirm; returns tokens not confirmed."""
        return [proof.lease for proof in self.release() if not proof.is_gone]

    def release(self) -> list[Proof]:
        """Stop every machine of the run; what is known of each lease then, those released earlier too."""
        rows = self.run.state.rows("SELECT * FROM lease ORDER BY created")
        for row in rows:
            if row["state"] != "SETTLED":
                self._release(row)
        return self.proofs()

    def proofs(self) -> list[Proof]:
        """What is known of each lease of the run."""
        rows = self.run.state.rows(
            "SELECT lease.*, spend.actual + (SELECT COALESCE(SUM(more.actual), 0) FROM spend AS more WHERE more.id > spend.id AND"
            f" more.batch = '{_beside('')}' || lease.token) AS actual FROM lease LEFT JOIN spend ON spend.id = lease.spend_id ORDER BY lease.created"
        )
        return [
            Proof(
                lease=row["token"], provider=row["provider"], resource=row["resource"], state=row["state"], micro_usd=row["actual"],
                seen_gone=tuple(proof.get("seen_gone", ())), why=proof.get("why", ""), command=proof.get("command", ""),
                things=tuple(Thing(id=name, **told) for name, told in sorted({**proof.get("earlier", {}), **proof.get("things", {})}.items())),
            )
            for row in rows for proof in [json.loads(row["proof"] or "{}")]
        ]

    # --- up -----------------------------------------------------------------------------------------------------

    def _live(self, offer: Offer, deadline_seconds: int, token: str) -> Resource:
        row = self.run.state.row("SELECT * FROM lease WHERE token=?", token)
        if row is not None and row["state"] in ("REQUESTED", "LIVE") and (found := self._up(row)):
            return found
        asked_for_another = row is not None and row["state"] == "INTENT" and row["offer"] != canonical_json(offer)   # it could not be had
        if row is not None and (row["state"] in ("LIVE", "STOPPING", "CONFIRMED_GONE") or asked_for_another):
            self._release(row)
            row = self._row(token)
            if row["state"] != "SETTLED":
                raise still_billing(self.run, [token])
        if row is None or row["state"] == "SETTLED":
            self._intend(offer, deadline_seconds, token)
        try:
            return self._start(self._row(token))
        except MachineLost:   # this attempt had a machine that nobody here saw, and it is gone: it is settled, the next one reserved anew
            self.end(token)
            self._intend(offer, deadline_seconds, token)
            return self._start(self._row(token))

    def _up(self, row: sqlite3.Row) -> Resource | None:
        """The machine of an open lease; waits for one that was asked for and may not be listed yet. None: proven that there is none."""
        looks, broken, pause = self._looks(row), 0, POLL_SECONDS
        while True:
            try:
                up = [one for one in self.providers[row["provider"]].find(row["token"]) if one.state in UP and one.kind == "machine"]
            except (ForgeError, Interrupted):
                raise
            except Exception as error:
                broken += 1
                if broken == BROKEN_LOOKS:
                    raise ForgeError(
                        f"{row['provider']} cannot list its machines", why=f"{type(error).__name__}: {error}", next=f"forge resume {self.run.id}"
                    ) from error
                pause = self._pause(pause)
                continue
            if up:
                self._keep_one(row, up)
                return up[0]
            if looks.absent():
                return None
            pause = self._pause(pause)

    def _keep_one(self, row: sqlite3.Row, up: list[Resource]) -> None:
        if up[1:]:
            self._stop_surplus(row, up[1:])
        self._mark(row["token"], "LIVE", up[0].id)

    def _intend(self, offer: Offer, deadline_seconds: int, token: str) -> None:
        """The intent and its worst case, in the transaction that checks the cap. Raises OverBudget."""
        worst, now = micro_usd(offer.usd_per_hour * deadline_seconds / 3600 * SLACK), time.time()
        was = self.run.state.row("SELECT proof FROM lease WHERE token=?", token)
        told = json.loads(was["proof"] or "{}") if was else {}
        earlier = json.dumps({"earlier": {**told.get("earlier", {}), **told.get("things", {})}}, sort_keys=True) if told else ""

        def write(db: sqlite3.Connection, spend: int) -> None:
            db.execute(
                "INSERT INTO lease(token, provider, offer, state, resource, deadline_seconds, spend_id, created, changed)"
                " VALUES(?,?,?,'INTENT','',?,?,?,?) ON CONFLICT(token) DO UPDATE SET provider=excluded.provider, offer=excluded.offer,"
                " state='INTENT', resource='', deadline_seconds=excluded.deadline_seconds, spend_id=excluded.spend_id,"
                " created=excluded.created, changed=excluded.changed, attempt=attempt+1, proof=?",
                (token, offer.provider, canonical_json(offer), deadline_seconds, spend, now, now, earlier),
            )

        self.run.ledger.reserve_and(f"lease {token}", worst, f"{offer.provider} {offer.name}", write)
        self.run.events.emit("lease", token=token, state="INTENT", resource="")

    def _start(self, row: sqlite3.Row) -> Resource:
        """Ask for the machine. After a call without a clear answer the provider is asked what it has done."""
        token, provider = row["token"], self.providers[row["provider"]]
        self._mark(token, "REQUESTED")
        try:
            resource = provider.start(self._lease(row))
        except NoCapacity:
            self._mark(token, "INTENT")   # the provider's word: nothing was made
            raise
        except (ForgeError, Interrupted):
            raise
        except Exception as error:
            found = self._up(self._row(token))
            if found is None:
                raise ForgeError(
                    f"{row['provider']} did not say whether it started {token}", why=f"{type(error).__name__}: {error}; it lists no such machine",
                    next=f"forge resume {self.run.id} asks again with the same token",
                ) from error
            return found
        self._mark(token, "LIVE", resource.id)
        return resource

    def _stop_surplus(self, row: sqlite3.Row, surplus: list[Resource]) -> None:
        self._saw(row["token"], surplus)
        for resource in surplus:
            self.run.events.emit("notice", text=f"{resource.provider} has two machines for {row['token']}: {resource.id} is ended")
            self.providers[row["provider"]].stop(resource)

    # --- down ---------------------------------------------------------------------------------------------------

    def _release(self, row: sqlite3.Row) -> None:
        token, state = row["token"], row["state"]
        if state != "CONFIRMED_GONE":
            if state not in ("INTENT", "STOPPING"):
                self._mark(token, "STOPPING")
            looks = self._looks(row)
            why = end(self.providers.get(row["provider"]), token, looks, lambda listed: self._saw(token, listed), patience=self.patience)
            if why:
                self._note(token, why=why, command=self._command(row))
                return
            things = json.loads(self._row(token)["proof"] or "{}").get("things", {})
            things = {name: {"kind": "machine"} for name in self._machines(token)} | things   # one that vanished was never listed here
            things = {name: {**told, "state": "gone", "seen_gone": looks.times} for name, told in things.items()}
            self._note(token, seen_gone=looks.times, why="", command="", things=things)
            self._mark(token, "CONFIRMED_GONE")
        self._settle(self._row(token), never_asked=state == "INTENT")

    def _settle(self, row: sqlite3.Row, *, never_asked: bool) -> None:
        """The provider's bill for the machine, in one transaction with the last state. A bill that cannot be had keeps the worst case."""
        token, provider = row["token"], row["provider"]
        gone = [Resource(provider=provider, id=name, lease=token, state="gone") for name in self._machines(token) or [token]]
        beside = self.run.ledger.under_way(_beside(token))
        try:
            micro = 0 if never_asked else sum(self.providers[provider].settle(resource) for resource in gone)
            bills = {
                line: self.providers[provider].settle(Resource(provider=provider, id=key.rpartition(" ")[2], lease=token, state="gone", kind="array"))
                for key, line in beside.items()
            }
        except Exception as error:  # noqa: BLE001 - the machine is gone; what it cost is asked again by the next teardown
            self._note(token, why=f"its cost is not known yet: {error}")
            return
        with self.run.state.transaction() as db:
            self.run.ledger.end_in(db, [Ended(line, "settled", bill) for line, bill in {row["spend_id"]: micro, **bills}.items()])
            db.execute("UPDATE lease SET state='SETTLED', changed=? WHERE token=?", (time.time(), token))
        self.run.events.emit("lease", token=token, state="SETTLED", resource=row["resource"])

    # --- helpers ------------------------------------------------------------------------------------------------

    def _row(self, token: str) -> sqlite3.Row:
        row = self.run.state.row("SELECT * FROM lease WHERE token=?", token)
        assert row is not None
        return row

    def _lease(self, row: sqlite3.Row) -> Lease:
        offer = Offer.model_validate_json(row["offer"])
        return Lease(token=row["token"], run=self.run.id, offer=offer, deadline_seconds=row["deadline_seconds"], attempt=row["attempt"])

    def _looks(self, row: sqlite3.Row) -> Looks:
        """A machine that was never asked for needs one pair of looks at once; a provider that lists itself says so by zeros."""
        if row["state"] == "INTENT":
            return Looks(0.0, 0.0)
        return looks_at(self.providers.get(row["provider"]))

    def _pause(self, seconds: float) -> float:
        """Sleep; how long next time. Providers answer only so often (the Hub 1,000 times in five minutes)."""
        if self.stop_requested():
            raise Interrupted
        time.sleep(seconds)
        return min(LONGEST_PAUSE_SECONDS, 1.5 * seconds)

    def _machines(self, token: str) -> list[str]:
        """All machines that were ever seen for the lease since its intent; more than one only after a provider's mistake."""
        row = self._row(token)
        return sorted({*json.loads(row["proof"] or "{}").get("machines", ()), *([row["resource"]] if row["resource"] else [])})

    def _saw(self, token: str, listed: Iterable[Resource]) -> None:
        known = json.loads(self._row(token)["proof"] or "{}")
        things = known.get("things", {}) | {one.id: {"kind": one.kind, "state": one.state} for one in listed}
        machines = sorted({*self._machines(token), *(one.id for one in listed if one.kind == "machine")})
        if things != known.get("things") or machines != self._machines(token):
            self._note(token, machines=machines, things=things)

    def _command(self, row: sqlite3.Row) -> str:
        by_hand = getattr(self.providers.get(row["provider"]), "stop_command", None)
        if by_hand is None:
            return ""
        things = json.loads(self._row(row["token"])["proof"] or "{}").get("things", {})
        kinds = dict.fromkeys(self._machines(row["token"]) or [row["token"]], "machine") | {name: told["kind"] for name, told in things.items()}
        stuck = [Resource(provider=row["provider"], id=name, lease=row["token"], state="live", kind=kind) for name, kind in kinds.items()]
        return " && ".join(command for one in stuck if (command := str(by_hand(one))))

    def _note(self, token: str, **facts: Any) -> None:
        """Add to what is known of the lease."""
        proof = json.loads(self._row(token)["proof"] or "{}") | facts
        self.run.state.execute("UPDATE lease SET proof=? WHERE token=?", json.dumps(proof, sort_keys=True), token)

    def _mark(self, token: str, state: str, resource: str = "") -> None:
        self.run.state.execute(
            "UPDATE lease SET state=?, resource=CASE WHEN ?='' THEN resource ELSE ? END, changed=? WHERE token=?",
            state, resource, resource, time.time(), token,
        )
        self.run.events.emit("lease", token=token, state=state, resource=resource)


def _beside(token: str) -> str:
    """The ledger's name for what a lease has set aside besides its own worst case."""
    return f"beside lease {token}"


def looks_at(provider: Provider | None) -> Looks:
    """Looks with the times that a provider asks for."""
    return Looks(getattr(provider, "creation_seconds", CREATION_SECONDS), getattr(provider, "confirm_seconds", CONFIRM_SECONDS))


def end(
    provider: Provider | None, token: str, looks: Looks, saw: Callable[[list[Resource]], None] = lambda listed: None,
    *, patience: float | None = None,
) -> str:
    """Stop what the provider lists for a lease, and look until it is proven gone; "" then, else why it is not.

    Machines go first: what was made for them can often not be removed while they stand. saw: is told what was listed, before it is
    stopped.
    """
    if provider is None:
        return "its provider is not installed"
    patience = GIVE_UP_SECONDS if patience is None else patience
    give_up_at, pause = time.monotonic() + patience + looks.creation_seconds + looks.confirm_seconds, POLL_SECONDS
    while True:
        try:
            up = [one for one in provider.find(token) if one.state != "gone"]
            why = ", ".join(f"{one.id} is {one.state}" for one in up)
            saw(up)
            why = "; ".join([*([why] if why else []), *_stop_each(provider, [one for one in up if one.kind == "machine"] or up)])
        except Exception as error:  # noqa: BLE001 - whatever a provider raises, the machine may be up: asked again, then told
            why = f"{type(error).__name__}: {error}"
        if why:
            looks.present()
        elif looks.absent():
            return ""
        if time.monotonic() > give_up_at:
            return why or "the provider's list could not be looked at twice"
        time.sleep(pause)
        pause = min(LONGEST_PAUSE_SECONDS, 1.5 * pause)


def _stop_each(provider: Provider, up: Iterable[Resource]) -> list[str]:
    """Ask for the end of each, whatever becomes of the others; returns what went wrong."""
    errors = []
    for one in up:
        try:
            provider.stop(one)
        except Exception as error:  # noqa: BLE001 - as in end(): asked again, then told
            errors.append(f"{type(error).__name__}: {error}")
    return errors


def is_kept(told: str, token: str) -> bool:
    """Whether a run's state (KEPT_MACHINE) says that this lease waits for a resume."""
    kept = json.loads(told or "{}")
    return bool(kept.get("lease") == token and time.time() < float(kept.get("until", 0.0)))


def still_billing(run: Run, tokens: list[str]) -> StillBilling:
    """The error for leases that could not be confirmed as gone: which, why, and how to end them by hand."""
    proofs = [proof for proof in Leases(run, {}).proofs() if proof.lease in tokens]
    why = "; ".join(f"{proof.lease}: {proof.why or proof.state.lower()}" for proof in proofs) or ", ".join(tokens)
    by_hand = [proof.command for proof in proofs if proof.command]
    return StillBilling(
        f"{len(tokens)} machine(s) of run {run.id} could not be confirmed as gone", why=why,
        next=" && ".join([*by_hand, f"forge teardown {run.id}"]),
    )


def as_provider(plugin: object) -> Provider:
    """A plugin from the registry, as the protocol that it must satisfy."""
    return cast(Provider, plugin)
