"""Axis 4, diversity: how different the questions are, counted over all of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

from forge.phases.plan_fit.checker import STOP_WORDS, WORD, stem
from forge.phases.plan_fit.verdicts import plural, undecided
from forge.records import Pair, Verdict

YES_NO_LEAST, FAR_LEAST = 30, 20
"""Fewer answers of a kind, or wanted pairs of a bucket, say nothing about a share."""
SAMPLE = 1000
"""Questions for distinct-2, which falls with the number of texts whatever their variety."""


def judge_diversity(pairs: Sequence[Pair], thresholds: Mapping[str, float], targets: Mapping[str, tuple[int, int]] | None = None) -> Verdict:
    """The share of the largest bucket; fails too on one opening, repeated questions, few word pairs, or yes and no out of balance.

    targets: bucket -> pairs wanted and made, to tell which ones are far from their share.
    """
    limit = thresholds["diversity_bucket"]
    if len(pairs) < thresholds["diversity_min_pairs"]:
        return undecided("diversity", f"only {plural(len(pairs), 'pair')}", n=len(pairs), threshold=limit)
    bucket, bucket_share = _largest(Counter(pair.bucket for pair in pairs))
    opening, opening_share = _largest(Counter(_opening(pair.question) for pair in pairs))
    repeated, distinct = repeated_share(pairs), distinct_2([pair.question for pair in pairs[:SAMPLE]])
    one_sided = yes_no_share(pairs)
    broken = [
        text for text, bad in (
            (f"bucket {bucket} has {bucket_share:.0%}", bucket_share > limit),
            (f'"{opening} ..." opens {opening_share:.0%}', opening_share > thresholds["diversity_opening"]),
            (f"{repeated:.1%} repeat another question's words", repeated > thresholds["diversity_duplicates"]),
            (f"distinct-2 is {distinct:.2f}", distinct < thresholds["diversity_distinct_2"]),
            (f"{one_sided:.0%} of yes and no say the same", one_sided > thresholds["diversity_yes_no"]),
        ) if bad
    ]
    evidence = (
        f'largest bucket {bucket} {bucket_share:.0%}; most frequent opening "{opening} ..." {opening_share:.0%};'
        f" repeated {repeated:.1%}; distinct-2 {distinct:.2f}; {_lengths(pairs)}"
        f"{_far_from(targets or {})}"
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


def yes_no_share(pairs: Sequence[Pair]) -> float:
    """Of the answers that begin with yes or no, the share of the more frequent one; 0 with fewer than 30 of them."""
    told = Counter(word for pair in pairs if (word := pair.answer.lower().partition(" ")[0].strip(".,;:!")) in {"yes", "no"})
    return max(told.values()) / told.total() if told.total() >= YES_NO_LEAST else 0.0


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


def _far_from(targets: Mapping[str, tuple[int, int]]) -> str:
    far = [f"{name} {made:,} of {wanted:,}" for name, (wanted, made) in targets.items() if wanted >= FAR_LEAST and made < wanted / 2]
    return f"; less than half of what was wanted: {', '.join(far)}" if far else ""
