"""Estimates, tests, corrections and sets of the best hold against scipy, statsmodels and definitions."""

from itertools import pairwise
from math import inf, sqrt

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from src.analysis.statistics import (
    ITEMS,
    SEEDS,
    Differences,
    Estimate,
    best_set,
    holm,
    mean_of,
    pareto_front,
    satterthwaite,
    sign_flip_test,
    two_way,
)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_an_estimate_has_the_interval_and_p_value_of_the_t_test() -> None:
    numbers = generator().normal(0.3, 1.0, 7)
    estimate, expected = mean_of(numbers, SEEDS), stats.ttest_1samp(numbers, 0.1)
    assert estimate.p_value(0.1) == pytest.approx(expected.pvalue)
    assert estimate.interval() == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert estimate.interval(0.9) == pytest.approx(tuple(expected.confidence_interval(0.9)))


def test_an_exact_estimate_is_certain() -> None:
    exact = Estimate(0.5, 0.0, 3, ITEMS)
    assert exact.interval() == (0.5, 0.5)
    assert (exact.p_value(), exact.p_value(0.5)) == (0.0, 1.0)


def test_mean_squares_are_those_of_the_analysis_of_variance_written_as_regressions() -> None:
    table = generator(5).normal(size=(3, 11))
    seeds = np.repeat(np.eye(3), 11, axis=0)
    items = np.tile(np.eye(11), (3, 1))

    def left(*factors: np.ndarray) -> float:
        design = np.hstack([np.ones((33, 1)), *factors])
        return float(np.square(table.ravel() - design @ np.linalg.lstsq(design, table.ravel())[0]).sum())

    squares = two_way(table)
    assert squares.seeds == pytest.approx((left() - left(seeds)) / 2)
    assert squares.items == pytest.approx((left() - left(items)) / 10)
    assert squares.residual == pytest.approx(left(seeds, items) / 20)


def test_degrees_of_freedom_of_a_sum_are_welchs() -> None:
    first, second = generator().normal(size=5), generator(1).normal(0.0, 3.0, 9)
    parts = [(float(np.var(numbers, ddof=1)) / len(numbers), len(numbers) - 1) for numbers in (first, second)]
    assert satterthwaite(parts) == pytest.approx(stats.ttest_ind(first, second, equal_var=False).df)
    assert satterthwaite([(1.0, inf), (2.0, inf)]) == inf


def test_the_permutation_test_agrees_with_scipys_and_with_exact_mcnemar() -> None:
    differences = generator(3).choice([-1.0, 0.0, 1.0], p=[0.1, 0.74, 0.16], size=301)
    p_value = sign_flip_test(differences, generator(1))
    scipys = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=9999, rng=generator(2)
    ).pvalue
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    mcnemar = stats.binomtest(wins, wins + losses, 0.5).pvalue
    assert p_value == pytest.approx(scipys, abs=0.02)
    assert p_value == pytest.approx(mcnemar, abs=0.02)
    assert sign_flip_test(np.zeros(9), generator()) == 1.0


def test_holm_multiplies_the_smallest_by_the_number_of_tests_and_keeps_the_order() -> None:
    p_values = [0.04, 0.01, 0.03, 0.005]
    adjusted = holm(p_values)
    assert adjusted == pytest.approx([0.06, 0.03, 0.06, 0.02])
    ordered = [p for _, p in sorted(zip(p_values, adjusted, strict=True))]
    assert all(before <= after for before, after in pairwise(ordered))
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
    many = generator().random(50).round(2)  # with ties
    assert holm(many.tolist()) == pytest.approx(multipletests(many, method="holm")[1])


def differences(scores: list[float], errors: dict[tuple[int, int], float] | float, df: float = inf) -> Differences:
    """The estimates of all pairs, with one standard error or those of pairs."""

    def estimate(first: int, second: int) -> Estimate | None:
        error = errors if isinstance(errors, float) else errors.get((min(first, second), max(first, second)))
        return None if error is None else Estimate(scores[first] - scores[second], error, df, ITEMS)

    return estimate


@pytest.mark.parametrize("entries", [2, 5, 40])
@pytest.mark.parametrize("df", [4.0, 30.0, inf])
def test_an_entry_is_out_beyond_tukeys_range(entries: int, df: float) -> None:
    limit = stats.studentized_range.ppf(0.95, entries, df) / sqrt(2)
    for beyond in (True, False):
        scores = [0.0] * (entries - 1) + [limit * (1.001 if beyond else 0.98)]
        assert best_set(scores, differences(scores, 1.0, df)) == [not beyond] * (entries - 1) + [True]


def test_a_loud_best_hides_no_quiet_rival() -> None:
    """The best by its mean is too noisy to beat anyone; the second is not."""
    scores = [10.0, 9.0, 8.0, 0.0]
    errors = {(0, 1): 30.0, (0, 2): 30.0, (0, 3): 30.0, (1, 2): 0.5, (1, 3): 0.5, (2, 3): 0.5}
    assert best_set(scores, differences(scores, errors)) == [True, True, True, False]


def test_one_pair_that_seems_surer_than_the_others_by_chance_decides_nothing() -> None:
    scores = [3.0, 2.9, 2.8, 2.7, 2.0]
    errors = {(i, j): 1.0 for i in range(5) for j in range(i + 1, 5)} | {(0, 3): 0.01}
    assert best_set(scores, differences(scores, errors)) == [True, True, True, True, True]


def test_entries_that_cant_be_compared_beat_nobody() -> None:
    assert best_set([9.0, 0.0], lambda first, second: None) == [True, True]
    assert best_set([], lambda first, second: None) == []


def test_a_point_is_off_the_pareto_front_only_if_one_that_costs_no_more_is_better_beyond_chance() -> None:
    costs, scores = [10.0, 20.0, 30.0, 40.0, 40.0], [0.5, 0.3, 0.49, 0.9, 0.7]
    assert pareto_front(costs, scores, differences(scores, 0.02)) == [True, False, True, True, False]
    assert pareto_front(costs, scores, differences(scores, 0.5)) == [True] * 5
