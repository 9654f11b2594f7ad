"""The dear filters, for teachers that write freely: a round trip through the passage, and a judge that is itself put to the test.

One form of each fact is answered again and another judged: the forms share their answer, and a third of the price is
enough. A judge is first shown planted defects among honest pairs; one that misses them, or refuses nearly everything, is
not asked about the others, and says nothing about the data.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from forge.errors import UsageError
from forge.phase import Context
from forge.phases.synth.agree import agree
from forge.phases.synth.asking import Asker
from forge.phases.synth.filters import reject
from forge.phases.synth.planted import Planted, plant
from forge.phases.synth.requests import request_check
from forge.protocols import CheckItem, Judgement, TeacherRequest
from forge.records import Pair, Passage, Rejected
from forge.stats import clopper_pearson

if TYPE_CHECKING:
    from forge.phases.synth import SynthSettings

RECALL_MIN, PLANTED_MIN = 0.9, 10
"""Share of the planted defects that a judge must find, of all and of each kind with at least PLANTED_MIN of them."""
FALSE_ALARMS_MAX = 0.5
CONTROLS, CONTROLS_ALONE = 2, 20
"""Honest pairs that go with the planted ones, at most for each request; and those of passages without planted ones, in all."""


@dataclass
class Doubts:
    """What the dear filters left, refused and found out about themselves."""

    kept: list[Pair]
    rejected: list[Rejected] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)


def doubt(pairs: Sequence[Pair], passages: Mapping[str, Passage], asker: Asker, settings: SynthSettings, ctx: Context) -> Doubts:
    """The pairs that survive the round trip and, if the judge proves itself, the judge. Asks and pays through the asker."""
    doubts = Doubts(list(pairs))
    for name, step in (("round_trip", _round_trip), ("judge", _judged)):
        wanted = getattr(settings, name)
        if reason := _left_out(name, wanted, asker, ctx):
            doubts.report[name] = {"state": "off", "why": reason}
        else:
            step(doubts, passages, asker, ctx)
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


# --- round trip ------------------------------------------------------------------------------------------------


def _round_trip(doubts: Doubts, passages: Mapping[str, Passage], asker: Asker, ctx: Context) -> None:
    chosen = _one_form_each(doubts.kept, last=True)
    asked = {request.key: (request, members) for request, members in _requests("answer", chosen, passages, asker)}
    reasons: dict[str, str] = {}
    answered = 0
    for request, response in asker.ask([request for request, _ in asked.values()], "answering the questions again"):
        replies = {reply.number: reply.answer for reply in response.replies}
        for number, pair in enumerate(asked[request.key][1], 1):
            if number in replies:
                answered += 1
                if reason := _disagreement(pair, replies[number]):
                    reasons[pair.fact] = reason
    _refuse(doubts, reasons)
    unchecked = len(chosen) - answered
    doubts.report["round_trip"] = {"state": "on", "facts": len(chosen), "unchecked": unchecked, "refused": dict(sorted(Counter(reasons.values()).items()))}
    if unchecked:
        ctx.notice(f"the round trip has no answer on {unchecked:,} of {len(chosen):,} facts; their pairs are kept")


def _disagreement(pair: Pair, reply: str) -> str:
    if not reply.strip():
        return "round_trip_unanswered"
    return "" if agree(pair.answer, reply, pair.question) else "round_trip_disagrees"


# --- judge -----------------------------------------------------------------------------------------------------


def _judged(doubts: Doubts, passages: Mapping[str, Passage], asker: Asker, ctx: Context) -> None:
    report = _calibrate(doubts.kept, passages, asker, ctx)
    doubts.report["judge"] = report
    if report["state"] == "undecided":
        _say_undecided(report, ctx)
        return
    chosen = _one_form_each(doubts.kept, last=False)
    reasons: dict[str, str] = {}
    seen = 0
    asked = {request.key: (request, members) for request, members in _requests("judge", chosen, passages, asker)}
    for request, response in asker.ask([request for request, _ in asked.values()], "judging the pairs"):
        verdicts = {verdict.number: verdict for verdict in response.verdicts}
        for number, pair in enumerate(asked[request.key][1], 1):
            if number in verdicts:
                seen += 1
                if reason := _defect(verdicts[number]):
                    reasons[pair.id if reason == "judge_leans" else pair.fact] = reason
    report |= {"facts": len(chosen), "unchecked": len(chosen) - seen, "refused": dict(sorted(Counter(reasons.values()).items()))}
    if len(reasons) > FALSE_ALARMS_MAX * len(chosen):
        report |= {"state": "undecided", "why": f"it refuses {len(reasons):,} of {len(chosen):,} facts that passed every other filter"}
        _say_undecided(report, ctx)
        return
    _refuse(doubts, reasons)


def _say_undecided(report: Mapping[str, Any], ctx: Context) -> None:
    ctx.notice(f"the judge is undecided ({report['why']}): it refuses no pair, and nothing is known about faithfulness beyond the other filters")


def _calibrate(pairs: Sequence[Pair], passages: Mapping[str, Passage], asker: Asker, ctx: Context) -> dict[str, Any]:
    """The judge's recall on planted defects with its exact interval, its false alarms on honest pairs, and what follows."""
    planted = plant(pairs, dict(passages), ctx.seed)
    found: Counter[str] = Counter()
    total: Counter[str] = Counter()
    alarms = controls = 0
    for request, members, response in _ask_about_planted(planted, pairs, passages, asker):
        verdicts = {verdict.number: verdict for verdict in response}
        for item, (kind, _) in zip(request.items, members, strict=True):
            verdict = verdicts.get(item.number)
            if kind:
                total[kind] += 1
                found[kind] += verdict is not None and (not verdict.supported or verdict.contradicts)
            elif verdict is not None:
                controls += 1
                alarms += bool(_defect(verdict))
    return _report(found, total, alarms, controls)


