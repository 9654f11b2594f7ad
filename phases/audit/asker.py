"""Asks a teacher outside of a run: a purse of its own with a cap, a journal of its own, so that a second call goes on where the first ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from forge.errors import ForgeError, OverBudget
from forge.journal import Journal
from forge.ledger import Ledger, dollars, micro_usd
from forge.protocols import Teacher, TeacherBrief, TeacherRequest, TeacherResponse
from forge.registry import Registry
from forge.state import State

PER_ROUND = 512
STOP_CHECK_SECONDS = 0.5
NEXT = "the same command with a larger --budget goes on where this one ended"


class Purse:
    """A teacher with its money and its answers in one folder: settled + reserved never passes the budget, nothing is asked twice."""

    def __init__(self, folder: Path, name: str, brief: TeacherBrief, registry: Registry, budget_usd: float, check_stop: Callable[[], None]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.state = State(folder / "state.db")
        cap = micro_usd(budget_usd)
        self.ledger = Ledger(self.state, cap, cap)
        self.ledger.phase = "classify"
        self.journal = Journal(folder / "answers.journal", durable=True)
        self.check_stop = check_stop
        plugin: Any = registry.plugin("teacher", name)
        briefed = getattr(plugin, "briefed", None)
        teacher: Any = briefed(brief.model_copy(update={"notes": str(folder / "notes")})) if briefed else plugin
        self.paid = teacher.capabilities().paid
        metered = getattr(teacher, "metered", None) if self.paid else None
        self.reports = metered is not None
        self.teacher: Teacher = metered(self.ledger, self._wait) if metered else teacher
        self.identity = f"{name}/{getattr(teacher, 'identity', '') or getattr(teacher, 'model', '')}"
        self.failed: dict[str, str] = {}

    def close(self) -> None:
        """Close journal and ledger."""
        self.journal.close()
        self.state.close()

    def worst_case(self, requests: Sequence[TeacherRequest]) -> int:
        """What the requests that have no answer yet may cost, in micro-dollars."""
        return sum(self.teacher.price(request) for request in requests if request.key not in self.journal) if self.paid else 0

    def preflight(self) -> None:
        """Raises MissingAccess or UsageError before anything is spent."""
        if check := getattr(self.teacher, "preflight", None):
            check()

    def ask(self, requests: Sequence[TeacherRequest]) -> Iterator[TeacherResponse]:
        """Answers as they come, those of an earlier call first; what failed is in `failed`. Raises OverBudget when nothing more fits."""
        waiting = []
        for request in requests:
            if (kept := self.journal.get(request.key)) is None:
                waiting.append(request)
            else:
                yield TeacherResponse.model_validate(kept)
        while waiting:
            self.check_stop()
            batch, lines = self._reserve(waiting[:PER_ROUND])
            try:
                for response in self.teacher.generate(batch):
                    self._note(response, lines)
                    yield response
            except OverBudget as error:
                raise OverBudget(error.fact, why=error.why, next=NEXT) from error
            waiting = waiting[len(batch) :]

    def _note(self, response: TeacherResponse, lines: dict[str, int]) -> None:
        if response.error:
            self.failed[response.key] = response.error
        if not response.error or response.micro_usd:
            self.journal.put(response.key, response.model_dump(mode="json"))
        if response.key in lines:
            self.ledger.settle(lines[response.key], response.micro_usd)
        self.check_stop()

    def _reserve(self, requests: Sequence[TeacherRequest]) -> tuple[Sequence[TeacherRequest], dict[str, int]]:
        """As many requests as the cap allows, with their lines of the ledger."""
        lines: dict[str, int] = {}
        if not self.paid or self.reports:
            return requests, lines
        again = self.teacher.capabilities().resumes
        for request in requests:
            try:
                lines[request.key] = self.ledger.reserve(request.key, self.teacher.price(request), "classify", again=again)
            except OverBudget as error:
                if not lines:
                    raise OverBudget(error.fact, why=error.why, next=NEXT) from error
                break
        return requests[: len(lines)], lines

    def _wait(self, seconds: float, note: str) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.check_stop()
            time.sleep(min(left, STOP_CHECK_SECONDS))

    def check_failures(self, asked: int, most_share: float) -> None:
        """Raise ForgeError when more than a share of the requests failed."""
        if len(self.failed) > most_share * asked:
            reason = min(self.failed.values())
            raise ForgeError(
                f"the teacher failed on {len(self.failed):,} of {asked:,} passages", why=f"first reason: {reason}", next="the same command asks only for what is missing"
            )

    def spent(self) -> str:
        """What it has cost so far, of the budget."""
        totals = self.ledger.totals()
        return f"{dollars(totals.committed)} of {dollars(totals.budget)}"
