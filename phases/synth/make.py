"""The work of synth, in order: ask about every passage, sift, then ask for what the corpus cannot answer, and sift again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from forge.errors import ForgeError
from forge.phase import Context
from forge.phases.synth.abstaining import Abstentions
from forge.phases.synth.asking import Asker, brief_teacher
from forge.phases.synth.balance import summary
from forge.phases.synth.buckets import overfull, report, tokens_of, told, wanted_shares
from forge.phases.synth.doubt import doubt
from forge.phases.synth.filters import count_reasons, reject, sift
from forge.phases.synth.pilot import forecast_numbers, run_pilot
from forge.phases.synth.poison import Poison, inspect, poisoned_pair
from forge.phases.synth.proposing import Proposed, propose
from forge.protocols import TeacherRequest
from forge.records import Pair, Passage, Rejected, digest, read_jsonl

if TYPE_CHECKING:
    from forge.phases.synth import SynthSettings

DRY_PASSAGES, DRY_PAIRS = 48, 84


@dataclass
class Result:
    """What synth found."""

    pairs: list[Pair] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    numbers: dict[str, float | str] = field(default_factory=dict)
    canaries: dict[str, Poison] = field(default_factory=dict)
    scrubbed: int = 0
    checks: dict[str, Any] = field(default_factory=dict)


def make_pairs(settings: SynthSettings, ctx: Context) -> Result:
    """Pairs and refused pairs of the whole corpus (of a sample in a dry run), with the numbers for the report."""
    everything = list(read_jsonl(ctx.input("clean"), Passage))
    result = Result()
    safe = _without_poison(everything, result, ctx)
    passages = _spread(safe, DRY_PASSAGES) if ctx.dry_run else safe
    asker = Asker(brief_teacher(settings, ctx), ctx)
    result.checks["pilot"] = run_pilot(passages, safe, asker, settings, ctx)
    proposed = propose(passages, asker, settings)
    shares, missing = wanted_shares(settings.buckets, asker.teacher.capabilities().buckets)
    answerable = _answerable(passages, proposed, shares, settings, result)
    _check_failures(asker, len(proposed.requests), settings)
    answerable = _doubted(answerable, passages, asker, settings, ctx, result)
    if ctx.dry_run:
        answerable = _sample(answerable)
    if not answerable:
        raise ForgeError(
            f"no pair survived ({len(result.rejected):,} proposed, all refused)" if result.rejected else f"the teacher {settings.teacher} proposed no pair",
            why=_main_reasons(result.rejected) or f"it found nothing to ask in {len(passages):,} passages",
            next="forge show rejected, or choose documents with headings and full sentences",
        )
    abstentions = Abstentions(safe, answerable, asker, settings, ctx)
    unanswered = _without_orders(abstentions.collect(proposed.absent), _everywhere(result), result)
    result.pairs = sorted([*answerable, *unanswered], key=lambda pair: pair.id)
    result.rejected += abstentions.rejected
    _check_sentence(result.pairs, settings)
    result.checks |= {"refused": count_reasons(result.rejected), "buckets": summary(result.pairs), "citations_scrubbed": result.scrubbed}
    result.checks["subtopics"] = dict(sorted(Counter(pair.subtopic for pair in result.pairs if pair.subtopic).items()))
    result.checks["targets"] = report(result.pairs, shares, missing, sum(map(tokens_of, passages)))
    ctx.notice(told(result.checks["targets"], asker.teacher.name))
    result.numbers = _numbers(result, asker, passages)
    _report(result, ctx)
    return result


def _without_poison(passages: Sequence[Passage], result: Result, ctx: Context) -> list[Passage]:
    """The passages that may be shown to a teacher; each of the others is kept as one Rejected with what was found in it."""
    safe = []
    for passage in passages:
        found = inspect(passage)
        if found.poisoned:
            result.rejected.append(_poisoned(passage, found))
            continue
        result.canaries |= {passage.id: found} if found.canaries else {}
        safe.append(passage)
    if lost := len(passages) - len(safe):
        reasons = Counter(reason for entry in result.rejected for reason in entry.pair.bucket.split("+"))
        ctx.notice(
            f"{lost:,} of {len(passages):,} passages give orders to a model that reads them; no teacher sees them"
            f" ({', '.join(f'{reason} {count:,}' for reason, count in reasons.most_common(3))}): see poisoned_passage in rejected.jsonl"
        )
    return safe


def _poisoned(passage: Passage, found: Poison) -> Rejected:
    used = [finding for finding in found.findings if not finding.mention]
    shown = "; ".join(dict.fromkeys(f"{finding.reason}: {finding.stretch}" for finding in used))
    pair = Pair(
        id=digest("poisoned", passage.id)[:16], bucket="+".join(found.reasons), question="", answer=shown[:500], passage=passage.id,
        group=passage.group, source=passage.source,
    )
    return reject(pair, "poisoned_passage")


def _answerable(
    passages: Sequence[Passage], proposed: Proposed, shares: Mapping[str, float], settings: SynthSettings, result: Result
) -> list[Pair]:
    by_id = {passage.id: passage for passage in passages}
    good, refused = sift(proposed.pairs, by_id, similarity=settings.question_similarity, answer_chars_max=settings.answer_chars_max)
    sentence = settings.abstention.casefold().rstrip(".")
    too_many = overfull(good, shares)
    reasons = {pair.id: "answer_abstains" if sentence in pair.answer.casefold() else "bucket_is_full" if pair.id in too_many else "" for pair in good}
    result.rejected += [*proposed.rejected, *refused, *(reject(pair, reasons[pair.id]) for pair in good if reasons[pair.id])]
    result.scrubbed = proposed.scrubbed
    good = [pair for pair in good if not reasons[pair.id]]
    return _without_orders(good, _canaries(proposed.requests, result), result)


def _canaries(requests: Sequence[TeacherRequest], result: Result) -> dict[str, Poison]:
    """What may not stand in the pairs of a passage: the canaries of everything that was shown together with it."""
    found: dict[str, Poison] = {}
    for request in requests:
        shown = [passage.id for passage in (request.passage, *request.context)]
        canaries = frozenset(word for name in shown if name in result.canaries for word in result.canaries[name].canaries)
        if canaries:
            found |= {name: Poison((), canaries) for name in shown}
    return found


def _doubted(
    pairs: Sequence[Pair], passages: Sequence[Passage], asker: Asker, settings: SynthSettings, ctx: Context, result: Result
) -> list[Pair]:
    doubts = doubt(pairs, {passage.id: passage for passage in passages}, asker, settings, ctx)
    result.rejected += doubts.rejected
    result.checks |= doubts.report
    return doubts.kept


def _everywhere(result: Result) -> dict[str, Poison]:
    """The canaries of all passages, for pairs without one."""
    canaries = frozenset(word for found in result.canaries.values() for word in found.canaries)
    return {"": Poison((), canaries)} if canaries else {}


def _without_orders(pairs: Sequence[Pair], canaries: Mapping[str, Poison], result: Result) -> list[Pair]:
    """The pairs that carry no order and nothing that only an order of a passage asked for."""
    reasons = {pair.id: poisoned_pair(pair, canaries.get(pair.passage)) for pair in pairs}
    result.rejected += [reject(pair, reasons[pair.id]) for pair in pairs if reasons[pair.id]]
    return [pair for pair in pairs if not reasons[pair.id]]


def _check_failures(asker: Asker, requests: int, settings: SynthSettings) -> None:
    share = len(asker.failed) / requests if requests else 0.0
    if share > settings.max_failed_share:
        reasons = sorted(set(asker.failed.values()))
        raise ForgeError(
            f"the teacher {settings.teacher} failed on {len(asker.failed):,} of {requests:,} requests ({share:.0%})",
            why=f"first reason: {reasons[0]}; up to {settings.max_failed_share:.0%} may fail (synth.max_failed_share)",
            next="forge resume asks only for what is missing",
        )


def _check_sentence(pairs: Sequence[Pair], settings: SynthSettings) -> None:
    """The abstention sentence is a contract with whoever calls the model: the same bytes everywhere, and no answer says it by half."""
    wrong = [pair.id for pair in pairs if (pair.answer == settings.abstention) == bool(pair.passage)]
    if wrong:
        raise ForgeError(
            f"{len(wrong)} pairs break the abstention contract", why=f"first: {wrong[0]}; a question is answered from a passage, or with the one sentence",
            next="this is a bug in slm-forge; report it with the run's log",
        )


def _spread(passages: Sequence[Passage], most: int) -> list[Passage]:
    """Up to `most` passages, taken from the groups in turn: at least the first of each."""
    groups: dict[str, list[Passage]] = {}
    for passage in passages:
        groups.setdefault(passage.group, []).append(passage)
    ranked = sorted((rank, group) for group, members in groups.items() for rank in range(len(members)))
    return sorted((groups[group][rank] for rank, group in ranked[:most]), key=lambda passage: passage.id)


def _sample(pairs: Sequence[Pair]) -> list[Pair]:
    """Whole facts, from the groups in turn, until DRY_PAIRS are together."""
    facts: dict[str, dict[str, list[Pair]]] = {}
    for pair in pairs:
        facts.setdefault(pair.group, {}).setdefault(pair.fact, []).append(pair)
    ranked = sorted((rank, group, fact) for group, inner in facts.items() for rank, fact in enumerate(inner))
    chosen: list[Pair] = []
    for _, group, fact in ranked:
        if len(chosen) >= DRY_PAIRS:
            break
        chosen += facts[group][fact]
    return chosen


def _numbers(result: Result, asker: Asker, passages: Sequence[Passage]) -> dict[str, float | str]:
    answerable = [pair for pair in result.pairs if pair.passage]
    abstentions, facts = len(result.pairs) - len(answerable), len({pair.fact for pair in answerable})
    summary = f"{len(answerable):,} pairs on {facts:,} facts, {abstentions:,} to abstain from · {len(result.rejected):,} refused"
    return {
        "summary": f"{summary} · ${asker.micro_usd / 1e6:.2f}",
        "passages": len(passages),
        "passages_with_pairs": len({pair.passage for pair in answerable}),
        "pairs": len(answerable),
        "facts": facts,
        "abstention_pairs": abstentions,
        "rejected": len(result.rejected),
        "citations_scrubbed": result.scrubbed,
        "poisoned_passages": sum(entry.reason == "poisoned_passage" for entry in result.rejected),
        "round_trip": str(result.checks["round_trip"]["state"]),
        "judge": str(result.checks["judge"]["state"]),
        "failed_requests": len(asker.failed),
        "usd": asker.micro_usd / 1e6,
        **forecast_numbers(result.checks["pilot"]),
    }


def _report(result: Result, ctx: Context) -> None:
    numbers = result.numbers
    ctx.notice(
        f"{numbers['pairs']:,} pairs on {numbers['facts']:,} facts and {numbers['abstention_pairs']:,} to abstain from;"
        f" {numbers['rejected']:,} refused{_bracket(_main_reasons(result.rejected))}"
    )


def _bracket(text: str) -> str:
    return f" ({text})" if text else ""


def _main_reasons(rejected: Iterable[Rejected], most: int = 3) -> str:
    counts = sorted(count_reasons(rejected).items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{reason} {count:,}" for reason, count in counts[:most])
