"""What synth will cost, told by a few paid answers before the many are bought.

A paid teacher is first asked about 40 passages or packs of them, drawn over all lengths, and, unless questions to abstain from
come with the pairs, for a few of those. What was billed gives the price of the rest: a bootstrap over the requests for the
asking, and for the later ones (checks, abstentions) the input by its worst case times the pilot's share of it, the output
by the characters that such an answer has. The pilot's requests are those that are asked anyway: their answers are kept and
nothing is paid twice.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from forge import history
from forge.errors import OverBudget
from forge.ledger import MICRO
from forge.phase import Context
from forge.phases.synth.asking import Asker
from forge.phases.synth.buckets import ABSTAINING
from forge.phases.synth.doubt import CHECKED_MIN
from forge.phases.synth.packs import TEST_ABSTENTIONS, TRAINED_SHARE, request_checks
from forge.phases.synth.proposing import pair_requests
from forge.phases.synth.requests import (
    FORMS,
    NEAR_PER_REQUEST,
    request_far,
    request_near,
)
from forge.protocols import CheckItem, TeacherRequest, TeacherResponse
from forge.records import Passage, digest

if TYPE_CHECKING:
    from forge.phases.synth import SynthSettings

PASSAGES, REQUESTS, SHARE, FEWEST = 40, 12, 4, 12
"""Passages asked first: 40 in at least 12 requests, of fewer than 160 a quarter; with fewer than 12 in all there is nothing to forecast."""
ABSTAIN_REQUESTS = 6
DRAWS = 1000
KEPT_SHARE = 0.8
"""Of the proposed facts, what the cheap filters leave for the round trip and the judge."""
REPLY_FRAME, VERDICT_CHARS, PAIR_FRAME = 14, 6, 110
"""Characters of JSON around one reply, of one verdict, and around one proposed pair."""
PLANTED_REQUESTS = 75
"""Requests that the test of the judge takes: 60 defects in passages of their own, and honest pairs."""
MODELLED_SPREAD = 1.5
"""P90 over P50 of what is reckoned and not asked: requests whose pairs are not known yet."""


FAR_SHARE = 0.2


class Rates(NamedTuple):
    """What the pilot's bill says about this teacher: micro-dollars a token of output, and shares and tokens to scale by."""

    output_token: float
    input_share: float
    tokens_per_char: float

    def cost(self, teacher: Any, request: TeacherRequest, chars: float) -> float:
        """The probable micro-dollars of a request whose answer has so many characters."""
        return self.input_share * _input_price(teacher, request) + self.output_token * self.tokens_per_char * chars


class Forecast(NamedTuple):
    """Micro-dollars of one part of synth."""

    p50: float
    p90: float


