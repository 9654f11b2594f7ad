"""What the files that ship are worth: likelihood of the gold answers, stopping, abstention. Measured through llama.cpp."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TypeVar

from forge.journal import Journal
from forge.phase import Context
from forge.phases.quantize.judge import decide, judge_mean, judge_share
from forge.phases.quantize.llama import Generation, Llama, Score
from forge.phases.quantize.rows import Encoded
from forge.records import Verdict

T = TypeVar("T")


def score_rows(rows: Sequence[Encoded], llama: Llama, label: str, ctx: Context, journal: Journal) -> list[Score]:
    """The open file's score of every row's gold answer. Finished rows are taken from the journal."""
    scores = []
    for done, row in enumerate(rows):
        key = f"score {label} {row.row.id}"
        if key not in journal:
            ctx.check_stop()
            ctx.progress(done, len(rows), f"{label}: likelihood of the gold answers")
            journal.put(key, llama.score(list(row.prompt), list(row.answer)).model_dump(mode="json"))
        scores.append(Score.model_validate(journal.get(key)))
    return scores


def generate_rows(
    rows: Sequence[Encoded], llama: Llama, label: str, limit: int, ctx: Context, journal: Journal
) -> list[Generation]:
    """The open file's greedy answer to every row, no stop strings. Finished rows are taken from the journal."""
    answers = []
    for done, row in enumerate(rows):
        key = f"generate {label} {row.row.id}"
        if key not in journal:
            ctx.check_stop()
            ctx.progress(done, len(rows), f"{label}: answers")
            journal.put(key, llama.generate(list(row.prompt), limit=limit).model_dump(mode="json"))
        answers.append(Generation.model_validate(journal.get(key)))
    return answers


def judge_likelihood(
    kind: str, rows: Sequence[Encoded], scores: Sequence[Score], f16: Sequence[Score], thresholds: Mapping[str, float], *, seed: int
) -> list[Verdict]:
    """Perplexity of the gold answers relative to the F16 file, paired by row; and how often the top token is the same."""
    name = f"ppl_ratio_{kind.lower()}"
    change: dict[str, list[tuple[float, float]]] = defaultdict(list)
    same: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row, score, whole in zip(rows, scores, f16, strict=True):
        change[row.row.group].append((score.nll - whole.nll, float(len(row.answer))))
        same[row.row.group].append((float(sum(a == b for a, b in zip(score.top, whole.top, strict=True))), float(len(score.top))))
    fewest, limit = int(thresholds.get("min_test_items", 1)), thresholds.get(name)
    mean = judge_mean(name, change, None, at_least=False, seed=seed, min_items=fewest, evidence="")
    agreement = judge_mean(
        f"top_token_{kind.lower()}", same, None, at_least=True, seed=seed, min_items=1,
        evidence=f"share of answer tokens where {kind} and F16 choose the same token",
    ).model_copy(update={"kind": "info", "outcome": "pass"})
    if mean.estimate is None or mean.ci is None:
        return [mean]
    ci = (round(math.exp(mean.ci[0]), 6), round(math.exp(mean.ci[1]), 6))
    ratio = mean.model_copy(update={
        "estimate": round(math.exp(mean.estimate), 6), "ci": ci, "threshold": limit,
        "outcome": decide(ci, limit, at_least=False) if mean.n >= fewest else "undecided",
        "evidence": f"perplexity of the gold answers, {kind} over F16, paired over {mean.n} rows",
    })
    return [ratio, agreement]


def judge_stopping(
    kind: str, rows: Sequence[Encoded], scores: Sequence[Score], asked: Sequence[Encoded], answers: Sequence[Generation],
    thresholds: Mapping[str, float], *, seed: int, control: frozenset[int],
) -> list[Verdict]:
    """Does an answer end where it should? Teacher-forced probability, then free generation without stop strings."""
    suffix, fewest = kind.lower(), int(thresholds.get("min_test_items", 1))
    chances = _by_group([(row, (score.p_end, 1.0)) for row, score in zip(rows, scores, strict=True)])
    ended = _by_group([(row, answer.ended) for row, answer in zip(asked, answers, strict=True)])
    clean = _by_group([(row, not control & set(answer.ids)) for row, answer in zip(asked, answers, strict=True)])
    verdicts = [
        judge_mean(
            f"stop_probability_{suffix}", chances, thresholds.get("stop_probability"), at_least=True, seed=seed,
            min_items=fewest, evidence="mean probability of stopping right after the gold answer",
        ),
        judge_share(
            f"stop_share_{suffix}", ended, thresholds.get("stop_share"), at_least=True, seed=seed, min_items=fewest,
            evidence="share of greedy answers that end by themselves, with no stop strings",
        ),
        _no_control_tokens(f"control_tokens_{suffix}", clean),
    ]
    return [verdict if verdict.threshold is not None else verdict.model_copy(update={"kind": "info"}) for verdict in verdicts]


def judge_abstention(
    kind: str, asked: Sequence[Encoded], answers: Sequence[Generation], abstention: str, adapter: Mapping[str, str],
    thresholds: Mapping[str, float], *, seed: int,
) -> list[Verdict]:
    """The one sentence, byte for byte: said where the corpus has no answer, not said where it has one.

    adapter: row id -> what base + adapter answered in eval, for the drop that quantization caused.
    """
    suffix, fewest = kind.lower(), int(thresholds.get("min_test_items", 1))
    said = [(row, answer.text.strip() == abstention) for row, answer in zip(asked, answers, strict=True)]
    recall = _by_group([(row, hit) for row, hit in said if not row.row.answerable])
    refused = _by_group([(row, hit) for row, hit in said if row.row.answerable])
    drop = _by_group([
        (row, (float(adapter[row.row.id].strip() == abstention) - float(hit), 1.0))
        for row, hit in said if not row.row.answerable and row.row.id in adapter
    ])
    return [
        judge_share(
            f"abstention_recall_{suffix}", recall, thresholds.get("abstention_recall"), at_least=True, seed=seed,
            min_items=fewest, evidence=f"share of unanswerable questions that {kind} answers with exactly the abstention sentence",
        ),
        judge_share(
            f"over_refusal_{suffix}", refused, thresholds.get("over_refusal"), at_least=False, seed=seed,
            min_items=fewest, evidence=f"share of answerable questions that {kind} answers with the abstention sentence",
        ),
        judge_mean(
            f"abstention_drop_{suffix}", drop, thresholds.get("abstention_drop"), at_least=False, seed=seed,
            min_items=fewest, evidence=f"abstention recall of the adapter minus that of {kind}, on the same questions",
        ),
    ]


def _no_control_tokens(name: str, clean: Mapping[str, Sequence[bool]]) -> Verdict:
    """A count, not a share: one marker inside an answer is one too many."""
    flat = [item for items in clean.values() for item in items]
    return Verdict(
        name=name, estimate=float(flat.count(False)), n=len(flat), threshold=0.0,
        outcome="undecided" if not flat else "pass" if all(flat) else "fail", evidence="answers with a marker inside",
    )


def _by_group(items: Sequence[tuple[Encoded, T]]) -> dict[str, list[T]]:
    groups: dict[str, list[T]] = defaultdict(list)
    for row, value in items:
        groups[row.row.group].append(value)
    return dict(groups)
