"""Puts requests to a teacher in batches: money is set aside before a call, and nothing that came back is asked or paid twice."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from forge.errors import OverBudget
from forge.journal import Journal
from forge.ledger import Meter
from forge.phase import Context
from forge.protocols import Teacher, TeacherBrief, TeacherRequest, TeacherResponse

if TYPE_CHECKING:
    from forge.phases.synth import SynthSettings

BATCH_FREE, BATCH_LIVE, BATCH_BATCH = 64, 512, 10_000
"""Requests that go out together: to a free teacher, to a paid one, and to one with a batch interface. A paid teacher
paces itself; what is handed over together only bounds how much is set aside at once."""
STOP_CHECK_SECONDS = 0.5


def brief_teacher(settings: SynthSettings, ctx: Context) -> Teacher:
    """The teacher of the settings, set up for this run; a rehearsal asks nobody who costs money."""
    teacher: Any = ctx.use("teacher", settings.teacher)
    if ctx.dry_run and teacher.capabilities().paid:
        ctx.notice(f"a rehearsal spends nothing: the offline teacher stands in for {settings.teacher}")
        teacher = ctx.use("teacher", "offline")
    if brief := getattr(teacher, "briefed", None):
        notes = str(ctx.paid_folder / settings.teacher)
        teacher = brief(
            TeacherBrief(model=settings.model, endpoint=settings.endpoint, mode=settings.mode, in_flight=settings.in_flight, notes=notes)
        )
    return teacher  # type: ignore[no-any-return]


class Asker:
    """Asks one teacher and remembers its answers in the phase's journal.

    A teacher that reports its attempts (`metered`) writes them to the ledger itself; for any other paid one a response is
    journaled before its reservation is settled: a kill in between leaves the worst case counted as spent, never a second
    payment. A failed request is journaled only when it was billed; a resumed run tries the others again.
    """

    def __init__(self, teacher: Teacher, ctx: Context) -> None:
        metered: Any = getattr(teacher, "metered", None) if teacher.capabilities().paid and isinstance(ctx.money, Meter) else None
        self.teacher: Teacher = metered(ctx.money, self._wait) if metered else teacher
        self.ctx, self.reports = ctx, metered is not None
        model = getattr(teacher, "model", "")
        self.identity: str = getattr(teacher, "identity", "") or (f"{teacher.name}/{model}" if model else teacher.name)
        abilities = teacher.capabilities()
        self.paid, self.resumes = abilities.paid, abilities.resumes
        self.size = BATCH_BATCH if abilities.batch else BATCH_LIVE if self.paid or not abilities.deterministic else BATCH_FREE
        self.journal: Journal | None = ctx.journal(durable=self.paid) if self.paid or not abilities.deterministic else None
        self.micro_usd = 0
        self.counted: set[str] = set()
        self.failed: dict[str, str] = {}
        self.asked = 0
        self.ready = False
        self.total, self.done, self.note = 0, 0, ""

    def ask(self, requests: Sequence[TeacherRequest], note: str) -> Iterator[tuple[TeacherRequest, TeacherResponse]]:
        """The responses in the order of the requests; failed ones are left out and kept in `failed` with the reason.

        Raises OverBudget when the worst case of a request does not fit; requests that were reserved before it are finished first.
        """
        self.total, self.note, self.done = len(requests), note, 0
        for start in range(0, len(requests), self.size):
            self.ctx.check_stop()
            batch = requests[start : start + self.size]
            answers = self._batch(batch)
            self.done = min(start + self.size, len(requests))
            self.ctx.progress(self.done, len(requests), note)
            for request in batch:
                if request.key in answers:
                    yield request, answers[request.key]

    def _batch(self, batch: Sequence[TeacherRequest]) -> dict[str, TeacherResponse]:
        kept = {request.key: response for request in batch if (response := self._kept(request.key))}
        answers = {key: response for key, response in kept.items() if not _fault(response)}
        self.failed |= {key: _fault(response) for key, response in kept.items() if key not in answers}
        open_requests = list({request.key: request for request in batch if request.key not in kept}.values())
        if open_requests:
            answers |= self._call(open_requests)
        return answers

    def _call(self, requests: Sequence[TeacherRequest]) -> dict[str, TeacherResponse]:
        """Answer all requests, in as many rounds as the budget's worst-case reservations need."""
        if not self.ready and (preflight := getattr(self.teacher, "preflight", None)):
            preflight()
        self.ready = True
        answers: dict[str, TeacherResponse] = {}
        while requests:
            reservations, refused = self._reserve(requests)
            sent = [request for request in requests if not self._pays_here or request.key in reservations]
            if refused and not sent:
                raise refused
            self._send(sent, reservations, answers)
            requests = requests[len(sent) :]
        return answers

    def _send(self, sent: Sequence[TeacherRequest], reservations: dict[str, int], answers: dict[str, TeacherResponse]) -> None:
        self.asked += len(sent)
        for response in self.teacher.generate(sent):
            fault = _fault(response)
            if fault:
                self.failed[response.key] = fault
            else:
                answers[response.key] = response
                self.failed.pop(response.key, None)
            if not fault or response.micro_usd:
                self._keep(response)
            if response.key in reservations:
                self.ctx.money.settle(reservations[response.key], response.micro_usd)
            self._count(response)
            self.done += 1
            self.ctx.progress(self.done, self.total, self.note)
        for request in sent:
            if request.key not in answers:
                self.failed.setdefault(request.key, "the teacher returned nothing for this request")

    def _reserve(self, requests: Sequence[TeacherRequest]) -> tuple[dict[str, int], OverBudget | None]:
        """The reservations of as many requests, from the first on, as fit now; and the refusal of the next one."""
        reservations: dict[str, int] = {}
        if not self._pays_here:
            return reservations, None
        for request in requests:
            what = f"teacher {self.teacher.name}, {request.kind}"
            try:
                worst = self.teacher.price(request)
                reservations[request.key] = self.ctx.money.reserve(request.key, worst, what, again=self.resumes)
            except OverBudget as refusal:
                return reservations, refusal
        return reservations, None

    @property
    def _pays_here(self) -> bool:
        return self.paid and not self.reports

    def _wait(self, seconds: float, note: str) -> None:
        """Wait for a teacher, in sight of the user, who may stop it."""
        until = time.monotonic() + seconds
        if note:
            self.ctx.progress(self.done, self.total, note)
        self.ctx.check_stop()
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, STOP_CHECK_SECONDS))
            self.ctx.check_stop()

    def _kept(self, key: str) -> TeacherResponse | None:
        value: Any = self.journal.get(key) if self.journal is not None else None
        if value is None:
            return None
        response = TeacherResponse.model_validate(value)
        if key not in self.counted:
            self._count(response)
        return response

    def _count(self, response: TeacherResponse) -> None:
        """Add what a response cost, once: the pilot's answers are looked up again."""
        self.counted.add(response.key)
        self.micro_usd += response.micro_usd

    def _keep(self, response: TeacherResponse) -> None:
        if self.journal is not None:
            self.journal.put(response.key, response.model_dump(mode="json"))


def _fault(response: TeacherResponse) -> str:
    if response.error:
        return response.error
    if response.stop_reason in {"refusal", "max_tokens", "model_context_window_exceeded"} and not (response.proposals or response.replies or response.verdicts):
        return f"stopped early: {response.stop_reason}"
    return ""