def choose(requests: Sequence[TeacherRequest], seed: int) -> list[TeacherRequest]:
    """The pilot: one request of each stretch of lengths, so that short and long passages are in it as in the corpus."""
    passages = _passages(requests)
    count = min(max(REQUESTS, round(PASSAGES * len(requests) / max(1, passages))), len(requests) // SHARE)
    if passages < FEWEST or not count:
        return []
    ranked = sorted(requests, key=lambda one: (len(one.passage.text) + sum(len(other.text) for other in one.context), one.passage.id))
    edges = [round(part * len(ranked) / count) for part in range(count + 1)]
    strata = [ranked[start:end] for start, end in pairwise(edges)]
    return [min(stratum, key=lambda one: digest(str(seed), "pilot", one.key)) for stratum in strata]


def _passages(requests: Sequence[TeacherRequest]) -> int:
    return sum(1 + len(request.context) for request in requests)


def run_pilot(passages: Sequence[Passage], safe: Sequence[Passage], asker: Asker, settings: SynthSettings, ctx: Context) -> dict[str, Any]:
    """Ask the pilot and say what synth will cost; a report for checks.json. Raises OverBudget when that will not fit.

    passages: those that are asked about. safe: all that questions to abstain from may be made of.
    """
    if not asker.paid or ctx.dry_run:
        return {"state": "off", "why": "nothing is paid"}
    requests = pair_requests(passages, asker.teacher, asker.identity, settings)
    chosen = choose(requests, ctx.seed)
    if not chosen:
        return {"state": "off", "why": f"{_passages(requests)} passages are too few to forecast from a part of them"}
    before = asker.micro_usd
    answers = list(asker.ask(chosen, "asking the pilot"))
    separate = settings.abstaining and not asker.teacher.capabilities().facts
    near = request_near(safe, asker.identity, ctx.seed)[:ABSTAIN_REQUESTS] if separate else []
    near_answers = list(asker.ask(near, "asking the pilot"))
    for request in near:
        asker.failed.pop(request.key, None)   # asked again with the others
    if not answers:
        return {"state": "undecided", "why": f"none of {len(chosen)} pilot requests was answered"}
    parts = forecast_parts(requests, chosen, answers, near_answers, asker, settings, ctx.seed)
    report = _report(parts, _passages(requests), _passages(chosen), asker.micro_usd - before)
    _announce(report, ctx, asker.teacher.name)
    return report


def forecast_parts(
    requests: Sequence[TeacherRequest], chosen: Sequence[TeacherRequest], answers: Sequence[tuple[TeacherRequest, TeacherResponse]],
    near: Sequence[tuple[TeacherRequest, TeacherResponse]], asker: Asker, settings: SynthSettings, seed: int,
) -> dict[str, Forecast]:
    """The forecast of asking, of the round trip, of the judge and of the abstentions, the pilot's own part included."""
    rates = _rates(asker.teacher, answers)
    facts = _facts_each(answers)
    parts = {"pairs": _bootstrap([response.micro_usd for _, response in answers], len(requests), len(chosen), seed)}
    if asker.teacher.capabilities().checks and not settings.round_trip == settings.judge == "off":
        one_each, planted = _check_cost(answers, asker, settings, rates)
        share = max(settings.check_share, min(1.0, CHECKED_MIN / max(1.0, facts * len(requests)))) if settings.check_share else 0.0
        parts["checks"] = _modelled(share * one_each * len(requests) + planted)
    if near:
        parts["abstain"] = _modelled(_abstention_cost(near, facts * len(requests), asker, settings, rates))
    return parts


def _rates(teacher: Any, answers: Sequence[tuple[TeacherRequest, TeacherResponse]]) -> Rates:
    """Worst-case prices are linear in the longest answer, which gives the price of an output token; the bill gives the rest."""
    first = answers[0][0]
    wide = first.model_copy(update={"max_output_tokens": first.max_output_tokens + 10_000})
    output_token = (teacher.price(wide) - teacher.price(first)) / 10_000
    worst_input = sum(_input_price(teacher, request) for request, _ in answers)
    tokens = sum(response.usage.output_tokens for _, response in answers)
    real_input = sum(response.micro_usd for _, response in answers) - output_token * tokens
    chars = sum(_chars(response) for _, response in answers)
    share = min(1.0, max(0.05, real_input / worst_input)) if worst_input else 1.0
    return Rates(output_token, share, tokens / chars if chars else 0.3)


def _input_price(teacher: Any, request: TeacherRequest) -> float:
    return float(teacher.price(request.model_copy(update={"max_output_tokens": 0})))


def _chars(response: TeacherResponse) -> int:
    return sum(
        len(one.bucket) + len(one.question) + len(one.answer) + len(one.evidence) + len(one.fact) + PAIR_FRAME for one in response.proposals
    )


def _facts_each(answers: Sequence[tuple[TeacherRequest, TeacherResponse]]) -> float:
    """Facts of a passage that will be left after the cheap filters."""
    return KEPT_SHARE * sum(len({one.fact or one.answer for one in response.proposals}) for _, response in answers) / len(answers)


def _bootstrap(costs: Sequence[int], population: int, asked: int, seed: int) -> Forecast:
    """Median and 90th percentile of what all passages cost: those asked are known, the others are drawn from them."""
    generator = random.Random(seed)
    rest = max(0, population - asked)
    known = sum(costs) * asked / len(costs)
    draws = sorted(known + rest * sum(generator.choices(costs, k=len(costs))) / len(costs) for _ in range(DRAWS))
    return Forecast(draws[DRAWS // 2], draws[int(0.9 * DRAWS)])


def _modelled(cost: float) -> Forecast:
    return Forecast(cost, MODELLED_SPREAD * cost)


def _check_cost(
    answers: Sequence[tuple[TeacherRequest, TeacherResponse]], asker: Asker, settings: SynthSettings, rates: Rates
) -> tuple[float, float]:
    """What checking the pilot's facts would come to for one request, one form each at their real lengths; and testing the judge."""
    costs, alone = [], []
    for request, response in answers:
        pairs = list({one.fact or one.answer: one for one in response.proposals if one.evidence and one.bucket not in ABSTAINING}.values())
        judged = [settings.judge != "off" and (settings.round_trip == "off" or place % 2 == 1) for place in range(len(pairs))]
        items = [
            CheckItem(number=place, question=one.question, **({"answer": one.answer, "evidence": one.evidence} if whole else {}))
            for place, (one, whole) in enumerate(zip(pairs, judged, strict=True), 1)
        ]
        chars = sum(VERDICT_CHARS if whole else len(one.answer) + REPLY_FRAME for one, whole in zip(pairs, judged, strict=True))
        found = (request.passage, *request.context)
        costs.append(rates.cost(asker.teacher, request_checks(found, items, asker.identity), KEPT_SHARE * chars) if items else 0.0)
        alone.append(rates.cost(asker.teacher, request_checks(found[:1], items[:2], asker.identity), 2 * VERDICT_CHARS) if items else 0.0)
    tested = min(PLANTED_REQUESTS, len(answers) * len(answers[0][0].context) + len(answers)) if settings.judge != "off" else 0
    return sum(costs) / len(costs), tested * sum(alone) / len(alone)


def _abstention_cost(
    near: Sequence[tuple[TeacherRequest, TeacherResponse]], facts: float, asker: Asker, settings: SynthSettings, rates: Rates
) -> float:
    """Near questions by their pilot, as many requests as are needed for the share; the far ones in a single request."""
    share = settings.abstaining
    wanted = TRAINED_SHARE * share / (1 - share) * facts * FORMS + TEST_ABSTENTIONS
    each = sum(response.micro_usd for _, response in near) / len(near)
    proposed = [one for _, response in near for one in response.proposals]
    chars = sum(map(_chars, (response for _, response in near))) / len(proposed) if proposed else PAIR_FRAME + 60
    far = request_far(near[0][0].passage, asker.identity, math.ceil(FAR_SHARE * wanted))
    return math.ceil(wanted / NEAR_PER_REQUEST) * each + rates.cost(asker.teacher, far, FAR_SHARE * wanted * chars)


def _report(parts: dict[str, Forecast], passages: int, asked: int, spent: float) -> dict[str, Any]:
    p50 = sum(part.p50 for part in parts.values())
    p90 = p50 + math.hypot(*(part.p90 - part.p50 for part in parts.values()))
    return {
        "state": "on", "passages": passages, "asked": asked, "spent_usd": round(spent / MICRO, 6), "usd_p50": round(p50 / MICRO, 6),
        "usd_p90": round(p90 / MICRO, 6), "parts": {name: [round(part.p50 / MICRO, 6), round(part.p90 / MICRO, 6)] for name, part in sorted(parts.items())},
        "basis": f"{asked} of {passages:,} passages asked, drawn over all lengths; bootstrap of their bill",
    }


def _announce(report: dict[str, Any], ctx: Context, teacher: str) -> None:
    """Say the forecast, corrected by earlier runs; raise OverBudget when even the median does not fit, while only the pilot is paid."""
    left, correction = money_left(ctx), history.usd_correction("synth", teacher)
    said = f"${report['usd_p50'] * correction.factor:.4f} (P90 ${report['usd_p90'] * correction.factor:.4f})"
    said += f", {correction}" if correction.runs else ""
    ctx.notice(f"pilot: {report['asked']} of {report['passages']:,} passages cost ${report['spent_usd']:.4f}; synth as a whole will come to about {said}")
    if report["usd_p50"] * correction.factor - report["spent_usd"] > left:
        raise OverBudget(
            f"synth is forecast at {said}, and ${left:.4f} is left for it", why=f"{report['basis']}; its answers are kept and paid",
            next=f"forge resume --before-gate {math.ceil(100 * report['usd_p90'] * correction.factor) / 100:.2f}, or fewer synth.pairs_per_passage",
        )


def forecast_numbers(report: dict[str, Any]) -> dict[str, float | str]:
    """The forecast among synth's numbers, as forge.history and `forge cost` look for it; nothing without a pilot."""
    if report["state"] != "on":
        return {}
    return {history.OWN_P50: report["usd_p50"], history.OWN_P90: report["usd_p90"], history.OWN_BASIS: f"pilot: {report['basis']}"}


def money_left(ctx: Context) -> float:
    """Dollars that may still be spent before the gate."""
    spend = ctx.money.totals()
    return min(spend.budget - spend.committed, spend.before_gate_cap - spend.before_gate) / MICRO
