"""Axis 4, diversity: how different the questions are, counted over all of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

from forge.phases.plan_fit.checker import STOP_WORDS, WORD, stem
from forge.phases.plan_fit.verdicts import plural, undecided
from forge.records import Pair, Verdict

SAMPLE = 1000
"""Questions for distinct-2, which falls with the number of texts whatever their variety."""


def judge_diversity(pairs: Sequence[Pair], thresholds: Mapping[str, float]) -> Verdict:
    """The share of the largest bucket; fails too on one opening, on repeated questions or on few word pairs."""
    limit = thresholds["diversity_bucket"]
    if len(pairs) < thresholds["diversity_min_pairs"]:
        return undecided("diversity", f"only {plural(len(pairs), 'pair')}", n=len(pairs), threshold=limit)
    bucket, bucket_share = _largest(Counter(pair.bucket for pair in pairs))
    opening, opening_share = _largest(Counter(_opening(pair.question) for pair in pairs))
    repeated, distinct = repeated_share(pairs), distinct_2([pair.question for pair in pairs[:SAMPLE]])
    broken = [
        text for text, bad in (
            (f"bucket {bucket} has {bucket_share:.0%}", bucket_share > limit),
            (f'"{opening} ..." opens {opening_share:.0%}', opening_share > thresholds["diversity_opening"]),
            (f"{repeated:.1%} repeat another question's words", repeated > thresholds["diversity_duplicates"]),
            (f"distinct-2 is {distinct:.2f}", distinct < thresholds["diversity_distinct_2"]),
        ) if bad
    ]
    evidence = (
        f'largest bucket {bucket} {bucket_share:.0%}; most frequent opening "{opening} ..." {opening_share:.0%};'
        f" repeated {repeated:.1%}; distinct-2 {distinct:.2f}; {_lengths(pairs)}"
    )
    if broken:
        evidence += f"; over the limit: {', '.join(broken)}"
    return Verdict(
        name="diversity", estimate=round(bucket_share, 6), n=len(pairs), threshold=limit,
        outcome="fail" if broken else "pass", evidence=evidence,
    )


def repeated_share(pairs: Sequence[Pair]) -> float:
    """Share of questions with exactly the content words of a question about another fact."""
    facts: dict[frozenset[str], set[str]] = defaultdict(set)
    keys = []
    for pair in pairs:
        key = frozenset(stem(word) for word in WORD.findall(pair.question) if word.lower() not in STOP_WORDS)
        keys.append(key)
        facts[key].add(pair.fact or pair.id)
    return sum(len(facts[key]) > 1 for key in keys) / len(pairs)


def distinct_2(texts: Sequence[str]) -> float:
    """Different word pairs over all word pairs (distinct-n, Li et al. 2016, arXiv:1510.03055)."""
    pairs: list[tuple[str, str]] = []
    for text in texts:
        words = text.lower().split()
        pairs += pairwise(words)
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def _largest(counts: Counter[str]) -> tuple[str, float]:
    name, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
    return name, count / counts.total()


def _opening(question: str) -> str:
    return " ".join(question.lower().split()[:2])


def _lengths(pairs: Sequence[Pair]) -> str:
    words = sorted(len(pair.answer.split()) for pair in pairs)
    return f"answers of {words[len(words) // 20]}-{words[-1 - len(words) // 20]} words (p5-p95)"
