"""Is the judge a judge? It is shown planted defects among honest pairs and must find them, of each kind."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from forge.phase import Context
from forge.phases.synth.asking import Asker
from forge.phases.synth.packs import request_checks
from forge.phases.synth.planted import Planted, plant
from forge.protocols import CheckItem, Judgement, TeacherRequest
from forge.records import Pair, Passage
from forge.stats import clopper_pearson

RECALL_MIN, PLANTED_MIN = 0.9, 10
"""Share of the planted defects that a judge must find, of all and of each kind with at least PLANTED_MIN of them."""
FALSE_ALARMS_MAX = 0.5
CONTROLS, CONTROLS_ALONE = 2, 20
"""Honest pairs that go with the planted ones, at most for each request; and those of passages without planted ones, in all."""


def calibrate(pairs: Sequence[Pair], passages: Mapping[str, Passage], asker: Asker, ctx: Context) -> dict[str, Any]:
    """The judge's recall on planted defects with its exact interval, its false alarms on honest pairs, and what follows."""
    simple = [pair for pair in pairs if not pair.also and not pair.earlier]
    planted = plant(simple, dict(passages), ctx.seed)
    found: Counter[str] = Counter()
    total: Counter[str] = Counter()
    alarms = controls = 0
    for request, members, response in _ask_about_planted(planted, simple, passages, asker):
        verdicts = {verdict.number: verdict for verdict in response}
        for item, (kind, _) in zip(request.items, members, strict=True):
            verdict = verdicts.get(item.number)
            if kind:
                total[kind] += 1
                found[kind] += verdict is not None and (not verdict.supported or verdict.contradicts)
            elif verdict is not None:
                controls += 1
                alarms += bool(defect(verdict))
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
    for pair in one_form_each(pairs):
        alone += pair.fact not in facts and pair.passage not in spoiled
        if pair.fact not in facts and len(honest[pair.passage]) < CONTROLS and (pair.passage in spoiled or alone <= CONTROLS_ALONE):
            honest[pair.passage].append(pair)
    asked: dict[str, tuple[TeacherRequest, list[tuple[str, Pair]]]] = {}
    for passage in sorted({*spoiled, *(passage for passage, members in honest.items() if members)}):
        mixed = [(one.kind, one.pair) for one in spoiled[passage]] + [("", pair) for pair in honest[passage]]
        mixed.sort(key=lambda item: item[1].fact)
        items = [check_item(number, pair, 1, whole=True) for number, (_, pair) in enumerate(mixed, 1)]
        request = request_checks((passages[passage],), items, asker.identity)
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


def defect(verdict: Judgement) -> str:
    """The reason to refuse what was judged so; "" when it is fine."""
    if verdict.contradicts:
        return "judge_contradicts"
    if not verdict.supported:
        return "judge_unsupported"
    if not verdict.complete:
        return "judge_incomplete"
    return "" if verdict.self_contained else "judge_leans"


def one_form_each(pairs: Iterable[Pair]) -> list[Pair]:
    """One pair for each fact: its first form."""
    chosen: dict[str, Pair] = {}
    for pair in sorted(pairs, key=lambda pair: (pair.form, pair.id), reverse=True):
        chosen[pair.fact] = pair
    return sorted(chosen.values(), key=lambda pair: (pair.passage, pair.id))


def check_item(number: int, pair: Pair, passage: int, *, whole: bool) -> CheckItem:
    """What the checker sees of a pair: the whole conversation, and for a judge the answer and its evidence."""
    asked = "\n".join([*(f"{turn.role}: {turn.content}" for turn in pair.earlier), f"user: {pair.question}"]) if pair.earlier else pair.question
    if not whole:
        return CheckItem(number=number, question=asked, passage=passage)
    return CheckItem(number=number, question=asked, answer=pair.answer, evidence=pair.evidence, passage=passage)
