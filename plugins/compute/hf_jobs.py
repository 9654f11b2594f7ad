"""Hugging Face Jobs: a container on the Hub's hardware, billed by the minute, ended by the Hub itself at its deadline.

The Hub has no idempotency token for jobs, so a job is looked for by its labels (forge-lease, forge-attempt) before one is
asked for, and there is one job per attempt, whatever became of it: a word of this machine's own, written down before the
request and sent as a label (forge-start), tells it from those of an earlier run of the same name. Its client has no timeout of
its own, so one is set.

Files and programs go through a port of the job that only the Hub's proxy reaches and that a key of the lease opens
(_agent.py, which the job's command carries). The job therefore needs no token of the Hub, and leaves nothing behind: no
repository, which could take 128 commits an hour only, and no bucket. What a job makes is fetched while it lives.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from pydantic import Field

from forge.errors import ForgeError, MachineLost, MissingAccess, NoCapacity
from forge.phase import Requirement, Settings
from forge.plugins.compute import _agent_transport
from forge.plugins.compute._agent_transport import AgentTransport, Door
from forge.plugins.compute._channel import Broken, Host, HostChannel, Watch
from forge.plugins.compute._environment import LockedEnvironment, ReadyPython
from forge.plugins.compute._state import private_folder, write_private
from forge.protocols import Lease, Need, Offer, Resource
from forge.records import Record

if TYPE_CHECKING:
    from huggingface_hub import HfApi, JobHardwareInfo, JobInfo

PORT = 49984
FOLDER = "~/.slm-forge"
POLL_SECONDS = 5.0
RUN, LEASE, ATTEMPT, START, UNIT = "forge-run", "forge-lease", "forge-attempt", "forge-start", "forge-unit"
MADE_BY = {"made-by": "slm-forge"}
STATES: Mapping[str, Any] = {"SCHEDULING": "starting", "RUNNING": "live"}
"""Every other stage (COMPLETED, CANCELED, ERROR, DELETED) is the end; none of them is success of a lease."""

UNIT_SECONDS = {"second": 1, "minute": 60, "hour": 3600}
NO_BF16 = {"T4", "V100", "P100"}
GIB_PER_GB = 1e9 / 2**30
ATTEMPTS, FIRST_PAUSE = 3, 0.5
PRICES_SECONDS = 300.0
AGENT_GRACE_SECONDS = 120.0
"""The agent outlives the jobs that end because nobody asks, so that they can write their last checkpoint."""

T = TypeVar("T")


class HfJobsSettings(Settings):
    """Jobs on Hugging Face. The token is HF_TOKEN, or the one that `hf auth login` stored; it stays on this machine."""

    namespace: str = Field("", description="account or organization that runs and pays the jobs; empty = the token's own")
    flavors: tuple[str, ...] = Field((), description="hardware that may be used (a10g-large, l40sx1); empty = everything that fits")
    image: str = Field("python:3.12", description="image of the container, with python3 from 3.11 on and a C++ compiler; CUDA comes with torch")
    python: str = Field("", description="a Python in the image that has slm-forge and its extras; empty: an environment is made in each job from the lock file")
    lock: str = Field("", description="lock file with hashes for that environment; empty: the one that ships (Linux x86-64, CUDA)")
    start_minutes: float = Field(30.0, gt=0, description="longest wait for free hardware, in minutes; nothing is billed meanwhile")
    idle_minutes: float = Field(15.0, gt=0, description="minutes without a word from the engine after which the job ends itself")
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

    @property
    def idle_seconds(self) -> float:
        """When a job that nobody asks for ends."""
        return 60 * self._settings.idle_minutes

    def configured(self, settings: HfJobsSettings) -> HfJobs:
        """The provider with these settings."""
        return HfJobs(settings)

    def unready(self) -> str:
        """Why it cannot be used from here, without asking a network; "" when nothing is missing."""
        return "" if _token() else "there is no token: hf auth login, or export HF_TOKEN=…"

    def quote(self, need: Need) -> list[Offer]:
        """The hardware that fits, at the Hub's prices of this moment, cheapest first; none without a token."""
        if not _token():
            return []
        offers = [offer for hardware in self._hardware() if (offer := self._offer(hardware)) and _fits(offer, hardware, need)]
        return sorted(offers, key=lambda offer: (offer.usd_per_hour, offer.name))

    def preflight(self, offer: Offer) -> list[str]:
        """What the token may do here. Raises MissingAccess when it cannot start jobs, NoCapacity when the hardware is not offered."""
        if not _token():
            raise _no_token("there is none on this machine")
        api = self._api()
        told = _ask(api.whoami)
        namespace = self._settings.namespace or str(told["name"])
        _check_rights(told, namespace)
        if offer.name not in {hardware.name for hardware in self._hardware()}:
            raise NoCapacity(f"Hugging Face does not offer {offer.name}", next="forge resume --from plan_fit")
        running = _ask(lambda: list(api.list_jobs(namespace=namespace, labels=MADE_BY, status=["RUNNING", "SCHEDULING"])))
        return [
            f"the token may start jobs for {namespace}; whether its credit suffices is told at the start",
            f"{len(running)} jobs of slm-forge there now",
        ]

    def start(self, lease: Lease) -> Resource:
        """The job of this attempt: the one that has its labels, else a new one. It ends at the lease's deadline by the Hub's own clock."""
        api, namespace = self._api(), self._namespace()
        labels = {LEASE: _label(lease.token), ATTEMPT: str(lease.attempt)}
        note, is_new = _start_note(lease, unit := self._unit(lease.offer.name))
        known = _ask(lambda: list(api.list_jobs(namespace=namespace, labels=labels, status=list(STATES))))
        if not is_new:   # asked for before, here: the job may be over by now
            known += self._started(note.word)
        if known:
            return self._resource(known[0])
        seconds = lease.deadline_seconds
        try:
            job = api.run_job(
                image=lease.offer.image or self._settings.image, command=_agent_transport.command(self._settings.python or "python3"),
                env=_agent_transport.environment(PORT, seconds, self.idle_seconds + AGENT_GRACE_SECONDS),
                secrets={"FORGE_AGENT_KEY": _key(lease.token)}, flavor=lease.offer.name, timeout=max(1, seconds), expose=[PORT],
                name=_label(f"forge-{lease.token}"), labels={**MADE_BY, RUN: _label(lease.run), **labels, START: note.word, UNIT: unit}, namespace=namespace,
            )
        except Exception as error:
            if (refusal := _refusal(error)) is not None:
                raise refusal from error
            raise   # no answer, or one that says nothing: the engine looks for the job before it asks again
        return self._resource(job)

    def find(self, scope: str) -> list[Resource]:
        """Jobs of a lease token, a run id or "all" that are not over. Raises MissingAccess without a token."""
        if not _token():
            raise _no_token("there is none on this machine")
        api, namespace = self._api(), self._namespace()
        jobs = _ask(lambda: list(api.list_jobs(namespace=namespace, labels=MADE_BY, status=list(STATES))))
        found = [self._resource(job) for job in jobs]
        return [one for one in found if one.state != "gone" and scope in ("all", one.lease, one.run)]

    def stop(self, resource: Resource) -> None:
        """Cancel the job. Idempotent."""
        api, namespace = self._api(), self._namespace()
        try:
            _ask(lambda: api.cancel_job(job_id=resource.id, namespace=namespace))
        except ForgeError:
            if self._inspect(resource.id, STATES) is not None:
                raise

    def stop_command(self, resource: Resource) -> str:
        """The Hub's own client."""
        return f"hf jobs cancel --namespace {self._namespace()} {resource.id}"

    def channel(self, resource: Resource, root: Path) -> HostChannel:
        """Files and jobs in the container, through the Hub's proxy."""
        transport = AgentTransport(f"the job {resource.id}", _key(resource.lease), lambda: self._door(resource.id))
        return JobChannel(self, resource, transport, self._settings)

    def settle(self, resource: Resource) -> int:
        """Every unit (a minute) that the job has begun to run, at the price that it was started at, in micro-dollars.

        The Hub's own count of seconds; a job that never ran costs nothing (huggingface.co/docs/hub/jobs-pricing, 2026-11).
        """
        notes = [StartNote.model_validate_json(path.read_text(encoding="utf-8")) for path in _notes(resource.lease)]
        if (job := self._inspect(resource.id)) is not None:
            cost = _cost(job)
        elif resource.id != resource.lease:   # it was there, and the Hub has forgotten it: the most that it can have cost
            cost = max((note.most() for note in notes if note.attempt == max(one.attempt for one in notes)), default=0)
        else:   # none was ever seen: what was asked for from here
            cost = sum(_cost(job) for note in notes for job in self._started(note.word))
        for path in _notes(resource.lease):
            path.unlink(missing_ok=True)
        return cost

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
        return _ask(lambda: list(api.list_jobs(namespace=namespace, labels={START: word})))

    def _door(self, job_id: str) -> Door:
        status = self.job(job_id).status
        urls = status.expose_urls or []
        if str(status.stage) != "RUNNING" or not urls:
            raise Broken(f"the job {job_id} is {str(status.stage).lower()}")
        _check_url(urls[0], job_id, str(self._api().endpoint))
        return Door(urls[0].rstrip("/"), {"Authorization": f"Bearer {_token()}"})

    def _inspect(self, job_id: str, stages: Mapping[str, Any] | None = None) -> JobInfo | None:
        """A job; None when the Hub has none, or it is in another stage than these."""
        api, namespace = self._api(), self._namespace()
        try:
            job = _ask(lambda: api.inspect_job(job_id=job_id, namespace=namespace))
        except NotThere:
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
        return int(_number(chips[0].quantity)) if chips else 0

    def _offer(self, hardware: JobHardwareInfo) -> Offer | None:
        allowed, chip = self._settings.flavors, hardware.accelerator
        if (allowed and hardware.name not in allowed) or hardware.unit_label not in UNIT_SECONDS or (chip and chip.type != "gpu"):
            return None
        gpus = int(_number(chip.quantity)) if chip else 0
        return Offer(
            provider=self.name, name=hardware.name, usd_per_hour=hardware.unit_cost_usd * 3600 / UNIT_SECONDS[hardware.unit_label],
            device="cuda" if chip else "cpu", cores=int(_number(hardware.cpu)), memory_gib=round(_number(hardware.ram) * GIB_PER_GB, 1),
            gpu=f"{chip.manufacturer} {chip.model}" if chip else "", gpus=max(1, gpus),
            gpu_memory_gib=round(_number(chip.vram) * GIB_PER_GB / max(1, gpus), 1) if chip else 0.0, bf16=bool(chip and chip.model not in NO_BF16),
            image=self._settings.image, reason=hardware.pretty_name,
            price_source=f"Hugging Face, list_jobs_hardware, {time.strftime('%Y-%m-%d', time.gmtime())}",
        )

    def _unit(self, flavor: str) -> str:
        """The price of a unit as a label: micro-dollars and the unit's name."""
        for hardware in self._hardware():
            if hardware.name == flavor:
                return f"{hardware.unit_cost_micro_usd}-{hardware.unit_label}"
        raise NoCapacity(f"Hugging Face does not offer {flavor} any more", next="forge resume --from plan_fit")

    def _hardware(self) -> list[JobHardwareInfo]:
        since, prices = self._prices
        if time.monotonic() - since > PRICES_SECONDS:
            prices = _ask(self._api().list_jobs_hardware)
            self._prices = time.monotonic(), prices
        return prices

    def _namespace(self) -> str:
        """Asked once per token: the Hub answers this question only so often."""
        if self._settings.namespace:
            return self._settings.namespace
        token = _token()
        if token not in self._namespaces:
            self._namespaces[token] = str(_ask(self._api().whoami)["name"])
        return self._namespaces[token]

    def _api(self) -> HfApi:
        from huggingface_hub import HfApi, constants

        _limit_waiting(self._settings.timeout_seconds)
        # Read at call time: the library itself reads the variable only when it is imported.
        return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or constants.ENDPOINT, token=_token() or None)


