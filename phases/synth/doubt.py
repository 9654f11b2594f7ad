"""The dear filters, for teachers that write freely: a round trip through the passage, and a judge that is itself put to the test.

Both are asked in one request for a pack of passages: every second fact is answered again, the others are judged; doing both to
one fact would show its answer to whoever is to find it. A share of the packs is checked. When more than WIDEN_AT of the facts in
it are refused, the rest is checked too. A judge is first shown planted defects among honest pairs; one that misses them, or
refuses nearly everything, is not asked about the others, and says nothing about the data.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from forge.errors import UsageError
from forge.phase import Context
from forge.phases.synth.agree import agree
from forge.phases.synth.asking import Asker
from forge.phases.synth.calibrate import FALSE_ALARMS_MAX, calibrate, check_item, defect, one_form_each
from forge.phases.synth.filters import reject
from forge.phases.synth.packs import ITEMS_PER_CHECK, Pack, pack, request_checks
from forge.protocols import TeacherRequest
from forge.records import Pair, Passage, Rejected, digest
from forge.stats import clopper_pearson

if TYPE_CHECKING:
    from forge.phases.synth import SynthSettings

WIDEN_AT = 0.05
"""Refused share of the checked facts above which the others are checked too: plan_fit lets no more defects pass."""
CHECKED_MIN = 120
"""Facts that are checked at least: 120 without a refusal show that fewer than 2.5 % are bad."""


@dataclass
class Doubts:
    """What the dear filters left, refused and found out about themselves."""

    kept: list[Pair]
    rejected: list[Rejected] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)


class Asked(NamedTuple):
    """One request, and what each of its items is: the pair, and whether it is judged or answered again."""

    request: TeacherRequest
    members: list[tuple[Pair, bool]]


@dataclass
class Tally:
    """What came of checking: facts asked about and answered, and why facts (or single pairs) are refused."""

    asked: int = 0
    seen: int = 0
    reasons: dict[str, str] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """For checks.json."""
        return {"facts": self.asked, "unchecked": self.asked - self.seen, "refused": dict(sorted(Counter(self.reasons.values()).items()))}


def doubt(pairs: Sequence[Pair], passages: Mapping[str, Passage], asker: Asker, settings: SynthSettings, ctx: Context) -> Doubts:
    """The pairs that survive the round trip and, if the judge proves itself, the judge. Asks and pays through the asker."""
    doubts = Doubts(list(pairs))
    left_out = {name: _left_out(name, getattr(settings, name), asker, ctx) for name in ("round_trip", "judge")}
    doubts.report = {name: {"state": "off", "why": reason} for name, reason in left_out.items() if reason}
    if not left_out["judge"]:
        doubts.report["judge"] = calibrate(doubts.kept, passages, asker, ctx)
        _say_if_undecided(doubts.report["judge"], ctx)
    trip, judge = not left_out["round_trip"], doubts.report["judge"]["state"] == "on"
    if not (trip or judge):
        return doubts
    tallies = {False: Tally(), True: Tally()}
    packs = sorted(pack(list(passages.values())), key=lambda found: digest(str(ctx.seed), "check", found[0].id))
    first, rest = _sample(packs, one_form_each(doubts.kept), settings.check_share)
    _check(first, doubts.kept, asker, tallies, trip=trip, judge=judge)
    checked, refused = sum(tally.seen for tally in tallies.values()), sum(len(tally.reasons) for tally in tallies.values())
    widened = bool(rest) and refused > WIDEN_AT * checked
    if widened:
        ctx.notice(f"{refused:,} of {checked:,} checked facts are refused, more than {WIDEN_AT:.0%}: all others are checked too")
        _check(rest, doubts.kept, asker, tallies, trip=trip, judge=judge)
    doubts.report["checked"] = _told_sample(checked, refused, first, rest, widened)
    _settle(doubts, tallies, ctx, trip=trip, judge=judge)
    return doubts


def _left_out(name: str, wanted: str, asker: Asker, ctx: Context) -> str:
    if wanted == "off":
        return f"synth.{name} is off"
    if asker.teacher.capabilities().checks:
        return ""
    if wanted == "on" and not ctx.dry_run:
        raise UsageError(
            f"synth.{name} is on and the teacher {asker.teacher.name} answers no such question", why="it only proposes pairs",
            next=f"--set synth.{name}=auto, or another teacher",
        )
    return f"the teacher {asker.teacher.name} copies its answers from the passage and judges nothing"


# --- the checks ------------------------------------------------------------------------------------------------


def _sample(packs: Sequence[Pack], pairs: Sequence[Pair], share: float) -> tuple[list[Pack], list[Pack]]:
    """Packs with at least `share` of the facts, and at least CHECKED_MIN of them; and the others."""
    facts = Counter(pair.passage for pair in pairs)
    wanted = max(share * len(pairs), min(CHECKED_MIN, len(pairs))) if share else 0
    have, cut = 0, 0
    while cut < len(packs) and have < wanted:
        have += sum(facts[passage.id] for passage in packs[cut])
        cut += 1
    return list(packs[:cut]), list(packs[cut:])


def _check(packs: Sequence[Pack], pairs: Sequence[Pair], asker: Asker, tallies: Mapping[bool, Tally], *, trip: bool, judge: bool) -> None:
    asked = {one.request.key: one for one in _requests(packs, pairs, asker.identity, trip=trip, judge=judge)}
    for one in asked.values():
        for _, judged in one.members:
            tallies[judged].asked += 1
    for request, response in asker.ask([one.request for one in asked.values()], "checking the pairs"):
        replies = {reply.number: reply.answer for reply in response.replies}
        verdicts = {verdict.number: verdict for verdict in response.verdicts}
        for number, (pair, judged) in enumerate(asked[request.key].members, 1):
            if number not in (verdicts if judged else replies):
                continue
            tallies[judged].seen += 1
            if reason := defect(verdicts[number]) if judged else _disagreement(pair, replies[number]):
                tallies[judged].reasons[pair.id if reason == "judge_leans" else pair.fact] = reason


def _requests(packs: Sequence[Pack], pairs: Sequence[Pair], teacher: str, *, trip: bool, judge: bool) -> list[Asked]:
    """Requests for the packs: one pair of each fact, every second one to be answered again (its last form), the others to be judged."""
    forms: dict[str, list[Pair]] = defaultdict(list)
    for pair in sorted(pairs, key=lambda pair: (pair.form, pair.id)):
        forms[pair.fact].append(pair)
    by_passage: dict[str, list[tuple[Pair, bool]]] = defaultdict(list)
    turn = True
    for fact in sorted(forms, key=lambda fact: (forms[fact][0].passage, digest("turn", fact))):
        turn = not turn
        judged = judge and (turn or not trip)
        pair = forms[fact][0 if judged else -1]
        by_passage[pair.passage].append((pair, judged))
    found = []
    for one in packs:
        members = [member for passage in one for member in by_passage[passage.id]]
        found += [_asked(one, members[start : start + ITEMS_PER_CHECK], teacher) for start in range(0, len(members), ITEMS_PER_CHECK)]
    return found


def _asked(found: Pack, members: list[tuple[Pair, bool]], teacher: str) -> Asked:
    """The request about these pairs, with those passages of the pack that they need."""
    needed = {passage for pair, _ in members for passage in (pair.passage, *(quote.passage for quote in pair.also))}
    shown = tuple(passage for passage in found if passage.id in needed)
    place = {passage.id: number for number, passage in enumerate(shown, 1)}
    items = [check_item(number, pair, place[pair.passage], whole=judged) for number, (pair, judged) in enumerate(members, 1)]
    return Asked(request_checks(shown, items, teacher), members)


def _disagreement(pair: Pair, reply: str) -> str:
    if not reply.strip():
        return "round_trip_unanswered"
    return "" if agree(pair.answer, reply, pair.asked) else "round_trip_disagrees"


def _told_sample(checked: int, refused: int, first: Sequence[Pack], rest: Sequence[Pack], widened: bool) -> dict[str, Any]:
    low, high = clopper_pearson(refused, checked) if checked else (0.0, 1.0)
    return {
        "facts": checked, "refused": refused, "refused_ci": [round(low, 4), round(high, 4)], "widened": widened,
        "packs": len(first) + (len(rest) if widened else 0), "of_packs": len(first) + len(rest),
    }


def _settle(doubts: Doubts, tallies: Mapping[bool, Tally], ctx: Context, *, trip: bool, judge: bool) -> None:
    """Refuse what was found, and tell; a judge that refuses most of what passed every other filter is not believed."""
    if judge and len(tallies[True].reasons) > FALSE_ALARMS_MAX * tallies[True].asked:
        why = f"it refuses {len(tallies[True].reasons):,} of {tallies[True].asked:,} facts that passed every other filter"
        doubts.report["judge"] |= tallies[True].told() | {"state": "undecided", "why": why}
        _say_if_undecided(doubts.report["judge"], ctx)
        tallies[True].reasons.clear()
    elif judge:
        doubts.report["judge"] |= tallies[True].told()
    if trip:
        doubts.report["round_trip"] = {"state": "on", **tallies[False].told()}
    _refuse(doubts, tallies[False].reasons | tallies[True].reasons)
    if unchecked := sum(tally.asked - tally.seen for tally in tallies.values()):
        ctx.notice(f"{unchecked:,} of {sum(tally.asked for tally in tallies.values()):,} checks have no answer; their pairs are kept")


def _say_if_undecided(report: Mapping[str, Any], ctx: Context) -> None:
    if report["state"] == "undecided":
        ctx.notice(f"the judge is undecided ({report['why']}): it refuses no pair, and nothing is known about faithfulness beyond the other filters")


def _refuse(doubts: Doubts, reasons: Mapping[str, str]) -> None:
    """Refuse pairs by their id or their fact."""
    for pair in doubts.kept:
        if reason := reasons.get(pair.id) or reasons.get(pair.fact):
            doubts.rejected.append(reject(pair, reason))
    doubts.kept = [pair for pair in doubts.kept if not (reasons.get(pair.id) or reasons.get(pair.fact))]
