"""Intervals for small samples, in plain Python: exact for shares, cluster bootstrap for everything else."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

BOOTSTRAP_SAMPLES = 2000


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


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided p of McNemar's exact test: items that only the first or only the second got right (McNemar 1947)."""
    n = only_first + only_second
    if n == 0:
        return 1.0
    return min(1.0, 2 * _binomial_cdf(min(only_first, only_second), n, 0.5))


def paired_bootstrap(
    clusters: Mapping[str, Sequence[tuple[float, float, float, float]]], *, seed: int, samples: int = BOOTSTRAP_SAMPLES
) -> tuple[float, float, float]:
    """Second less first, with its 95 % percentile interval: two ratios of sums on the same items, whole clusters redrawn.

    clusters: group -> (numerator, denominator of the first, numerator, denominator of the second) of each item. Both are
    redrawn together, so what makes an item hard for both cancels out. Raises ValueError without any item.
    """
    sums = [tuple(map(sum, zip(*items, strict=True))) for _, items in sorted(clusters.items()) if items]
    if not sums:
        raise ValueError("paired_bootstrap needs at least one item")
    generator = random.Random(seed)
    draws = sorted(_difference(generator.choices(sums, k=len(sums))) for _ in range(samples))
    return _difference(sums), draws[int(0.025 * samples)], draws[min(samples - 1, int(0.975 * samples))]


def _difference(rows: Sequence[tuple[float, ...]]) -> float:
    a, n, b, m = (sum(row[i] for row in rows) for i in range(4))
    return (b / m if m else 0.0) - (a / n if n else 0.0)


def _binomial_cdf(k: int, n: int, p: float) -> float:
    if p <= 0:
        return 1.0
    if p >= 1:
        return 1.0 if k >= n else 0.0
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
