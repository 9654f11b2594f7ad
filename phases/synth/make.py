"""The work of synth, in order: ask about every passage, sift, then ask for what the corpus cannot answer, and sift again."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from forge.errors import ForgeError
from forge.phase import Context
from forge.phases.synth.asking import Asker, brief_teacher
from forge.phases.synth.balance import summary
from forge.phases.synth.citations import scrub
from forge.phases.synth.doubt import doubt
from forge.phases.synth.filters import count_reasons, exact_span, flat, reject, sift
from forge.phases.synth.names import Names
from forge.phases.synth.pilot import run_pilot
from forge.phases.synth.poison import Poison, inspect, poisoned_pair
from forge.phases.synth.requests import NEAR_PER_REQUEST, request_far, request_near, request_pairs
from forge.phases.synth.unanswerable import Corpus, sift_unanswerable
from forge.protocols import Proposal, TeacherRequest
from forge.records import Pair, Passage, Rejected, digest, read_jsonl

if TYPE_CHECKING:
    from forge.phases.synth import SynthSettings

TEST_ABSTENTIONS = 150
"""Abstention questions beyond the training share, so that 100 and more can be held out for the test."""
TRAINED_SHARE = 0.85
"""Of the answerable pairs, what shape leaves in training: the rest is held out."""
FAR_SHARE = 0.35
DRY_PASSAGES, DRY_PAIRS, DRY_TEST_ABSTENTIONS = 48, 84, 14


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
    answerable = _answerable(passages, asker, settings, result)
    _check_failures(asker, len(passages), settings)
    answerable = _doubted(answerable, passages, asker, settings, ctx, result)
    if ctx.dry_run:
        answerable = _sample(answerable)
    if not answerable:
        raise ForgeError(
            f"no pair survived ({len(result.rejected):,} proposed, all refused)" if result.rejected else f"the teacher {settings.teacher} proposed no pair",
            why=_main_reasons(result.rejected) or f"it found nothing to ask in {len(passages):,} passages",
            next="forge show rejected, or choose documents with headings and full sentences",
        )
    result.pairs = answerable + _abstentions(safe, answerable, asker, settings, ctx, result)
    result.pairs.sort(key=lambda pair: pair.id)
    result.checks |= {"refused": count_reasons(result.rejected), "buckets": summary(result.pairs), "citations_scrubbed": result.scrubbed}
    result.checks["subtopics"] = dict(sorted(Counter(pair.subtopic for pair in result.pairs if pair.subtopic).items()))
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


def _answerable(passages: Sequence[Passage], asker: Asker, settings: SynthSettings, result: Result) -> list[Pair]:
    requests = request_pairs(passages, asker.identity, settings.pairs_per_passage)
    names = Names(passages)
    proposed: list[Pair] = []
    for request, response in asker.ask(requests, "asking about passages"):
        if not response.proposals:
            continue
        result.scrubbed += sum(scrub(one.question) != one.question or scrub(one.answer) != one.answer for one in response.proposals)
        made = [_pair(proposal, request.passage, settings.teacher, names) for proposal in response.proposals]
        proposed += made[: settings.pairs_per_passage]
        result.rejected += [reject(pair, "more_than_asked_for") for pair in made[settings.pairs_per_passage :]]
    result.rejected += [_failed(request, asker, settings.teacher) for request in requests if request.key in asker.failed]
    by_id = {passage.id: passage for passage in passages}
    unique = list({pair.id: pair for pair in proposed}.values())
    good, refused = sift(unique, by_id, similarity=settings.question_similarity, answer_chars_max=settings.answer_chars_max)
    result.rejected += refused
    return _without_orders(good, result)


def _doubted(
    pairs: Sequence[Pair], passages: Sequence[Passage], asker: Asker, settings: SynthSettings, ctx: Context, result: Result
) -> list[Pair]:
    doubts = doubt(pairs, {passage.id: passage for passage in passages}, asker, settings, ctx)
    result.rejected += doubts.rejected
    result.checks |= doubts.report
    return doubts.kept


def _without_orders(pairs: Sequence[Pair], result: Result) -> list[Pair]:
    """The pairs that carry no order and nothing that only an order of their passage asked for."""
    reasons = {pair.id: poisoned_pair(pair, result.canaries.get(pair.passage)) for pair in pairs}
    result.rejected += [reject(pair, reasons[pair.id]) for pair in pairs if reasons[pair.id]]
    return [pair for pair in pairs if not reasons[pair.id]]


def _pair(proposal: Proposal, passage: Passage, teacher: str, names: Names) -> Pair:
    fact = digest(passage.id, proposal.fact or proposal.answer)[:12]
    question, answer = scrub(proposal.question), scrub(proposal.answer).strip()
    return Pair(
        id=digest(passage.id, fact, str(proposal.form), proposal.question)[:16], bucket=proposal.bucket, question=flat(question), answer=answer,
        evidence=exact_span(proposal.evidence, passage.text), passage=passage.id, group=passage.group, fact=fact, form=proposal.form, source=passage.source,
        teacher=teacher, names=names.of(answer), subtopic=passage.meta.get("subtopic", ""),
    )


def _failed(request: TeacherRequest, asker: Asker, teacher: str) -> Rejected:
    pair = Pair(
        id=digest(request.key)[:16], bucket="", question="", answer=asker.failed[request.key][:500], passage=request.passage.id,
        group=request.passage.group, source=request.passage.source, teacher=teacher,
    )
    return reject(pair, "teacher_failed")


def _check_failures(asker: Asker, requests: int, settings: SynthSettings) -> None:
    share = len(asker.failed) / requests if requests else 0.0
    if share > settings.max_failed_share:
        reasons = sorted(set(asker.failed.values()))
        raise ForgeError(
            f"the teacher {settings.teacher} failed on {len(asker.failed):,} of {requests:,} requests ({share:.0%})",
            why=f"first reason: {reasons[0]}; up to {settings.max_failed_share:.0%} may fail (synth.max_failed_share)",
            next="forge resume asks only for what is missing",
        )


def _abstentions(
    passages: Sequence[Passage], answerable: Sequence[Pair], asker: Asker, settings: SynthSettings, ctx: Context, result: Result
) -> list[Pair]:
    if settings.abstention_share == 0:
        ctx.notice("synth.abstention_share is 0: the model will not learn to abstain, and that cannot be measured")
        return []
    extra = DRY_TEST_ABSTENTIONS if ctx.dry_run else TEST_ABSTENTIONS
    share = settings.abstention_share
    wanted = math.ceil(TRAINED_SHARE * share / (1 - share) * len(answerable)) + extra
    corpus = Corpus(passages)
    found: list[Pair] = []
    far = request_far(passages[0], asker.identity, math.ceil(FAR_SHARE * wanted))
    _collect([far], found, answerable, corpus, asker, settings, result)
    near = request_near(passages, asker.identity, ctx.seed)
    step = max(4, math.ceil(wanted / NEAR_PER_REQUEST))
    for start in range(0, len(near), step):
        if len(found) >= wanted:
            break
        _collect(near[start : start + step], found, answerable, corpus, asker, settings, result)
    if len(found) < wanted:
        ctx.notice(f"{len(found):,} of {wanted:,} wanted abstention questions: the corpus has too few terms to build more")
    return found[:wanted]


def _collect(
    requests: Sequence[TeacherRequest], found: list[Pair], answerable: Sequence[Pair], corpus: Corpus, asker: Asker, settings: SynthSettings, result: Result
) -> None:
    proposed = [
        Pair(
            id=digest("abstain", proposal.question)[:16], bucket=proposal.bucket, question=flat(proposal.question), answer=settings.abstention,
            evidence=proposal.evidence, fact=digest("abstain", proposal.fact or proposal.question)[:12], teacher=settings.teacher,
        )
        for _, response in asker.ask(requests, "asking for questions to abstain from")
        for proposal in response.proposals
    ]
    known = {pair.id for pair in found}
    fresh = list({pair.id: pair for pair in proposed if pair.id not in known}.values())
    good, refused = sift_unanswerable(fresh, [*answerable, *found], corpus) if fresh else ([], [])
    found += good
    result.rejected += refused


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
