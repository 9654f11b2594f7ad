"""Intervals against published values and brute force."""

from __future__ import annotations

import pytest

from forge.stats import clopper_pearson, cluster_bootstrap, wilson


def test_wilson_gives_the_published_interval_of_25_of_33() -> None:
    assert wilson(25, 33) == pytest.approx((0.590, 0.872), abs=0.001)


@pytest.mark.parametrize(
    ("hits", "n", "alpha", "expected"),
    [(50, 50, 0.10, (0.9418, 1.0)), (0, 149, 0.10, (0.0, 0.0199)), (5, 10, 0.05, (0.1871, 0.8129)), (0, 0, 0.05, (0.0, 1.0))],
)
def test_clopper_pearson_is_exact(hits: int, n: int, alpha: float, expected: tuple[float, float]) -> None:
    assert clopper_pearson(hits, n, alpha) == pytest.approx(expected, abs=0.0005)


def test_the_bootstrap_draws_whole_documents() -> None:
    alone = {str(i): [(float(i % 2), 1.0)] for i in range(40)}
    together = {"a": [(0.0, 1.0)] * 20, "b": [(1.0, 1.0)] * 20}
    estimate, low, high = cluster_bootstrap(alone, seed=1)
    assert estimate == 0.5
    assert 0.3 < low < 0.5 < high < 0.7
    assert cluster_bootstrap(together, seed=1)[1:] == (0.0, 1.0)   # two documents say almost nothing


def test_the_bootstrap_is_repeatable_and_refuses_nothing_at_all() -> None:
    clusters = {"a": [(1.0, 2.0)], "b": [(3.0, 4.0)]}
    assert cluster_bootstrap(clusters, seed=3) == cluster_bootstrap(clusters, seed=3)
    with pytest.raises(ValueError, match="at least one"):
        cluster_bootstrap({}, seed=3)
