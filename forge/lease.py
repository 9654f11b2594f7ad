"""Leases: a machine's worst case is reserved before it starts, and only the provider's word frees the money.

INTENT -> REQUESTED -> LIVE -> STOPPING -> CONFIRMED_GONE -> SETTLED. The intent row and its reservation are written in
one transaction before any call; after a crash the lease is found again by its token, never requested blindly.
"""

from __future__ import annotations

import time
from typing import cast

from forge.errors import ForgeError, StillBilling
from forge.ledger import micro_usd
from forge.protocols import Channel, Lease, Offer, Provider, Resource
from forge.records import canonical_json
from forge.run import Run

SLACK = 1.10
"""Worst case = rate x (deadline + 10 %): boot and shutdown are billed too."""

CLOSED = ("CONFIRMED_GONE", "SETTLED")
CONFIRM_SECONDS = 30.0


class Leases:
    """The machines of one run."""

    def __init__(self, run: Run, providers: dict[str, Provider]) -> None:
        self.run, self.providers = run, providers

    def acquire(self, offer: Offer, deadline_seconds: int, token: str) -> Lease:
        """Reserve, then start; idempotent by token. Raises OverBudget before any call."""
        lease = Lease(token=token, run=self.run.id, offer=offer, deadline_seconds=deadline_seconds)
        row = self.run.state.row("SELECT state FROM lease WHERE token=?", token)
        if row is None or row["state"] in CLOSED:
            worst = micro_usd(offer.usd_per_hour * deadline_seconds / 3600 * SLACK)
            spend = self.run.ledger.reserve(f"lease {token}", worst, f"{offer.provider} {offer.name}")
            now = time.time()
            self.run.state.execute(
                "INSERT OR REPLACE INTO lease(token, provider, offer, state, resource, deadline_seconds, spend_id, created, changed)"
                " VALUES(?,?,?,'INTENT','',?,?,?,?)",
                token, offer.provider, canonical_json(offer), deadline_seconds, spend, now, now,
            )
        self._ensure_live(lease)
        return lease

    def resource(self, token: str) -> Resource:
        """The machine of a lease as its provider reports it now; started again, and reserved anew, if it was released."""
        row = self.run.state.row("SELECT * FROM lease WHERE token=?", token)
        if row is None:
            raise ForgeError(f"the lease {token} is not in the ledger", next=f"forge resume {self.run.id} --from provision")
        offer = Offer.model_validate_json(row["offer"])
        lease = self.acquire(offer, row["deadline_seconds"], token)
        return self._ensure_live(lease)

    def channel(self, token: str) -> Channel:
        """Files and jobs on the machine of a lease."""
        resource = self.resource(token)
        return self.providers[resource.provider].channel(resource, self.run.folder / "machine")

    def release_all(self) -> list[str]:
        """Stop every machine of the run and wait for the provider to confirm; returns tokens not confirmed."""
        unconfirmed = []
        for row in self.run.state.rows("SELECT * FROM lease ORDER BY created"):
            if row["state"] not in CLOSED and not self._release(row["token"], row["provider"], row["spend_id"]):
                unconfirmed.append(row["token"])
        return unconfirmed

    def _ensure_live(self, lease: Lease) -> Resource:
        provider = self.providers[lease.offer.provider]
        found = [resource for resource in provider.find(lease.token) if resource.state in ("starting", "live")]
        if found:
            resource = found[0]
        else:
            self._mark(lease.token, "REQUESTED")
            resource = provider.start(lease)
        self._mark(lease.token, "LIVE", resource.id)
        return resource

    def _release(self, token: str, provider_name: str, spend_id: int) -> bool:
        provider = self.providers[provider_name]
        self._mark(token, "STOPPING")
        resources = provider.find(token)
        for resource in resources:
            provider.stop(resource)
        deadline = time.monotonic() + CONFIRM_SECONDS
        while any(resource.state != "gone" for resource in provider.find(token)):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        self._mark(token, "CONFIRMED_GONE")
        self.run.ledger.settle(spend_id, sum(provider.settle(resource) for resource in resources))
        self._mark(token, "SETTLED")
        return True

    def _mark(self, token: str, state: str, resource: str = "") -> None:
        self.run.state.execute(
            "UPDATE lease SET state=?, resource=CASE WHEN ?='' THEN resource ELSE ? END, changed=? WHERE token=?",
            state, resource, resource, time.time(), token,
        )
        self.run.events.emit("lease", token=token, state=state, resource=resource)


def still_billing(run: Run, tokens: list[str]) -> StillBilling:
    """The error for leases that could not be confirmed as gone."""
    return StillBilling(
        f"{len(tokens)} machine(s) of run {run.id} could not be confirmed as gone", why=", ".join(tokens),
        next=f"forge teardown {run.id}",
    )


def as_provider(plugin: object) -> Provider:
    """A plugin from the registry, as the protocol that it must satisfy."""
    return cast(Provider, plugin)