class JobChannel(HostChannel):
    """A HostChannel whose machine may have to wait for hardware first."""

    def __init__(self, provider: HfJobs, resource: Resource, transport: AgentTransport, settings: HfJobsSettings) -> None:
        environment = ReadyPython(settings.python) if settings.python else LockedEnvironment(
            f"{FOLDER}/environments", Path(settings.lock).expanduser() if settings.lock else None
        )
        super().__init__(
            Host(transport), f"{FOLDER}/leases/{resource.lease}", watch=Watch(idle_seconds=provider.idle_seconds),
            poll_seconds=POLL_SECONDS, environment=environment,
        )
        self._provider, self._resource, self._transport, self._start_minutes = provider, resource, transport, settings.start_minutes

    def prepare(self, tell: Callable[[str], None]) -> str:
        """Wait for the container, open the lease in it, and make its Python ready. Raises NoCapacity when no hardware came free in time."""
        self._wait(tell)
        self._open()
        return super().prepare(tell)

    def _wait(self, tell: Callable[[str], None]) -> None:
        ends, told = time.monotonic() + 60 * self._start_minutes, False
        while not self._transport.is_up():
            if time.monotonic() > ends:
                raise NoCapacity(
                    f"the job {self._resource.id} did not come up in {self._start_minutes:g} min",
                    why=f"it is {str(self._provider.job(self._resource.id).status.stage).lower()}",
                    next="forge resume, or --set hf-jobs.flavors=[…] for other hardware",
                )
            if not told:
                tell(f"waiting for {self._resource.id} on Hugging Face; nothing is billed until it runs")
                told = True
            time.sleep(min(self.poll_seconds, 1.0))

    def _open(self) -> None:
        """Idempotent; the time that is left is the Hub's, which has counted since the job began to run."""
        job = self._provider.job(self._resource.id)
        ran = (job.durations.running_secs if job.durations else None) or 0
        labels, gpus = job.labels or {}, self._provider.gpus(str(job.flavor))
        self.host.call("open", {
            "root": self.root, "token": self._resource.lease, "run": self._resource.run, "attempt": int(labels.get(ATTEMPT, "1")),
            "deadline_seconds": max(0.0, float((job.environment or {}).get("FORGE_AGENT_SECONDS", 0)) - ran),
            "gpus": list(range(gpus)), "wanted_gpus": gpus,
        })


