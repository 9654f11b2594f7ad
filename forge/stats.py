"""Intervals and tests for small samples, in plain Python: exact for shares and pairs, cluster bootstrap for everything else."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

BOOTSTRAP_SAMPLES = 2000
ALPHA = 0.05

Vector = tuple[float, ...]
"""Counts of one item; a statistic is taken of their sum over all items."""


class Paired(NamedTuple):
    """Two models on the same items. difference: second less first, with its 95 % interval; p: exact McNemar, None for no shares."""

    difference: float
    ci: tuple[float, float]
    p: float | None
    n: int

    @property
    def outcome(self) -> str:
        """"better", "worse" (of the second), or "no difference" when interval or test leave room for chance."""
        if self.p is not None and self.p >= ALPHA:
            return "no difference"
        return "better" if self.ci[0] > 0 else "worse" if self.ci[1] < 0 else "no difference"


def wilson(hits: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % Wilson score interval of a share (Wilson 1927). (0, 1) without observations."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = hits / n, z * z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    low = 0.0 if hits == 0 else max(0.0, middle - half)
    high = 1.0 if hits == n else min(1.0, middle + half)
    return low, high


def clopper_pearson(hits: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """Exact interval of a share (Clopper & Pearson 1934); alpha is split between both sides."""
    if n == 0:
        return 0.0, 1.0
    low = 0.0 if hits == 0 else _bisect(lambda p: 1 - _binomial_cdf(hits - 1, n, p) - alpha / 2)
    high = 1.0 if hits == n else _bisect(lambda p: alpha / 2 - _binomial_cdf(hits, n, p))
    return low, high


def cluster_bootstrap(
    clusters: Mapping[str, Sequence[tuple[float, float]]], *, seed: int, samples: int = BOOTSTRAP_SAMPLES
) -> tuple[float, float, float]:
    """Estimate and 95 % percentile interval of sum(numerators) / sum(denominators), resampling whole clusters.

    clusters: group -> (numerator, denominator) of each item in it. Items of one document are not independent, so
    the document is what is drawn. Raises ValueError without any item.
    """
    sums = [(sum(a for a, _ in items), sum(b for _, b in items)) for _, items in sorted(clusters.items()) if items]
    if not sums:
        raise ValueError("cluster_bootstrap needs at least one item")
    top, bottom = sum(a for a, _ in sums), sum(b for _, b in sums)
    generator = random.Random(seed)
    draws = []
    for _ in range(samples):
        picked = generator.choices(sums, k=len(sums))
        denominator = sum(b for _, b in picked)
        draws.append(sum(a for a, _ in picked) / denominator if denominator else 0.0)
    draws.sort()
    return top / bottom if bottom else 0.0, draws[int(0.025 * samples)], draws[min(samples - 1, int(0.975 * samples))]


def bootstrap_statistic(
    clusters: Mapping[str, Sequence[Vector]], statistic: Callable[[Vector], float], *, seed: int, samples: int = BOOTSTRAP_SAMPLES
) -> tuple[float, float, float]:
    """Estimate and 95 % percentile interval of a statistic of summed counts, resampling whole clusters.

    For what is no plain ratio: macro-F1, the difference of two models' F1. All vectors have one length. Raises
    ValueError without any item.
    """
    sums = [tuple(map(sum, zip(*items, strict=True))) for _, items in sorted(clusters.items()) if items]
    if not sums:
        raise ValueError("bootstrap_statistic needs at least one item")
    columns = [list(column) for column in zip(*sums, strict=True)]
    generator, places = random.Random(seed), range(len(sums))
    draws = []
    for _ in range(samples):
        picked = generator.choices(places, k=len(sums))
        draws.append(statistic(tuple(sum(map(column.__getitem__, picked)) for column in columns)))
    draws.sort()
    estimate = statistic(tuple(map(sum, columns)))
    return estimate, draws[int(0.025 * samples)], draws[min(samples - 1, int(0.975 * samples))]


def compare_hits(clusters: Mapping[str, Sequence[tuple[bool, bool]]], *, seed: int, samples: int = BOOTSTRAP_SAMPLES) -> Paired:
    """Two models that are right or wrong about the same items: group -> (first is right, second is right) of each item.

    A difference is told when both the bootstrap interval over groups and the exact McNemar test (p < 0.05) show it.
    """
    items = [pair for group in clusters.values() for pair in group]
    counts = {group: [(float(b) - float(a), 1.0) for a, b in pairs] for group, pairs in clusters.items()}
    difference, low, high = cluster_bootstrap(counts, seed=seed, samples=samples)
    p = mcnemar(sum(a and not b for a, b in items), sum(b and not a for a, b in items))
    return Paired(difference, (low, high), p, len(items))


def compare_counts(
    clusters: Mapping[str, Sequence[tuple[Vector, Vector]]], statistic: Callable[[Vector], float], *, seed: int,
    samples: int = BOOTSTRAP_SAMPLES,
) -> Paired:
    """The same for a statistic of summed counts (F1): group -> (first's counts, second's counts) of each item."""
    width = next((len(first) for pairs in clusters.values() for first, _ in pairs), 0)
    joined = {group: [(*first, *second) for first, second in pairs] for group, pairs in clusters.items()}
    found = bootstrap_statistic(joined, lambda v: statistic(v[width:]) - statistic(v[:width]), seed=seed, samples=samples)
    return Paired(found[0], found[1:], None, sum(map(len, clusters.values())))


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p of McNemar's test: how likely so uneven a split of the items that just one model has right.

    9 against 2 gives 0.065, 10 against 2 gives 0.039. 1 without such items.
    """
    n, fewer = only_first + only_second, min(only_first, only_second)
    if n == 0:
        return 1.0
    tail: float = sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n
    return min(1.0, 2 * tail)


