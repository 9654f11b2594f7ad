"""Questions to abstain from, all with one sentence as their answer: collected by bucket until there are enough."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from forge.phase import Context
from forge.phases.synth.asking import Asker
from forge.phases.synth.buckets import ABSTAINING, wanted_shares
from forge.phases.synth.filters import flat
from forge.phases.synth.packs import TEST_ABSTENTIONS, TRAINED_SHARE, pack, request_far, request_unanswered
from forge.phases.synth.requests import NEAR_PER_REQUEST, request_near
from forge.phases.synth.requests import request_far as request_all_far
from forge.phases.synth.unanswerable import Corpus, sift_unanswerable
from forge.protocols import Proposal, TeacherRequest
from forge.records import Pair, Passage, Rejected, digest

if TYPE_CHECKING:
    from forge.phases.synth import SynthSettings

DRY_TEST_ABSTENTIONS = 14
NEAR_PER_REQUEST_MOST = 16
SPARE = 3
"""Near questions that are asked for, over those wanted: many passages name nothing to ask about, and filters refuse a third."""
ROUNDS, UNANSWERED_PER_REQUEST = 2, 8
"""Rounds in which missing ones are bought, all requests of a round at once (a batch may take an hour), and what one brings."""
ENOUGH = 0.8
"""Share of a bucket from which no more is bought: what is missing is made up by the other buckets."""


class Abstentions:
    """Collects pairs that pass the filters. `rejected` are the others."""

    def __init__(self, passages: Sequence[Passage], answerable: Sequence[Pair], asker: Asker, settings: SynthSettings, ctx: Context) -> None:
        self.passages, self.answerable, self.asker, self.settings, self.ctx = passages, answerable, asker, settings, ctx
        self.found: list[Pair] = []
        self.rejected: list[Rejected] = []
        self._corpus: Corpus | None = None
        self._counted: Counter[str] = Counter()

    def collect(self, proposed: Sequence[Proposal]) -> list[Pair]:
        """Up to the wanted number of each bucket, starting from what was proposed along with the pairs; asks for the rest."""
        wanted = self._wanted()
        if not wanted:
            self.ctx.notice("synth.abstention_share is 0, by itself or by the buckets: the model will not learn to abstain, and that cannot be measured")
            return []
        self._admit(proposed)
        if self.asker.teacher.capabilities().facts:
            self._top_up(wanted)
        else:
            self._ask_each(wanted)
        chosen = self._choose(wanted)
        if len(chosen) < sum(wanted.values()):
            self.ctx.notice(f"{len(chosen):,} of {sum(wanted.values()):,} wanted abstention questions: the corpus has too few terms to build more")
        return chosen

    def _wanted(self) -> dict[str, int]:
        share = self.settings.abstaining
        extra = DRY_TEST_ABSTENTIONS if self.ctx.dry_run else TEST_ABSTENTIONS
        total = math.ceil(TRAINED_SHARE * share / (1 - share) * len(self.answerable)) + extra if share else 0
        shares = wanted_shares(self.settings.buckets, self.asker.teacher.capabilities().buckets)[0]
        wanted = {name: round(shares.get(name, 0.0) * total) for name in ABSTAINING}
        return {name: count for name, count in wanted.items() if count}

    def _short(self, wanted: dict[str, int], *names: str, enough: float = 1.0) -> bool:
        return any(self._counted[name] < enough * wanted.get(name, 0) for name in names)

    def _ask_each(self, wanted: dict[str, int]) -> None:
        """A teacher that is asked passage by passage: far questions in one request, near ones until both kinds suffice."""
        if "abstain_far" in wanted:
            self._ask([request_all_far(self.passages[0], self.asker.identity, wanted["abstain_far"])])
        count = wanted.get("abstain_near", 0) + wanted.get("abstain_document", 0)
        each = NEAR_PER_REQUEST
        if not self.asker.paid:
            each = min(NEAR_PER_REQUEST_MOST, max(NEAR_PER_REQUEST, math.ceil(SPARE * count / len(self.passages))))
        near = request_near(self.passages, self.asker.identity, self.ctx.seed, each)
        step = max(4, math.ceil(count / each))
        for start in range(0, len(near), step):
            if not self._short(wanted, *ABSTAINING[:2]):
                return
            self._ask(near[start : start + step])

    def _top_up(self, wanted: dict[str, int]) -> None:
        """A teacher that was asked for them along with the pairs: far questions from the list that ships, then what is missing."""
        if self._short(wanted, "abstain_far"):
            listed = self.ctx.use("teacher", "offline").generate([request_all_far(self.passages[0], "offline", 2 * wanted["abstain_far"])])
            self._admit([proposal for response in listed for proposal in response.proposals])
        if self._short(wanted, "abstain_far"):
            self._ask(request_far(self.passages[0], self.asker.identity, wanted["abstain_far"] - self._counted["abstain_far"]))
        more = request_unanswered(pack(self.passages), wanted, self.settings, self.asker.identity, self.ctx.seed)
        for _ in range(ROUNDS):
            if not self._short(wanted, *ABSTAINING[:2], enough=ENOUGH):
                return
            missing = sum(max(0, wanted.get(name, 0) - self._counted[name]) for name in ABSTAINING[:2])
            self._ask(list(islice(more, math.ceil(missing / UNANSWERED_PER_REQUEST))))

    def _ask(self, requests: Sequence[TeacherRequest]) -> None:
        note = "asking for questions to abstain from"
        self._admit([proposal for _, response in self.asker.ask(requests, note) for proposal in response.proposals])

    def _admit(self, proposals: Iterable[Proposal]) -> None:
        known = {pair.id for pair in self.found}
        fresh = list({pair.id: pair for pair in map(self._pair, proposals) if pair.id not in known and pair.bucket in ABSTAINING}.values())
        if not fresh:
            return
        self._corpus = self._corpus or Corpus(self.passages)
        good, refused = sift_unanswerable(fresh, [*self.answerable, *self.found], self._corpus)
        self.found += good
        self.rejected += refused
        self._counted.update(pair.bucket for pair in good)

    def _pair(self, proposal: Proposal) -> Pair:
        return Pair(
            id=digest("abstain", proposal.question)[:16], bucket=proposal.bucket, question=flat(proposal.question), answer=self.settings.abstention,
            evidence=proposal.evidence, fact=digest("abstain", proposal.fact or proposal.question)[:12], teacher=self.settings.teacher,
        )

    def _choose(self, wanted: dict[str, int]) -> list[Pair]:
        """Each bucket up to what is wanted, then the others until the sum is reached, in the order in which they came."""
        taken: Counter[str] = Counter()

        def fits(pair: Pair) -> bool:
            taken[pair.bucket] += 1
            return taken[pair.bucket] <= wanted.get(pair.bucket, 0)

        chosen, rest = _parted(self.found, fits)
        rest = [pair for pair in rest if pair.bucket in wanted]
        return [*chosen, *rest[: sum(wanted.values()) - len(chosen)]]


def _parted(pairs: Iterable[Pair], fits: Callable[[Pair], bool]) -> tuple[list[Pair], list[Pair]]:
    yes: list[Pair] = []
    no: list[Pair] = []
    for pair in pairs:
        (yes if fits(pair) else no).append(pair)
    return yes, no
