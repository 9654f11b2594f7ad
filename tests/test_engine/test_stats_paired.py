"""Two models on the same items: the same model twice is no difference, ten points are found, and the tests have their textbook values."""

from __future__ import annotations

import random

import pytest

from forge.stats import (
    bootstrap_statistic,
    chi_square_p,
    cluster_bootstrap,
    compare_counts,
    compare_hits,
    holm,
    mcnemar,
    rule_of_three,
)

ITEMS, REPETITIONS = 300, 200


def _two_samplings(generator: random.Random, better: float) -> dict[str, list[tuple[bool, bool]]]:
    """300 items of 150 documents, some easy and some hard; both sides answer by chance, the second `better` more often right."""
    found: dict[str, list[tuple[bool, bool]]] = {}
    for number in range(ITEMS):
        easy = generator.betavariate(0.8, 0.4)
        first = generator.random() < easy
        second = generator.random() < easy
        if not second and generator.random() < better / (1 - 2 / 3):   # of a third that is wrong, so many become right
            second = True
        found.setdefault(f"d{number // 2}", []).append((first, second))
    return found


def test_the_same_model_sampled_twice_is_no_difference() -> None:
    generator = random.Random(5)
    told = [compare_hits(_two_samplings(generator, 0.0), seed=i, samples=200).outcome for i in range(REPETITIONS)]
    assert told.count("no difference") >= 0.95 * REPETITIONS


def test_a_planted_improvement_of_ten_points_at_300_items_is_found() -> None:
    generator = random.Random(6)
    found = [compare_hits(_two_samplings(generator, 0.1), seed=i, samples=200) for i in range(REPETITIONS)]
    assert sum(one.difference for one in found) / REPETITIONS == pytest.approx(0.1, abs=0.01)
    assert [one.outcome for one in found].count("better") >= 0.8 * REPETITIONS
    assert "worse" not in {one.outcome for one in found}


@pytest.mark.parametrize(("one", "other", "p"), [(9, 2, 0.0654), (10, 2, 0.0386), (0, 0, 1.0), (5, 5, 1.0), (0, 6, 0.03125)])
def test_mcnemar_is_exact(one: int, other: int, p: float) -> None:
    assert mcnemar(one, other) == pytest.approx(p, abs=1e-4)
    assert mcnemar(other, one) == mcnemar(one, other)


def test_holm_steps_down_and_stops() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == {"a": True, "b": False, "c": False}
    assert holm({"a": 0.01, "b": 0.02, "c": 0.03}) == {"a": True, "b": True, "c": True}
    assert holm({}) == {}


def test_the_rule_of_three() -> None:
    assert rule_of_three(149) == pytest.approx(0.0199, abs=1e-4)
    assert rule_of_three(33) == pytest.approx(0.087, abs=1e-3)
    assert rule_of_three(0) == 1.0


def test_chi_square_has_the_textbook_value() -> None:
    assert chi_square_p([[10, 20], [20, 10]]) == pytest.approx(0.009823, abs=1e-5)
    assert chi_square_p([[5, 5], [5, 5]]) == 1.0
    assert chi_square_p([[5, 5]]) == 1.0


def test_the_bootstrap_of_a_statistic_is_that_of_a_ratio_where_it_is_one() -> None:
    generator = random.Random(3)
    clusters = {f"g{i}": [(float(generator.random() < 0.6), 1.0) for _ in range(3)] for i in range(40)}
    ratio = cluster_bootstrap(clusters, seed=7)
    statistic = bootstrap_statistic(clusters, lambda sums: sums[0] / sums[1], seed=7)
    assert statistic[0] == pytest.approx(ratio[0])
    assert statistic[1:] == pytest.approx(ratio[1:], abs=0.02)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_statistic({}, lambda sums: 0.0, seed=1)


def test_a_difference_of_f1_is_paired_by_document() -> None:
    def f1(counts: tuple[float, ...]) -> float:
        return 2 * counts[0] / (2 * counts[0] + counts[1] + counts[2])

    worse, better = (2.0, 1.0, 1.0), (3.0, 0.0, 0.0)
    found = compare_counts({f"g{i}": [(worse, better)] for i in range(20)}, f1, seed=1, samples=200)
    assert found.difference == pytest.approx(1 - 2 / 3)
    assert found.outcome == "better"
    assert compare_counts({f"g{i}": [(worse, worse)] for i in range(20)}, f1, seed=1, samples=200).outcome == "no difference"
