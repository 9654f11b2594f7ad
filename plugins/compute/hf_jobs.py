"""Hugging Face Jobs: a container on the Hub's hardware, billed by the minute, ended by the Hub itself at its deadline.

The Hub has no idempotency token for jobs, so a job is looked for by its labels (forge-lease, forge-attempt) before one is
asked for, and there is one job per attempt, whatever became of it: a word of this machine's own, written down before the
request and sent as a label (forge-start), tells it from those of an earlier run of the same name. Its client has no timeout of
its own, so one is set.

Files and programs go through a port of the job that only the Hub's proxy reaches and that a key of the lease opens
(_agent.py, which the job's command carries). With results=fetched, the default, the job therefore needs no token of the Hub and
leaves nothing behind; what it makes is fetched while it lives, and it ends when nobody asks. With results=pushed it goes on
without us: _hf_push.py in it puts checkpoints and finished phases into a private repository of the lease (_hf_results.py), from
which the next engine takes them.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from forge.errors import ForgeError, MachineLost, MissingAccess, NoCapacity
from forge.phase import Requirement, Settings
from forge.plugins.compute import _agent_transport, _hf_hub, _hf_money, _hf_results
from forge.plugins.compute._agent_transport import AgentTransport, Door
from forge.plugins.compute._channel import Broken
from forge.plugins.compute._hf_channel import JobChannel
from forge.plugins.compute._hf_hub import ATTEMPT, LEASE, RUN, START
from forge.protocols import RESULTS, Lease, Need, Offer, Resource

if TYPE_CHECKING:
    from huggingface_hub import HfApi, JobHardwareInfo, JobInfo

POLL_SECONDS = 5.0
MADE_BY = {"made-by": "slm-forge"}
STATES: Mapping[str, Any] = {"SCHEDULING": "starting", "RUNNING": "live"}
"""Every other stage (COMPLETED, CANCELED, ERROR, DELETED) is the end; none of them is success of a lease."""

PRICES_SECONDS = 300.0
AGENT_GRACE_SECONDS = 120.0
"""The agent outlives the jobs that end because nobody asks, so that they can write their last checkpoint."""


class HfJobsSettings(Settings):
    """Jobs on Hugging Face. The token is HF_TOKEN, or the one that `hf auth login` stored; with results=fetched it stays on this machine."""

    namespace: str = Field("", description="account or organization that runs and pays the jobs; empty = the token's own")
    flavors: tuple[str, ...] = Field((), description="hardware that may be used (a10g-large, l40sx1); empty = everything that fits")
    image: str = Field("python:3.12", description="image of the container, with python3 from 3.11 on and a C++ compiler; CUDA comes with torch")
    python: str = Field("", description="a Python in the image that has slm-forge and its extras; empty: an environment is made in each job from the lock file")
    lock: str = Field("", description="lock file with hashes for that environment; empty: the one that ships (Linux x86-64, CUDA)")
    start_minutes: float = Field(30.0, gt=0, description="longest wait for free hardware, in minutes; nothing is billed meanwhile")
    idle_minutes: float = Field(15.0, gt=0, description="minutes without a word from the engine after which the job ends itself; with results=pushed only once its work is done")
    results: Literal["fetched", "pushed"] = Field("fetched", description="pushed: the job goes on without this machine and puts what it makes into a private repository of the namespace, removed at the end")
    results_token: str = Field("", description="variable here with the token that the job pushes with (writes repositories, needs nothing else); empty = the token that starts the job")
    push_minutes: float = Field(10.0, ge=1, description="least time between two pushed checkpoints, in minutes; what a phase has made is pushed at once")
    timeout_seconds: float = Field(60.0, gt=0, description="longest wait for an answer of the Hub, in seconds")


class HfJobs:
    """Jobs of one namespace."""

    name: ClassVar[str] = "hf-jobs"
    requires: ClassVar[tuple[Requirement, ...]] = (Requirement(module="huggingface_hub", extra="publish"),)
    settings: ClassVar[type[Settings]] = HfJobsSettings

    def __init__(self, settings: HfJobsSettings | None = None) -> None:
        self._settings = settings or HfJobsSettings()
        self._namespaces: dict[str, str] = {}
        self._prices: tuple[float, list[JobHardwareInfo]] = (-math.inf, [])
        self._markers: dict[str, dict[str, Any]] = {}

    @property
    def idle_seconds(self) -> float:
        """When a job that nobody asks for ends."""
        return 60 * self._settings.idle_minutes

    @property
    def goes_on(self) -> bool:
        """Whether a job that nobody asks for works on until its phase is done."""
        return self._settings.results == "pushed"

    def configured(self, settings: HfJobsSettings) -> HfJobs:
        """The provider with these settings."""
        return HfJobs(settings)

    def unready(self) -> str:
        """Why it cannot be used from here, without asking a network; "" when nothing is missing."""
        return "" if _hf_hub.hub_token() else "there is no token: hf auth login, or export HF_TOKEN=…"

    def quote(self, need: Need) -> list[Offer]:
        """The hardware that fits, at the Hub's prices of this moment, cheapest first; none without a token."""
        if not _hf_hub.hub_token():
            return []
        allowed = [one for one in self._hardware() if not self._settings.flavors or one.name in self._settings.flavors]
        offers = [offer for one in allowed if (offer := _hf_money.offer_of(one, self._settings.image)) and _hf_money.fits(offer, one, need)]
        return sorted(offers, key=lambda offer: (offer.usd_per_hour, offer.name))

    def preflight(self, offer: Offer) -> list[str]:
        """What the token may do here. Raises MissingAccess when it cannot start jobs, NoCapacity when the hardware is not offered."""
        if not _hf_hub.hub_token():
            raise _hf_hub.no_token("there is none on this machine")
        api = self._api()
        told = _hf_hub.ask(api.whoami)
        namespace = self._settings.namespace or str(told["name"])
        _hf_hub.check_rights(told, namespace, ("job.write", "repo.write") if self.goes_on else ("job.write",))
        self.push_token()
        if offer.name not in {hardware.name for hardware in self._hardware()}:
            raise NoCapacity(f"Hugging Face does not offer {offer.name}", next="forge resume --from plan_fit")
        running = _hf_hub.ask(lambda: list(api.list_jobs(namespace=namespace, labels=MADE_BY, status=["RUNNING", "SCHEDULING"])))
        return [
            f"the token may start jobs for {namespace}; whether its credit suffices is told at the start",
            f"{len(running)} jobs of slm-forge there now",
            *([f"the job goes on without this machine and pushes what it makes to a private repository of {namespace}, removed at the end"] if self.goes_on else []),
        ]

    def start(self, lease: Lease) -> Resource:
        """The job of this attempt: the one that has its labels, else a new one. It ends at the lease's deadline by the Hub's own clock."""
        api, namespace = self._api(), self._namespace()
        labels = {LEASE: _hf_hub.label(lease.token), ATTEMPT: str(lease.attempt)}
        note, is_new = _hf_money.start_note(lease, unit := self._unit(lease.offer.name))
        known = _hf_hub.ask(lambda: list(api.list_jobs(namespace=namespace, labels=labels, status=list(STATES))))
        if not is_new:   # asked for before, here: the job may be over by now
            known += self._started(note.word)
        if known:
            return self._resource(known[0])
        seconds = lease.deadline_seconds - lease.deadline_seconds % 60 or lease.deadline_seconds   # whole minutes, as they are billed
        try:
            job = api.run_job(
                image=lease.offer.image or self._settings.image, command=_agent_transport.command(self._settings.python or "python3"),
                env=_agent_transport.environment(_hf_hub.PORT, seconds, self.idle_seconds + AGENT_GRACE_SECONDS, _hf_results.SIGN),
                secrets={"FORGE_AGENT_KEY": _hf_hub.key(lease.token)}, flavor=lease.offer.name, timeout=max(1, seconds), expose=[_hf_hub.PORT],
                name=_hf_hub.label(f"forge-{lease.token}"), labels={**MADE_BY, RUN: _hf_hub.label(lease.run), **labels, START: note.word, _hf_money.UNIT: unit}, namespace=namespace,
            )
        except Exception as error:
            if (refusal := _hf_hub.explain(error)) is not None:
                raise refusal from error
            raise   # no answer, or one that says nothing: the engine looks for the job before it asks again
        return self._resource(job)

    def find(self, scope: str) -> list[Resource]:
        """Jobs of a lease token, a run id or "all" that are not over, and repositories that were made for them. Raises MissingAccess without a token."""
        if not _hf_hub.hub_token():
            raise _hf_hub.no_token("there is none on this machine")
        api, namespace = self._api(), self._namespace()
        jobs = _hf_hub.ask(lambda: list(api.list_jobs(namespace=namespace, labels=MADE_BY, status=list(STATES))))
        found = [self._resource(job) for job in jobs] + [self._repository(*one) for one in self._repositories()]
        return [one for one in found if one.state != "gone" and (scope == "all" or _hf_hub.label(scope) in (one.lease, one.run))]

    def stop(self, resource: Resource) -> None:
        """Cancel the job, or remove the repository if it is ours. Idempotent."""
        api, namespace = self._api(), self._namespace()
        if resource.kind == RESULTS:
            return _hf_results.remove(api, resource.id, _hf_money.words())
        try:
            _hf_hub.ask(lambda: api.cancel_job(job_id=resource.id, namespace=namespace))
        except ForgeError:
            if self._inspect(resource.id, STATES) is not None:
                raise

    def stop_command(self, resource: Resource) -> str:
        """The Hub's own client."""
        if resource.kind == RESULTS:
            return f"hf repos delete {resource.id}"
        return f"hf jobs cancel --namespace {self._namespace()} {resource.id}"

    def channel(self, resource: Resource, root: Path) -> JobChannel:
        """Files and jobs in the container, through the Hub's proxy."""
        transport = AgentTransport(f"the job {resource.id}", _hf_hub.key(resource.lease), lambda: self._door(resource.id))
        return JobChannel(self, resource, transport, self._settings, POLL_SECONDS)

    def settle(self, resource: Resource) -> int:
        """Every unit (a minute) that the job has begun to run, at the price that it was started at, in micro-dollars.

        The Hub's own count of seconds; a job that never ran costs nothing (huggingface.co/docs/hub/jobs-pricing, 2026-11).
        """
        notes = [_hf_money.StartNote.model_validate_json(path.read_text(encoding="utf-8")) for path in _hf_money.notes(resource.lease)]
        if (job := self._inspect(resource.id)) is not None:
            cost = _hf_money.cost(job)
        elif resource.id != resource.lease:   # it was there, and the Hub has forgotten it: the most that it can have cost
            cost = max((note.most() for note in notes if note.attempt == max(one.attempt for one in notes)), default=0)
        else:   # none was ever seen: what was asked for from here
            cost = sum(_hf_money.cost(job) for note in notes for job in self._started(note.word))
        for path in _hf_money.notes(resource.lease):
            path.unlink(missing_ok=True)
        return cost

    # --- results that were pushed ---------------------------------------------------------------------------------

    def left(self, lease: str) -> _hf_results.Left | None:
        """What the jobs of a lease have pushed, whatever became of them; None when there is no such repository."""
        if not _hf_hub.hub_token():
            raise _hf_hub.no_token("there is none on this machine")
        ours = [(int(marker["attempt"]), repo) for repo, marker, _ in self._repositories() if marker["lease"] == _hf_hub.label(lease)]
        return _hf_results.Left(self._api(), max(ours)[1]) if ours else None

    def make_repository(self, job: JobInfo) -> str:
        """The private repository of a job, made if need be. Raises ForgeError when it cannot be had."""
        labels = job.labels or {}
        marker = {"lease": labels[LEASE], "run": labels.get(RUN, ""), "attempt": int(labels.get(ATTEMPT, "1"))}
        return _hf_results.make(self._api(), self._namespace(), marker, labels[START])

    def push_token(self) -> str:
        """What the job pushes with. Raises MissingAccess when the variable that is named is not set."""
        name = self._settings.results_token
        if self.goes_on and name and not os.environ.get(name):
            raise MissingAccess(f"hf-jobs.results_token names {name}, which is not set", next=f"export {name}=… with the right to write repositories of {self._namespace()}")
        return os.environ[name] if name else _hf_hub.hub_token()

    def endpoint(self) -> str:
        """Where the Hub is."""
        return str(self._api().endpoint)

    def _repositories(self) -> list[tuple[str, dict[str, Any], bool]]:
        """A token that may not look at repositories has none of ours."""
        try:
            return list(_hf_results.found(self._api(), self._namespace(), _hf_money.words(), self._markers))
        except MissingAccess:
            if self.goes_on:
                raise
            return []

    def _repository(self, repo: str, marker: Mapping[str, Any], old: bool) -> Resource:
        return Resource(provider=self.name, id=repo, lease=str(marker["lease"]), run=str(marker["run"]), state="live", kind=RESULTS, overdue=old)

    # --- the Hub ------------------------------------------------------------------------------------------------

    def job(self, job_id: str) -> JobInfo:
        """The job as the Hub knows it. Raises MachineLost when it does not, or when the job is over."""
        job = self._inspect(job_id)
        if job is not None and str(job.status.stage) in STATES:
            return job
        stage, why = (str(job.status.stage).lower(), job.status.message or "") if job else ("deleted", "the Hub does not know it any more")
        raise MachineLost(f"the job {job_id} is over: {stage}", why=why or "the Hub says no more", next="forge resume goes on from the last checkpoint")

    def _started(self, word: str) -> list[JobInfo]:
        """Jobs of any stage that were asked for with this word."""
        api, namespace = self._api(), self._namespace()
        return _hf_hub.ask(lambda: list(api.list_jobs(namespace=namespace, labels={START: word})))

    def _door(self, job_id: str) -> Door:
        status = self.job(job_id).status
        urls = status.expose_urls or []
        if str(status.stage) != "RUNNING" or not urls:
            raise Broken(f"the job {job_id} is {str(status.stage).lower()}")
        _hf_hub.check_url(urls[0], job_id, str(self._api().endpoint))
        return Door(urls[0].rstrip("/"), {"Authorization": f"Bearer {_hf_hub.hub_token()}"})

    def _inspect(self, job_id: str, stages: Mapping[str, Any] | None = None) -> JobInfo | None:
        """A job; None when the Hub has none, or it is in another stage than these."""
        api, namespace = self._api(), self._namespace()
        try:
            job = _hf_hub.ask(lambda: api.inspect_job(job_id=job_id, namespace=namespace))
        except _hf_hub.NotThere:
            return None
        return job if stages is None or str(job.status.stage) in stages else None

    def _resource(self, job: JobInfo) -> Resource:
        labels, durations = job.labels or {}, job.durations
        ran = (durations.running_secs if durations else None) or 0
        deadline = float((job.environment or {}).get("FORGE_AGENT_SECONDS", math.inf))
        return Resource(
            provider=self.name, id=job.id, lease=labels.get(LEASE, job.id), state=STATES.get(str(job.status.stage), "gone"),
            run=labels.get(RUN, ""), overdue=ran > deadline,
        )

    def gpus(self, flavor: str) -> int:
        """How many GPUs a flavor has."""
        chips = [hardware.accelerator for hardware in self._hardware() if hardware.name == flavor and hardware.accelerator]
        return int(_hf_money.number(chips[0].quantity)) if chips else 0

    def _unit(self, flavor: str) -> str:
        """The price of a unit as a label: micro-dollars and the unit's name."""
        for hardware in self._hardware():
            if hardware.name == flavor:
                return f"{hardware.unit_cost_micro_usd}-{hardware.unit_label}"
        raise NoCapacity(f"Hugging Face does not offer {flavor} any more", next="forge resume --from plan_fit")

    def _hardware(self) -> list[JobHardwareInfo]:
        since, prices = self._prices
        if time.monotonic() - since > PRICES_SECONDS:
            prices = _hf_hub.ask(self._api().list_jobs_hardware)
            self._prices = time.monotonic(), prices
        return prices

    def _namespace(self) -> str:
        """Asked once per token: the Hub answers this question only so often."""
        if self._settings.namespace:
            return self._settings.namespace
        token = _hf_hub.hub_token()
        if token not in self._namespaces:
            self._namespaces[token] = str(_hf_hub.ask(self._api().whoami)["name"])
        return self._namespaces[token]

    def _api(self) -> HfApi:
        from huggingface_hub import HfApi, constants

        _hf_hub.limit_waiting(self._settings.timeout_seconds)
        # Read at call time: the library itself reads the variable only when it is imported.
        return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or constants.ENDPOINT, token=_hf_hub.hub_token() or None)


provider = HfJobs()
