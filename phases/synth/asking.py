"""Puts requests to a teacher in batches: money is set aside before a call, and nothing that came back is asked or paid twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from forge.errors import OverBudget
from forge.journal import Journal
from forge.phase import Context
from forge.protocols import Teacher, TeacherRequest, TeacherResponse

BATCH_FREE, BATCH_PAID, BATCH_OFFLINE_PRICED = 64, 16, 1000
"""Requests that go out together: to a free teacher, to a paid one, and to one with a batch interface."""


class Asker:
    """Asks one teacher and remembers its answers in the phase's journal.

    A response is journaled before its reservation is settled: a kill in between leaves the worst case counted as spent,
    never a second payment. Failed requests are not journaled, so that a resumed run tries them again.
    """

    def __init__(self, teacher: Teacher, ctx: Context) -> None:
        self.teacher, self.ctx = teacher, ctx
        abilities = teacher.capabilities()
        self.paid = abilities.paid
        self.size = BATCH_OFFLINE_PRICED if abilities.batch else BATCH_PAID if self.paid else BATCH_FREE
        self.journal: Journal | None = ctx.journal(durable=self.paid) if self.paid or not abilities.deterministic else None
        self.micro_usd = 0
        self.failed: dict[str, str] = {}
        self.asked = 0

    def ask(self, requests: Sequence[TeacherRequest], note: str) -> Iterator[tuple[TeacherRequest, TeacherResponse]]:
        """The responses in the order of the requests; failed ones are left out and kept in `failed` with the reason.

        Raises OverBudget when the worst case of a request does not fit; requests that were reserved before it are finished first.
        """
        for start in range(0, len(requests), self.size):
            self.ctx.check_stop()
            batch = requests[start : start + self.size]
            answers = self._batch(batch)
            self.ctx.progress(min(start + self.size, len(requests)), len(requests), note)
            for request in batch:
                if request.key in answers:
                    yield request, answers[request.key]

    def _batch(self, batch: Sequence[TeacherRequest]) -> dict[str, TeacherResponse]:
        answers = {request.key: kept for request in batch if (kept := self._kept(request.key))}
        open_requests = list({request.key: request for request in batch if request.key not in answers}.values())
        if open_requests:
            answers |= self._call(open_requests)
        return answers

    def _call(self, requests: Sequence[TeacherRequest]) -> dict[str, TeacherResponse]:
        reservations, refused = self._reserve(requests)
        sent = [request for request in requests if not self.paid or request.key in reservations]
        answers: dict[str, TeacherResponse] = {}
        self.asked += len(sent)
        for response in self.teacher.generate(sent) if sent else ():
            fault = _fault(response)
            if fault:
                self.failed[response.key] = fault
            else:
                answers[response.key] = response
                self._keep(response)
            if response.key in reservations:
                self.ctx.money.settle(reservations[response.key], response.micro_usd)
            self.micro_usd += response.micro_usd
        for request in sent:
            if request.key not in answers:
                self.failed.setdefault(request.key, "the teacher returned nothing for this request")
        if refused:
            raise refused
        return answers

    def _reserve(self, requests: Sequence[TeacherRequest]) -> tuple[dict[str, int], OverBudget | None]:
        reservations: dict[str, int] = {}
        for request in requests if self.paid else ():
            try:
                worst = self.teacher.price(request)
                reservations[request.key] = self.ctx.money.reserve(request.key, worst, f"teacher {self.teacher.name}, {request.kind}")
            except OverBudget as refusal:
                return reservations, refusal
        return reservations, None

    def _kept(self, key: str) -> TeacherResponse | None:
        value: Any = self.journal.get(key) if self.journal is not None else None
        if value is None:
            return None
        response = TeacherResponse.model_validate(value)
        self.micro_usd += response.micro_usd
        return response

    def _keep(self, response: TeacherResponse) -> None:
        if self.journal is not None:
            self.journal.put(response.key, response.model_dump(mode="json"))


def _fault(response: TeacherResponse) -> str:
    if response.error:
        return response.error
    if response.stop_reason in {"refusal", "max_tokens", "model_context_window_exceeded"} and not response.proposals:
        return f"stopped early: {response.stop_reason}"
    return ""