def binomial_test(hits: int, n: int, share: float) -> float:
    """One-sided exact p: how likely so many hits or more are, if the true share is only `share`. 1 without observations."""
    return 1.0 - _binomial_cdf(hits - 1, n, share) if n and hits else 1.0


def holm(p_values: Mapping[str, float], alpha: float = ALPHA) -> dict[str, bool]:
    """name -> whether its hypothesis is rejected, with the family-wise error held at alpha (Holm 1979)."""
    rejected = dict.fromkeys(p_values, False)
    for rank, name in enumerate(sorted(p_values, key=lambda name: (p_values[name], name))):
        if p_values[name] > alpha / (len(p_values) - rank):
            break
        rejected[name] = True
    return rejected


def rule_of_three(n: int) -> float:
    """Upper 95 % bound of a rate that was never seen in n trials: 1 - 0.05 ** (1 / n), about 3 / n. 149 give 0.02."""
    return 1.0 if n == 0 else float(1 - ALPHA ** (1 / n))


def chi_square_p(table: Sequence[Sequence[int]]) -> float:
    """p of Pearson's chi-square test of independence for a table of counts; 1 for a table with one row or column."""
    rows, columns = [sum(row) for row in table], [sum(column) for column in zip(*table, strict=True)]
    kept_rows, kept_columns = [i for i, n in enumerate(rows) if n], [j for j, n in enumerate(columns) if n]
    freedom = (len(kept_rows) - 1) * (len(kept_columns) - 1)
    if freedom < 1:
        return 1.0
    total = sum(rows)
    expected = {(i, j): rows[i] * columns[j] / total for i in kept_rows for j in kept_columns}
    value = sum((table[i][j] - wanted) ** 2 / wanted for (i, j), wanted in expected.items())
    return _chi_square_tail(value, freedom)


def _chi_square_tail(value: float, freedom: int) -> float:
    """1 - P(freedom / 2, value / 2) by the series of the lower incomplete gamma function (Abramowitz & Stegun 6.5.29)."""
    a, x = freedom / 2, value / 2
    if x <= 0:
        return 1.0
    if x > 700:
        return 0.0
    term = total = 1 / a
    for k in range(1, 10_000):
        term *= x / (a + k)
        total += term
        if term < total * 1e-15:
            break
    return max(0.0, 1 - math.exp(-x + a * math.log(x) - math.lgamma(a)) * total)


def _binomial_cdf(k: int, n: int, p: float) -> float:
    if p <= 0:
        return 1.0
    if p >= 1:
        return 1.0 if k >= n else 0.0
    if 2 * k > n:   # the shorter tail: thousands of terms less for a share near 1
        return 1.0 - _binomial_cdf(n - k - 1, n, 1 - p) if k < n else 1.0
    log_p, log_q = math.log(p), math.log1p(-p)
    total = 0.0
    for i in range(k + 1):
        total += math.exp(math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * log_p + (n - i) * log_q)
    return min(1.0, total)


def _bisect(rising: object) -> float:
    """Root of a function that rises from negative to positive over (0, 1)."""
    assert callable(rising)
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) > 0 else (middle, high)
    return (low + high) / 2
