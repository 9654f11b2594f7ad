"""What the world said while the plan was made: offers, what was proven about them, what earlier runs took.

It is kept in a file until the plan is written, so that a killed and resumed plan_fit writes the same plan, and forgotten then: the next
plan is made at that day's prices.
"""

from __future__ import annotations

from pydantic import Field

from forge import history
from forge.errors import NoCapacity
from forge.history import Correction, Told
from forge.phase import Context
from forge.phases.plan_fit.machines import Answer, ask_all
from forge.phases.plan_fit.speed import NOTHING_KNOWN, Known
from forge.protocols import Need, Offer
from forge.records import Record, canonical_json, read_record
from forge.store import write_durably

FILE = "asked.json"


class Asked(Record):
    """Answers of the providers, earlier runs on their kinds of machine, and preflights: lines, or why not, by provider/offer."""

    answers: tuple[Answer, ...]
    told: tuple[Told, ...] = ()
    proven: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    refused: dict[str, str] = Field(default_factory=dict)


class World:
    """Asks once, and again only when nothing is kept."""

    def __init__(self, ctx: Context, need: Need, wanted: str) -> None:
        self._ctx, self._file = ctx, ctx.work / FILE
        self.asked = read_record(self._file, Asked) if self._file.exists() else self._ask(need, wanted)

    def speed(self, offer: Offer) -> Known:
        """How fast training was on that kind of GPU; nothing of machines that cost nothing, whose plans stay the same."""
        if not offer.usd_per_hour:
            return NOTHING_KNOWN
        return Known(*history.speed_correction(offer.gpu, list(self.asked.told)))

    def corrections(self, offer: Offer) -> dict[str, Correction]:
        """Phase -> factor for its seconds on this very machine; nothing of machines that cost nothing."""
        if not offer.usd_per_hour:
            return {}
        told, where = list(self.asked.told), history.machine_name(offer.provider, offer.name)
        found = {phase: history.seconds_correction(phase, where, told) for phase in {one.phase for one in told}}
        return {phase: one for phase, one in found.items() if one.runs}

    def preflight(self, offer: Offer) -> tuple[str, ...]:
        """What the provider proves about starting it. Raises NoCapacity or MissingAccess in its words."""
        name = history.machine_name(offer.provider, offer.name)
        if name in self.asked.refused:
            raise NoCapacity(self.asked.refused[name])
        if name not in self.asked.proven:
            ask = getattr(self._ctx.use("provider", offer.provider), "preflight", None)
            self._ctx.progress(0, None, f"asking {offer.provider} whether {offer.name} can be started")
            lines = tuple(ask(offer)) if ask is not None else ()
            self.asked = self.asked.model_copy(update={"proven": {**self.asked.proven, name: lines}})
        return self.asked.proven[name]

    def remember(self, refused: dict[str, str]) -> None:
        """From now on a killed plan_fit goes on with these answers. refused: by provider/offer, why it cannot be had."""
        self.asked = self.asked.model_copy(update={"refused": refused})
        write_durably(self._file, canonical_json(self.asked) + "\n")

    def forget(self) -> None:
        """The plan is written, or could not be made: the next one asks again."""
        self._file.unlink(missing_ok=True)

    def _ask(self, need: Need, wanted: str) -> Asked:
        answers = tuple(ask_all(self._ctx, need, wanted))
        offers = [offer for answer in answers for offer in answer.offers]
        gpus, names = {offer.gpu for offer in offers if offer.gpu}, {history.machine_name(offer.provider, offer.name) for offer in offers}
        return Asked(answers=answers, told=tuple(one for one in history.read() if one.gpu in gpus or one.where in names))