def _ask_about_planted(
    planted: Sequence[Planted], pairs: Sequence[Pair], passages: Mapping[str, Passage], asker: Asker
) -> Iterable[tuple[TeacherRequest, list[tuple[str, Pair]], Sequence[Judgement]]]:
    """Requests with planted pairs and honest ones of other facts mixed by their ids, and the verdicts; none when the request failed."""
    spoiled: dict[str, list[Planted]] = defaultdict(list)
    for one in planted:
        spoiled[one.pair.passage].append(one)
    facts = {one.origin.fact for one in planted}
    honest: dict[str, list[Pair]] = defaultdict(list)
    alone = 0
    for pair in _one_form_each(pairs, last=False):
        alone += pair.fact not in facts and pair.passage not in spoiled
        if pair.fact not in facts and len(honest[pair.passage]) < CONTROLS and (pair.passage in spoiled or alone <= CONTROLS_ALONE):
            honest[pair.passage].append(pair)
    asked: dict[str, tuple[TeacherRequest, list[tuple[str, Pair]]]] = {}
    for passage in sorted({*spoiled, *(passage for passage, members in honest.items() if members)}):
        mixed = [(one.kind, one.pair) for one in spoiled[passage]] + [("", pair) for pair in honest[passage]]
        mixed.sort(key=lambda item: item[1].fact)
        request = request_check("judge", passages[passage], [_item(number, pair, whole=True) for number, (_, pair) in enumerate(mixed, 1)], asker.identity)
        asked[request.key] = (request, mixed)
    answers = {request.key: response.verdicts for request, response in asker.ask([request for request, _ in asked.values()], "testing the judge")}
    return [(request, mixed, answers.get(key, ())) for key, (request, mixed) in asked.items()]


def _report(found: Counter[str], total: Counter[str], alarms: int, controls: int) -> dict[str, Any]:
    hits, n = sum(found.values()), sum(total.values())
    low, high = clopper_pearson(hits, n)
    shares = [hits / n if n else 0.0] + [found[kind] / count for kind, count in total.items() if count >= PLANTED_MIN]
    why = ""
    if n < PLANTED_MIN:
        why = f"only {n} defects could be planted as a test"
    elif min(shares) < RECALL_MIN:
        worst = min(total, key=lambda kind: found[kind] / total[kind])
        why = f"it found {hits} of {n} planted defects, {found[worst]} of {total[worst]} of the kind {worst}; {RECALL_MIN:.0%} are needed"
    elif controls and alarms / controls > FALSE_ALARMS_MAX:
        why = f"it refuses {alarms} of {controls} pairs that nobody touched"
    return {
        "state": "undecided" if why else "on", "why": why, "planted": n, "found": hits, "recall": round(hits / n, 4) if n else None,
        "recall_ci": [round(low, 4), round(high, 4)], "kinds": {kind: [found[kind], count] for kind, count in sorted(total.items())},
        "controls": controls, "false_alarms": alarms,
    }


def _defect(verdict: Judgement) -> str:
    if verdict.contradicts:
        return "judge_contradicts"
    if not verdict.supported:
        return "judge_unsupported"
    if not verdict.complete:
        return "judge_incomplete"
    return "" if verdict.self_contained else "judge_leans"


# --- shared ----------------------------------------------------------------------------------------------------


def _one_form_each(pairs: Iterable[Pair], *, last: bool) -> list[Pair]:
    """One pair for each fact: its first or its last form."""
    chosen: dict[str, Pair] = {}
    for pair in sorted(pairs, key=lambda pair: (pair.form, pair.id), reverse=not last):
        chosen[pair.fact] = pair
    return sorted(chosen.values(), key=lambda pair: (pair.passage, pair.id))


def _requests(
    kind: str, pairs: Sequence[Pair], passages: Mapping[str, Passage], asker: Asker
) -> Iterable[tuple[TeacherRequest, list[Pair]]]:
    """One request for each passage about all its pairs, with the pairs in the order of their numbers."""
    members: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        members[pair.passage].append(pair)
    for passage, group in sorted(members.items()):
        items = [_item(number, pair, whole=kind == "judge") for number, pair in enumerate(group, 1)]
        yield request_check(kind, passages[passage], items, asker.identity), group


def _item(number: int, pair: Pair, *, whole: bool) -> CheckItem:
    if not whole:
        return CheckItem(number=number, question=pair.question)
    return CheckItem(number=number, question=pair.question, answer=pair.answer, evidence=pair.evidence)


def _refuse(doubts: Doubts, reasons: Mapping[str, str]) -> None:
    """Refuse pairs by their id or their fact."""
    for pair in doubts.kept:
        if reason := reasons.get(pair.id) or reasons.get(pair.fact):
            doubts.rejected.append(reject(pair, reason))
    doubts.kept = [pair for pair in doubts.kept if not (reasons.get(pair.id) or reasons.get(pair.fact))]