class NotThere(ForgeError):
    """The Hub does not know what was asked for."""


def _ask(act: Callable[[], T]) -> T:
    """act() that changes nothing or may be repeated: again after a pause when the Hub or the line failed; refusals in words."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    for attempt in range(1, ATTEMPTS + 1):
        try:
            return act()
        except HfHubHTTPError as error:
            if (refusal := _refusal(error)) is not None and not isinstance(refusal, NoCapacity):
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


def _refusal(error: Exception) -> ForgeError | None:
    """A clear no of the Hub, after which nothing was made; None when what it did is not known."""
    status = int(getattr(getattr(error, "response", None), "status_code", 0) or 0)
    words = " ".join(str(getattr(error, "server_message", "") or error).split())[:200]
    if status == 401:
        return _no_token("the Hub does not accept it")
    if status == 402:
        return MissingAccess("Hugging Face wants credit before it runs jobs", why=words, next="add credit at huggingface.co/settings/billing, then forge resume")
    if status == 403:
        return _may_not(words)
    if status == 404:
        return NotThere("the Hub does not know it", why=words)
    if status == 429:
        return NoCapacity("Hugging Face takes no more requests for now", why=words, next="forge resume in some minutes")
    if 400 <= status < 500:
        return ForgeError("Hugging Face does not take the job", why=words, next="forge config show hf-jobs")
    return None


def _check_rights(told: Mapping[str, Any], namespace: str) -> None:
    """Raise MissingAccess when the token says itself that it may not start jobs for the namespace."""
    user = str(told["name"])
    owners = {user} | {str(one["name"]) for one in told.get("orgs", [])}
    if namespace not in owners:
        raise MissingAccess(
            f"the token may not run jobs for {namespace}", why=f"it belongs to {user}; known: {', '.join(sorted(owners))}",
            next="forge resume --set hf-jobs.namespace=NAME, or another HF_TOKEN",
        )
    access = told.get("auth", {}).get("accessToken", {})
    if access.get("role") == "read":
        raise _may_not(f"it may only read; it belongs to {user}")
    if access.get("role") == "fineGrained":
        scoped = access.get("fineGrained", {}).get("scoped", [])
        rights = {right for scope in scoped if scope.get("entity", {}).get("name") == namespace for right in scope.get("permissions", [])}
        if "job.write" not in rights:
            raise _may_not(f"its permissions for {namespace} are {', '.join(sorted(rights)) or 'none'}; job.write is not among them")


def _check_url(url: str, job_id: str, endpoint: str) -> None:
    """Our token goes to this address: it must be the job's own, or on this machine when the Hub is."""
    place, hub = urlsplit(url), urlsplit(endpoint)
    if place.scheme == "https" and (place.hostname or "").startswith(f"{job_id}--{PORT}.".lower()):
        return
    if hub.hostname in ("127.0.0.1", "localhost") and place.hostname == hub.hostname:
        return
    raise ForgeError(f"the job {job_id} names an address that is not its own", why=url, next=f"hf jobs inspect {job_id}")


def _cost(job: JobInfo) -> int:
    if job.durations and job.durations.running_secs is not None:
        seconds = float(job.durations.running_secs)
    elif job.started_at and job.finished_at:
        seconds = (job.finished_at - job.started_at).total_seconds()
    else:
        return 0
    return _units(seconds, str((job.labels or {}).get(UNIT, "0-minute")))


def _units(seconds: float, unit: str) -> int:
    """Begun units in micro-dollars."""
    micro, _, label = unit.partition("-")
    return math.ceil(seconds / UNIT_SECONDS[label]) * int(micro)


def _fits(offer: Offer, hardware: JobHardwareInfo, need: Need) -> bool:
    if need.gpu and offer.device != "cuda":
        return False
    disk = _number(hardware.ephemeral_storage) * GIB_PER_GB
    memory = offer.gpu_memory_gib if offer.device == "cuda" else offer.memory_gib
    return memory >= max(need.memory_gib, need.gpu_memory_gib if offer.device == "cuda" else 0.0) and (not disk or disk >= need.disk_gib)


def _number(text: str) -> float:
    """The number in "46 GB", "12 vCPU" or "1"; 0 when there is none ("N/A")."""
    found = re.search(r"[0-9.]+", text)
    return float(found[0]) * (1000 if "TB" in text else 1) if found else 0.0


def _label(text: str) -> str:
    """Labels hold letters, digits, dashes and underscores, at most 100; other texts stand for themselves by their hash."""
    return text if re.fullmatch(r"[A-Za-z0-9_-]{1,100}", text) else hashlib.sha256(text.encode()).hexdigest()[:32]


class StartNote(Record):
    """What an attempt was, or will be, asked for with. asked: seconds since 1970. unit: the price as a label."""

    word: str
    attempt: int
    asked: float
    deadline_seconds: float
    unit: str

    def most(self) -> int:
        """The most that it can have cost by now, in micro-dollars."""
        passed = time.time() - self.asked
        return _units(min(passed, self.deadline_seconds) if passed >= 0 else self.deadline_seconds, self.unit)


def _start_note(lease: Lease, unit: str) -> tuple[StartNote, bool]:
    """The attempt's note, and whether it is new. Kept until the lease is settled."""
    path = private_folder("hf-jobs") / f"{_label(lease.token)}.{lease.attempt}"
    known = StartNote.model_validate_json(path.read_text(encoding="utf-8")) if path.exists() else None
    note = StartNote(
        word=known.word if known else token_hex(16), attempt=lease.attempt, asked=known.asked if known else time.time(),
        deadline_seconds=lease.deadline_seconds, unit=unit,   # of this offer: an earlier one of the attempt may not have been to be had
    )
    write_private(path, note.model_dump_json().encode())
    return note, known is None


def _notes(lease: str) -> list[Path]:
    return sorted(private_folder("hf-jobs").glob(f"{_label(lease)}.*"))


def _key(lease: str) -> str:
    """The lease's key, made from the token that starts the job: no file holds it, and any machine with that token can go on."""
    return hmac.new(_token().encode(), f"slm-forge job {_label(lease)}".encode(), hashlib.sha256).hexdigest()


def _token() -> str:
    from huggingface_hub import get_token

    return get_token() or ""


def _no_token(why: str) -> MissingAccess:
    return MissingAccess("Hugging Face Jobs needs a token", why=why, next="hf auth login, or export HF_TOKEN=… that may start jobs")


def _may_not(why: str) -> MissingAccess:
    return MissingAccess("the token of the Hub may not start jobs", why=why, next="export HF_TOKEN=… with the right to start and manage jobs (job.write)")


_limited: list[float] = []


def _limit_waiting(seconds: float) -> None:
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


provider = HfJobs()
